"""An invocation that died after it planned steps beside each other, and before it sent their wakes: its death is told,
so the run goes on when any invocation that it may have woken is over, and does not stand until the sweep."""

import asyncio

import pytest

from onward.core.status import COMPLETED
from onward.engine import control
from onward.engine.ledger import HORIZON_MS
from onward.testing import QueuedWakes, Rehearsal
from tests.faults import Faulty, Killed, Trip
from tests.rules.acting import ASYNC, Notes, records

WIDTHS = [2, 12]  # few steps in flight, and a wide plan
LONGEST_MS = 15 * 60 * 1000
LOOKS_MS = 2 * 64_000  # of the timer of a wide plan


@pytest.mark.parametrize("fill", [False, True], ids=["one step each", "fill"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sent", [0, 1])
def test_a_death_between_a_plan_and_its_wakes_is_not_left_to_the_sweep(width, sent, fill):
    async def work(event, step):
        first = await step.run("first", lambda: 1)
        return first + sum(await asyncio.gather(*(step.run(f"side {n}", lambda n=n: n) for n in range(width))))

    trip, notes = Trip(), Notes()
    with Rehearsal(ASYNC.app(work), fresh=True, fill=fill, note=notes) as stage:
        [run] = stage.start("go")
        stage.wakes = Faulty(stage.queue, trip)
        began_ms = stage.clock.now_ms()
        while not notes.of("steps in flight"):
            at_ms, wake = stage.queue.take()
            stage.clock.turn(at_ms)
            planning = fill or len(notes.of("step done")) == 1
            trip.at, trip.calls, trip.mode = (sent + 1 if planning else 0), 0, "before"
            engine = stage.engine = stage.new_engine()
            try:
                engine.handle(wake, invocation="the one that dies")
            except Killed:
                control.died(Rehearsal.new_engine(stage), wake, "killed", "the one that dies")
        stage.wakes = stage.queue
        assert isinstance(stage.queue, QueuedWakes) and trip.tripped == "QueuedWakes.send"
        trip.at = 0
        stage.drain()
        view = stage.view(run)
        assert (view["status"], view["result"]) == (COMPLETED, 1 + sum(range(width)))
        assert not notes.of("run woken by the sweep")
        assert stage.clock.now_ms() - began_ms <= LONGEST_MS + LOOKS_MS < HORIZON_MS


@pytest.mark.parametrize("width", WIDTHS)
def test_a_death_after_a_step_beside_others_led_to_a_plan_is_not_left_to_the_sweep(width):
    async def work(event, step):
        async def branch(n):
            found = await step.run(f"a {n}", lambda: n)
            return await step.run(f"b {n}", lambda: found)

        return sum(await asyncio.gather(*(branch(n) for n in range(width))))

    trip, notes, dies = Trip(mode="before"), Notes(), 0
    with Rehearsal(ASYNC.app(work), fresh=True, note=notes) as stage:
        [run] = stage.start("go")
        stage.wakes = Faulty(stage.queue, trip)
        began_ms = stage.clock.now_ms()
        while not dies:
            at_ms, wake = stage.queue.take()
            stage.clock.turn(at_ms)
            planned, trip.calls = len(notes.of("steps in flight")), 0
            trip.at = 1 if wake["do"] == "step" else 0
            engine = stage.engine = stage.new_engine()
            try:
                engine.handle(wake)
            except Killed:
                trip.at = 0
                dies += len(notes.of("steps in flight")) - planned
                control.died(stage.new_engine(), wake, "killed")
        stage.wakes = stage.queue
        stage.drain()
        view = stage.view(run)
        assert (view["status"], view["result"]) == (COMPLETED, sum(range(width)))
        assert not notes.of("run woken by the sweep")
        assert stage.clock.now_ms() - began_ms <= LONGEST_MS + LOOKS_MS


def test_what_was_planned_since_then_is_not_taken_for_dead():
    """The look that follows the notice of a death comes while a step is performed that began meanwhile, and may run
    only once."""
    done = []

    def long():
        stage.pass_time(60)
        return done.append("charged")

    async def chain(step):
        await step.run("a", int)
        await step.run("b", int)
        await step.run("charge", long, once=True)

    async def work(event, step):
        await asyncio.gather(chain(step), step.sleep("rest", 3600))

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        while len(records(stage, run)) < 3:  # started, the plan of a, and that of b
            stage.step()
        dead = {"onward": 1, "do": "step", "run": run, "plan": 1, "index": 0, "attempt": 1}
        control.died(stage.engine, dead, "killed", look_again_ms=30_000)
        stage.drain()
        assert stage.view(run)["status"] == "completed" and done == ["charged"]
