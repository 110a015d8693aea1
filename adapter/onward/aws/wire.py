"""The wire: signs and sends the few calls that Onward makes of AWS, with the standard library alone.

Theory. A call is one request, sent until it is answered or the attempts are used up. Each attempt is signed anew
(the clock moves on, credentials change) and goes over a kept-alive connection. What may be repeated, and after
which wait, is in `failures.py`; repeating is safe because every write of ours can tell its own traces from those of
others. A call ends in one of three ways: a reply; an `AwsError`, if its code is one of those that the caller said
it expects; or an error of `onward.core.errors`.

    service    dialect     operation in                      body
    dynamodb   JSON 1.0    X-Amz-Target                      checked against `x-amz-crc32`
    sqs        JSON 1.0    X-Amz-Target
    events     JSON 1.1    X-Amz-Target
    lambda     REST        path                              the wake, as JSON
    s3         REST        path; the bucket in the host      bytes

The cold path imports this module and the six beside it, and nothing else that the interpreter has not loaded by
itself: a test holds the list. `connect()` opens the connection at INIT, where Lambda gives a full core.
"""

from __future__ import annotations

import json
import os
import time
import zlib

from onward.aws.connection import CONNECT_TIMEOUT_S, MAX_REPLY_BYTES, READ_TIMEOUT_S, Address, Broken, Pool, Reply
from onward.aws.credentials import CredentialSource
from onward.aws.endpoints import configured_url, find_region, parse_url, regional_host
from onward.aws.failures import (
    EXPIRED,
    AwsError,
    is_throttled,
    is_worth_a_retry,
    parse_error,
    translate,
    unavailable,
    wait_s,
)
from onward.aws.signing import percent_encode, sign
from onward.core.errors import Misconfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

    Meter = Callable[[str, str, int, int, dict[str, Any] | None], None]

ATTEMPTS = 4
USER_AGENT = "onward"
ONE_PIECE_BYTES = 65_536  # a smaller body is sent in one piece with its head: one packet, one TLS record

_TARGETS = {"dynamodb": "DynamoDB_20120810", "sqs": "AmazonSQS", "events": "AWSEvents"}
_CONTENT_TYPES = {
    "dynamodb": "application/x-amz-json-1.0",
    "sqs": "application/x-amz-json-1.0",
    "events": "application/x-amz-json-1.1",
}


class Call:
    """What is the same in every attempt of a call. `headers` and `path` without what the address adds."""

    __slots__ = (
        "body",
        "bucket",
        "expected",
        "headers",
        "method",
        "operation",
        "path",
        "secrets",
        "service",
        "subject",
    )

    def __init__(self, service: str, operation: str, subject: str) -> None:
        self.service = service
        self.operation = operation
        self.subject = subject
        self.method = "POST"
        self.path = "/"
        self.bucket = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.secrets: tuple[str, ...] = ()  # with which the last attempt was signed: never in an error
        self.expected: Collection[str] = ()


