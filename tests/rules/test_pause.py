"""A workflow is paused: its runs stand between two steps, lose nothing, and go on."""

import asyncio

import pytest

from onward import App, CancelOn, Concurrency
from onward.core.errors import Unavailable
from onward.core.log import HEAD, partition_of
from onward.engine import control, pause
from onward.engine.engine import KNOWN_MS, PAUSED_KEY
from onward.engine.sweep import MAX_STALLS
from onward.engine.why import why
from onward.ports import Item, Swap
from onward.testing import Rehearsal

from .acting import ASYNC, SYNC, Notes, both


class Steps:
    def __init__(self):
        self.done = []

    def do(self, name):
        self.done.append(name)
        return name


def go_on(stage, workflow="work"):
    """Let it go on, as the command does."""
    since_ms = pause.unpause(stage.engine, workflow)
    assert since_ms is not None
    stage.pass_time(pause.UNTIL_KNOWN_MS / 1000)
    return pause.wake_held(stage.engine, workflow)


@both
@pytest.mark.parametrize("fill", [False, True])
def test_a_paused_run_stands_between_two_steps_and_goes_on_with_the_next(kind, fill):
    steps = Steps()

    async def work(event, step):
        await step.run("a", steps.do, "a")
        await step.run("b", lambda: pause.pause(stage.engine, "work") and steps.do("b"))
        await step.run("c", steps.do, "c")

    with Rehearsal(kind.app(work, steps_per_invocation="fill" if fill else 1)) as stage:
        [run] = stage.start("go")
        stage.pass_time(7200)
        assert steps.done == ["a", "b"], "what was being performed has ended and is kept"
        assert stage.view(run)["status"] == "running"
        assert go_on(stage) == 1
        stage.drain()
        assert steps.done == ["a", "b", "c"] and stage.view(run)["status"] == "completed"


def test_steps_beside_each_other_stand_as_well_and_none_is_performed_twice():
    steps = Steps()

    async def work(event, step):
        await step.sleep("rest", 60)
        return await asyncio.gather(*[step.run(f"s{n}", steps.do, n) for n in range(3)], step.sleep("nap", 100))

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        stage.pass_time(60 - KNOWN_MS / 1000)
        pause.pause(stage.engine, "work")
        stage.pass_time(7200)
        assert not steps.done
        assert go_on(stage) == 1
        stage.drain()
        assert sorted(steps.done) == [0, 1, 2] and stage.view(run)["result"] == [0, 1, 2, None]


@both
def test_a_run_that_an_event_starts_stands_from_its_beginning(kind):
    steps = Steps()

    async def work(event, step):
        return await step.run("a", steps.do, event.data)

    with Rehearsal(kind.app(work)) as stage:
        pause.pause(stage.engine, "work")
        runs = [stage.start("go", n)[0] for n in range(3)]
        stage.pass_time(3600)
        assert not steps.done and [stage.view(run)["status"] for run in runs] == ["queued"] * 3
        assert go_on(stage) == 3
        stage.drain()
        assert [stage.view(run)["result"] for run in runs] == [0, 1, 2]


def test_other_workflows_go_on():
    app = App("two")
    app.workflow(on="go", name="one")(lambda event, step: step.run("a", int))
    app.workflow(on="go", name="two")(lambda event, step: step.run("a", int))
    with Rehearsal(app) as stage:
        pause.pause(stage.engine, "one")
        runs = stage.start("go")
        stage.pass_time(60)
        assert {stage.view(run)["workflow"]: stage.view(run)["status"] for run in runs} == {
            "one": "queued",
            "two": "completed",
        }


@both
def test_a_paused_run_is_never_taken_for_stalled_and_no_attempt_is_used_up(kind):
    attempts = []

    async def work(event, step):
        await step.run("a", lambda: attempts.append(1), once=True)

    with Rehearsal(kind.app(work)) as stage:
        pause.pause(stage.engine, "work")
        [run] = stage.start("go")
        stage.pass_time((MAX_STALLS + 5) * stage.engine.horizon_ms / 1000)
        assert stage.view(run)["status"] == "queued"
        go_on(stage)
        stage.drain()
        assert stage.view(run)["status"] == "completed" and attempts == [1]


