"""The event source mapping: polls a queue, invokes the function with what it finds, deletes what was dealt with."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random
from typing import Any

from .chaos import Stats
from .fleet import Fleet, Function, spawn
from .lineage import MAX_HOPS, handed_on, hops
from .queue_service import Message, Queue, uuid
from .runtime_api import Answered, Invocation


class EventSource:
    """Delivers batches of up to `batch_size` messages, whenever the function has room.

    With `report_item_failures` the function may name the messages that it could not deal with (the mapping's
    ReportBatchItemFailures); only those come back, after the visibility timeout. An answer that makes no sense, an
    error and a crash bring the whole batch back."""

    def __init__(
        self,
        queue: Queue,
        fleet: Fleet,
        *,
        function: Function,
        stats: Stats,
        random: Random,
        tasks: set[asyncio.Task[None]],
        batch_size: int,
        report_item_failures: bool,
        terminate_loops: bool,
    ) -> None:
        self._queue = queue
        self._fleet = fleet
        self._function = function
        self._stats = stats
        self._random = random
        self._tasks = tasks
        self._batch_size = batch_size
        self._report_item_failures = report_item_failures
        self._terminate_loops = terminate_loops

    def pump(self) -> None:
        """Start as many deliveries as there are messages and room for."""
        while self._queue.visible and self._fleet.claim():
            batch = self._queue.receive(self._batch_size)
            if batch:
                spawn(self._deliver(batch), self._tasks)
            else:
                self._fleet.busy -= 1  # only dead letters were left; nobody waits for this place

    async def _deliver(self, batch: list[Message]) -> None:
        arn = self._function.arn
        header = max((message.trace_header for message in batch), key=lambda header: hops(header, arn))
        if self._terminate_loops and hops(header, arn) >= MAX_HOPS:
            self._stats.recursion_drops += 1
            self._stats.redelivered += len(batch)
            self._fleet.release()
            return
        records = [self._queue.record(message, self._function.region) for message in batch]
        payload = json.dumps({"Records": records}).encode()
        trace_header = handed_on(header, arn, time.time(), self._random)
        outcome = await self._fleet.perform(Invocation(uuid(self._random), payload, arn, trace_header))
        failed = {message.message_id for message in batch}
        if isinstance(outcome, Answered):
            failed = unfinished(outcome.payload, failed) if self._report_item_failures else set()
        for message in batch:
            if message.message_id not in failed:
                self._queue.delete(message)
        self._stats.redelivered += sum(message.message_id in failed for message in batch)


def unfinished(answer: bytes, batch: set[str]) -> set[str]:
    """The ids of the messages that the function names as failed; all of them, if it names one that is not there."""
    try:
        content: Any = json.loads(answer or b"null")
        items = content.get("batchItemFailures") if isinstance(content, dict) else None
        named = {item["itemIdentifier"] for item in items or ()}
    except (ValueError, TypeError, KeyError, RecursionError):
        return batch
    return named if named <= batch else batch
