"""A ring for two acts on one run: one of them is held at each of its requests while the other is done from its
beginning to its end. What may come of it says the table in `pairs.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from onward import App, CancelOn, NonRetriable, Retry
from onward.aws.dynamodb import shard_of
from onward.core.codec import decode
from onward.core.ids import run_id
from onward.core.log import LOG_END, log_key, partition_of
from onward.engine import control, pause
from onward.engine.engine import PAUSED_KEY
from onward.engine.views import run_view
from onward.local.store import SqliteStore
from onward.ports import Drop, key_of

from .function import SWEEP, Invocation, Sandbox, work
from .pairs import (
    ARRIVE,
    CANCEL,
    COMPLETE,
    DIE,
    FAIL,
    LETTERS,
    PAUSE,
    REDELIVER,
    SEQUENCE,
    SWEEPS,
    TIME_OUT,
    TIMER,
    UNPAUSE,
    WIDE,
)
from .programs import Made, fits
from .stage import HORIZON_MS, MINUTE_MS, SIDES, Place, Stage
from .table import Change
from .world import Killed, Task

TWICE = Retry(max_attempts=2, base=1.0, jitter=False)
TIMEOUT_S = 5.0
REST_S = 60
MAX_DELIVERIES = 30
MAX_REQUESTS = 60  # of one act
BOUND_MS = 6 * HORIZON_MS


# ------------------------------------------------------------------------------------------------------- the ring
class Ring(Stage):
    """A run that stands where both acts can happen to it: its last step is to be performed (in sequence, behind a sleep
    that is over; or beside such a sleep), and every wake that was sent lies here until an act takes it."""

    def __init__(self, shape: str, is_async: bool, on_sqlite: bool = False) -> None:
        self.shape = shape
        self.is_async = is_async
        super().__init__(lambda stage: self._app())
        self.run = run_id("contest", "go")
        self.parked: list[Any] = []
        self.sent: list[Any] = []
        self.fails: dict[str, str] = {FAIL: FAIL, TIME_OUT: TIME_OUT, "killed": DIE}
        self.world_invokes, self.world_delivers = self.cloud.invoke, self.cloud.queue.deliver
        self.cloud.invoke = lambda payload, trace: self._park(json.loads(payload))
        self.cloud.queue.deliver = lambda message: self._park(json.loads(message.body))
        if on_sqlite:
            self.sqlite = self.invariants.store = SqliteStore(":memory:")
            self.function.furnish = self._with_sqlite

    def _with_sqlite(self, sandbox: Sandbox) -> None:
        engine = sandbox.door.engine
        engine.store = engine.ledger.store = HoldingStore(self, self.sqlite)  # type: ignore[assignment]

    def _park(self, wake: Any) -> None:
        self.parked.append(wake)
        if wake not in self.sent:
            self.sent.append(wake)

    # -------------------------------------------------------------------------------------------- the workflow
    def _app(self) -> App:
        def told(event: Any, step: Any) -> Any:
            return step.run("tell", self._perform, "tell")

        options: dict[str, Any] = {"on": "go", "name": "contest", "retries": TWICE, "on_failure": told}
        options["cancel_on"] = CancelOn("stop")
        app = App("pairs")
        app.workflow(**options)(self._async_contest if self.is_async else self._contest)
        return app

    def _contest(self, event: Any, step: Any) -> Any:
        step.run("first", self._perform, "first")
        last = partial(step.run, "last", self._perform, "last", timeout=TIMEOUT_S)
        if self.shape == SEQUENCE:
            step.sleep("rest", REST_S)
            return last()
        other = [partial(step.run, "other", self._perform, "other")] if self.shape == WIDE else []
        return step.parallel(last, partial(step.sleep, "rest", REST_S), *other)[0]

    async def _async_contest(self, event: Any, step: Any) -> Any:
        await step.run("first", self._perform, "first")
        last = partial(step.run, "last", self._perform, "last", timeout=TIMEOUT_S)
        if self.shape == SEQUENCE:
            await step.sleep("rest", REST_S)
            return await last()
        other = [step.run("other", self._perform, "other")] if self.shape == WIDE else []
        outcomes = await asyncio.gather(last(), step.sleep("rest", REST_S), *other, return_exceptions=True)
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]
        return outcomes[0]

    def _perform(self, name: str) -> Any:
        invocation = self.function.invocation()
        assert invocation is not None
        seen = self.witness.see(None, invocation.began_tick, invocation.payload)
        how = self.fails.get(invocation.id) if name == "last" else None
        if how == FAIL:
            raise NonRetriable("never")
        if how == TIME_OUT:
            work(self.function, 10 * round(TIMEOUT_S * 1000))
        if how == DIE:
            task = self.world.current()
            assert task is not None
            self.world.after(0, task.kill)
            self.world.pause(1)
            raise Killed
        return {"made": name, "by": seen.number}

    # -------------------------------------------------------------------------------------------------- acting
    def start(self, name: str, act: Callable[[Hand], None]) -> Task:
        """Somebody with a process of his own begins to act."""
        sandbox = Sandbox(self.function, self.app)
        self.function.furnish(sandbox)
        invocation = Invocation(None, sandbox, name, {}, self.world.now_ms + self.function.settings.timeout_ms)
        error: list[BaseException] = []

        def done(raised: BaseException | None) -> None:
            del self.function.running[task]
            sandbox.close()
            if raised is not None and not isinstance(raised, Killed):
                error.append(raised)
                raise raised

        task = self.world.begin(name, lambda: act(Hand(self, sandbox, invocation)), done)
        invocation.task = task
        self.function.running[task] = invocation
        return task

    def finish(self, task: Task) -> None:
        assert self.run_until(lambda: task.is_over, BOUND_MS), f"{task.name} does not end"

    def deliver(self, wake: Any, name: str = "calm") -> None:
        """One invocation gets this wake, and comes to its end."""
        if wake in self.parked:
            self.parked.remove(wake)
        self.finish(self.start(name, lambda hand: hand.handle(wake)))

    def wait(self, duration_ms: int) -> None:
        self.run_until(lambda: False, duration_ms)

    # --------------------------------------------------------------------------------------------- the standing
    def prepare(self, acts: Sequence[str]) -> None:
        """Bring the run to where it stands."""
        self.deliver(happens("go"))
        for _ in range(MAX_DELIVERIES):
            calm = [wake for wake in self.parked if wake not in self.contested()]
            if not calm:
                break
            self.deliver(calm[0])
        self.wait((REST_S + 1) * 1000)
        if DIE in acts:
            self.deliver(self.last_wake(), "killed")
        if SWEEPS in acts:
            self.wait(HORIZON_MS + MINUTE_MS)
        if UNPAUSE in acts:
            self.finish(self.start("pause before", stand))
            self.deliver(self.last_wake())
        self.stood = len(self.records())

    def contested(self) -> list[Any]:
        """The wakes for which the acts contend."""
        if self.shape == SEQUENCE:
            return [wake for wake in self.sent if wake["do"] == "advance" and wake["seq"] == 3]
        return [wake for wake in self.sent if "look" in wake or (wake["do"] == "step" and wake["index"] == 0)]

    def last_wake(self) -> Any:
        """The wake for the last step."""
        return next(wake for wake in self.contested() if "look" not in wake)

    def timer_wakes(self) -> list[Any]:
        """The wakes that come when the sleep is over."""
        if self.shape == SEQUENCE:
            return [self.last_wake()]
        rests = [wake for wake in self.sent if wake["do"] == "step" and wake["index"] == 1]
        return [rests[-1], *(wake for wake in self.contested() if "look" in wake)]

    # --------------------------------------------------------------------------------------------- the outcome
    def go_on(self) -> None:
        """The acts are over: everything that was sent arrives, sweeps come by, and the run ends."""
        self.cloud.invoke, self.cloud.queue.deliver = self.world_invokes, self.world_delivers
        for wake in self.parked:
            self.function.accept(wake, "own")
        if PAUSED_KEY in self.table.items or pause.paused(self.reader().store):
            self.wait(MINUTE_MS)
            self.finish(self.start("go on", lambda hand: wakes_of(hand, pause.UNTIL_KNOWN_MS)))
        self.function.tick_every_minute()
        assert self.run_until(self.has_ended, BOUND_MS), "the run does not end"
        self.settle()
        self.invariants.at_the_end()

    def reader(self) -> Any:
        sandbox = Sandbox(self.function, self.app)
        self.function.furnish(sandbox)
        return sandbox.door.engine

    def records(self) -> list[dict[str, Any]]:
        found = self.reader().store.read(partition_of(self.run), log_key(0), LOG_END)
        return [json.loads(item.body) for item in found]

    def outcome(self) -> str:
        """What the run came to: the records behind those with which it stood, what stands in the lane of its last step,
        and how often that was performed. The rest must fit, and is asserted."""
        engine = self.reader()
        kinds = [record["k"] for record in self.records()]
        view = run_view(engine.ledger, self.run)
        told = run_id("contest.on_failure", f"{self.run}.failed")
        performed = self.witness.by_step
        assert len(performed.get((told, "tell"), [])) == (view["status"] == "failed"), "told of a failure that is none"
        if view["status"] == "completed":
            assert fits(Made("last"), decode(view["output"]))
        log = "".join(LETTERS[kind] for kind in kinds[self.stood :])
        lane = ""
        if self.shape != SEQUENCE:
            items = engine.store.read(partition_of(self.run), "S#00000002.00000", "S#00000002.00000~")
            outcome = [item for item in items if item.sort.count("#") == 1]
            attempts = [item for item in items if item.sort.count("#") == 2]
            lane = "".join(LETTERS[json.loads(item.body)["k"]] for item in [*attempts, *outcome])
            lane = f"[{lane}]"
        return f"{lane}{log}{len(performed.get((self.run, 'last'), []))}"


class HoldingStore:
    """A store behind whose port the watched task is held, as it is elsewhere behind the wire."""

    def __init__(self, ring: Ring, store: SqliteStore) -> None:
        self._ring = ring
        self._store = store

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            ring, method = self._ring, getattr(self._store, name)
            is_watched = ring.world.current() is not None and ring.world.current() is ring.watched
            if is_watched:
                ring.passes(name, "before")
            ring.world.pause(1)
            answer = method(*args, **options)
            if name == "write" and answer is None:
                self._tell(args[0])
            if is_watched:
                ring.passes(name, "behind")
            return answer

        return call

    def _tell(self, writes: Sequence[Any]) -> None:
        """Tell the invariants of it in the words of the table, and the sweep's schedule what is due."""
        table = self._ring.table
        for write in writes:
            key = key_of(write)
            if isinstance(write, Drop):
                table.index.pop(key, None)
                if (before := table.items.pop(key, None)) is not None:
                    table.changed(Change(key, before, None))
                continue
            item = write.item
            after = {"b": {"S": item.body}, **({} if item.value is None else {"v": {"S": item.value}})}
            table.index.pop(key, None)
            if item.due_ms is not None:
                after["due"] = {"N": str(item.due_ms)}
                table.index[key] = (shard_of(item.partition), item.due_ms)
            before = table.items.get(key)
            table.items[key] = after
            table.changed(Change(key, before, after))


