"""What a Lambda function of ours can be handed, and how each is known. First that knows it wins.

    own wake           {"onward": 1, "do": ..., ...}
    SQS batch          Records[].eventSource == "aws:sqs"; each body is one of the others
    on-failure record  requestContext.condition beside requestPayload: an earlier invocation came to nothing
    the minute tick    detail-type "Scheduled Event", or a wake {"do": "sweep"}
    EventBridge event  detail-type, source and detail: `detail-type` is the event's name, `detail` its data
    list               of EventBridge events (a subscriber of the new Custom Event Bus that batches)

Pure: dicts to values.
"""

from __future__ import annotations

import json

from ..core.errors import UnknownPayload
from ..core.values import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

SENT = "onward."  # how the sources of events begin that `app.send` has put on a bus
MAX_SHOWN_CHARS = 200
MAX_REASON_CHARS = 500


class OwnWake:
    """A wake that the engine sent."""

    __slots__ = ("wake",)

    def __init__(self, wake: dict[str, Any]) -> None:
        self.wake = wake


class Batch:
    """Messages of a queue, as (message id, body)."""

    __slots__ = ("messages",)

    def __init__(self, messages: list[tuple[str, str]]) -> None:
        self.messages = messages


class Arrived:
    """Events from a bus. `refused`: what came with them and is no event; it keeps none of them out."""

    __slots__ = ("events", "refused")

    def __init__(self, events: list[Event], refused: Sequence[UnknownPayload] = ()) -> None:
        self.events = events
        self.refused = refused


class CameToNothing:
    """Lambda's word on an invocation that failed. `killed`: its process died (as opposed to an error that our own
    handler raised, or an event that was never delivered). `request`: its request id."""

    __slots__ = ("killed", "payload", "reason", "request")

    def __init__(self, payload: Any, killed: bool, reason: str, request: str | None) -> None:
        self.payload = payload
        self.killed = killed
        self.reason = reason
        self.request = request


Envelope = OwnWake | Batch | Arrived | CameToNothing


def recognise(payload: Any) -> Envelope:
    """What this payload is; raises `UnknownPayload`."""
    if isinstance(payload, dict):
        for recogniser in _RECOGNISERS:
            envelope = recogniser(payload)
            if envelope is not None:
                return envelope
    if (
        isinstance(payload, list)
        and payload
        and all(isinstance(entry, dict) and "detail-type" in entry for entry in payload)
    ):
        return _several(payload)
    raise UnknownPayload(
        f"the handler was given something that is no wake, SQS batch, EventBridge event or on-failure record: "
        f"{_shown(payload)}"
    )


def _shown(payload: Any) -> str:
    try:
        shown = json.dumps(payload, default=str)
    except (RecursionError, ValueError, TypeError) as error:
        shown = f"a {type(payload).__name__} that cannot be shown ({type(error).__name__})"
    return f"{shown[:MAX_SHOWN_CHARS]}{'...' if len(shown) > MAX_SHOWN_CHARS else ''}"


def parse_body(body: str) -> Any:
    """The payload in the body of a queue's message."""
    try:
        return json.loads(body)
    except RecursionError:
        raise UnknownPayload(f"a message of the queue is nested too deeply: {body[:MAX_SHOWN_CHARS]!r}") from None
    except ValueError:
        raise UnknownPayload(f"a message of the queue is no JSON: {body[:MAX_SHOWN_CHARS]!r}") from None


def _own_wake(payload: dict[str, Any]) -> OwnWake | None:
    return OwnWake(payload) if payload.get("onward") == 1 and isinstance(payload.get("do"), str) else None


def _batch(payload: dict[str, Any]) -> Batch | None:
    records = payload.get("Records")
    if not isinstance(records, list) or not records or not isinstance(records[0], dict):
        return None
    if records[0].get("eventSource") != "aws:sqs":
        return None
    messages = []
    for record in records:
        message, body = (record.get("messageId"), record.get("body")) if isinstance(record, dict) else (None, None)
        if not isinstance(message, str) or not isinstance(body, str):
            raise UnknownPayload(f"a record of an SQS batch has no messageId or no body: {_shown(record)}")
        messages.append((message, body))
    return Batch(messages)


def _came_to_nothing(payload: dict[str, Any]) -> CameToNothing | None:
    context = payload.get("requestContext")
    if not isinstance(context, dict) or "condition" not in context or "requestPayload" not in payload:
        return None
    answer = payload.get("responsePayload")
    told: dict[str, Any] = answer if isinstance(answer, dict) else {}
    kind, message = _text(told.get("errorType", "")), _text(told.get("errorMessage", ""))
    was_run = context["condition"] == "RetriesExhausted" and isinstance(payload.get("responseContext"), dict)
    killed = was_run and "stackTrace" not in told and "Recursive" not in kind
    reason = ": ".join(part for part in (kind, message) if part) or _text(context["condition"])
    return CameToNothing(payload["requestPayload"], killed, reason[:MAX_REASON_CHARS], context.get("requestId"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _shown(value)


def _tick(payload: dict[str, Any]) -> OwnWake | None:
    scheduled = payload.get("detail-type") == "Scheduled Event" and payload.get("source") in (
        "aws.events",
        "aws.scheduler",
    )
    return OwnWake({"do": "sweep"}) if scheduled else None


def _bus_event(payload: dict[str, Any]) -> Arrived | None:
    if not all(name in payload for name in ("detail-type", "source", "detail", "id")):
        return None
    return Arrived([_event(payload)])


_RECOGNISERS: tuple[Callable[[dict[str, Any]], Envelope | None], ...] = (
    _own_wake,
    _batch,
    _came_to_nothing,
    _tick,
    _bus_event,
)


def _several(payload: list[dict[str, Any]]) -> Arrived:
    events, refused = [], []
    for entry in payload:
        try:
            events.append(_event(entry))
        except UnknownPayload as error:
            refused.append(error)
    if not events:
        raise refused[0]
    return Arrived(events, refused)


def _event(payload: dict[str, Any]) -> Event:
    from datetime import UTC, datetime

    try:
        at = datetime.fromisoformat(payload["time"])
        at_ms = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        event = Event(payload["detail-type"], payload["detail"], payload["id"], at_ms, payload)
        if str(payload["source"]).startswith(SENT):
            _as_sent(event, payload.get("resources"))
        return event
    except (KeyError, ValueError, TypeError) as error:
        raise UnknownPayload(f"an EventBridge event has no usable {str(error)[:MAX_SHOWN_CHARS]}") from None


def _as_sent(event: Event, resources: Any) -> None:
    """Give an event back what `app.send` told beside it (see entry/send.py): EventBridge has ids and times of its own,
    and takes objects only. Raises `ValueError` or `KeyError` for what it never told."""
    for told in resources if isinstance(resources, list) else ():
        if not isinstance(told, str):
            continue
        if told.startswith("onward:id:"):
            event.id = told.removeprefix("onward:id:")
        elif told.startswith("onward:at:"):
            event.at_ms = int(told.removeprefix("onward:at:"))
        elif told == "onward:value":
            event.data = event.data["value"]
