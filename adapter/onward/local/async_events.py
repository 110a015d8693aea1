"""Lambda's queue of asynchronous events: accepted at once, performed when there is room, retried, given up.

    accepted ─▶ offered ──room──▶ performed ──answered──▶ done
                  ▲  │ no room        │ failed
                  │  ▼                ▼
                  └─ throttled     retries left? ──yes──▶ offered again, after `retry_delays_s`
                     (backoff)        │ no, or too old
                                      ▼
                                  given up ──▶ the on-failure destination

A throttled event is offered again after a backoff of 1 s to 5 min, and that consumes none of its retries. With no
backoff (None) the queue is read as soon as there is room.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from .chaos import Chaos, Stats
from .fleet import VERSION, Fleet, spawn
from .lineage import MAX_HOPS, handed_on, hops
from .queue_service import uuid
from .runtime_api import Answered, Failed, Invocation

MAX_THROTTLE_DOUBLINGS = 20


@dataclass(eq=False)
class Event:
    """One delivery of an accepted payload; a duplicate is a second one with the same request id."""

    request_id: str
    payload: bytes
    arn: str
    trace_header: str | None
    accepted_s: float
    invokes: int = 0
    throttles: int = 0
    last: Failed | None = None


@dataclass(frozen=True)
class Policy:
    """Lambda's EventInvokeConfig, and what tests shorten. Times are seconds, multiplied by `scale` when waited for."""

    maximum_retry_attempts: int
    maximum_event_age_s: float
    retry_delays_s: Sequence[float]
    throttle_backoff_s: tuple[float, float] | None
    terminate_loops: bool
    scale: float


class AsyncEvents:
    """`give_up` gets the invocation record of each event that failed for good."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        policy: Policy,
        stats: Stats,
        chaos: Chaos,
        random: Random,
        chance: Random,
        arn: str,
        tasks: set[asyncio.Task[None]],
        give_up: Callable[[dict[str, Any]], None],
    ) -> None:
        self._fleet = fleet
        self._policy = policy
        self._stats = stats
        self._chaos = chaos
        self._random = random
        self._chance = chance
        self._arn = arn
        self._tasks = tasks
        self._give_up = give_up
        self._waiting: deque[Event] = deque()
        self._open = 0

    def __len__(self) -> int:
        """Events that were accepted and are not finished."""
        return self._open

    def accept(self, payload: bytes, arn: str, trace_header: str | None) -> str:
        """Take an event; its request id. It is offered at once, unless chaos wills otherwise."""
        loop = asyncio.get_running_loop()
        request_id = uuid(self._random)
        self._stats.events += 1
        fate = self._chaos.fate(self._chance.random)
        self._stats.count_fate(fate)
        for delay_s in fate:
            event = Event(request_id, payload, arn, trace_header, loop.time())
            self._open += 1
            if delay_s:
                loop.call_later(delay_s, self._offer, event)
            else:
                self._offer(event)
        return request_id

    def pump(self) -> None:
        """There is room again: read the queue."""
        while self._waiting and self._fleet.claim():
            spawn(self._perform(self._waiting.popleft()), self._tasks)

    def _offer(self, event: Event) -> None:
        if self._too_old(event, 0):
            self._finish(event, "EventAgeExceeded")
        elif self._policy.terminate_loops and hops(event.trace_header, self._arn) >= MAX_HOPS:
            self._stats.recursion_drops += 1
            self._finish(event, "RetriesExhausted")
        elif self._fleet.claim():
            spawn(self._perform(event), self._tasks)
        else:
            self._put_off(event)

    def _put_off(self, event: Event) -> None:
        self._stats.throttles += 1
        if self._policy.throttle_backoff_s is None:
            self._waiting.append(event)
            return
        first_s, most_s = self._policy.throttle_backoff_s
        wait_s = min(most_s, first_s * 2.0 ** min(event.throttles, MAX_THROTTLE_DOUBLINGS))
        event.throttles += 1
        self._later(wait_s * (0.5 + self._random.random() / 2), event)

    async def _perform(self, event: Event) -> None:
        trace_header = handed_on(event.trace_header, self._arn, datetime.now(UTC).timestamp(), self._random)
        event.invokes += 1
        outcome = await self._fleet.perform(Invocation(event.request_id, event.payload, event.arn, trace_header))
        if isinstance(outcome, Answered):
            self._open -= 1
            return
        event.last = outcome
        event.throttles = 0
        retry = event.invokes - 1
        if retry >= self._policy.maximum_retry_attempts:
            self._finish(event, "RetriesExhausted")
            return
        delays_s = self._policy.retry_delays_s
        delay_s = delays_s[min(retry, len(delays_s) - 1)] if delays_s else 0.0
        if self._too_old(event, delay_s):
            self._finish(event, "EventAgeExceeded")
            return
        self._stats.retries += 1
        self._later(delay_s, event)

    def _later(self, delay_s: float, event: Event) -> None:
        asyncio.get_running_loop().call_later(delay_s * self._policy.scale, self._offer, event)

    def _too_old(self, event: Event, in_s: float) -> bool:
        age_s = (asyncio.get_running_loop().time() - event.accepted_s) / self._policy.scale
        return age_s + in_s > self._policy.maximum_event_age_s

    def _finish(self, event: Event, condition: str) -> None:
        self._stats.dropped += 1
        self._give_up(record(event, condition, f"{self._arn}:{VERSION}", datetime.now(UTC)))
        self._open -= 1


def record(event: Event, condition: str, arn: str, now: datetime) -> dict[str, Any]:
    """The invocation record that Lambda sends to a destination. An event that was never performed has no response."""
    content: dict[str, Any] = {
        "version": "1.0",
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z",
        "requestContext": {
            "requestId": event.request_id,
            "functionArn": arn,
            "condition": condition,
            "approximateInvokeCount": event.invokes,
        },
        "requestPayload": json.loads(event.payload),
    }
    if event.last is not None:
        content["responseContext"] = {"statusCode": 200, "executedVersion": VERSION, "functionError": "Unhandled"}
        content["responsePayload"] = decoded(event.last.payload)
    return content


def decoded(payload: bytes) -> Any:
    """JSON, or the text that is not JSON."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return payload.decode("utf-8", "replace")
