"""What races with what: the timer of a wide plan, the sweep beside long sleeps, losers, cancels, and deaths."""

from __future__ import annotations

import asyncio
import json

import pytest

from onward import Retry, StepError
from onward.core.log import TIMER, partition_of
from onward.engine import control, fanout
from onward.engine.sweep import MAX_STALLS
from onward.testing import Rehearsal

from .acting import ASYNC

DAY_S = 24 * 3600
HORIZON_MS = 40 * 60 * 1000


@pytest.fixture(autouse=True)
def small_plans_are_wide(monkeypatch):
    monkeypatch.setattr(fanout, "FEW", 2)
    monkeypatch.setattr(fanout, "CHUNK", 2)


async def a_long_sleep_beside_finished_steps(event, step):
    await asyncio.gather(
        step.sleep("rest", 3 * DAY_S), *(step.run(f"s{n}", str, n) for n in range(event.data.get("steps", 1)))
    )
    return await step.run("after", str, "done")


def duplicate_all(stage, copies):
    """Deliver every wake that was sent so often, from now on."""
    send = stage.queue.send

    def send_copies(wake, at_ms=None):
        for _ in range(copies):
            send(wake, at_ms)

    stage.engine.wakes.send = send_copies


@pytest.mark.parametrize("steps", [1, 4], ids=["few", "wide"])
def test_a_run_that_sleeps_for_days_beside_finished_steps_is_not_taken_for_stalled(steps):
    with Rehearsal(ASYNC.app(a_long_sleep_beside_finished_steps)) as stage:
        [run] = stage.start("go", {"steps": steps})
        while stage.step():  # wakes are taken, and swept where they are far
            pass
        for _ in range(MAX_STALLS + 5):  # sweeps that find it due, as where the head is swept in vain
            stage.clock.turn(stage.clock.now_ms() + HORIZON_MS)
            stage.sweep()
            while stage.queue.next_ms() is not None and stage.queue.next_ms() <= stage.clock.now_ms() + HORIZON_MS:
                stage.step()
            if stage.view(run)["status"] == "completed":
                break
        stage.drain()
        assert stage.view(run)["status"] == "completed", stage.view(run)["error"]


def test_a_warm_sandbox_that_swept_a_run_before_still_lets_it_sleep():
    """The head that a warm sandbox keeps is older than the one that the sweep wrote."""
    with Rehearsal(ASYNC.app(a_long_sleep_beside_finished_steps)) as stage:
        [run] = stage.start("go", {"steps": 3})
        while stage.queue.next_ms() is not None and stage.queue.next_ms() < stage.clock.now_ms() + HORIZON_MS:
            stage.step()
        stage.engine.ledger.keep(stage.engine.ledger.load(run))
        cold = stage.new_engine()
        stage.clock.turn(next(stage.open_heads()).due_ms)
        cold.handle({"do": "sweep"})  # another sandbox sweeps,
        stage.engine.handle({"do": "recover", "run": run})  # and this one recovers
        head = next(stage.open_heads())
        assert json.loads(head.body)["stalls"] == 0, "it waits, and was counted as stalled"


def test_timers_do_not_multiply_when_every_wake_is_delivered_twice():
    async def work(event, step):
        await asyncio.gather(
            *(step.sleep(f"rest {n}", 1200) for n in range(5)), *(step.run(f"s{n}", flaky) for n in range(3))
        )

    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 40:
            raise ConnectionError("not yet")

    with Rehearsal(ASYNC.app(work, retries=Retry(max_attempts=60, base=30.0, cap=30.0, jitter=False))) as stage:
        duplicate_all(stage, 2)
        [run] = stage.start("go")
        ends_ms = stage.clock.now_ms() + 600_000
        while stage.clock.now_ms() < ends_ms:
            stage.step()
        looks = [wake for _, _, wake in stage.queue._queue if "look" in wake]
        assert 1 <= len(looks) <= 4, f"{len(looks)} looks of the timer are on their way"
        [timer] = stage.store.get([(partition_of(run), TIMER)])
        assert json.loads(timer.body)["look"][1] >= 5, "the timer runs"


def test_a_timer_whose_wake_was_lost_is_started_again_by_the_sweep():
    async def work(event, step):
        await asyncio.gather(*(step.sleep(f"rest {n}", DAY_S) for n in range(4)), step.run("a", str, "a"))

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        stage.step()
        while stage.queue.next_ms() is not None:
            stage.queue.take()  # all lost
        stage.engine.handle({"do": "recover", "run": run})
        assert [wake["look"][1] for _, _, wake in stage.queue._queue if "look" in wake] == [0]


