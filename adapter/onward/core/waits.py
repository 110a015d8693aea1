"""Waits for events: which events match, and the places in the table where waits and events find each other.

A wait names an event and what must stand at some paths of it, as in {"data.order_id": "o-17"}. Its paths are its
shape; the event's name, the shape and the values together are its place, a partition of the table:

    place of (name, no paths, no values)     every event of that name has an entry E# here; the shapes that waits on
                                             that name have ever had stand here as well, as S#
    place of (name, paths, values)           E# entries of the events with these values; W# entries of the waits

A wait first writes itself down, and then looks for events that came before. An event is first written down, and then
looks for waits. So whichever is second sees the first, and an event looks at the waits that it matches and no others,
however many there are.
"""

from __future__ import annotations

import json

from .ids import _digest
from .values import MAX_NAME_CHARS, OWN_EVENTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from .values import Event, Key

MAX_PATHS = 5
MAX_PATH_CHARS = 256
MAX_VALUE_CHARS = 1_000
MAX_EVENTS = 10  # that one wait may be for
ROOTS = ("data", "id")
CALLBACK, BEAT = "onward/callback", "onward/beat"

EVENT = "E"  # the item of an event, in its partition
SHAPES, WAITS, ENDS = "S#", "W#", "X"
"""Where shapes and waits begin in a place; they stand side by side, so one read brings both."""


class Match:
    """An event that is waited for: its `name`, and the JSON text that must stand at each of its `paths`. `since_ms`:
    who looks back looks no further, whatever the wait says."""

    __slots__ = ("name", "paths", "since_ms", "values")

    def __init__(self, name: str, wanted: Mapping[str, Any], since_ms: int = 0) -> None:
        self.name = name
        self.since_ms = since_ms
        self.paths = sorted(wanted)
        self.values = [canonical(wanted[path]) for path in self.paths]

    @classmethod
    def of(cls, name: str, paths: Sequence[str], values: Sequence[str]) -> Match:
        """The match for these JSON texts at these paths, which are sorted."""
        match = cls(name, {})
        match.paths, match.values = list(paths), list(values)
        return match

    @property
    def place(self) -> str:
        return place_of(self.name, self.paths, self.values)

    def fits(self, event: Event) -> bool:
        """Whether the event has these values; its name is not looked at."""
        return values_of(event, self.paths) == self.values

    def told(self, values: bool) -> str:
        """It, as people read it; with the values, or the paths alone. An event of our own is told without, for they
        have a token in them, and whoever may look at a run may not answer for it."""
        if self.name.startswith(OWN_EVENTS):
            return repr(self.name)
        pairs = zip(self.paths, self.values, strict=True)
        wanted = ", ".join(f"{path} = {value}" if values else path for path, value in pairs)
        return f"{self.name!r}" + (f" with {wanted}" if wanted else "")


class Wait:
    """What a step waits for: the first event that fits one of `matches` and of which `where` says yes; for
    `timeout_ms`, and not beyond `until_ms`. Events count that arrived at `since_ms` or later (None: since the run was
    started). `closes`: the id of an event that must not have come when the wait ends with nothing, and that comes too
    late from then on. `asked`: the step that has asked somebody outside for it."""

    __slots__ = ("asked", "closes", "matches", "since_ms", "timeout_ms", "until_ms", "where")

    def __init__(
        self,
        matches: Sequence[Match],
        timeout_ms: int,
        since_ms: int | None = None,
        where: Callable[[Event], Any] | None = None,
        until_ms: int | None = None,
        closes: str | None = None,
        asked: Key | None = None,
    ) -> None:
        self.asked = asked
        self.matches = matches
        self.timeout_ms = timeout_ms
        self.since_ms = since_ms
        self.where = where
        self.until_ms = until_ms
        self.closes = closes

    def ends_ms(self, now_ms: int) -> int:
        """When a wait that begins now is over."""
        ends_ms = now_ms + self.timeout_ms
        return ends_ms if self.until_ms is None else min(ends_ms, self.until_ms)


