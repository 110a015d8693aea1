"""The services behind the wire, and what happens to a request on its way there and back.

    a request    is refused (throttled, 500), or never arrives, or arrives late
    is applied   at one moment, whether or not the process that sent it still lives
    its reply    is lost, or arrives late

`SimulatedWire` is the real wire down to one attempt: its retries, waits, and reading of errors are the deployed ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from onward.aws.connection import Broken, Reply
from onward.aws.wire import Call, Wire

from .chance import Chance
from .table import Table
from .world import World

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "simulated",
    "AWS_SECRET_ACCESS_KEY": "simulated",
    "AWS_REGION": "us-east-1",
    "ONWARD_TABLE": "onward",
    "ONWARD_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/onward",
    "ONWARD_BUCKET": "onward",
    "AWS_LAMBDA_FUNCTION_NAME": "onward",
}
READS = frozenset({"GetItem", "BatchGetItem", "Query"})
LATENCY_MS = (1, 6)
SLOW_MS = (200, 4_000)


class Message(NamedTuple):
    """What lies in the queue."""

    id: str
    body: str
    receives: int


class Queue:
    """SQS, feeding the function: `deliver` is called with each message that has become visible."""

    def __init__(self, world: World, chance: Chance) -> None:
        self.world = world
        self.chance = chance
        self.deliver: Callable[[Message], None] = lambda message: None
        self.dead: list[Message] = []
        self.sent = 0

    def send(self, body: str, delay_s: int) -> None:
        copies = 2 if self.chance.strikes("message_twice") else 1
        for _ in range(copies):
            self.sent += 1
            message = Message(f"message-{self.sent}", body, 0)
            late_ms = self.chance.between("lateness", 1_000, 120_000) if self.chance.strikes("message_late") else 0
            self.world.after(delay_s * 1000 + late_ms, lambda message=message: self.deliver(message))


class Usage:
    """What one process learned of its costs from the replies, and what it never learned."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.heard = 0.0
        self.unheard = 0.0

    def __call__(self, service: str, operation: str, sent: int, received: int, reply: dict[str, Any] | None) -> None:
        used = (reply or {}).get("ConsumedCapacity") or {}
        self.heard += sum(one.get("CapacityUnits", 0.0) for one in (used if isinstance(used, list) else [used]))


class Cloud:
    """`invoke`: takes the payload of an asynchronous invocation."""

    def __init__(self, world: World, chance: Chance, table: Table) -> None:
        self.world = world
        self.chance = chance
        self.table = table
        self.queue = Queue(world, chance)
        self.objects: dict[str, bytes] = {}
        self.invoke: Callable[[bytes, str], None] = lambda payload, trace: None
        self.usage = Usage()
        self.requests = 0
        self.in_flight = 0
        self.before: Callable[[Call], None] = lambda call: None  # a test may hold the task that asks, here
        self.behind: Callable[[Call], None] = lambda call: None  # and here, when it was applied

    def request(self, call: Call) -> Reply:
        """One attempt of one call, as the process that makes it sees it."""
        self.requests += 1
        self.usage.requests[call.operation] += 1
        world, chance = self.world, self.chance
        task = world.current()
        if task is not None and call.service == "dynamodb":
            task.requests += 1
        if task is not None and chance.strikes("kill"):
            world.after(chance.between("moment", 0, 2 * LATENCY_MS[1]), task.kill)
        self.before(call)
        refusal = self._refusal(call)
        if chance.strikes("not_sent"):
            world.pause(self._latency_ms())
            raise Broken("the connection was cut before the request was through")
        lost = chance.strikes("reply_lost")
        there_ms = self._latency_ms()
        answers: list[Reply] = []
        units, gone = 0.0, False
        self.in_flight += 1

        def arrive() -> None:
            nonlocal units
            reply, used = (refusal, 0.0) if refusal is not None else self._apply(call)
            answers.append(reply)
            if gone:
                self.usage.unheard += used
            else:
                units = used

        try:
            if task is None:
                arrive()
            else:
                world.after(there_ms, arrive)
            world.pause(there_ms + self._latency_ms())
            self.behind(call)
            if lost:
                raise Broken("the reply was lost")
        except BaseException:
            gone = True
            self.usage.unheard += units
            raise
        finally:
            self.in_flight -= 1
        [reply] = answers
        if reply.status != 200:
            self.usage.unheard += units
        return reply

    def _latency_ms(self) -> int:
        if self.chance.strikes("slow"):
            return self.chance.between("slowness", *SLOW_MS)
        return self.chance.between("latency", *LATENCY_MS)

    def _refusal(self, call: Call) -> Reply | None:
        """A refusal of a service that is too busy, in its own words."""
        if self.chance.strikes("throttled"):
            code = {"dynamodb": "ThrottlingException", "lambda": "TooManyRequestsException"}.get(
                call.service, "SlowDown"
            )
            return _reply(429 if call.service == "lambda" else 400, {"__type": f"x#{code}", "message": "slow down"})
        if self.chance.strikes("server_error"):
            return _reply(500, {"__type": "x#InternalServerError", "message": "we are sorry"})
        if call.operation == "PutItem" and self.chance.strikes("conflict"):
            return _reply(400, {"__type": "x#TransactionConflictException", "message": "another transaction"})
        if call.operation == "TransactWriteItems" and self.chance.strikes("conflict"):
            count = len(json.loads(call.body)["TransactItems"])
            reasons = [{"Code": "None"} for _ in range(count)]
            reasons[self.chance.between("reason", 0, count - 1)] = {"Code": "TransactionConflict"}
            body = {"__type": "x#TransactionCanceledException", "message": "", "CancellationReasons": reasons}
            return _reply(400, body)
        return None

    def _apply(self, call: Call) -> tuple[Reply, float]:
        if call.service == "dynamodb":
            answer = self.table.call(call.operation, json.loads(call.body))
            return _reply(answer.status, answer.body), answer.units
        if call.service == "lambda":
            self.invoke(call.body, call.headers.get("X-Amzn-Trace-Id", ""))
            return Reply(202, {}, b"", True, 100), 0.0
        if call.service == "sqs":
            request = json.loads(call.body)
            self.queue.send(request["MessageBody"], request["DelaySeconds"])
            return _reply(200, {"MessageId": "m"}), 0.0
        if call.operation == "PutObject":
            self.objects[call.path] = call.body
            return Reply(200, {}, b"", True, 100), 0.0
        found = self.objects.get(call.path)
        if found is None:
            return Reply(404, {}, b"<Error><Code>NoSuchKey</Code></Error>", True, 100), 0.0
        return Reply(200, {}, found, True, len(found)), 0.0


def _reply(status: int, body: dict[str, Any]) -> Reply:
    text = json.dumps(body).encode()
    return Reply(status, {}, text, True, len(text))


class SimulatedWire(Wire):
    """The real wire over the simulated services: each process has its own."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(
            environ=ENVIRONMENT,
            sleep=lambda seconds: cloud.world.pause(round(seconds * 1000)),
            chance=lambda: cloud.chance.stream("backoff").random(),
            meter=cloud.usage,
        )
        self.cloud = cloud

    def connect(self, service: str = "dynamodb") -> None:
        """Nothing to open."""

    def _attempt(self, call: Call) -> tuple[Reply, dict[str, Any] | None]:
        reply = self.cloud.request(call)
        parsed: dict[str, Any] | None = None
        if call.service in ("dynamodb", "sqs") and reply.status < 300:
            parsed = json.loads(reply.body)
            assert self.meter is not None
            self.meter(call.service, call.operation, len(call.body), reply.wire_bytes, parsed)
        return reply, parsed
