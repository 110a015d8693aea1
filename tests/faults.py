"""Ports that fail at a chosen call: before it, after it, or with its reply lost."""

from __future__ import annotations

from typing import Any

from onward.core.errors import Unavailable

MODES = ("before", "after", "lost")


class Killed(BaseException):
    """The process is gone. No `except Exception` and no bookkeeping runs behind it."""


class Trip:
    """Counts the calls to all ports, and fails at call number `at` (from 1; 0: never)."""

    def __init__(self, at: int = 0, mode: str = "before") -> None:
        self.at = at
        self.mode = mode
        self.calls = 0
        self.tripped: str | None = None

    def call(self, name: str, method: Any, args: Any, kwargs: Any) -> Any:
        self.calls += 1
        if self.calls != self.at:
            return method(*args, **kwargs)
        self.tripped = name
        if self.mode == "before":
            raise Killed(name)
        method(*args, **kwargs)
        if self.mode == "after":
            raise Killed(name)
        raise Unavailable(f"the reply of {name} was lost")


class Faulty:
    """A port whose calls go through a trip."""

    def __init__(self, port: Any, trip: Trip) -> None:
        self._port = port
        self._trip = trip

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._port, name)
        if not callable(member):
            return member
        return lambda *args, **kwargs: self._trip.call(f"{type(self._port).__name__}.{name}", member, args, kwargs)
