"""Why a run stands: every reason that there is, told in words."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from onward import Concurrency, Throttle
from onward.core.errors import UnknownRun
from onward.core.status import IllegalRecord
from onward.engine import control
from onward.engine.why import why
from onward.testing import Rehearsal

from .acting import ASYNC, STEADY, both


def told(stage, run):
    return why(stage.engine.ledger, run, stage.clock.now_ms())["reasons"]


def kinds(stage, run):
    return [(reason["kind"], reason["step"]) for reason in told(stage, run)]


def now(stage):
    """Deliver what is there to be delivered now."""
    while (at_ms := stage.queue.next_ms()) is not None and at_ms <= stage.clock.now_ms():
        stage.step()


def begun(kind, work, data=None, **options):
    stage = Rehearsal(kind.app(work, **options), fresh=True)
    [run] = stage.start("go", data)
    return stage, run


@both
def test_a_run_that_has_not_begun(kind):
    async def work(event, step):
        await step.run("a", int)

    stage, run = begun(kind, work)
    with stage:
        assert kinds(stage, run) == [("begins", None)]
        stage.drain()
        assert kinds(stage, run) == [("ended", None)]
        assert told(stage, run)[0]["text"] == "it has ended: completed"


@both
def test_a_sleep_and_its_end(kind):
    async def work(event, step):
        await step.sleep("nap", 90)

    stage, run = begun(kind, work)
    with stage:
        now(stage)
        [reason] = told(stage, run)
        assert (reason["kind"], reason["step"], reason["text"]) == ("timer", "nap", "it sleeps")
        assert reason["until_ms"] - stage.clock.now_ms() == 90_000
        stage.clock.turn(reason["until_ms"])
        assert told(stage, run)[0]["text"] == "its sleep is over, and a wake is on its way"


@both
def test_a_retry_its_time_and_the_last_error(kind):
    def bad():
        raise ConnectionError("no route\nto host")

    async def work(event, step):
        await step.run("fetch", bad)

    stage, run = begun(kind, work)
    with stage:
        now(stage)
        [reason] = told(stage, run)
        assert (reason["kind"], reason["step"], reason["attempts"]) == ("retry", "fetch", 1)
        assert reason["text"] == "it failed once, and it is tried again; the last error: ConnectionError: no route"
        assert reason["until_ms"] - stage.clock.now_ms() == 1_000
        stage.step()
        assert told(stage, run)[0]["text"].startswith("it failed 2 times")
        stage.drain()
        assert told(stage, run)[0]["text"].startswith("it has ended: failed: StepError: step 'fetch' failed for good")


@both
def test_an_event_and_what_must_match(kind):
    async def work(event, step):
        await step.wait_for_event("order/paid", match={"data.order": 7}, timeout=timedelta(days=3))

    stage, run = begun(kind, work)
    with stage:
        now(stage)
        [reason] = told(stage, run)
        assert (reason["kind"], reason["step"]) == ("event", "order/paid")
        assert reason["text"] == "it waits for event 'order/paid' with data.order = 7"
        assert reason["until_ms"] - stage.clock.now_ms() == 3 * 24 * 3600_000


@both
def test_another_run_and_what_that_waits_for(kind):
    async def inner(event, step):
        await step.sleep("nap", 90)

    async def work(event, step):
        await step.invoke("inner")

    app = kind.app(work)
    kind.app(inner, into=app, name="inner", on="other")
    with Rehearsal(app, fresh=True) as stage:
        [run] = stage.start("go")
        now(stage)
        [reason] = told(stage, run)
        assert (reason["kind"], reason["step"]) == ("child", "inner")
        assert reason["text"] == f"it waits for run {reason['run_id']} of 'inner'"
        assert [one["kind"] for one in reason["why"]["reasons"]] == ["timer"]


def test_steps_beside_each_other_each_have_their_reason():
    def bad():
        raise ValueError("bad")

    async def work(event, step):
        async def left():
            await step.run("a", int)
            await step.wait_for_event("never", timeout=3600)

        await asyncio.gather(left(), step.sleep("nap", 60), step.run("bad", bad), step.run("done", int))

    stage, run = begun(ASYNC, work)
    with stage:
        now(stage)
        found = {step: kind for kind, step in kinds(stage, run)}
        assert found == {"never": "event", "nap": "timer", "bad": "retry"}


def test_a_wide_plan_names_some_and_counts_the_others():
    async def work(event, step):
        await asyncio.gather(*(step.sleep(f"nap {n}", 60) for n in range(80)))

    stage, run = begun(ASYNC, work)
    with stage:
        now(stage)
        view = why(stage.engine.ledger, run, stage.clock.now_ms())
        assert len(view["reasons"]) == 50 and view["more"] == 30
        assert {reason["kind"] for reason in view["reasons"]} == {"timer"}
        assert view["reasons"][0]["step"] == "nap 0" and "planned" in view["reasons"][40]["step"]


@both
def test_the_losers_of_a_race_are_not_what_it_waits_for(kind):
    async def work(event, step):
        if kind is ASYNC:
            tasks = [asyncio.ensure_future(step.sleep(f"nap {n}", n)) for n in (1, 3600)]
            _, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                task.cancel()
        await step.run("next", int)
        await step.sleep("rest", 60)

    stage, run = begun(kind, work)
    with stage:
        for _ in range(40):
            if kinds(stage, run) == [("timer", "rest")]:
                break
            assert stage.step()
        assert kinds(stage, run) == [("timer", "rest")]


@both
def test_a_step_whose_process_died(kind):
    async def work(event, step):
        await step.run("a", int)
        await step.run("b", int)

    stage, run = begun(kind, work)
    with stage:
        _, wake = stage.queue.take()
        control.died(stage.engine, wake, "killed")
        assert kinds(stage, run) == [("begins", None)]
        stage.step()
        assert told(stage, run)[0]["text"].startswith("its next step is being performed, or a wake")
        _, wake = stage.queue.take()
        control.died(stage.engine, wake, "killed")
        assert told(stage, run)[0]["text"] == "its next step is being performed again: once its process died in it"


@both
def test_a_limit_and_its_holders_a_turn_and_a_delay(kind):
    async def work(event, step):
        await step.sleep("nap", 3600)

    with Rehearsal(kind.app(work, concurrency=Concurrency(1)), fresh=True) as stage:
        (one,), (two,) = stage.start("go", 1), stage.start("go", 2)
        now(stage)
        [reason] = told(stage, two)
        assert (reason["kind"], reason["holders"]) == ("queue", [one])
        assert reason["text"].endswith(f"held by {one}")
    with Rehearsal(kind.app(work, throttle=Throttle(1, period=60)), fresh=True) as stage:
        _, (two,) = stage.start("go", 1), stage.start("go", 2)
        now(stage)
        [reason] = told(stage, two)
        assert reason["kind"] == "turn" and reason["until_ms"] - stage.clock.now_ms() == 60_000
    stage, run = begun(kind, work, delay=600)
    with stage:
        [reason] = told(stage, run)
        assert reason["kind"] == "delayed" and reason["until_ms"] - stage.clock.now_ms() == 600_000


@both
def test_what_was_begun_and_may_run_only_once(kind):
    async def work(event, step):
        await step.run("charge", lambda: seen.append(kinds(stage, run)), once=True)

    seen = []
    stage, run = begun(kind, work)
    with stage:
        now(stage)
        assert seen == [[("step", "charge")]]


def test_a_run_that_is_not_there_or_was_edited():
    stage, run = begun(ASYNC, lambda event, step: step.run("a", int), retries=STEADY)
    with stage:
        for name in ("nobody", "../x", ""):
            with pytest.raises(UnknownRun, match="there is no run"):
                told(stage, name)
        stage.store.rows("UPDATE items SET body = '[]' WHERE sort = 'L#00000000'", ())
        with pytest.raises(IllegalRecord, match="cannot be read"):
            told(stage, run)
