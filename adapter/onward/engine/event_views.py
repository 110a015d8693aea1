"""What an event looks like from outside: the one view that the command line, the pages and the API show."""

from __future__ import annotations

import json

from ..core.errors import InvalidEvent, MiddlewareFailed, PayloadCorrupt
from ..core.log import UNREADABLE, fields_of, unreadable
from ..core.values import MAX_NAME_CHARS
from ..core.waits import EVENT, digest_of, entry_key, event_digest, event_partition, place_of
from .waiting import is_closed, kept_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..ports import Item
    from .ledger import Ledger

LATEST_MS = 10**14 - 1  # the largest time that an entry can have


def event_view(ledger: Ledger, id: str) -> dict[str, Any] | None:
    """An event that was taken in: `id`, `name`, `at_ms`, `arrived_ms`, `runs` (the ids of those that it started), `not`
    (by workflow, why it started none), and `data`, the JSON text of its data (None where it cannot be read here, for
    the reason in `unreadable`). None where there is none."""
    item = ledger.store.get([(event_partition(event_digest(id)), EVENT)])[0]
    if item is None or is_closed(item):
        return None
    data, hidden = None, None
    try:
        data = kept_event(ledger, item)[1]
    except (MiddlewareFailed, PayloadCorrupt) as error:
        hidden = str(error)
    return {**_summary(item), "data": data, "unreadable": hidden}


def recent_events(ledger: Ledger, name: str, limit: int, before_ms: int = LATEST_MS) -> list[dict[str, Any]]:
    """At most `limit` events of a name that arrived before that time, the latest first, without their data."""
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise InvalidEvent(f"the name of an event has 1 to {MAX_NAME_CHARS} characters")
    place = place_of(name)
    entries = ledger.store.read(place, entry_key(0), entry_key(before_ms), limit=limit, newest_first=True)
    keys = [(event_partition(digest_of(entry.sort)), EVENT) for entry in entries]
    return [_summary(item) for item in ledger.store.get(keys) if item is not None and not is_closed(item)]


def _summary(item: Item) -> dict[str, Any]:
    body = fields_of(item)
    try:
        told = {"id": body["id"], "name": body["name"], "at_ms": body["at"], "arrived_ms": body["arrived"]}
        json.dumps(told)
        return {**told, "runs": list(body["runs"]), "not": dict(body.get("not", {}))}
    except UNREADABLE as error:
        raise unreadable(item.partition, item.sort, error) from error
