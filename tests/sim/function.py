"""Lambda: a function, its queue of asynchronous events, its sandboxes, and everything that AWS says may happen to them.

    accepted ── dropped, twice, late ──▶ offered ── no sandbox free ──▶ offered again, later
                                            │
                                            ▼  in a warm sandbox or a cold one, of some version of the code
                                         performed ── answered ──▶ done
                                            │ error, killed, past its deadline
                                            ▼
                                   retries by itself, after 1 and 2 minutes ──▶ the on-failure record, to the queue

Where Lambda takes the chain for a loop, it cuts it: the event is not performed, and goes to the queue with a record.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from onward import loop as onward_loop
from onward.engine import perform
from onward.entry.aws import Door

from .chance import Chance
from .cloud import ENVIRONMENT, Cloud, Message, SimulatedWire
from .world import Killed, SkewedClock, Task, World

ARN = "arn:aws:lambda:us-east-1:123456789012:function:onward"
MINUTE_MS = 60_000
SKEW_MS = 2_000  # by which the clocks of two sandboxes disagree, at most, to either side
VISIBILITY_TIMEOUTS = 6  # of the function, as AWS advises
MAX_RECEIVES = 3
INIT_MS = (50, 300)
THROTTLE_BACKOFF_MS = (1_000, 5_000)
SWEEP = {"onward": 1, "do": "sweep"}


class Settings:
    """How the function is configured."""

    def __init__(
        self,
        timeout_ms: int = 30_000,
        concurrency: int = 10,
        retries: int = 0,
        batch_size: int = 3,
        horizon_ms: int | None = None,
    ) -> None:
        self.timeout_ms = timeout_ms
        self.concurrency = concurrency
        self.retries = retries
        self.batch_size = batch_size
        self.horizon_ms = horizon_ms


class Sandbox:
    """One process: a door that keeps what it has folded, a clock of its own, an event loop of its own."""

    def __init__(self, function: Function, app: Any) -> None:
        chance, world = function.chance, function.world
        skew_ms = chance.between("skew", -SKEW_MS, SKEW_MS) if chance.rates.get("skew") and not chance.calm else 0
        self.clock = SkewedClock(world, chance, skew_ms)
        self.wire = SimulatedWire(function.cloud)
        self.door = Door(app, ENVIRONMENT, wire=self.wire, clock=self.clock, note=function.note)
        if function.settings.horizon_ms is not None:
            self.door.engine.horizon_ms = function.settings.horizon_ms
        self.loop: Any = None
        self.is_cold = True

    def close(self) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.close()


class Event:
    """One delivery of an accepted payload."""

    def __init__(self, id: str, payload: Any, source: str) -> None:
        self.id = id
        self.payload = payload
        self.source = source
        self.invokes = 0
        self.throttles = 0


class Invocation:
    """What a sandbox performs now."""

    def __init__(self, task: Task | None, sandbox: Sandbox, id: str, payload: Any, ends_ms: int) -> None:
        self.task = task
        self.sandbox = sandbox
        self.id = id
        self.payload = payload
        self.ends_ms = ends_ms
        self.alarm_ms: int | None = None
        self.deadline_passed = False
        self.began_faults = 0
        self.began_tick = 0
        self.answer: Any = None


class Function:
    """`apps`: the versions of the code; a cold sandbox gets one of them. `note`: the engine's log lines."""

    def __init__(
        self,
        world: World,
        chance: Chance,
        cloud: Cloud,
        apps: list[Any],
        settings: Settings,
        note: Callable[..., None] = lambda level, message, **fields: None,
    ) -> None:
        self.world = world
        self.chance = chance
        self.cloud = cloud
        self.apps = apps
        self.settings = settings
        self.note = note
        self.idle: list[Sandbox] = []
        self.running: dict[Task, Invocation] = {}
        self.spared: Task | None = None  # it stands, frozen, and is not killed at its deadline
        self.zombies: dict[Task, Invocation] = {}  # given up by Lambda, and alive all the same
        self.invocations = 0
        self.cold_starts = 0
        self.deaths = 0
        self.sweeps = 0
        self.visible: list[Message] = []
        self.open = 0  # events and messages that wait for something
        self.finished: Callable[[Invocation, str], None] = lambda invocation, outcome: None
        self._made = 0
        cloud.invoke = self._invoked
        cloud.queue.deliver = self._message

    # ------------------------------------------------------------------------------------------------- accepting
    def _invoked(self, payload: bytes, trace: str) -> None:
        chance = self.chance
        if chance.strikes("dropped"):
            return
        self.accept(json.loads(payload), "own", 2 if chance.strikes("twice") else 1)

    def accept(self, payload: Any, source: str, copies: int = 1) -> None:
        """An asynchronous invocation, from the function itself ("own"), the bus ("bus") or the schedule ("tick")."""
        self._made += 1
        for _ in range(copies):
            event = Event(f"request-{self._made}", payload, source)
            late_ms = self.chance.between("lateness", 100, 90_000) if self.chance.strikes("late") else 0
            self.open += 1
            self.world.after(self.chance.between("queueing", 1, 20) + late_ms, lambda event=event: self._offer(event))

    def tick_every_minute(self) -> None:
        """The schedule: a sweep once a minute, now and then lost or twice. Once faults have stopped, a sweep that could
        find nothing is left out, or a sleep of a day would be nothing but sweeps."""
        idle = self.chance.calm and all(due_ms > self.world.now_ms for _, due_ms in self.cloud.table.index.values())
        if not idle and not self.chance.strikes("tick_lost"):
            self.accept(SWEEP, "tick", 2 if self.chance.strikes("twice") else 1)
        self.world.after(MINUTE_MS, self.tick_every_minute)

    def _message(self, message: Message) -> None:
        self.visible.append(message)
        self._pump()

    def _pump(self) -> None:
        while self.visible and self._has_room():
            batch = self.visible[: self.chance.between("batch", 1, self.settings.batch_size)]
            del self.visible[: len(batch)]
            good = [message for message in batch if message.receives < MAX_RECEIVES]
            self.cloud.queue.dead.extend(message for message in batch if message.receives >= MAX_RECEIVES)
            if good:
                self._perform_batch(good)

    # ------------------------------------------------------------------------------------------------- performing
    def _has_room(self) -> bool:
        return len(self.running) < self.settings.concurrency

    def _offer(self, event: Event) -> None:
        if not self._has_room() or self.chance.strikes("function_throttled"):
            low_ms, high_ms = THROTTLE_BACKOFF_MS
            event.throttles += 1
            self.world.after(self.chance.between("backoff_ms", low_ms, high_ms), lambda: self._offer(event))
            return
        if event.source == "own" and self.chance.strikes("loop_cut"):
            self._give_up(event, {"errorType": "RecursiveInvocationException", "errorMessage": "loop"}, was_run=False)
            return
        event.invokes += 1

        def after(invocation: Invocation, error: dict[str, Any] | None) -> None:
            if error is None:
                self.open -= 1
            elif event.invokes <= self.settings.retries:
                self.world.after(event.invokes * MINUTE_MS, lambda: self._offer(event))
            else:
                self._give_up(event, error, was_run=True)

        self._perform(event.id, event.payload, after)

    def _give_up(self, event: Event, error: dict[str, Any], was_run: bool) -> None:
        self.open -= 1
        if event.source != "bus" and self.chance.strikes("record_lost"):
            return
        record = {
            "version": "1.0",
            "requestContext": {"requestId": event.id, "condition": "RetriesExhausted"},
            "requestPayload": event.payload,
            "responsePayload": error,
        }
        if was_run:
            record["responseContext"] = {"statusCode": 200, "functionError": "Unhandled"}
        self.cloud.queue.send(json.dumps(record), 0)

    def _perform_batch(self, messages: list[Message]) -> None:
        records = [{"messageId": m.id, "body": m.body, "eventSource": "aws:sqs"} for m in messages]
        self.open += 1

        def after(invocation: Invocation, error: dict[str, Any] | None) -> None:
            self.open -= 1
            failures = invocation.answer["batchItemFailures"] if error is None else []
            failed = {failure["itemIdentifier"] for failure in failures}
            for message in messages:
                if error is not None or message.id in failed:
                    again = message._replace(receives=message.receives + 1)
                    wait_ms = VISIBILITY_TIMEOUTS * self.settings.timeout_ms
                    self.world.after(wait_ms, lambda again=again: self._message(again))

        self._made += 1
        self._perform(f"batch-{self._made}", {"Records": records}, after)

    def _sandbox(self) -> Sandbox:
        while self.idle and self.chance.strikes("sandbox_gone"):
            self.idle.pop(0).close()
        if self.idle:
            return self.idle.pop(self.chance.between("which", 0, len(self.idle) - 1))
        self.cold_starts += 1
        return Sandbox(self, self.chance.one_of("version", self.apps))

    def _perform(self, id: str, payload: Any, after: Callable[[Invocation, dict[str, Any] | None], None]) -> Invocation:
        sandbox = self._sandbox()
        self.invocations += 1
        self.sweeps += payload == SWEEP
        init_ms = self.chance.between("init", *INIT_MS) if sandbox.is_cold else 0
        begins_ms = self.world.now_ms + init_ms
        invocation = Invocation(None, sandbox, id, payload, begins_ms + self.settings.timeout_ms)

        def work() -> None:
            self.world.pause(init_ms)
            sandbox.is_cold = False
            invocation.answer = sandbox.door.handle(payload, _context(self.world, invocation))

        def done(error: BaseException | None) -> None:
            if self.zombies.pop(task, None) is not None:
                self.idle.append(sandbox)  # with all that it remembers
                return
            del self.running[task]
            if isinstance(error, Killed):
                self.deaths += 1
                if task is self.spared:
                    self.zombies[task] = invocation
                else:
                    sandbox.close()
                kind = "Sandbox.Timedout" if invocation.deadline_passed else "Runtime.ExitError"
                told: dict[str, Any] | None = {"errorType": kind, "errorMessage": "the process is gone"}
            else:
                self.idle.append(sandbox)
                told = None
                if error is not None:
                    told = {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": ["..."]}
            self.finished(invocation, "answered" if told is None else str(told["errorType"]))
            after(invocation, told)
            self._pump()

        task = self.world.begin(id, work, done)
        invocation.task = task
        invocation.began_tick = self.world.ticks
        invocation.began_faults = len(self.chance.struck)
        self.running[task] = invocation

        def deadline() -> None:
            if task in self.running:
                invocation.deadline_passed = True
                if task is self.spared:
                    done(Killed())
                else:
                    task.kill()

        self.world.at(invocation.ends_ms, deadline)
        return invocation

    def invocation(self) -> Invocation | None:
        """The one that the current task performs."""
        task = self.world.current()
        return None if task is None else self.running.get(task) or self.zombies.get(task)

    def close(self) -> None:
        for task in [*self.running, *self.zombies]:
            self.chance.calm = True
            with contextlib.suppress(Exception):
                task.kill()
        for sandbox in self.idle:
            sandbox.close()


def _context(world: World, invocation: Invocation) -> Any:
    return SimpleNamespace(
        aws_request_id=invocation.id,
        invoked_function_arn=ARN,
        get_remaining_time_in_millis=lambda: max(invocation.ends_ms - world.now_ms, 0),
    )


# ------------------------------------------------------------------------------------- what is real time elsewhere
class _Loops:
    """Stands for the threads' own loops: here a sandbox has one, as its process would."""

    def __init__(self, function: Function) -> None:
        object.__setattr__(self, "_function", function)

    def _home(self) -> Any:
        invocation = self._function.invocation()
        return self._function if invocation is None else invocation.sandbox

    def __getattr__(self, name: str) -> Any:
        return getattr(self._home(), "loop", None)

    def __setattr__(self, name: str, value: Any) -> None:
        self._home().loop = value


def work(function: Function, duration_ms: int, deaf: bool = False) -> None:
    """What a step does that takes that long. `deaf`: it does not hear the alarm that ends its time."""
    invocation = function.invocation()
    alarm_ms = None if invocation is None or deaf else invocation.alarm_ms
    if alarm_ms is not None and function.world.now_ms + duration_ms > alarm_ms:
        function.world.pause(max(alarm_ms - function.world.now_ms, 0))
        raise perform._Alarm
    function.world.pause(duration_ms)


@contextlib.contextmanager
def in_virtual_time(function: Function) -> Iterator[None]:
    """The limits of steps are kept on the world's clock, and each sandbox has an event loop."""

    def limited(call: Callable[[], Any], limit_s: float) -> Any:
        invocation = function.invocation()
        if invocation is None:
            return call()
        invocation.alarm_ms = function.world.now_ms + round(limit_s * 1000)
        try:
            return call()
        except perform._Alarm:
            raise perform._timeout(limit_s) from None
        finally:
            invocation.alarm_ms = None

    kept = perform._limited, onward_loop._threads
    perform._limited, onward_loop._threads = limited, _Loops(function)  # type: ignore[assignment]
    try:
        yield
    finally:
        function.close()
        own_loop = getattr(function, "loop", None)
        if own_loop is not None and not own_loop.is_closed():
            own_loop.close()
        perform._limited, onward_loop._threads = kept