class Wire:
    """One client for all five services. Safe for several threads.

    `region`: AWS_REGION by default. `endpoint_url`: one URL for every service, above what the environment says.
    `attempts`: how often a call is tried at most. `sleep`: waits so many seconds. `chance`: draws from [0, 1).
    `meter`: called after each reply, retried ones included, with (service, operation, bytes sent, bytes received,
    the parsed reply or None); while it is set, the store asks DynamoDB for the capacity that it consumed.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        attempts: int = ATTEMPTS,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] | None = None,
        environ: Mapping[str, str] = os.environ,
        meter: Meter | None = None,
    ) -> None:
        self.region = region or find_region(environ)
        self.meter = meter
        self.attempts = max(1, attempts)
        self.pool = Pool(connect_timeout_s, read_timeout_s, max_reply_bytes)
        self.credentials = CredentialSource(self.pool, environ, sleep=sleep)
        self._endpoint_url = endpoint_url
        self._environ = environ
        self._sleep = sleep
        self._chance = chance or _chance
        self._routes: dict[tuple[str, str], tuple[Address, str]] = {}

    def connect(self, service: str = "dynamodb") -> None:
        """Open the connection to a service ahead of the first call, TLS included. Raises `Unavailable`."""
        try:
            self.pool.connect(self._route(service, "")[0])
        except Broken as error:
            raise unavailable(service, "connect", str(error), 1) from error

    def close(self) -> None:
        """Close the idle connections. The wire can be used again."""
        self.pool.close()

    def wait(self, attempt: int, throttled: bool = False) -> None:
        """Sleep before the attempt after this one (from 0), for callers that have a retry rule of their own."""
        self._sleep(wait_s("dynamodb", attempt, throttled, self._chance()))

    def json(
        self,
        service: str,
        operation: str,
        request: Mapping[str, Any],
        subject: str,
        expected: Collection[str] = (),
    ) -> dict[str, Any]:
        """A call in the JSON dialect. `subject`: the table, queue or bus, for messages. Codes in `expected` are
        raised as `AwsError`."""
        call = Call(service, operation, subject)
        call.headers["Content-Type"] = _CONTENT_TYPES[service]
        call.headers["X-Amz-Target"] = f"{_TARGETS[service]}.{operation}"
        text = json.dumps(request, ensure_ascii=False, separators=(",", ":"))
        try:
            call.body = text.encode("utf-8")
        except UnicodeEncodeError as error:  # values come escaped, so it is the name of a table, queue or key
            raise Misconfigured(f"{service} {operation} on {subject!r}: a name in it is no Unicode text") from error
        call.expected = expected
        return self._perform(call)[1] or {}

    def invoke(self, function: str, payload: bytes) -> None:
        """Lambda's Invoke, asynchronous: accepted for at-least-once performance when this returns.
        `function`: a name or an ARN, with or without a qualifier."""
        call = Call("lambda", "Invoke", function)
        call.path = f"/2015-03-31/functions/{percent_encode(function)}/invocations"
        call.headers["X-Amz-Invocation-Type"] = "Event"
        trace = self.trace()
        if trace:
            call.headers["X-Amzn-Trace-Id"] = percent_encode(trace, b"-=;:+&[]{}\"',")
        call.body = payload
        self._perform(call)

    def put_object(self, bucket: str, key: str, content: bytes) -> None:
        """S3's PutObject."""
        call = Call("s3", "PutObject", bucket)
        call.method, call.path, call.bucket = "PUT", f"/{percent_encode(key, b'/')}", bucket
        call.headers["Content-Type"] = "application/octet-stream"
        call.body = content
        self._perform(call)

    def get_object(self, bucket: str, key: str) -> bytes:
        """S3's GetObject. A missing key is `AwsError` with the code NoSuchKey."""
        call = Call("s3", "GetObject", bucket)
        call.method, call.path, call.bucket = "GET", f"/{percent_encode(key, b'/')}", bucket
        call.expected = ("NoSuchKey",)
        return self._perform(call)[0].body

    def trace(self) -> str | None:
        """The trace header of this invocation, to be handed on; Lambda changes it for each."""
        return self._environ.get("_X_AMZN_TRACE_ID") if "AWS_LAMBDA_FUNCTION_NAME" in self._environ else None

    # ------------------------------------------------------------------------------------------------ one call
    def _perform(self, call: Call) -> tuple[Reply, dict[str, Any] | None]:
        """The reply with its parsed body (None outside the JSON dialect)."""
        renewed = False
        for attempt in range(self.attempts):
            retry_after: str | None = None
            throttled = False
            try:
                reply, parsed = self._attempt(call)
            except Broken as broken:
                failure: Exception = unavailable(call.service, call.operation, str(broken), attempt + 1)
                failure.__cause__ = broken
            else:
                if reply.status < 300:
                    return reply, parsed
                error = parse_error(reply, call.secrets)
                if error.code in call.expected:
                    raise error
                failure = translate(error, call.service, call.operation, call.subject, attempt + 1)
                failure.__cause__ = error
                if error.code in EXPIRED and not renewed:
                    renewed = True
                    self.credentials.forget()
                    continue
                if not is_worth_a_retry(error):
                    break
                throttled = is_throttled(error.code, error.status)
                retry_after = reply.headers.get("x-amz-retry-after")
            if attempt + 1 < self.attempts:
                self._sleep(wait_s(call.service, attempt, throttled, self._chance(), retry_after))
        raise failure

    def _attempt(self, call: Call) -> tuple[Reply, dict[str, Any] | None]:
        address, prefix = self._route(call.service, call.bucket)
        found = self.credentials.current()
        call.secrets = tuple(filter(None, (found.secret_key, found.session_token)))
        path = prefix + call.path
        headers = {"Host": address.name, **call.headers}
        for name, value in (
            *headers.items(),
            ("the path", path),
            ("the region", self.region),
            ("the access key", found.access_key),
            ("the secret key", found.secret_key),
            ("the session token", found.session_token or ""),
        ):
            if not (value.isascii() and value.isprintable()):  # no name or setting may write a line of its own
                raise Misconfigured(
                    f"{call.service} {call.operation}: {name} holds a line break, or is not ASCII. Check its setting."
                )
        sign(
            call.method,
            path,
            headers,
            call.body,
            access_key=found.access_key,
            secret_key=found.secret_key,
            session_token=found.session_token,
            region=self.region,
            service=call.service,
        )
        headers["User-Agent"] = USER_AGENT
        headers["Content-Length"] = str(len(call.body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{call.method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        request = [head + call.body] if len(call.body) < ONE_PIECE_BYTES else [head, call.body]
        reply = self.pool.exchange(address, request)
        trouble = ""
        parsed: dict[str, Any] | None = None
        if not _checksum_fits(reply):
            trouble = "the reply does not fit its checksum"
        elif call.service in _TARGETS and reply.status < 300:
            try:
                parsed = json.loads(reply.body or b"{}")
            except (ValueError, RecursionError):
                trouble = "the reply is no JSON"
            else:
                if type(parsed) is not dict:
                    parsed, trouble = None, "the reply is no JSON object"
        if self.meter is not None:
            self.meter(call.service, call.operation, len(head) + len(call.body), reply.wire_bytes, parsed)
        if trouble:
            raise Broken(trouble)
        return reply, parsed

    def _route(self, service: str, bucket: str) -> tuple[Address, str]:
        """Where a service (and bucket) is, and the path before the operation's own."""
        known = self._routes.get((service, bucket))
        if known is None:
            known = self._routes[service, bucket] = self._find_route(service, bucket)
        return known

    def _find_route(self, service: str, bucket: str) -> tuple[Address, str]:
        if self._endpoint_url:
            configured: tuple[str, str] | None = (self._endpoint_url, "endpoint_url")
        else:
            configured = configured_url(service, self._environ)
        if configured is not None:
            address, prefix = parse_url(*configured)
            return address, f"{prefix}/{bucket}" if bucket else prefix
        host = regional_host(service, self.region)
        if bucket and "." not in bucket:
            return Address(True, f"{bucket}.{host}", 443), ""
        return Address(True, host, 443), f"/{bucket}" if bucket else ""


def _checksum_fits(reply: Reply) -> bool:
    """DynamoDB sends the CRC-32 of each body."""
    told = reply.headers.get("x-amz-crc32")
    return told is None or told == str(zlib.crc32(reply.body))


def _chance() -> float:
    return int.from_bytes(os.urandom(4), "big") / 2**32


__all__ = ["AwsError", "Wire"]