class Hand:
    """What an act acts with."""

    def __init__(self, ring: Ring, sandbox: Sandbox, invocation: Invocation) -> None:
        self.ring = ring
        self.engine = sandbox.door.engine
        self._door = sandbox.door
        self._invocation = invocation

    def handle(self, payload: Any) -> None:
        self._invocation.payload = payload
        self._invocation.began_tick = self.ring.world.ticks
        self._door.handle(payload, None)

    def take(self, wake: Any) -> Any:
        """Take a wake off the queue, so that it comes no second time by itself."""
        if wake in self.ring.parked:
            self.ring.parked.remove(wake)
        return wake


# --------------------------------------------------------------------------------------------------------- the acts
def last_step(hand: Hand) -> None:
    """One invocation performs the last step, and in sequence goes on to the end; what comes of the step is told by the
    act's name."""
    hand.engine.fill = True
    hand.handle(hand.take(hand.ring.last_wake()))


def die(hand: Hand) -> None:
    """The notice arrives of an invocation that was killed in the last step."""
    hand.handle(
        {
            "requestContext": {"requestId": "killed", "condition": "RetriesExhausted"},
            "responseContext": {"statusCode": 200, "functionError": "Unhandled"},
            "requestPayload": hand.ring.last_wake(),
            "responsePayload": {"errorType": "Runtime.ExitError", "errorMessage": "signal: killed"},
        }
    )


