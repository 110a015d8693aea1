"""What is deployed: configure the Lambda function's handler as `handlers.demo.handler.handler`.

The app is imported and its connection to the table is opened here, at INIT, where Lambda gives a full core. What only
some steps need (CSV, gzip, an HTTP client) is imported by those steps.
"""

from __future__ import annotations

from . import app

handler = app.handler()
