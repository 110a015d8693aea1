"""A standard SQS queue in memory, and the part of the SQS API that sends to it.

    send ──delay──▶ visible ──receive──▶ in flight ──delete──▶ gone
                       ▲                     │
                       └─visibility timeout──┘       received too often ──▶ dead letters

A message that is received stays in flight for the visibility timeout, and is visible again unless it was deleted.
One that was received `max_receive_count` times goes to the dead letters when it would be received once more.
Everything runs in the event loop of the service that owns the queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from .loopback import Request, Response

MAX_DELAY_S = 900
MAX_BATCH = 10
MAX_MESSAGE_BYTES = 1_048_576
MAX_RECEIVE_BYTES = 5_500_000  # Lambda takes 6 MB a batch; JSON in JSON grows by its quotes
JSON_TYPE = "application/x-amz-json-1.0"
SENDER_ID = "AIDALOCALLOCALLOCAL00"


@dataclass(eq=False, slots=True)
class Message:
    """One delivery of a message; a duplicate is a second one with the same id.

    `trace_header`: the system attribute AWSTraceHeader."""

    message_id: str
    body: str
    attributes: Mapping[str, Any]
    trace_header: str | None
    sent_ms: int
    receives: int = 0
    first_receive_ms: int = 0
    receipt: str = ""


class RefusedError(Exception):
    """SQS refuses the request. `code`: the name that SDKs know; `query_code`: the name it had in the older protocol."""

    def __init__(self, code: str, message: str, query_code: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.query_code = query_code or code


@dataclass(eq=False)
class Queue:
    """One queue. `wake` is called whenever a message has become visible; `scale`: real seconds per second of SQS."""

    name: str
    arn: str
    visibility_timeout_s: float
    max_receive_count: int | None
    random: Random
    wake: Callable[[], None]
    scale: float = 1.0
    dead: list[dict[str, Any]] = field(default_factory=list)
    _visible: deque[Message] = field(default_factory=deque)
    _timers: dict[Message, asyncio.TimerHandle] = field(default_factory=dict)

    def __len__(self) -> int:
        """Messages that are delayed, visible or in flight."""
        return len(self._visible) + len(self._timers)

    @property
    def visible(self) -> int:
        return len(self._visible)

    def send(self, message: Message, delay_s: float) -> None:
        """Take a message. The checks of the API stand before this."""
        self._show_later(message, delay_s)

    def receive(self, limit: int) -> list[Message]:
        """Up to `limit` visible messages, in flight from now on. Those received too often become dead letters."""
        batch: list[Message] = []
        size = 0
        while self._visible and len(batch) < limit:
            message = self._visible[0]
            if self.max_receive_count is not None and message.receives >= self.max_receive_count:
                self._bury(self._visible.popleft())
                continue
            size += len(message.body)
            if batch and size > MAX_RECEIVE_BYTES:
                break
            self._visible.popleft()
            self._mark_received(message)
            batch.append(message)
        return batch

    def delete(self, message: Message) -> None:
        """Forget a message, wherever it is."""
        timer = self._timers.pop(message, None)
        if timer is not None:
            timer.cancel()
        elif message in self._visible:
            self._visible.remove(message)

    def clear(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._visible.clear()

    def record(self, message: Message, region: str) -> dict[str, Any]:
        """The message as a record of the event that Lambda gives to a function."""
        attributes = {
            "ApproximateReceiveCount": str(message.receives),
            "SentTimestamp": str(message.sent_ms),
            "SenderId": SENDER_ID,
            "ApproximateFirstReceiveTimestamp": str(message.first_receive_ms),
        }
        if message.trace_header:
            attributes["AWSTraceHeader"] = message.trace_header
        return {
            "messageId": message.message_id,
            "receiptHandle": message.receipt,
            "body": message.body,
            "attributes": attributes,
            "messageAttributes": {name: as_record(value) for name, value in message.attributes.items()},
            "md5OfBody": md5(message.body),
            "eventSource": "aws:sqs",
            "eventSourceARN": self.arn,
            "awsRegion": region,
        }

    def _mark_received(self, message: Message) -> None:
        now_ms = int(time.time() * 1000)
        message.receives += 1
        message.first_receive_ms = message.first_receive_ms or now_ms
        message.receipt = f"{self.random.getrandbits(256):064x}"
        self._show_later(message, self.visibility_timeout_s)

    def _show_later(self, message: Message, delay_s: float) -> None:
        if delay_s <= 0:
            self._show(message)
            return
        self._timers[message] = asyncio.get_running_loop().call_later(delay_s * self.scale, self._show, message)

    def _show(self, message: Message) -> None:
        self._timers.pop(message, None)
        self._visible.append(message)
        self.wake()

    def _bury(self, message: Message) -> None:
        letter = {"queue": self.name, "messageId": message.message_id, "body": message.body}
        self.dead.append(letter | {"receives": message.receives, "attributes": dict(message.attributes)})


def uuid(random: Random) -> str:
    """A UUID of version 4 from a seeded source."""
    bits = f"{random.getrandbits(128):032x}"
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}"


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def as_record(value: Mapping[str, Any]) -> dict[str, Any]:
    """A message attribute as the event has it: `StringValue` is `stringValue`."""
    names = {"StringValue": "stringValue", "BinaryValue": "binaryValue", "DataType": "dataType"}
    known = {names[name]: content for name, content in value.items() if name in names}
    return known | {"stringListValues": [], "binaryListValues": []}


# ------------------------------------------------------------------------------------------------------ the API
class QueueApi:
    """Answers SendMessage, SendMessageBatch and GetQueueUrl in the JSON protocol.

    `accept` takes each message that passed the checks, and returns its id."""

    def __init__(
        self,
        queues: Mapping[str, Queue],
        url: Callable[[str], str],
        accept: Callable[[Queue, str, float, Mapping[str, Any], str | None], str],
    ) -> None:
        self._queues = queues
        self._url = url
        self._accept = accept

    def answer(self, request: Request) -> Response:
        operation = request.headers.get("x-amz-target", "").rpartition(".")[2]
        verbs = {"SendMessage": self._send, "SendMessageBatch": self._send_batch, "GetQueueUrl": self._get_url}
        try:
            verb = verbs.get(operation)
            if verb is None:
                raise RefusedError("UnsupportedOperation", f"The local queue does not know {operation}.")
            asked = json.loads(request.body or b"{}")
            if not isinstance(asked, dict):
                raise RefusedError("InvalidParameterValue", "The request is not a JSON object.")
            answer = verb(asked, request.headers.get("x-amzn-trace-id"))
        except RefusedError as refusal:
            headers = {"Content-Type": JSON_TYPE, "x-amzn-query-error": f"{refusal.query_code};Sender"}
            body = {"__type": f"com.amazonaws.sqs#{refusal.code}", "message": str(refusal)}
            return Response(400, headers, json.dumps(body).encode())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # not what the API's model says
            body = {"__type": "com.amazon.coral.service#SerializationException", "message": "not JSON"}
            return Response(400, {"Content-Type": JSON_TYPE}, json.dumps(body).encode())
        return Response(200, {"Content-Type": JSON_TYPE}, json.dumps(answer).encode())

    def _queue(self, url: object) -> Queue:
        queue = self._queues.get(str(url).rpartition("/")[2])
        if queue is None:
            raise _no_such_queue()
        return queue

    def _get_url(self, asked: Mapping[str, Any], trace_header: str | None) -> dict[str, Any]:
        if asked.get("QueueName") not in self._queues:
            raise _no_such_queue()
        return {"QueueUrl": self._url(asked["QueueName"])}

    def _send(self, asked: Mapping[str, Any], trace_header: str | None) -> dict[str, Any]:
        queue = self._queue(asked.get("QueueUrl"))
        return self._take(queue, asked, trace_header)

    def _send_batch(self, asked: Mapping[str, Any], trace_header: str | None) -> dict[str, Any]:
        queue = self._queue(asked.get("QueueUrl"))
        entries = asked.get("Entries") or []
        self._check_batch(entries)
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for entry in entries:
            try:
                done.append({"Id": entry["Id"], **self._take(queue, entry, trace_header)})
            except RefusedError as refusal:
                reason = {"SenderFault": True, "Code": refusal.query_code, "Message": str(refusal)}
                failed.append({"Id": entry["Id"], **reason})
        return {"Successful": done, "Failed": failed}

    def _check_batch(self, entries: list[Mapping[str, Any]]) -> None:
        prefix = "AWS.SimpleQueueService."
        if not entries:
            name = "EmptyBatchRequest"
            raise RefusedError(
                name, "There should be at least one SendMessageBatchRequestEntry in the request.", prefix + name
            )
        if len(entries) > MAX_BATCH:
            name = "TooManyEntriesInBatchRequest"
            message = f"Maximum number of entries per request are {MAX_BATCH}. You have sent {len(entries)}."
            raise RefusedError(name, message, prefix + name)
        if len({entry.get("Id") for entry in entries}) < len(entries):
            name = "BatchEntryIdsNotDistinct"
            raise RefusedError(name, "Two or more batch entries have the same Id.", prefix + name)
        if sum(len(str(entry.get("MessageBody")).encode()) for entry in entries) > MAX_MESSAGE_BYTES:
            name = "BatchRequestTooLong"
            message = f"Batch requests cannot be longer than {MAX_MESSAGE_BYTES} bytes."
            raise RefusedError(name, message, prefix + name)

    def _take(self, queue: Queue, entry: Mapping[str, Any], trace_header: str | None) -> dict[str, Any]:
        body, delay_s = entry.get("MessageBody"), entry.get("DelaySeconds", 0)
        if not isinstance(body, str) or not body:
            raise RefusedError("MissingParameter", "The request must contain the parameter MessageBody.")
        if not isinstance(delay_s, int) or not 0 <= delay_s <= MAX_DELAY_S:
            reason = f"Reason: DelaySeconds must be >= 0 and <= {MAX_DELAY_S}."
            raise RefusedError(
                "InvalidParameterValue", f"Value {delay_s} for parameter DelaySeconds is invalid. {reason}"
            )
        if len(body.encode()) > MAX_MESSAGE_BYTES:
            reason = f"Reason: Message must be shorter than {MAX_MESSAGE_BYTES} bytes."
            raise RefusedError("InvalidParameterValue", f"One or more parameters are invalid. {reason}")
        system = entry.get("MessageSystemAttributes") or {}
        trace_header = (system.get("AWSTraceHeader") or {}).get("StringValue") or trace_header
        message_id = self._accept(queue, body, delay_s, entry.get("MessageAttributes") or {}, trace_header)
        return {"MessageId": message_id, "MD5OfMessageBody": md5(body)}


def _no_such_queue() -> RefusedError:
    code = "AWS.SimpleQueueService.NonExistentQueue"
    return RefusedError("QueueDoesNotExist", "The specified queue does not exist.", code)
