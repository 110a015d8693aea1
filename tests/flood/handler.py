from .app import app

handler = app.handler()
