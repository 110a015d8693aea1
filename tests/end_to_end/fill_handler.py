"""What is deployed, with as many steps in an invocation as fit."""

from .app import app

handler = app.handler(steps_per_invocation="fill")
