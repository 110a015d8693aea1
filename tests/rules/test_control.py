"""Events that come twice, runs that are cancelled, wakes that come late, and invocations that end in time."""

import time

import pytest

from onward import App
from onward.core.errors import InvalidEvent, UnknownPayload, UnknownRun
from onward.engine import control
from onward.testing import Rehearsal
from tests.rules.acting import ASYNC, STEADY, SYNC, Notes, both, records


# ------------------------------------------------------------------------------------------------------------ events
@both
def test_an_event_that_is_delivered_twice_starts_one_run(kind):
    done = []

    async def work(event, step):
        await step.run("a", done.append, event.data["n"])

    with Rehearsal(kind.app(work)) as stage:
        runs = stage.start("go", {"n": 1}, id="e1") + stage.start("go", {"n": 2}, id="e1")
        stage.drain()
        runs += stage.start("go", {"n": 3}, id="e1")
        stage.drain()
    assert len(set(runs)) == 1 and done == [1]


def test_an_event_starts_each_workflow_that_it_triggers_and_no_other():
    app, done = App("rules"), []
    for name, on in (("one", "go"), ("two", "go"), ("three", "stop")):
        app.workflow(on=on, name=name)(lambda event, step: step.run("a", lambda: done.append(event.name)))
    with Rehearsal(app) as stage:
        assert len(set(stage.start("go"))) == 2 and stage.start("unheard/of") == []
        stage.drain()
    assert done == ["go", "go"]


@pytest.mark.parametrize("id", ["x" * 257, 5])
def test_an_event_needs_an_id_that_is_a_name(id):
    with Rehearsal(SYNC.app(lambda event, step: None)) as stage:
        with pytest.raises(InvalidEvent, match="the id of an event is a string of 1 to 256 characters"):
            stage.start("go", id=id)


@both
def test_what_a_workflow_is_told_of_its_event(kind):
    async def work(event, step):
        return [event.name, event.id, event.data, event.at.isoformat(), event.at_ms]

    with Rehearsal(kind.app(work)) as stage:
        run = stage.send("go", {"x": [1]}, id="e1")
    assert run["result"] == ["go", "e1", {"x": [1]}, "2025-12-01T00:00:00+00:00", 1_764_547_200_000]


# -------------------------------------------------------------------------------------------------------- cancelling
@both
@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("fresh", [False, True])
def test_nothing_is_performed_after_a_cancel(kind, after, fresh):
    done = []

    async def work(event, step):
        await step.run("a", done.append, "a")
        await step.sleep("rest", 3600)
        await step.run("b", done.append, "b")

    with Rehearsal(kind.app(work), fresh=fresh) as stage:
        [run] = stage.start("go")
        for _ in range(after):
            stage.step()
        assert control.cancel(stage.engine, run) is True
        assert control.cancel(stage.engine, run) is False, "it had ended"
        stage.drain()
        assert stage.view(run)["status"] == "cancelled" and not list(stage.open_heads())
    assert done == ["a"][:after]


@both
def test_what_a_step_returns_after_a_cancel_is_not_kept(kind):
    async def work(event, step):
        await step.run("a", lambda: control.cancel(stage.new_engine(), current[0]))
        await step.run("b", lambda: pytest.fail("it was cancelled"))

    current = []
    with Rehearsal(kind.app(work), note=(notes := Notes())) as stage:
        current += stage.start("go")
        stage.drain()
        view = stage.view(current[0])
        assert view["status"] == "cancelled" and view["steps_done"] == 0
        assert [body["k"] for body in records(stage, current[0])] == ["started", "run_cancelled"]
    assert notes.of("superseded")


@pytest.mark.parametrize("after", [1, 2, 3])
def test_nothing_is_performed_of_parallel_steps_after_a_cancel(after):
    import asyncio

    done = []

    async def work(event, step):
        await asyncio.gather(*(step.run(f"s{n}", done.append, n) for n in range(4)))

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        for _ in range(after):
            stage.step()
        control.cancel(stage.engine, run)
        stage.drain()
        assert stage.view(run)["status"] == "cancelled"
    assert len(done) == after - 1


@both
def test_a_sleep_that_a_cancel_cut_short_is_not_shown_as_completed(kind):
    async def work(event, step):
        await step.sleep("first", 60)
        await step.sleep("second", 60)

    with Rehearsal(kind.app(work)) as stage:
        [run] = stage.start("go")
        while len(stage.view(run)["steps"]) < 2:
            stage.step()
        assert control.cancel(stage.engine, run)
        view = stage.view(run)
    assert [(step["name"], step["status"]) for step in view["steps"]] == [
        ("first", "completed"),
        ("second", "cancelled"),
    ]
    assert view["steps_done"] == 1


