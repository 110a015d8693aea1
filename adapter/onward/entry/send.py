"""A user's own door out: `app.send(...)` puts an event where the deployed app hears it, from any Python process.

    to                       carried by                                      who is believed
    a bus (name or ARN)      EventBridge's PutEvents: on Lambda over our     the role of the process
                             own wire, elsewhere through boto3
    a URL                    POST <url>/e, the HTTP door                     a signing key, or IAM

Theory. An event must be the same event however often it is sent, or a retry would start a second run. PutEvents gives
each entry an id of its own, so ours travels beside it, in `resources`, where no pattern on the data sees it:

    onward:id:<id>           the event's id, instead of EventBridge's
    onward:at:<epoch ms>     its time, to the millisecond, and possibly ahead
    onward:value             the detail is {"value": data}: EventBridge takes objects only

They count in events whose source begins with `onward.` (see aws/envelopes.py). So whatever fails on the way can be
tried again; delivery is at least once, and one event starts its runs once.
"""

from __future__ import annotations

import json
import os
import time

from ..clock import SystemClock
from ..core.errors import InvalidEvent, Misconfigured, NotEncodable
from ..core.values import MAX_NAME_CHARS, OWN_EVENTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import Any, Protocol

    class Way(Protocol):
        def put(self, events: Sequence[Outgoing]) -> None: ...
        def close(self) -> None: ...


MAX_BUS_NAME_CHARS = 128  # EventBridge's limit on a detail-type, which is the event's name
MAX_EVENT_BYTES = 1_000_000  # «less than 1 MB», for an entry of PutEvents and for a request to the door
MAX_DEPTH = 100  # as deep as an event may be nested when it arrives
ATTEMPTS = 4
SOURCE = "onward."
_PLAIN = (str, int, float, bool, type(None))


class Outgoing:
    """An event on its way out. `text`: its data as JSON text; `at_ms`: epoch milliseconds, or None for now."""

    __slots__ = ("at_ms", "id", "is_object", "name", "source", "text")

    def __init__(self, app: str, name: str, data: Any, id: str | None, at: datetime | float | None) -> None:
        for what, text in (("name", name), ("id", id)):
            if text is None and what == "id":
                continue
            if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME_CHARS:
                raise InvalidEvent(
                    f"the {what} of an event is a string of 1 to {MAX_NAME_CHARS} characters, not {text!r:.80}"
                )
            if text.startswith(OWN_EVENTS):
                raise InvalidEvent(
                    f"the {what} of an event begins with {OWN_EVENTS!r} ({text!r:.80}): those are Onward's own; "
                    f"choose another"
                )
        self.name = name
        self.id = SystemClock().token() if id is None else id
        self.at_ms = _epoch_ms(at)
        self.source = SOURCE + app
        self.is_object = isinstance(data, dict)
        self.text = _json_text(data, f"the data of event {name!r:.80}")
        size_bytes = len(self.text.encode("utf-8")) + len(name.encode("utf-8", "surrogatepass"))
        if size_bytes >= MAX_EVENT_BYTES - 2_000:
            raise InvalidEvent(
                f"event {name!r:.80} has {size_bytes:,} bytes, and EventBridge and the HTTP door take less than "
                f"{MAX_EVENT_BYTES:,}: put its data where the workflow can read it (S3, say), and send its place"
            )


def send(app: str, events: Iterable[tuple[str, Any, str | None, datetime | float | None]], to: str | None) -> list[str]:
    """Send events, each (name, data, id or None, at or None), for the app of that name, and return their ids. All are
    checked before the first is sent."""
    outgoing = [Outgoing(app, *event) for event in events]
    if outgoing:
        way(to, os.environ).put(outgoing)
    return [event.id for event in outgoing]


_ways: dict[str, Way] = {}


def way(to: str | None, environ: Mapping[str, str]) -> Way:
    """The way to a bus or a door, made once in a process: its connection is kept."""
    to = to or environ.get("ONWARD_URL") or environ.get("ONWARD_BUS")
    if not to:
        raise Misconfigured(
            "where is the event to go? Set ONWARD_BUS to the app's event bus, or ONWARD_URL to the URL of its HTTP "
            'door (or give to="..."). In a workflow, use step.send_event, which needs neither'
        )
    known = _ways.get(to)
    if known is None:
        known = _ways[to] = _new_way(to, environ)
    return known


def forget() -> None:
    """Close the ways that this process keeps, and read the settings anew for the next event."""
    while _ways:
        _ways.popitem()[1].close()


def _new_way(to: str, environ: Mapping[str, str]) -> Way:
    if "://" in to:
        from .to_door import ToDoor

        return ToDoor(to, environ)
    from ..aws.bus import EventBridgeBus

    wire: Any
    if "AWS_LAMBDA_FUNCTION_NAME" in environ:
        from ..aws.wire import Wire

        wire = Wire(environ=environ)
    else:
        wire = Boto3Wire()
    return ToBus(EventBridgeBus(wire, to), wire.close)


