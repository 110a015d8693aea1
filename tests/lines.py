"""What some work costs, as lines of Python that ran: the same on every machine, whatever else runs on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class TooMuch(AssertionError):
    """The work ran more lines than it may: it was ended there, so that a hostile input cannot hang the tests."""


def within(lines: int, work: Callable[[], T]) -> T:
    """What `work()` gives, if no more than so many lines of Python run for it."""
    ran = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal ran
        if event == "line":
            ran += 1
            if ran > lines:
                raise TooMuch(f"more than {lines:,} lines of Python ran")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        return work()
    finally:
        sys.settrace(before)