class Child:
    """A run of another workflow that a step starts, and whose result it brings, within `timeout_ms`."""

    __slots__ = ("data", "timeout_ms", "workflow")

    def __init__(self, workflow: str, data: Any, timeout_ms: int) -> None:
        self.workflow = workflow
        self.data = data
        self.timeout_ms = timeout_ms

    def ends_ms(self, now_ms: int) -> int:
        return now_ms + self.timeout_ms


def matches_of(events: Mapping[str, Mapping[str, Any] | None]) -> list[Match]:
    """What a wait is for, by the names of the events. Raises `ValueError`, which says what cannot be."""
    if not hasattr(events, "items") or not 1 <= len(events) <= MAX_EVENTS:
        raise ValueError(f"a wait is for 1 to {MAX_EVENTS} events, by their names, not {events!r:.80}")
    for name, wanted in events.items():
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
            raise ValueError(f"the name of an event is a string of 1 to {MAX_NAME_CHARS} characters, not {name!r:.80}")
        _check_match(wanted)
    return [Match(name, wanted or {}) for name, wanted in events.items()]


def _check_match(wanted: Mapping[str, Any] | None) -> None:
    if wanted is None:
        return
    if not hasattr(wanted, "items") or len(wanted) > MAX_PATHS:
        raise ValueError(f'match= takes up to {MAX_PATHS} paths, as in {{"data.order_id": 17}}, not {wanted!r:.80}')
    for path, value in wanted.items():
        root = path.split(".")[0] if isinstance(path, str) and len(path) <= MAX_PATH_CHARS else None
        if root not in ROOTS:
            raise ValueError(f'match= takes paths that begin with "data." (or are "id"), not {path!r:.80}')
        if not isinstance(value, str | int | float | bool | None) or value in (float("inf"), float("-inf")):
            raise ValueError(f"match= compares with strings, numbers, booleans and None, not {type(value).__name__}")
        if isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
            raise ValueError(f"match= compares with strings of at most {MAX_VALUE_CHARS:,} characters")


def canonical(value: Any) -> str:
    """The JSON text of a value, the same for values that are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def values_of(event: Event, paths: Sequence[str]) -> list[str] | None:
    """What stands at these paths of an event; None where one of them leads nowhere."""
    values = []
    for path in paths:
        root, *parts = path.split(".")
        value: Any = {"data": event.data, "id": event.id}.get(root)
        for part in parts:
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        try:
            values.append(canonical(value))
        except (TypeError, ValueError, RecursionError):
            return None  # no JSON: nothing that a wait can name
    return values


def place_of(name: str, paths: Sequence[str] = (), values: Sequence[str] = ()) -> str:
    """The partition in which the waits and events with these values at these paths stand."""
    return f"wait#{_digest(24, 'wait', name, json.dumps(list(paths)), json.dumps(list(values)))}"


def event_partition(digest: str) -> str:
    """The partition of an event, as its digest has it."""
    return f"event#{digest}"


def event_digest(event_id: str) -> str:
    return _digest(24, "event", event_id)


def entry_key(arrived_ms: int, digest: str = "") -> str:
    """Where an event stands among those of its place: by the time at which it arrived."""
    return f"E#{max(arrived_ms, 0):014d}#{digest}"


def digest_of(entry: str) -> str:
    """The event of which an entry speaks."""
    return entry.rpartition("#")[2]


def wait_key(run: str, lane: tuple[int, int]) -> str:
    return f"{WAITS}{run}#{lane[0]:08d}.{lane[1]:05d}"


def cancel_key(run: str) -> str:
    """Where a run waits for the event that cancels it."""
    return f"{WAITS}{run}#cancel"


def shape_key(paths: Sequence[str]) -> str:
    return f"{SHAPES}{_digest(16, 'shape', json.dumps(list(paths)))}"
