"""What is deployed."""

from .app import app

handler = app.handler()
