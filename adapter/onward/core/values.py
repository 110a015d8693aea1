"""The plain values that pass between the parts: an event, the key of a step, an error as the log keeps it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any

    Key = tuple[str, int]
    """A step within its run: its name, and which of the steps of that name it is, counted from 1."""

MAX_NAME_CHARS = 256
OWN_EVENTS = "onward/"  # how the names and the ids of Onward's own events begin, and nobody else's


class Event:
    """A named fact with data that arrived.

    `id`: unique for each event, so that a redelivered one is known again. `name`: 1 to 256 characters. `data`:
    what JSON can say (and what `onward.core.codec` adds to it). `at_ms`: epoch milliseconds; `at` is the same
    as an aware `datetime`. `envelope`: the EventBridge event as which it arrived, for the patterns and the `where=` of
    triggers; it is not kept, so a workflow finds None.
    """

    __slots__ = ("at_ms", "data", "envelope", "id", "name")

    def __init__(self, name: str, data: Any, id: str, at_ms: int, envelope: dict[str, Any] | None = None) -> None:
        self.name = name
        self.data = data
        self.id = id
        self.at_ms = at_ms
        self.envelope = envelope

    @property
    def at(self) -> datetime:
        from datetime import UTC, datetime

        return datetime.fromtimestamp(self.at_ms / 1000, UTC)

    def __repr__(self) -> str:
        return f"Event(name={self.name!r}, id={self.id!r}, at={self.at.isoformat()}, data={self.data!r})"


class Failure:
    """An error as the log keeps it: the name of its type, its message and its traceback, each bounded."""

    __slots__ = ("final", "message", "retry_at_ms", "traceback", "type")

    def __init__(
        self, type: str, message: str, traceback: str = "", final: bool = False, retry_at_ms: int | None = None
    ) -> None:
        self.type = type
        self.message = message
        self.traceback = traceback
        self.final = final  # another attempt would not help
        self.retry_at_ms = retry_at_ms  # when the step itself asked to be tried again

    def to_json(self) -> dict[str, str]:
        return {"type": self.type, "message": self.message, "traceback": self.traceback}

    @classmethod
    def from_json(cls, fields: dict[str, str]) -> Failure:
        return cls(fields["type"], fields["message"], fields.get("traceback", ""))


def display(key: Key) -> str:
    """A step as people read it: `name`, or `name (2)` for the second of that name."""
    name, ordinal = key
    return name if ordinal == 1 else f"{name} ({ordinal})"