# ------------------------------------------------------------------------------------------------------- to a bus
class ToBus:
    """Events to entries of PutEvents."""

    def __init__(self, bus: Any, close: Callable[[], None]) -> None:
        self._bus = bus
        self.close = close

    def put(self, events: Sequence[Outgoing]) -> None:
        for event in events:
            if len(event.name) > MAX_BUS_NAME_CHARS:
                raise InvalidEvent(
                    f"a bus takes names of up to {MAX_BUS_NAME_CHARS} characters, and {event.name!r:.80} has "
                    f"{len(event.name)}: shorten it, or send it to the HTTP door (ONWARD_URL)"
                )
        self._bus.put([entry(event) for event in events])


def entry(event: Outgoing) -> dict[str, Any]:
    """The entry of PutEvents for an event."""
    resources = [f"onward:id:{event.id}"]
    if event.at_ms is not None:
        resources.append(f"onward:at:{event.at_ms}")
    detail = event.text
    if not event.is_object:
        resources.append("onward:value")
        detail = f'{{"value":{detail}}}'
    return {"Source": event.source, "DetailType": event.name, "Detail": detail, "Resources": resources}


class Boto3Wire:
    """What a bus asks of a wire, through boto3: with the user's own profile, region, proxies and retries."""

    attempts = ATTEMPTS

    def __init__(self) -> None:
        try:
            import boto3
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise Misconfigured(
                "outside Lambda, app.send to a bus goes through boto3, which is not installed: pip install boto3 "
                "(or send to the HTTP door: ONWARD_URL)"
            ) from None
        try:
            self._client = boto3.Session().client("events")
        except BotoCoreError as error:
            raise Misconfigured(f"boto3 cannot reach EventBridge: {error}") from None

    def close(self) -> None:
        self._client.close()

    def trace(self) -> str | None:
        return None

    def wait(self, attempt: int, throttled: bool = False) -> None:
        from ..aws.failures import wait_s

        time.sleep(wait_s("events", attempt, throttled, SystemClock().random()))

    def json(self, service: str, operation: str, request: Mapping[str, Any], subject: str) -> dict[str, Any]:
        """PutEvents. Raises what the wire would raise."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

        from ..aws.failures import AwsError, translate, unavailable
        from ..core.errors import NoCredentials

        try:
            answer: dict[str, Any] = self._client.put_events(**request)
            return answer
        except ClientError as error:
            told, reply = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
            refused = AwsError(told.get("Code", ""), reply.get("HTTPStatusCode", 400), told.get("Message", ""), {})
            tried = reply.get("RetryAttempts", 0) + 1
            raise translate(refused, service, operation, subject, tried) from None
        except NoCredentialsError:
            raise NoCredentials(
                "boto3 finds no AWS credentials: run `aws configure`, or set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            ) from None
        except HTTPClientError as error:
            raise unavailable(service, operation, str(error), self.attempts) from None
        except BotoCoreError as error:
            raise Misconfigured(f"EventBridge {operation}: {error}") from None


# ---------------------------------------------------------------------------------------------------------- values
def _epoch_ms(at: datetime | float | None) -> int | None:
    if at is None:
        return None
    if isinstance(at, bool) or not (isinstance(at, int | float) or hasattr(at, "timestamp")):
        raise InvalidEvent(f"at= takes a datetime (naive: UTC) or epoch seconds, not {at!r:.80}")
    try:
        if not isinstance(at, int | float):
            from datetime import UTC

            return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        return round(at * 1000)
    except (OverflowError, ValueError) as error:
        raise InvalidEvent(f"at= takes a datetime (naive: UTC) or epoch seconds, not {at!r:.80} ({error})") from None


def _json_text(data: Any, what: str) -> str:
    _check_plain(data, what, "", 0)
    try:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode("utf-8")
        return text
    except ValueError as error:  # NaN, a lone surrogate, an int of more digits than Python prints
        raise NotEncodable(f"{what} cannot be written as JSON: {error}") from None


def _check_plain(value: Any, what: str, place: str, depth: int) -> None:
    """Refuse what would arrive as something else than what was sent: out here there is JSON, and nothing besides."""
    if depth > MAX_DEPTH:
        raise NotEncodable(f"{what} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, inside in value.items():
            if not isinstance(key, str):
                raise NotEncodable(f"{what} has the key {key!r:.80}{place}: in JSON a key is a string")
            _check_plain(inside, what, f" in {key!r:.80}", depth + 1)
    elif isinstance(value, list | tuple):
        for inside in value:
            _check_plain(inside, what, place, depth + 1)
    elif type(value) not in _PLAIN:
        raise NotEncodable(
            f"{what} has a {type(value).__name__}{place}, and an event from outside is plain JSON: "
            f"convert it first (str, float, .isoformat(), dataclasses.asdict)"
        )
