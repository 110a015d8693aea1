"""Where the stories of the golden runs are played: a store, its wakes, and a hand that delivers them one at a time.

The engine, the stores and the wakes of the file are the real ones. Only who is handed which wake, and when, is decided
here, so that each run can be left exactly where its story ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from onward.core.values import Event
from onward.engine import control
from onward.engine.engine import Engine
from onward.engine.ingest import ingest
from onward.engine.sweep import sweep
from onward.local.wakes import SqliteWakes
from onward.loop import close_thread_loop
from onward.ports import Blobs, Clock, Store
from onward.testing import FakeClock
from tests.golden.app import Killed, app, world

START_MS = 1_736_121_600_000  # 2025-01-06T00:00:00Z: long past, so that `onward resume` finds every sleep over
DEAD = "999999999:1"  # the owner of what a killed process held; no system has a process of that id
REACH_MS = 15 * 60 * 1000
MAX_DELIVERIES = 2_000


class Row(NamedTuple):
    """A wake that stands: when it is to be delivered, and the number under which it was sent."""

    at_ms: int
    id: int
    wake: dict[str, Any]


class FileWakes(SqliteWakes):
    """The wakes in a store file, handed out by their run instead of by their time."""

    def of(self, run: str) -> list[Row]:
        """The wakes of a run that nobody holds, the earliest first."""
        rows = self.store.rows(
            "SELECT at_ms, id, wake FROM wakes WHERE owner IS NULL AND instr(wake, ?) ORDER BY at_ms, id",
            (json.dumps(run),),
        )
        return [Row(int(str(at_ms)), int(str(id)), json.loads(str(wake))) for at_ms, id, wake in rows]

    def hold(self, id: int) -> None:
        with self.store.transaction() as db:
            db.execute("UPDATE wakes SET owner = ? WHERE id = ?", (DEAD, id))

    def drop(self, id: int) -> None:
        with self.store.transaction() as db:
            db.execute("DELETE FROM wakes WHERE id = ?", (id,))


class PassingWakes:
    """Wakes as Lambda and SQS have them: nothing of them stands in the table."""

    reach_ms = REACH_MS

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent = 0
        self._rows: list[Row] = []

    def send(self, wake: Any, at_ms: int | None = None) -> None:
        self._sent += 1
        self._rows.append(Row(at_ms or self._clock.now_ms(), self._sent, dict(wake)))

    def of(self, run: str) -> list[Row]:
        return sorted((row for row in self._rows if row.wake.get("run") == run), key=lambda row: row[:2])

    def drop(self, id: int) -> None:
        self._rows = [row for row in self._rows if row.id != id]

    hold = drop  # what a killed process held is gone


class Stage:
    """One store on which all stories are played. `deployed`: invocations have ids, as they have on Lambda."""

    def __init__(
        self,
        store: Store,
        wakes: FileWakes | PassingWakes,
        blobs: Blobs,
        clock: FakeClock,
        deployed: bool,
    ) -> None:
        self.store = store
        self.wakes = wakes
        self.blobs = blobs
        self.clock = clock
        self.deployed = deployed
        self.invocations = 0

    def engine(self) -> Engine:
        """An engine that has kept nothing, as in a new process."""
        return Engine(app, self.store, self.wakes, self.blobs, self.clock)

    def start(self, event: str, data: Any, id: str) -> str:
        [run] = ingest(self.engine(), Event(event, data, id, self.clock.now_ms()))
        return run

    # ------------------------------------------------------------------------------------------------ one wake
    def wake(self, run: str, **fields: Any) -> Row:
        """The earliest wake of a run that has these fields."""
        for row in self.wakes.of(run):
            if all(row.wake.get(name) == value for name, value in fields.items()):
                return row
        raise AssertionError(f"no wake with {fields} stands for run {run}: {self.wakes.of(run)}")

    def count(self, run: str, do: str) -> int:
        """How many wakes of that verb stand for a run."""
        return sum(row.wake["do"] == do for row in self.wakes.of(run))

    def deliver(self, run: str, count: int = 1, **fields: Any) -> None:
        """Deliver the earliest wakes of a run that have these fields, one after the other."""
        for _ in range(count):
            row = self.wake(run, **fields)
            self._handle(row)
            self.wakes.drop(row.id)

    def _handle(self, row: Row) -> None:
        self.clock.turn(row.at_ms)
        self.invocations += 1
        self.engine().handle(row.wake, None, self._invocation())

    def _invocation(self) -> str | None:
        return f"request-{self.invocations}" if self.deployed else None

    def kill(self, run: str, effect: str, **fields: Any) -> Row:
        """Deliver a wake to a process that dies in this effect. Nobody tells of it."""
        row = self.wake(run, **fields)
        self.wakes.hold(row.id)
        world.deadly.add(effect)
        try:
            self._handle(row)
        except Killed:
            return row
        finally:
            world.deadly.discard(effect)
            close_thread_loop()
        raise AssertionError(f"{effect} was not begun")

    def die(self, run: str, effect: str, **fields: Any) -> None:
        """As `kill`, and the notice of the death arrives."""
        row = self.kill(run, effect, **fields)
        reason = "Runtime exited with error: signal: killed"
        control.died(self.engine(), row.wake, reason, self._invocation(), None if self.deployed else 0)
        self.wakes.drop(row.id)

    def lose(self, run: str, **fields: Any) -> None:
        """The earliest wake of a run is lost."""
        self.wakes.drop(self.wake(run, **fields).id)

    def finish(self, run: str) -> None:
        """Deliver wakes until the run has ended, and what is left of them."""
        for _ in range(MAX_DELIVERIES):
            if not self.wakes.of(run):
                return
            self.deliver(run)
        raise AssertionError(f"run {run} does not end")

    def sweep(self) -> None:
        sweep(self.engine(), {"do": "sweep"}, None, None)

    @contextmanager
    def down(self, *effects: str) -> Iterator[None]:
        """These effects fail meanwhile."""
        world.down.update(effects)
        try:
            yield
        finally:
            world.down.difference_update(effects)