@pytest.mark.parametrize("how", ["after a join", "after the sweep"])
def test_a_step_that_kills_its_host_is_blamed_wherever_its_wake_came_from(how):
    """A death counts as an attempt only where the wake of the dead invocation names the step."""
    begun = []

    class Killed(BaseException):
        pass

    def deadly():
        begun.append(1)
        raise Killed

    async def work(event, step):
        if how == "after a join":
            await asyncio.gather(step.run("a", str, "a"), step.run("b", str, "b"))
        try:
            await step.run("deadly", deadly, retries=2)
        except StepError as error:
            return error.type

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        if how == "after the sweep":
            stage.queue.take()  # lost
            stage.sweep()
        for _ in range(30):
            if stage.queue.next_ms() is None:
                break
            at_ms, wake = stage.queue.take()
            stage.clock.turn(at_ms)
            try:
                stage.new_engine().handle(wake)
            except Killed:
                control.died(stage.new_engine(), wake, "killed")
        view = stage.view(run)
        assert (view["status"], view["result"], len(begun)) == ("completed", "Crashed", 3)


def test_a_result_that_comes_after_a_cancel_finds_its_lane_closed():
    late = []

    async def work(event, step):
        await asyncio.gather(*(step.run(f"s{n}", lambda n=n: late.append(n)) for n in range(3)))

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        stage.step()
        wakes = [stage.queue.take()[1] for _ in range(2)]
        zombie = stage.new_engine()
        write = stage.store.write

        def cancelled_before_the_write(writes, also=()):
            stage.store.write = write
            assert control.cancel(stage.new_engine(), run)
            return write(writes)

        stage.store.write = cancelled_before_the_write
        zombie.handle(next(wake for wake in wakes if wake["do"] == "step"))
        assert len(late) == 1, "the step itself was being performed"
        view = stage.view(run)
        assert view["status"] == "cancelled"
        assert {step["status"] for step in view["steps"]} == {"cancelled"}, "its result was not kept"
        stage.drain()
        assert len(late) == 1 and not list(stage.open_heads())


def test_a_sleep_whose_invocation_died_still_waits_for_its_end_and_is_not_overdue():
    with Rehearsal(ASYNC.app(a_long_sleep_beside_finished_steps)) as stage:
        [run] = stage.start("go")
        stage.step()
        stage.engine.handle(stage.queue.take()[1])
        control.died(stage.engine, {"do": "step", "run": run, "plan": 1, "index": 0, "attempt": 1}, "killed")
        for _ in range(MAX_STALLS + 2):
            stage.clock.turn(stage.clock.now_ms() + HORIZON_MS)
            if not any(head.due_ms <= stage.clock.now_ms() for head in stage.open_heads()):
                break
            stage.sweep()
            while stage.queue.next_ms() is not None and stage.queue.next_ms() <= stage.clock.now_ms():
                stage.step()
        head = next(stage.open_heads())
        assert json.loads(head.body)["stalls"] == 0, "it waits, and was counted as stalled"


async def a_race_and_then_a_rest(event, step):
    tasks = [asyncio.ensure_future(step.run(f"s{n}", event.data.get, "x")) for n in range(4)]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await step.run("after", str, "x")
    await step.sleep("rest", 3 * DAY_S)
    return "done"


def test_a_run_that_rests_after_a_race_is_not_taken_for_stalled():
    with Rehearsal(ASYNC.app(a_race_and_then_a_rest)) as stage:
        [run] = stage.start("go")
        lost = 0
        while stage.queue.next_ms() is not None:
            at_ms, wake = stage.queue.take()
            if wake["do"] == "step" and wake["index"] > 1:
                lost += 1
                continue  # two losers never come in
            stage.clock.turn(at_ms)
            stage.deliver(wake)
        assert lost >= 2
        head = next(stage.open_heads())
        assert head.due_ms > stage.clock.now_ms() + 2 * DAY_S * 1000, "nothing is in flight that anybody waits for"
        stage.drain()
        assert stage.view(run)["status"] == "completed", stage.view(run)["error"]


def test_a_loser_that_comes_in_late_does_not_supersede_the_step_that_is_performed():
    late = []

    async def work(event, step):
        tasks = [asyncio.ensure_future(step.run(name, str, name)) for name in "ab"]
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return await step.run("after", slow)

    def slow():
        late.append(1)
        if len(late) == 1:  # meanwhile, elsewhere
            stage.new_engine().handle(loser)

    with Rehearsal(ASYNC.app(work)) as stage:
        stage.start("go")
        stage.step()
        first, loser = (stage.queue.take()[1] for _ in range(2))
        stage.engine.handle(first)
        stage.drain()
        assert len(late) == 1


