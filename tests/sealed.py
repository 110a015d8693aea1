"""A middleware that keeps every value where a look tells whether it went through, and comes back as what it was."""

from __future__ import annotations

import base64

from onward import Middleware

SEAL = "sealed:"
KEPT = f"~{SEAL}"  # so begins what stands in the store


class Sealed(Middleware):
    """Values as base64, each with what it is the value of; reading it as anything else is an assertion that fails."""

    def __init__(self, seal: str = SEAL) -> None:
        self.seal = seal

    def encode(self, text: str, context: str) -> str:
        return self.seal + base64.b64encode(f"{context}\n{text}".encode()).decode()

    def decode(self, text: str, context: str) -> str:
        assert text.startswith(self.seal), f"{text[:20]} is not sealed with {self.seal}"
        told, _, text = base64.b64decode(text.removeprefix(self.seal)).decode().partition("\n")
        assert told == context, f"{told} is read as {context}"
        return text


def unsealed(value: str) -> str:
    """The text of a value as it stands in the store, sealed or not."""
    if not value.startswith(KEPT):
        return value
    return base64.b64decode(value.removeprefix(KEPT)).decode().partition("\n")[2]
