"""The flood through the deployed handler: the local Lambda, its queue, and dynoxide (or a SQLite file)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path
from random import Random
from typing import Any

from onward.aws.dynamodb import DynamoStore, _item
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.local.chaos import Chaos
from onward.local.lambda_service import LocalLambda
from onward.ports import Item
from tests import servers
from tests.end_to_end.deployment import event, message

from .app import event_of
from .count import event_id
from .options import DUPLICATE, Flood, Told
from .witness import VARIABLE

ROOT = Path(__file__).parents[2]
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
TABLE = "flood"
FEEDERS = 4
BATCH = 10
BUSY_S = 0.02
POLL_S = 0.5
KILL_S = 0.1
INVOCATIONS_PER_EVENT = 6  # measured; by it the probability of a kill is reckoned


def flood(options: Flood, folder: Path) -> Told:
    """Send every event, and wait until no run is open."""
    with servers.dynoxide() as url:
        wire = Wire(endpoint_url=url, environ=KEYS)
        create_table(wire, TABLE)
        told = _flood(options, folder, url, DynamoStore(wire, TABLE))
        told.items = list(items_of(wire))
        wire.close()
        return told


def _flood(options: Flood, folder: Path, url: str, store: DynamoStore) -> Told:
    told = Told(sandboxes=options.sandboxes)
    env = {"ONWARD_TABLE": TABLE, "AWS_ENDPOINT_URL_DYNAMODB": url, VARIABLE: str(folder / "effects")}
    env["ONWARD_CHAOS"] = f"horizon={options.horizon_s}"  # nothing but a shorter horizon: the rest befalls from outside
    kill = min(options.kills / (options.events * INVOCATIONS_PER_EVENT), 1.0)
    service = LocalLambda(
        "tests.flood.handler.handler",
        env=env,
        cwd=ROOT,
        timeout_s=options.timeout_s,
        concurrency=options.sandboxes,
        maximum_retry_attempts=0,
        on_failure="queue",
        recursive_loop="Allow",
        throttle_backoff_s=None,
        visibility_timeout_s=options.timeout_s,
        max_receive_count=None,
        tick_s=options.tick_s,
        tick_payload={"onward": 1, "do": "sweep"},
        init_s=60.0,
        seed=options.seed,
        chaos=Chaos(duplicate=options.duplicate, drop=options.drop, kill=kill, kill_s=KILL_S),
        on_line=lambda line: told.lines.update([_message_of(line)]),
    )
    with service:
        env["ONWARD_QUEUE_URL"] = service.queue_url
        _feed_and_wait(service, store, options, told)
        stats = service.stats
        told.kills, told.duplicates, told.lost = stats.killed, stats.duplicated, stats.lost
        told.throttles, told.invocations = stats.throttles, stats.invocations
    told.deaths = told.lines["invocation died"]
    told.sweeps = told.lines["run woken by the sweep"]
    return told


def _message_of(line: str) -> str:
    """The message of a log line, if it is one of ours."""
    return line.partition('"message": "')[2].partition('"')[0]


def _feed_and_wait(service: LocalLambda, store: DynamoStore, options: Flood, told: Told) -> None:
    room = threading.Semaphore(options.window)
    feeder = Feeder(service, options, told, room)
    began_s = time.monotonic()
    threads = [threading.Thread(target=feeder.feed, daemon=True) for _ in range(FEEDERS)]
    for thread in threads:
        thread.start()
    released = 0
    while True:
        feeding = any(thread.is_alive() for thread in threads)  # before the count, which then has all that was sent
        sent = len(told.accepted)
        open_runs = len(store.due(1 << 60, options.events))
        for _ in range(max(sent - open_runs - released, 0)):
            room.release()
            released += 1
        told.progress(sent, open_runs)
        if not feeding and not open_runs:
            break
        if time.monotonic() - began_s > options.within_s:
            told.gave_up = True
            feeder.stop = True
            break
        time.sleep(POLL_S)
    told.wall_s = time.monotonic() - began_s


class Feeder:
    """Hands events to the function as a queue does: in batches, again until the function has said that it took them,
    and some of them twice."""

    def __init__(self, service: LocalLambda, options: Flood, told: Told, room: threading.Semaphore) -> None:
        self.stop = False
        self._service = service
        self._options = options
        self._told = told
        self._room = room
        self._next = numbers()
        self._chance = Random(options.seed)

    def feed(self) -> None:
        while not self.stop:
            batch = self._take()
            if not batch:
                return
            self._deliver_until_taken(batch, self._told.accepted)
            self._deliver_until_taken([n for n in batch if self._chance.random() < DUPLICATE], [])

    def _deliver_until_taken(self, batch: list[int], taken: list[int]) -> None:
        waiting = {str(n): n for n in batch}
        while waiting and not self.stop:
            refused = self._deliver(waiting)
            taken.extend(n for place, n in waiting.items() if place not in refused)
            waiting = {place: waiting[place] for place in refused}

    def _take(self) -> list[int]:
        batch: list[int] = []
        while len(batch) < BATCH and not self.stop:
            if not self._room.acquire(timeout=BUSY_S):
                if batch:
                    break
                continue
            n = next(self._next)
            if n >= self._options.events:
                break
            batch.append(n)
        return batch

    def _deliver(self, batch: dict[str, int]) -> set[str]:
        """Invoke the function with a batch; the places of those that it did not take."""
        records: list[Any] = []
        for place, n in batch.items():
            records.append(message(json.dumps(event(*event_of(n), event_id(n))), place))
        answer, error = self._service.invoke({"Records": records})
        if error is not None:
            time.sleep(BUSY_S)
            return set(batch)
        self._told.deliveries += len(batch)
        return {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}


def items_of(wire: Wire) -> Iterator[Item]:
    """Every item of every run."""
    start: dict[str, Any] = {}
    while True:
        answer = wire.json("dynamodb", "Scan", {"TableName": TABLE, "ConsistentRead": True, **start}, TABLE)
        for fields in answer["Items"]:
            if fields["pk"]["S"].startswith("run#"):
                yield _item(fields)
        if "LastEvaluatedKey" not in answer:
            return
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