def test_a_cancelled_run_calls_no_on_failure():
    told = []
    app = SYNC.app(lambda event, step: step.sleep("rest", 60), on_failure=lambda event, step: told.append(1))
    with Rehearsal(app) as stage:
        [run] = stage.start("go")
        control.cancel(stage.engine, run)
        stage.drain()
    assert not told


def test_a_run_that_is_not_there_cannot_be_cancelled():
    with Rehearsal(SYNC.app(lambda event, step: None)) as stage, pytest.raises(UnknownRun, match="there is no run 'x'"):
        control.cancel(stage.engine, "x")


# ------------------------------------------------------------------------------------------------------------- wakes
@both
def test_a_wake_that_comes_twice_or_late_performs_nothing_twice(kind):
    done = []

    async def work(event, step):
        for name in "abc":
            await step.run(name, done.append, name)

    with Rehearsal(kind.app(work)) as stage:
        [run] = stage.start("go")
        wakes = []
        while (stage.queue.next_ms()) is not None:
            wakes.append(stage.queue.take()[1])
            for wake in wakes:
                stage.deliver(wake)
                stage.deliver(wake)
        assert stage.view(run)["status"] == "completed"
    assert done == ["a", "b", "c"]


def test_a_wake_for_a_run_that_is_not_there_says_so():
    with Rehearsal(SYNC.app(lambda event, step: None), note=(notes := Notes())) as stage:
        for do in ({"do": "advance", "seq": 1}, {"do": "collect"}, {"do": "recover"}):
            stage.engine.handle({**do, "run": "nowhere"})
        stage.engine.handle({"do": "step", "run": "nowhere", "plan": 1, "index": 0, "attempt": 1})
    assert notes.of("wake for an unknown run") and notes.of("wake for an unknown run or plan")


def test_a_wake_of_a_newer_onward_is_refused():
    with Rehearsal(SYNC.app(lambda event, step: None)) as stage:
        with pytest.raises(UnknownPayload, match="a wake asks to 'dance', which this Onward does not know"):
            stage.engine.handle({"do": "dance", "run": "r"})


# --------------------------------------------------------------------------------------------------------- deadlines
@both
def test_a_filled_invocation_leaves_before_its_deadline(kind):
    done = []

    def slow(name):
        stage.clock.turn(stage.clock.now_ms() + 1_000)
        done.append(name)

    async def work(event, step):
        for name in "abcdef":
            await step.run(name, slow, name)

    with Rehearsal(kind.app(work, steps_per_invocation="fill")) as stage:
        [run] = stage.start("go")
        deadlines = []
        while stage.queue.next_ms() is not None:
            _, wake = stage.queue.take()
            deadline_ms = stage.clock.now_ms() + 5_000
            before = len(done)
            stage.engine.handle(wake, deadline_ms)
            assert stage.clock.now_ms() <= deadline_ms - 1_000, "a reserve is kept"
            deadlines.append(len(done) - before)
        assert stage.view(run)["status"] == "completed"
    assert done == list("abcdef") and deadlines[:-1] and all(2 <= count <= 4 for count in deadlines[:-1])


@both
def test_without_fill_an_invocation_performs_one_step(kind):
    done = []

    async def work(event, step):
        for name in "ab":
            await step.run(name, done.append, name)

    with Rehearsal(kind.app(work)) as stage:
        stage.start("go")
        stage.step()
        assert done == ["a"]
        stage.step()
        assert done == ["a", "b"]


@both
def test_a_step_that_runs_into_the_deadline_is_a_failed_attempt(kind):
    calls = []

    def slow():
        calls.append(1)
        if len(calls) == 1:
            time.sleep(5)
        return "in time"

    async def work(event, step):
        return await step.run("slow", slow)

    with Rehearsal(kind.app(work, retries=STEADY)) as stage:
        [run] = stage.start("go")
        stage.engine.handle(stage.queue.take()[1], stage.clock.now_ms() + 80)
        [_, failed] = records(stage, run)
        assert failed["k"] == "retrying" and failed["a"] == 1 and failed["e"]["type"] == "StepTimeout"
        assert "or the end of its invocation" in failed["e"]["message"]
        stage.drain()
        assert stage.view(run)["result"] == "in time"


@both
def test_the_first_step_of_an_invocation_is_never_put_off(kind):
    done = []

    async def work(event, step):
        await step.run("a", done.append, "a")

    with Rehearsal(kind.app(work, steps_per_invocation="fill")) as stage:
        [run] = stage.start("go")
        wake = stage.queue.take()[1]
        stage.engine.handle(wake, stage.clock.now_ms() + 100)
        assert stage.view(run)["status"] == "completed" and done == ["a"]
