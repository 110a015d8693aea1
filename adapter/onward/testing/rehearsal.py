"""A rehearsal: the real engine over a store in memory, with a clock that jumps and wakes that stand in a queue.

Nothing is mocked but time and delivery. Sleeps and backoffs of hours pass at once, in their right order, and the same
rehearsal always goes the same way: chance is seeded, and wakes are delivered by their time, then in the order sent.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..core.codec import decode
from ..core.values import Event
from ..engine.engine import Engine
from ..engine.ingest import ingest
from ..engine.ledger import HORIZON_MS
from ..engine.notes import silent
from ..engine.sweep import sweep
from ..engine.views import due_items, run_view
from ..local.store import SqliteStore
from ..loop import close_thread_loop

if TYPE_CHECKING:
    from types import TracebackType

    from ..app import App
    from ..engine.notes import Note
    from ..ports import Blobs, Clock, Store, Wakes

START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
MAX_WAKES = 1_000_000
SWEEP_MS = 60_000  # as often as on AWS
NEVER_MS = 1 << 60
REACH_MS = 15 * 60 * 1000
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class FakeClock:
    """A clock that stands until it is turned, and seeded chance."""

    def __init__(self, now_ms: int = START_MS, seed: int = 0) -> None:
        self._now_ms = now_ms
        self._chance = random.Random(seed)

    def now_ms(self) -> int:
        return self._now_ms

    def random(self) -> float:
        return self._chance.random()

    def token(self) -> str:
        return "".join(self._chance.choices(_ALPHABET, k=16))

    def turn(self, now_ms: int) -> None:
        """Make it that late; it never goes back."""
        self._now_ms = max(self._now_ms, now_ms)


class QueuedWakes:
    """Wakes in a queue, by their time and then in the order in which they were sent."""

    def __init__(self, clock: Clock, reach_ms: int = REACH_MS) -> None:
        self.reach_ms = reach_ms
        self.sent = 0
        self._clock = clock
        self._queue: list[tuple[int, int, dict[str, Any]]] = []

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        self.sent += 1
        at_ms = self._clock.now_ms() if at_ms is None else max(at_ms, self._clock.now_ms())
        heapq.heappush(self._queue, (at_ms, self.sent, dict(wake)))

    def next_ms(self) -> int | None:
        """The time of the next wake."""
        return self._queue[0][0] if self._queue else None

    def take(self) -> tuple[int, dict[str, Any]]:
        """The next wake and its time."""
        at_ms, _, wake = heapq.heappop(self._queue)
        return at_ms, wake


class Rehearsal:
    """An app under a clock that jumps.

    `fill`: perform all steps in one invocation where that is possible (None: as each workflow says). `fresh`: give
    every wake a new engine that has kept nothing, as in a new process. `store`, `blobs`: others than the one in memory.
    """

    def __init__(
        self,
        app: App,
        *,
        fill: bool | None = None,
        fresh: bool = False,
        seed: int = 0,
        store: Store | None = None,
        wakes: Wakes | None = None,
        blobs: Blobs | None = None,
        clock: FakeClock | None = None,
        horizon_ms: int = HORIZON_MS,
        note: Note = silent,
    ) -> None:
        self.app = app
        self.clock = clock or FakeClock(seed=seed)
        self._own_store = SqliteStore(":memory:") if store is None else None
        self.store: Store = store or self._own_store  # type: ignore[assignment]
        self.queue = QueuedWakes(self.clock)
        self.wakes: Wakes = wakes or self.queue
        self.blobs = blobs
        self.fill = fill
        self.fresh = fresh
        self.horizon_ms = horizon_ms
        self.note = note
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        """An engine that has kept nothing."""
        return Engine(
            self.app,
            self.store,
            self.wakes,
            self.blobs,
            self.clock,
            fill=self.fill,
            horizon_ms=self.horizon_ms,
            note=self.note,
        )

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        close_thread_loop()
        if self._own_store is not None:
            self._own_store.close()

    # ------------------------------------------------------------------------------------------------------ doing
    def start(self, name: str, data: Any = None, id: str | None = None) -> list[str]:
        """Send an event, and return the ids of the runs that it started; nothing is performed yet."""
        event = Event(name, {} if data is None else data, id or self.clock.token(), self.clock.now_ms())
        return ingest(self.engine, event)

    def send(self, name: str, data: Any = None, id: str | None = None) -> dict[str, Any]:
        """Send an event, do everything that follows from it, and return the view of the run that it started, with
        `result`, the decoded output."""
        [run] = self.start(name, data, id)
        self.drain()
        return self.view(run)

    def view(self, run: str) -> dict[str, Any]:
        """The view of a run, with `result`, the decoded output."""
        view = run_view(self.engine.ledger, run)
        view["result"] = None if view["output"] is None else decode(view["output"])
        return view

    def step(self) -> bool:
        """Deliver the next wake, turning the clock to its time, or sweep if a run is due before that; False when there
        is no wake."""
        next_ms = self.queue.next_ms()
        if next_ms is None:
            return False
        if next_ms >= self.clock.now_ms() + SWEEP_MS and self._due_ms() <= next_ms:
            return self.sweep()
        at_ms, wake = self.queue.take()
        self.clock.turn(at_ms)
        self.deliver(wake)
        return True

    def deliver(self, wake: dict[str, Any]) -> None:
        """Hand one wake to the engine."""
        if self.fresh:
            self.engine = self.new_engine()
        self.engine.handle(wake)

    def drain(self) -> None:
        """Deliver wakes, and sweep when there are none, until every run has ended."""
        for _ in range(MAX_WAKES):
            if self.step():
                continue
            if not self.sweep():
                return
        raise AssertionError(f"more than {MAX_WAKES:,} wakes: this goes on for ever")

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass: deliver the wakes that fall into it, sweep once a minute, and start what schedules
        (`cron`) say."""
        from ..engine.starts import begin_between

        ends_ms = self.clock.now_ms() + round(seconds * 1000)
        while (now_ms := self.clock.now_ms()) < ends_ms:
            upto_ms = min(now_ms - now_ms % SWEEP_MS + SWEEP_MS, ends_ms)
            self._deliver_until(upto_ms)
            engine = self.new_engine() if self.fresh else self.engine
            begin_between(engine, now_ms, upto_ms)
            sweep(engine, {"do": "sweep"}, None, None)
        self._deliver_until(ends_ms)

    def _deliver_until(self, upto_ms: int) -> None:
        while (next_ms := self.queue.next_ms()) is not None and next_ms <= upto_ms:
            at_ms, wake = self.queue.take()
            self.clock.turn(at_ms)
            self.deliver(wake)
        self.clock.turn(upto_ms)

    def sweep(self) -> bool:
        """Turn the clock to where the next run is due, and sweep; False when every run has ended."""
        due_ms = self._due_ms()
        if due_ms == NEVER_MS:
            return False
        self.clock.turn(due_ms)
        sweep(self.new_engine() if self.fresh else self.engine, {"do": "sweep"}, None, None)
        return True

    def _due_ms(self) -> int:
        return min((item.due_ms for item in self.open_heads()), default=NEVER_MS)

    def open_heads(self) -> Iterator[Any]:
        """The heads of the runs that have not ended, and what holds events back."""
        yield from due_items(self.engine.ledger, 1_000)
