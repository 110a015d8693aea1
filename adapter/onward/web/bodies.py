"""What requests bring: JSON, checked whole before anything is done with it.

A check either gives back values that the engine takes, or raises `BadRequest`, which names the place and what to do.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..core.codec import encode
from ..core.errors import InvalidEvent, NotEncodable, OnwardError
from ..core.values import MAX_NAME_CHARS, OWN_EVENTS, Event

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BODY_BYTES = 1_000_000  # «less than 1 MB», EventBridge's limit on a call
MAX_EVENTS = 10  # in one request, EventBridge's limit on a call
MAX_BUS_NAME_CHARS = 128  # EventBridge's limit on a detail-type: what comes in here can go over a bus as well
LATEST_MS = 253_402_300_799_999  # the end of the year 9999
MAX_REQUEST_CHARS = 128
MAX_STEP_CHARS = MAX_NAME_CHARS + 20
_WHOLE = re.compile(r"-?[0-9]{1,15}")


class BadRequest(OnwardError):
    """The request cannot be understood. `at`: the index of the event that it is about."""

    def __init__(self, message: str, status: int = 400, at: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.at = at


def parse(body: bytes) -> Any:
    """The JSON of a body."""

    def no_constant(name: str) -> Any:
        raise BadRequest(f"the body has {name}, which JSON does not know")

    try:
        return json.loads(body.decode("utf-8"), parse_constant=no_constant)
    except UnicodeDecodeError:
        raise BadRequest("the body is no UTF-8") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {str(error)[:200]}") from None


def events_in(content: Any, now_ms: int, new_id: Callable[[], str]) -> list[Event]:
    """The events of `POST /e`: one object, or a list of 1 to 10. Every one that is wrong is told, in one error."""
    given = content if isinstance(content, list) else [content]
    if not 1 <= len(given) <= MAX_EVENTS:
        raise BadRequest(f"send 1 to {MAX_EVENTS} events at a time, not {len(given)}")
    events, wrong, first = [], [], None
    for index, one in enumerate(given):
        try:
            events.append(_event(one, now_ms, new_id))
        except (BadRequest, InvalidEvent, NotEncodable) as error:
            first = index if first is None else first
            wrong.append(f"event {index}: {error}")
    if wrong:
        raise BadRequest("; ".join(wrong), at=first)
    ids = [event.id for event in events]
    for index, id in enumerate(ids):
        if id in ids[:index]:
            raise BadRequest(
                f"event {index}: its id {id!r:.80} is that of event {ids.index(id)}; give each its own", at=index
            )
    return events


def _event(given: Any, now_ms: int, new_id: Callable[[], str]) -> Event:
    if not isinstance(given, dict):
        raise BadRequest('an event is an object: {"name": "order/paid", "data": {...}}')
    _only(given, ("name", "data", "id", "at"))
    name, id = given.get("name"), given.get("id")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_BUS_NAME_CHARS:
        raise BadRequest(f'"name" is a string of 1 to {MAX_BUS_NAME_CHARS} characters')
    if id is not None and (not isinstance(id, str) or not 1 <= len(id) <= MAX_NAME_CHARS):
        raise BadRequest(f'"id" is a string of 1 to {MAX_NAME_CHARS} characters, or left out')
    for what, text in (("name", name), ("id", id or "")):
        if text.startswith(OWN_EVENTS):
            raise BadRequest(f'"{what}" begins with {OWN_EVENTS!r}: those are Onward\'s own; choose another')
    event = Event(name, given.get("data"), new_id() if id is None else id, _time_ms(given.get("at"), now_ms))
    encode(event.data, '"data"')
    return event


def _time_ms(given: Any, now_ms: int) -> int:
    if given is None:
        return now_ms
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= LATEST_MS:
        return given
    if isinstance(given, str) and len(given) <= 40:
        try:
            at = datetime.fromisoformat(given)
            at_ms = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
            if 0 <= at_ms <= LATEST_MS:
                return at_ms
        except (ValueError, OverflowError):
            pass
    raise BadRequest('"at" is a time as epoch milliseconds, or in ISO 8601 ("2026-11-24T06:00:00Z")')


# -------------------------------------------------------------------------------------------------------- commands
def fields(body: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """The object in the body of a command, which may be empty."""
    content = parse(body) if body.strip() else {}
    if not isinstance(content, dict):
        raise BadRequest(f"the body is an object with some of {', '.join(names)}, or empty")
    _only(content, names)
    return content


def text(content: dict[str, Any], name: str, most: int, default: str | None = None) -> str | None:
    value = content.get(name, default)
    if value is not None and (not isinstance(value, str) or not 1 <= len(value) <= most):
        if value == default:
            return default
        raise BadRequest(f'"{name}" is a string of 1 to {most:,} characters')
    return value


def flag(content: dict[str, Any], name: str, default: bool) -> bool:
    value = content.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f'"{name}" is true or false')
    return value


def number(given: str | None, name: str, least: int, most: int, default: int) -> int:
    """A whole number in a query."""
    if given is None:
        return default
    if not _WHOLE.fullmatch(given) or not least <= int(given) <= most:
        raise BadRequest(f"{name}= takes a whole number from {least:,} to {most:,}")
    return int(given)


def _only(content: dict[str, Any], names: tuple[str, ...]) -> None:
    unknown = sorted(set(content) - set(names))
    if unknown:
        raise BadRequest(f"it has {unknown[0]!r:.80}, and takes {', '.join(names)}")
