"""What is deployed where all values are encrypted at rest, with a key from the environment."""

import os

from onward import App, Encryption

from . import polite

app = App("sealed", middleware=[Encryption({"k1": bytes.fromhex(os.environ["SEALED_KEY"])}, "k1")])
polite.register(app)
handler = app.handler()
