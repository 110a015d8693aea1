"""The corpus as a deployed app, and nothing else: what goes wrong, ONWARD_CHAOS says."""

from tests.end_to_end.chaos_handler import app

handler = app.handler()
