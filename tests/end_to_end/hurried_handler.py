"""What is deployed, but a run to which nothing happened is found after `HORIZON_MS`, and not after forty minutes."""

import os

from .app import app

handler = app.handler()
handler.__self__.engine.horizon_ms = int(os.environ["HORIZON_MS"])
