"""Time, and the tasks that stand in it.

The world is a queue of things that happen, by their time and then in the order in which they were put there. A task is
a greenlet: code that calls `pause` stands there until its time has come, and meanwhile others run. It can be killed
where it stands. Everything happens in one thread, and the same seed makes the same things happen in the same order.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

START_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z
MAX_TICKS = 3_000_000


class Killed(BaseException):
    """The process is gone. No `except Exception` and no bookkeeping runs behind it."""


class Task:
    """Code that takes time. `done` is called in the hub with the error that ended it, or None."""

    def __init__(self, world: World, name: str, work: Callable[[], None], done: Callable[[BaseException | None], None]):
        self.world = world
        self.name = name
        self.is_dead = False
        self.is_over = False
        self.held = False
        self._done = done
        self._work = work
        self._greenlet = greenlet(self._run)
        self._greenlet.task = self  # type: ignore[attr-defined]
        self._wanted_ms: int | None = None
        self.requests = 0  # to the table

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work()
        except (
            BaseException
        ) as raised:  # what a killed process still raises, as a group of its tasks, is of no interest
            if not self.is_dead and not isinstance(raised, Exception | Killed):
                raise
            error = Killed() if self.is_dead else raised
        self.is_over = True
        self._ended = error

    def resume(self) -> None:
        """Go on from where it stands (in the hub)."""
        if self.is_over or self.held:
            return
        self._switch()

    def _switch(self) -> None:
        assert getcurrent() is self.world.hub
        self._greenlet.switch()
        if self.is_over:
            self._done(self._ended)

    def kill(self) -> None:
        """End it where it stands; it gets no chance to clean up that could reach the world."""
        if self.is_over or self.is_dead:
            return
        self.is_dead = True
        self.held = False
        if not self._greenlet:  # never begun
            self.is_over = True
            self._done(Killed())
            return
        self._greenlet.throw(Killed)
        assert self.is_over, f"{self.name} lives on after it was killed"
        self._done(self._ended)


class World:
    """Virtual time in epoch milliseconds."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.ticks = 0
        self.hub: Any = getcurrent()
        self.after_tick: Callable[[], None] = lambda: None
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0

    def at(self, when_ms: int, happens: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (max(when_ms, self.now_ms), self._order, happens))

    def after(self, delay_ms: int, happens: Callable[[], None]) -> None:
        self.at(self.now_ms + delay_ms, happens)

    def begin(
        self, name: str, work: Callable[[], None], done: Callable[[BaseException | None], None] = lambda error: None
    ) -> Task:
        """Start a task, now."""
        task = Task(self, name, work, done)
        self.at(self.now_ms, task.resume)
        return task

    def current(self) -> Task | None:
        return getattr(getcurrent(), "task", None)

    def pause(self, delay_ms: int) -> None:
        """Stand for that long. In the hub itself (a test's own code), time passes and nothing else."""
        task = self.current()
        if task is None:
            self.now_ms += delay_ms
            return
        if task.is_dead:
            raise Killed
        self.after(delay_ms, task.resume)
        self.stand()

    def stand(self) -> None:
        """Stand until somebody resumes this task. An event loop that runs in it stands with it."""
        loop = asyncio._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        asyncio._set_running_loop(None)
        try:
            self.hub.switch()
        finally:
            asyncio._set_running_loop(loop)
            sys.set_asyncgen_hooks(*hooks)

    def tick(self) -> bool:
        """Let the next thing happen; False when there is none."""
        if not self._queue:
            return False
        when_ms, _, happens = heapq.heappop(self._queue)
        self.now_ms = max(self.now_ms, when_ms)
        self.ticks += 1
        assert self.ticks < MAX_TICKS, "this goes on for ever"
        happens()
        self.after_tick()
        return True

    def next_ms(self) -> int | None:
        return self._queue[0][0] if self._queue else None

    def run(self, until: Callable[[], bool], before_ms: int) -> bool:
        """Tick until that is true; False where it is not by that time."""
        while not until():
            next_ms = self.next_ms()
            if next_ms is None or next_ms > before_ms:
                self.now_ms = max(self.now_ms, before_ms)
                return until()
            self.tick()
        return True


class SkewedClock:
    """`ports.Clock` of one process: the world's time and something, and chance from the seed."""

    def __init__(self, world: World, chance: Any, skew_ms: int = 0) -> None:
        self._world = world
        self._chance = chance
        self._skew_ms = skew_ms

    def now_ms(self) -> int:
        return self._world.now_ms + self._skew_ms

    def random(self) -> float:
        return float(self._chance.stream("jitter").random())

    def token(self) -> str:
        return str(self._chance.token("token"))
