"""Events to the HTTP door, from outside: POST <url>/e, in requests of up to 10 events and less than 1 MB.

    ONWARD_KEYS is set                      signed with its first key (see core/signing.py)
    a function URL or an API of AWS's       signed for IAM, with the credentials of this process
    a door on this machine                  unsigned: the dev server's

A request whose answer is missing, or says that the door could not, is sent again with the same events under the same
ids, so that each starts its runs once. A refusal is final, and says which event it is about: then none was taken.
"""

from __future__ import annotations

import json
import time

from ..clock import SystemClock
from ..core.errors import AccessRefused, InvalidEvent, Misconfigured, RequestRefused, Unavailable
from ..core.signing import parse_keys, signed_headers
from .send import ATTEMPTS, MAX_EVENT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from http.client import HTTPConnection
    from urllib.parse import SplitResult

    from ..aws.wire import Wire
    from .send import Outgoing

MAX_EVENTS = 10  # in one request
TIMEOUT_S = 10.0  # of one request: to connect, and between two reads
MAX_ANSWER_BYTES = 1_000_000
MAX_TOLD_CHARS = 400
RETRIED = frozenset({429, 500, 502, 503, 504})


class ToDoor:
    """Events to requests of the HTTP door, signed with the first key in ONWARD_KEYS, or by IAM where the URL is one of
    AWS's; a door on the same machine takes them unsigned."""

    def __init__(
        self,
        url: str,
        environ: Mapping[str, str],
        sleep: Callable[[float], None] = time.sleep,
        wire: Wire | None = None,
    ) -> None:
        from urllib.parse import urlsplit

        self._url: SplitResult = urlsplit(url)
        try:
            host, _ = self._url.hostname or "", self._url.port
        except ValueError:
            host = ""
        if self._url.scheme not in ("http", "https") or not host or self._url.query or self._url.fragment:
            raise Misconfigured(f"{url!r} is no URL of an HTTP door. Write it like https://example.on.aws")
        self._keys = parse_keys(environ.get("ONWARD_KEYS", ""))
        self._service = _service_of(host)
        if self._url.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
            raise Misconfigured(f"{url!r} is not encrypted: events go to another machine by https:// only")
        self._sleep = sleep
        self._target = self._url.path.rstrip("/") + "/e"
        self._wire = wire
        if self._service and not self._keys and wire is None:
            from ..aws.wire import Wire

            self._wire = Wire(region=_region_of(host), environ=environ)

    def close(self) -> None:
        """Nothing is kept open between two calls."""

    def put(self, events: Sequence[Outgoing]) -> None:
        for batch in _batches(events):
            body = "[" + ",".join(_door_text(event) for event in batch) + "]"
            self._post(body.encode("utf-8"))

    def _post(self, body: bytes) -> None:
        """One request, until it is answered. It can be repeated: every event has its id."""
        trouble = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(SystemClock().random() * 0.1 * 2**attempt)
            try:
                status, answer = self._exchange(body)
            except (OSError, ValueError) as error:  # http.client's own are translated below
                trouble = f"{type(error).__name__}: {error}"
                continue
            if status < 300:
                return
            trouble = f"HTTP status {status}{_said(answer)}"
            if status not in RETRIED:
                raise _refusal(status, trouble, self._url.geturl())
        raise Unavailable(f"the door {self._url.geturl()} took no events: {trouble} (tried {ATTEMPTS} times)")

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        from http.client import HTTPException

        headers = {"Host": self._url.netloc, "Content-Type": "application/json"}
        self._sign(headers, body)
        connection = self._connection()
        try:
            connection.request("POST", self._target, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read(MAX_ANSWER_BYTES)
        except HTTPException as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        return kind(self._url.hostname or "", self._url.port, timeout=TIMEOUT_S)

    def _sign(self, headers: dict[str, str], body: bytes) -> None:
        if self._keys:
            headers |= signed_headers(self._keys, "POST", self._target, SystemClock().now_ms() // 1000, body)
        elif self._wire is not None:
            from ..aws.signing import sign as sign_for_aws

            found = self._wire.credentials.current()
            sign_for_aws(
                "POST",
                self._target,
                headers,
                body,
                access_key=found.access_key,
                secret_key=found.secret_key,
                session_token=found.session_token,
                region=self._wire.region,
                service=self._service,
            )


def _door_text(event: Outgoing) -> str:
    head = {"name": event.name, "id": event.id}
    if event.at_ms is not None:
        head |= {"at": event.at_ms}  # type: ignore[dict-item]
    return json.dumps(head)[:-1] + f',"data":{event.text}}}'


def _batches(events: Sequence[Outgoing]) -> Iterable[list[Outgoing]]:
    batch: list[Outgoing] = []
    batch_bytes = 0
    for event in events:
        size_bytes = len(_door_text(event).encode("utf-8")) + 2
        if batch and (len(batch) == MAX_EVENTS or batch_bytes + size_bytes >= MAX_EVENT_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(event)
        batch_bytes += size_bytes
    if batch:
        yield batch


def _service_of(host: str) -> str:
    """The service that IAM signs for at this host: "" where it is none of AWS's."""
    if ".lambda-url." in host and host.endswith((".on.aws", ".amazonaws.com")):
        return "lambda"
    return "execute-api" if ".execute-api." in host and ".amazonaws.com" in host else ""


def _region_of(host: str) -> str | None:
    """`<id>.lambda-url.<region>.on.aws`, `<id>.execute-api.<region>.amazonaws.com`."""
    parts = host.split(".")
    return parts[2] if len(parts) > 3 else None


def _refusal(status: int, trouble: str, url: str) -> Exception:
    if status in (401, 403):
        return AccessRefused(
            f"the door {url} refused access: {trouble}. Check ONWARD_KEYS (the door's key) or this process's role, and "
            f"its clock"
        )
    if status in (400, 413, 415, 422):
        return InvalidEvent(f"the door {url} refused the events, and took none of them: {trouble}")
    if status == 404:
        return Misconfigured(f"there is no door at {url}: {trouble}. Check ONWARD_URL")
    return RequestRefused(f"the door {url} answered {trouble}")


def _said(answer: bytes) -> str:
    try:
        told = json.loads(answer)
        said = told.get("message") if isinstance(told, dict) else None
    except (ValueError, RecursionError):
        said = None
    return f": {said[:MAX_TOLD_CHARS]}" if isinstance(said, str) and said else ""
