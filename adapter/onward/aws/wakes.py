"""`ports.Wakes`: now through Lambda, within a quarter of an hour through SQS.

    at                         carried by
    None, or already past      Lambda Invoke, asynchronous, on the function itself
    up to 900 s ahead          one SQS message with that delay, rounded up to the second
    later                      nothing here: the engine keeps it in the table, and the sweep sends it when it is near

Both are at least once and in no order. The trace header is handed on with each, so that all invocations of a run
stand in one trace.
"""

from __future__ import annotations

import json

from onward.clock import SystemClock
from onward.core.errors import Misconfigured, RequestRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from onward.aws.wire import Wire
    from onward.ports import Clock

MAX_DELAY_S = 900  # SQS's limit


class LambdaWakes:
    """`function`: name or ARN of the function that advances runs, with its qualifier if it has one.
    `queue_url`: a standard queue that feeds the same function; without one, nothing can be sent for later."""

    reach_ms: int

    def __init__(self, wire: Wire, function: str, queue_url: str | None = None, clock: Clock | None = None) -> None:
        self._wire = wire
        self._function = function
        self._queue_url = queue_url
        self._clock = clock or SystemClock()
        self.reach_ms = MAX_DELAY_S * 1000 if queue_url else 0

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        payload = json.dumps(wake, separators=(",", ":"))  # ASCII: SQS refuses some characters that JSON allows
        ahead_ms = 0 if at_ms is None else at_ms - self._clock.now_ms()
        if ahead_ms <= 0:
            self._wire.invoke(self._function, payload.encode("ascii"))
        else:
            self._send_later(payload, -(-ahead_ms // 1000))

    def _send_later(self, payload: str, delay_s: int) -> None:
        if not self._queue_url:
            raise Misconfigured("A wake for later needs an SQS queue. Give the queue's URL, or let the sweep send it.")
        if delay_s > MAX_DELAY_S:
            raise RequestRefused(f"A wake {delay_s} s ahead is beyond SQS's {MAX_DELAY_S} s: a bug in Onward.")
        request: dict[str, Any] = {"QueueUrl": self._queue_url, "MessageBody": payload, "DelaySeconds": delay_s}
        trace = self._wire.trace()
        if trace:
            request["MessageSystemAttributes"] = {"AWSTraceHeader": {"DataType": "String", "StringValue": trace}}
        self._wire.json("sqs", "SendMessage", request, self._queue_url)
