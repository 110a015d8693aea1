"""The HTTP door of the demo, a function of its own: `handlers.demo.http.handler`."""

from __future__ import annotations

from . import app

handler = app.http_handler()