def cancel(hand: Hand) -> None:
    """Somebody cancels the run."""
    control.cancel(hand.engine, hand.ring.run)


def arrive(hand: Hand) -> None:
    """The event arrives for which the run is to be cancelled."""
    hand.handle(happens("stop"))


def happens(name: str) -> Any:
    """An event, as it is delivered."""
    return {"detail-type": name, "source": "sim", "id": name, "time": "2025-12-01T00:00:00Z", "detail": {}}


def timer(hand: Hand) -> None:
    """The wakes arrive that were sent for the end of the sleep; in a wide plan the timer's look as well."""
    for wake in hand.ring.timer_wakes():
        hand.handle(hand.take(wake))


def redeliver(hand: Hand) -> None:
    """Every wake arrives once more that was ever sent, in their order, in one process."""
    for wake in list(hand.ring.sent):
        hand.handle(wake)


def sweep(hand: Hand) -> None:
    """The run's due has passed: it is swept, and what the sweep asks for is done."""
    sent = len(hand.ring.parked)
    hand.handle(SWEEP)
    for wake in hand.ring.parked[sent:]:
        if wake["do"] == "recover" and wake["run"] == hand.ring.run:
            hand.handle(hand.take(wake))


def stand(hand: Hand) -> None:
    """Somebody pauses the workflow."""
    pause.pause(hand.engine, "contest")