@both
def test_what_comes_while_it_is_paused_is_there_when_it_goes_on(kind):
    async def work(event, step):
        found = await step.wait_for_event("paid", timeout=600)
        late = await step.wait_for_event("shipped", timeout=600)
        return [found and found.data, late]

    with Rehearsal(kind.app(work)) as stage:
        [run] = stage.start("go")
        stage.pass_time(1)
        pause.pause(stage.engine, "work")
        stage.pass_time(KNOWN_MS / 1000)
        stage.start("paid", 7)
        stage.pass_time(3600)
        assert stage.view(run)["status"] == "waiting"
        go_on(stage)
        stage.drain()
        assert stage.view(run)["result"] == [7, None], "in time for the wait, although the run stood"


def test_a_paused_run_can_be_cancelled_and_its_deadline_passes():
    app = SYNC.app(
        lambda event, step: step.run("a", int), finish_timeout=600, cancel_on=CancelOn("stop", match={"data": "data"})
    )
    with Rehearsal(app) as stage:
        pause.pause(stage.engine, "work")
        runs = [stage.start("go", n)[0] for n in range(3)]
        stage.pass_time(60)
        control.cancel(stage.engine, runs[0])
        stage.start("stop", 1)
        stage.pass_time(700)
        assert [stage.view(run)["status"] for run in runs] == ["cancelled", "cancelled", "failed"]


def test_a_paused_run_keeps_its_slot():
    async def work(event, step):
        await step.sleep("rest", 60)
        return event.data

    with Rehearsal(ASYNC.app(work, concurrency=Concurrency(1))) as stage:
        runs = [stage.start("go", n)[0] for n in range(2)]
        stage.pass_time(1)
        pause.pause(stage.engine, "work")
        stage.pass_time(3600)
        assert [stage.view(run)["status"] for run in runs] == ["sleeping", "queued"]
        go_on(stage)
        stage.drain()
        assert [stage.view(run)["result"] for run in runs] == [0, 1]


def test_a_child_of_a_paused_workflow_stands_and_its_parent_waits():
    app = App("family")
    app.workflow(on="go", name="parent")(lambda event, step: step.invoke("child", 5))
    app.workflow(on="never", name="child")(lambda event, step: step.run("a", lambda: event.data))
    with Rehearsal(app) as stage:
        pause.pause(stage.engine, "child")
        [run] = stage.start("go")
        stage.pass_time(3600)
        assert stage.view(run)["status"] == "waiting"
        go_on(stage, "child")
        stage.drain()
        assert stage.view(run)["result"] == 5


def test_why_says_that_it_is_paused_and_since_when():
    with Rehearsal(SYNC.app(lambda event, step: step.run("a", int))) as stage:
        pause.pause(stage.engine, "work")
        at_ms = stage.clock.now_ms()
        [run] = stage.start("go")
        stage.pass_time(60)
        reason, other = why(stage.engine.ledger, run, stage.clock.now_ms())["reasons"]
        assert (reason["kind"], reason["since_ms"]) == ("paused", at_ms) and "onward unpause" in reason["text"]
        assert other["kind"] == "queued"


def test_a_process_that_knows_of_nothing_yet_begins_steps_for_so_long_and_no_longer():
    steps = Steps()

    async def work(event, step):
        for n in range(20):
            await step.run(f"s{n}", steps.do, n)
            await step.sleep(f"rest{n}", 1)

    with Rehearsal(ASYNC.app(work)) as stage:
        stage.start("go")
        stage.pass_time(0.5)
        pause.pause(stage.new_engine(), "work")
        stage.pass_time(3600)
        assert 1 < len(steps.done) <= KNOWN_MS / 1000 + 1
        go_on(stage)
        stage.drain()
        assert steps.done == list(range(20))


def test_what_was_held_is_woken_by_the_sweep_where_whoever_lets_it_go_on_dies():
    with Rehearsal(SYNC.app(lambda event, step: step.run("a", int))) as stage:
        pause.pause(stage.engine, "work")
        [run] = stage.start("go")
        stage.pass_time(3600)
        pause.unpause(stage.engine, "work")
        stage.pass_time(2 * stage.engine.horizon_ms / 1000)
        assert stage.view(run)["status"] == "completed"


