"""A calm world with one app, in which one task is held at one of its requests while everything else goes on.

Nothing goes wrong here by chance. What goes wrong is chosen: the task that is watched stands at its n-th request, just
before that is applied or when it was applied and its reply was not heard yet, for as long as the test likes.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from onward import App

from .chance import Chance
from .cloud import Cloud
from .function import Function, Invocation, Sandbox, Settings, in_virtual_time
from .invariants import Invariants
from .table import Table
from .witness import Witness
from .world import Task, World

MINUTE_MS = 60_000
HORIZON_MS = 6 * MINUTE_MS
BEFORE, BEHIND = "before", "behind"
SIDES = (BEFORE, BEHIND)
LINES_KEPT = 80
SETTLING_MS = 20 * MINUTE_MS  # longer than any message is on its way
CALM = {"frozen": 0.0}  # no fault of chance; but not said to be without faults


class Place(NamedTuple):
    """Where a task is held: at its request of that number (from 1), on that side of its being applied."""

    request: int
    side: str

    def __repr__(self) -> str:
        return f"{self.side} request {self.request}"


class Lambda(Function):
    """`begins`: told of every invocation, before it does anything. `tells`: whether on-failure records arrive.
    `favourite`: the sandbox that performs whatever comes, whenever it is idle. `furnish`: does something to each new
    sandbox."""

    begins: Callable[[Invocation], None] = staticmethod(lambda invocation: None)
    tells = True
    favourite: Sandbox | None = None
    furnish: Callable[[Sandbox], None] = staticmethod(lambda sandbox: None)

    def _sandbox(self) -> Sandbox:
        if self.favourite is not None and self.favourite in self.idle:
            self.idle.remove(self.favourite)
            return self.favourite
        sandbox = super()._sandbox()
        if sandbox.is_cold:
            self.furnish(sandbox)
        return sandbox

    def _perform(self, id: str, payload: Any, after: Any) -> Invocation:
        invocation = super()._perform(id, payload, after)
        self.begins(invocation)
        return invocation

    def _give_up(self, event: Any, error: dict[str, Any], was_run: bool) -> None:
        if self.tells or event.source == "bus":
            super()._give_up(event, error, was_run)
        else:
            self.open -= 1


class Stage:
    """`build` makes the app; its steps find the stage's function and witness when they are performed."""

    invariants_class = Invariants

    def __init__(self, build: Callable[[Stage], App], seed: str = "calm", horizon_ms: int = HORIZON_MS) -> None:
        self.chance = chance = Chance(seed, CALM)
        chance.calm = True
        self.world = world = World()
        self.witness = Witness()
        self.table = Table(lambda: world.now_ms)
        self.cloud = Cloud(world, chance, self.table)
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.app = build(self)
        settings = Settings(timeout_ms=30_000, concurrency=10, horizon_ms=horizon_ms)
        self.function = Lambda(world, chance, self.cloud, [self.app], settings, self._note)
        self.invariants = self.invariants_class(world, self.cloud, self.function, self.witness, horizon_ms)
        self.watched: Task | None = None
        self.place: Place | None = None
        self.requests: list[str] = []  # of the watched task
        self.is_held = False
        self.cloud.before = lambda call: self._passes(call, BEFORE)
        self.cloud.behind = lambda call: self._passes(call, BEHIND)

    def _note(self, level: str, message: str, **fields: Any) -> None:
        told = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
        self.lines.append(f"{self.world.now_ms / 1000 % 1_000_000:.3f} {level} {message} {told}"[:400])

    # --------------------------------------------------------------------------------------------------- holding
    def watch(self, task: Task | None, place: Place | None = None) -> None:
        """Count the requests of this task, and hold it at that place."""
        self.watched, self.place = task, place
        self.requests = []
        self.is_held = False

    def _passes(self, call: Any, side: str) -> None:
        task = self.world.current()
        if task is None or task is not self.watched:
            return
        self.passes(call.operation, side)

    def passes(self, operation: str, side: str) -> None:
        """The watched task passes a place; where it is to be held, it stands here until it is let go."""
        if side == BEFORE:
            self.requests.append(operation)
        if self.place == (len(self.requests), side):
            assert self.watched is not None
            self.is_held = self.watched.held = True
            self.function.spared = self.watched
            self.world.stand()

    def let_go(self) -> None:
        """The held task comes back."""
        task = self.watched
        assert task is not None and self.is_held
        self.is_held = task.held = False
        self.function.spared = None
        self.world.at(self.world.now_ms, task.resume)

    # ------------------------------------------------------------------------------------------------------ time
    @contextlib.contextmanager
    def open(self) -> Iterator[Stage]:
        """Let virtual time begin; where something breaks, the engine's last lines are told."""
        with in_virtual_time(self.function):
            try:
                yield self
            except BaseException as error:
                if isinstance(error, Exception):
                    error.add_note("\n".join(self.lines))
                raise

    def run_until(self, is_true: Callable[[], bool], within_ms: int) -> bool:
        return self.world.run(is_true, self.world.now_ms + within_ms)

    def settle(self) -> None:
        """Let everything arrive that is on its way."""
        self.run_until(lambda: False, SETTLING_MS)

    def has_ended(self) -> bool:
        return bool(self.invariants.runs) and self.invariants.all_ended()
