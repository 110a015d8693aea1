"""Log lines: one JSON object a line, with the key names of Powertools for AWS Lambda's Logger, so that one query
finds the engine's lines and the user's. The ids of the run, step and attempt are fields, never part of the text."""

from __future__ import annotations

import json
import sys
import time

MAX_FIELD_CHARS = 4_000  # of a text in a log line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    Note = Callable[..., None]
    """`note(level, message, **fields)`"""


def to_stdout(service: str) -> Note:
    """Lines on standard output, where Lambda collects them."""
    return _to(service, lambda: sys.stdout)


def to_stderr(service: str) -> Note:
    """Lines on standard error, beside what a command prints."""
    return _to(service, lambda: sys.stderr)


def _to(service: str, stream: Callable[[], TextIO]) -> Note:

    def note(level: str, message: str, **fields: object) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
        line: dict[str, object] = {
            "level": level,
            "message": message,
            "timestamp": f"{stamp},{int(now * 1000) % 1000:03d}+0000",
            "service": service,
        }
        line.update((key, _short(value)) for key, value in fields.items() if value is not None)
        out = stream()
        out.write(json.dumps(line, default=str) + "\n")  # in ASCII: no text in a field can begin a line of its own
        out.flush()

    return note


def _short(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_FIELD_CHARS:
        return f"{value[:MAX_FIELD_CHARS]}... ({len(value):,} characters)"
    return value


def silent(level: str, message: str, **fields: object) -> None:
    """No lines at all."""