def test_only_what_was_held_is_woken():
    steps = Steps()

    async def work(event, step):
        await step.run("a", steps.do, event.data)
        await step.sleep("rest", 3600)

    notes = Notes()
    with Rehearsal(ASYNC.app(work), note=notes) as stage:
        stage.start("go", "before")
        stage.pass_time(1)
        pause.pause(stage.engine, "work")
        stage.start("go", "held")
        stage.pass_time(20)
        pause.unpause(stage.engine, "work")
        stage.start("go", "after")
        stage.pass_time(pause.UNTIL_KNOWN_MS / 1000)
        assert steps.done == ["before", "after"]
        assert pause.wake_held(stage.engine, "work") == 1
        assert pause.wake_held(stage.engine, "work") == 0, "once"
        stage.pass_time(1)
        assert steps.done == ["before", "after", "held"]
        assert len(notes.of("run held, its workflow is paused")) == 1


def test_pausing_twice_keeps_the_first_time_and_what_is_not_paused_does_not_go_on():
    with Rehearsal(App("empty")) as stage:
        first_ms = pause.pause(stage.engine, "a")
        stage.pass_time(60)
        assert pause.pause(stage.engine, "a") == first_ms and pause.pause(stage.engine, "b") > first_ms
        assert set(pause.paused(stage.store)) == {"a", "b"}
        assert pause.unpause(stage.engine, "a") == first_ms and pause.unpause(stage.engine, "a") is None
        assert set(pause.paused(stage.store)) == {"b"}


def test_an_item_that_somebody_edited_pauses_nothing_and_is_mended_by_the_next_pause():
    with Rehearsal(SYNC.app(lambda event, step: step.run("a", int))) as stage:
        pause.pause(stage.engine, "work")
        [standing] = stage.store.get([PAUSED_KEY])
        stage.store.write([Swap(Item(*PAUSED_KEY, "token", '{"paused": 7}'), standing.token)])
        stage.engine.forget_pauses()
        assert stage.send("go")["status"] == "completed"
        pause.pause(stage.engine, "work")
        assert set(pause.paused(stage.store)) == {"work"}


def test_a_change_that_others_overtake_each_time_says_so(monkeypatch):
    with Rehearsal(App("empty")) as stage:
        pause.pause(stage.engine, "a")
        write, other = stage.store.write, stage.new_engine()
        names = iter(range(1_000))

        def overtaken(writes, also=()):
            monkeypatch.setattr(stage.store, "write", write)
            pause.pause(other, f"other-{next(names)}")
            monkeypatch.setattr(stage.store, "write", overtaken)
            return write(writes, also)

        monkeypatch.setattr(stage.store, "write", overtaken)
        with pytest.raises(Unavailable, match="changed by others"):
            pause.pause(stage.engine, "b")


def test_a_wake_that_is_held_again_moves_nothing():
    with Rehearsal(SYNC.app(lambda event, step: step.run("a", int))) as stage:
        pause.pause(stage.engine, "work")
        [run] = stage.start("go")
        stage.pass_time(1)
        [head] = stage.store.get([(partition_of(run), HEAD)])
        for _ in range(3):
            stage.deliver({"onward": 1, "do": "advance", "run": run, "seq": 1})
        assert stage.store.get([(partition_of(run), HEAD)]) == [head]
        assert len(stage.store.rows("SELECT 1 FROM items WHERE partition LIKE 'paused#%'", ())) == 1


def test_what_began_before_the_pause_is_not_taken_for_dead_when_its_workflow_goes_on():
    """A step that may run only once takes longer than the pause, beside one whose wake is held."""
    steps = Steps()

    def long():
        pause.pause(stage.engine, "work")
        stage.pass_time(20)  # meanwhile the other step's wake is held
        assert not steps.done and go_on(stage) == 1
        stage.pass_time(20)
        assert steps.done == ["other"]
        return steps.do("charged")

    async def work(event, step):
        return await asyncio.gather(step.run("charge", long, once=True), step.run("other", steps.do, "other"))

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        stage.drain()
        assert stage.view(run)["result"] == ["charged", "other"] and steps.done == ["other", "charged"]