def goes_on(hand: Hand) -> None:
    """Somebody lets the workflow go on, and what was held is done."""
    sent = len(hand.ring.parked)
    wakes_of(hand, pause.UNTIL_KNOWN_MS)
    for wake in hand.ring.parked[sent:]:
        if wake["do"] == "recover":
            hand.handle(hand.take(wake))


def wakes_of(hand: Hand, after_ms: int) -> None:
    since_ms = pause.unpause(hand.engine, "contest")
    hand.ring.world.pause(after_ms)
    if since_ms is not None:
        pause.wake_held(hand.engine, "contest")


DOES: dict[str, Callable[[Hand], None]] = {
    COMPLETE: last_step, FAIL: last_step, TIME_OUT: last_step, DIE: die, CANCEL: cancel, TIMER: timer,
    REDELIVER: redeliver, SWEEPS: sweep, PAUSE: stand, UNPAUSE: goes_on, ARRIVE: arrive,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the race
class Race(NamedTuple):
    """`first` is held at `place`, and `second` is done meanwhile."""

    first: str
    second: str
    shape: str
    is_async: bool
    on_sqlite: bool = False


def race(what: Race, place: Place) -> str | None:
    """Race them; the outcome, or None where `first` has no such request."""
    ring = Ring(what.shape, what.is_async, what.on_sqlite)
    with ring.open():
        ring.prepare((what.first, what.second))
        one = ring.start(what.first, DOES[what.first])
        ring.watch(one, place)
        ring.run_until(lambda: ring.is_held or one.is_over, BOUND_MS)
        if not ring.is_held:
            return None
        ring.finish(ring.start(what.second, DOES[what.second]))
        ring.let_go()
        ring.finish(one)
        ring.go_on()
        return ring.outcome()


def outcomes(what: Race, every: int = 1) -> Iterator[tuple[Place, str]]:
    """What comes of it at every so many places, from the first to the last."""
    places = (Place(request, side) for request in range(1, MAX_REQUESTS) for side in SIDES)
    for place in islice(places, 0, None, every):
        outcome = race(what, place)
        if outcome is None:
            return
        yield place, outcome
    raise AssertionError(f"{what.first} asks and asks")
