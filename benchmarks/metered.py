"""A run over DynamoDB (dynoxide), with every request counted: operations, capacity units, bytes, and wakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from onward import App
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.testing import Rehearsal

_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
_READS = frozenset({"Query", "GetItem", "BatchGetItem"})
_tables = count()


class Meter:
    """Sums up what the wire did."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.write_units = 0.0
        self.read_units = 0.0
        self.bytes_read = 0

    def spent(self) -> dict[str, float]:
        return {"requests": self.requests.total(), "WRU": self.write_units, "RRU": self.read_units}

    def __call__(self, service: str, operation: str, sent: int, received: int, reply: dict[str, Any] | None) -> None:
        self.requests[operation] += 1
        if operation in _READS:
            self.bytes_read += received
        used = (reply or {}).get("ConsumedCapacity") or {}
        for one in used if isinstance(used, list) else [used]:
            units = one.get("CapacityUnits", 0.0)
            if operation in _READS:
                self.read_units += units
            else:
                self.write_units += units


class Metered:
    """A rehearsal and its meter."""

    def __init__(self, rehearsal: Rehearsal, meter: Meter) -> None:
        self.rehearsal = rehearsal
        self.meter = meter

    @property
    def wakes(self) -> int:
        return self.rehearsal.queue.sent

    def deliver(self, upto_ms: int | None = None) -> None:
        """Deliver the wakes up to that time (None: all that come), without the sweeps between them, which cost as
        well."""
        stage = self.rehearsal
        while (at_ms := stage.queue.next_ms()) is not None and (upto_ms is None or at_ms <= upto_ms):
            at_ms, wake = stage.queue.take()
            stage.clock.turn(at_ms)
            stage.deliver(wake)


@contextmanager
def metered(app: App, url: str, *, fresh: bool) -> Iterator[Metered]:
    """`fresh`: every wake meets a cold sandbox, which has kept nothing."""
    meter = Meter()
    wire = Wire(endpoint_url=url, environ=_KEYS)
    table = f"bench-{next(_tables)}"
    create_table(wire, table)
    wire.meter = meter
    try:
        with Rehearsal(app, store=DynamoStore(wire, table), fresh=fresh) as rehearsal:
            yield Metered(rehearsal, meter)
    finally:
        wire.close()