def test_a_cancel_that_meets_a_log_that_has_grown_meanwhile_still_cancels():
    async def work(event, step):
        for name in "abc":
            await step.run(name, str, name)

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        write = stage.store.write

        def grown_before_the_write(writes, also=()):
            stage.store.write = write
            stage.step()  # elsewhere, a step is done
            return write(writes)

        other = stage.new_engine()
        stage.store.write = grown_before_the_write
        assert control.cancel(other, run)
        assert stage.view(run)["status"] == "cancelled"
        assert stage.view(run)["steps_done"] == 1


@pytest.mark.parametrize("beside", [False, True], ids=["in sequence", "beside others"])
def test_a_run_that_ends_while_it_is_recovered_is_not_due_again(beside, monkeypatch):
    """Or the sweep would find it at every horizon, for ever."""

    async def work(event, step):
        if beside:
            await asyncio.gather(step.sleep("rest", 2 * DAY_S), step.sleep("more", 3 * DAY_S))
        await step.sleep("alone", 3 * DAY_S)

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go", None)
        stage.step()
        cold = stage.new_engine()
        monkeypatch.setattr(fanout if beside else cold, "_wake_lanes" if beside else "waits_ms", ends_it(stage, run))
        cold.handle({"do": "recover", "run": run})
        assert stage.view(run)["status"] == "cancelled"
        assert not list(stage.open_heads()), "a run that has ended is due"


def ends_it(stage, run):
    """In the place of what tells the times for which a run waits: meanwhile somebody cancels it."""

    def times(*arguments):
        control.cancel(stage.engine, run)
        return [stage.clock.now_ms() + DAY_S * 1000]

    return times


def test_a_step_that_kills_its_host_behind_a_sleep_of_no_length_is_blamed_for_it():
    class Killed(BaseException):
        pass

    def deadly():
        raise Killed

    async def work(event, step):
        await step.sleep("none", 0)
        await step.run("deadly", deadly, retries=4)

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        wake = stage.queue.take()[1]
        with pytest.raises(Killed):
            stage.engine.handle(wake, invocation="request-1")
        control.died(stage.new_engine(), wake, "killed", "request-1")
        assert stage.view(run)["deaths"] == 1


class Gone(BaseException):
    """The process died."""


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside others"])
def test_a_step_that_began_under_once_is_not_performed_again_by_code_that_has_dropped_it(beside):
    performed = []

    def work(once, dies):
        def charge():
            performed.append(once)
            if dies:
                raise Gone

        async def work(event, step):
            other = [step.run("other", str, 1)] if beside else []
            await asyncio.gather(step.run("charge", charge, **({"once": True} if once else {})), *other)

        return work

    with Rehearsal(ASYNC.app(work(once=True, dies=True))) as stage:
        [run] = stage.start("go")
        while stage.queue.next_ms() is not None:
            at_ms, wake = stage.queue.take()
            stage.clock.turn(at_ms)
            try:
                stage.deliver(wake)
            except Gone:
                break
        stage.app = ASYNC.app(work(once=False, dies=False))
        stage.engine = stage.new_engine()
        control.died(stage.engine, wake, "killed", look_again_ms=0)
        stage.drain()
        view = stage.view(run)
        assert (view["status"], view["error"]["type"]) == ("failed", "StepError"), view
        assert "once=True" in view["error"]["message"] and performed == [True]


def test_a_step_that_waits_for_its_next_attempt_is_not_performed_when_its_run_has_failed_meanwhile():
    performed = []

    async def work(event, step):
        def fails():
            performed.append("a")
            raise ValueError

        await asyncio.gather(step.run("a", fails), step.run("b", int, "no number", retries=0))

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        while stage.step():  # on to the wake of its second attempt, which comes when the run has failed
            pass
        assert stage.view(run)["status"] == "failed" and performed == ["a"]


def test_what_loses_a_race_keeps_no_result_after_a_cancel():
    async def work(event, step):
        first = [asyncio.ensure_future(step.run(name, str, name)) for name in ("fast", "slow")]
        _, losers = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        for loser in losers:
            loser.cancel()
        await step.sleep("rest", 3600)

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        while stage.view(run)["status"] != "sleeping":
            stage.step()
        assert control.cancel(stage.engine, run)
        assert json.loads(stage.store.get([(partition_of(run), "S#00000001.00001")])[0].body)["k"] == "closed"
