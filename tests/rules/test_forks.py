"""Runs that have ended, and are done again from one of their steps: what is reused, and what is performed anew."""

import asyncio
import json

import pytest

from onward import App, CancelOn, Concurrency, NonRetriable, StepError, Throttle
from onward.core.errors import InvalidOption, Unavailable, UnknownRun, UnknownWorkflow
from onward.core.log import log_key, partition_of
from onward.engine import callbacks, control, forks
from onward.ports import Put
from onward.testing import Rehearsal
from tests.rules.acting import ASYNC, STEADY, SYNC, both, records
from tests.sealed import KEPT, Sealed


class World:
    """What the steps did, and which of them fail at the moment."""

    def __init__(self, *broken):
        self.done = []
        self.broken = set(broken)

    def do(self, name, result=None):
        self.done.append(name)
        if name in self.broken:
            raise ValueError(f"{name} is broken")
        return name if result is None else result

    def mended(self):
        self.done.clear()
        self.broken.clear()


def items_of(stage, run):
    return [
        (item.sort, item.token, item.body, item.value, item.due_ms)
        for first, last in (("H", "L~"), ("S#", "S~"))
        for item in stage.store.read(partition_of(run), first, last)
    ]


def redone(stage, make, *args, **options):
    """Fork, do it to its end, and hold that its parent did not change; the view of the fork."""
    parent = args[0]
    before = items_of(stage, parent)
    run = make(stage.engine, *args, **options)
    stage.drain()
    assert items_of(stage, parent) == before, "the parent was altered"
    return stage.view(run)


@both
def test_a_retry_reuses_what_is_before_the_failed_step_and_performs_it_and_what_follows(kind):
    world = World("b")

    async def work(event, step):
        return [await step.run(name, world.do, name) for name in "abc"]

    with Rehearsal(kind.app(work, retries=1)) as stage:
        parent = stage.send("go")
        assert parent["status"] == "failed" and world.done == ["a", "b", "b"]
        world.mended()
        run = redone(stage, forks.retry, parent["run_id"])
        assert run["result"] == ["a", "b", "c"] and world.done == ["b", "c"]
        assert run["fork"]["run"] == parent["run_id"] and run["fork"]["step"] == ["b", 1] and run["fork"]["seq"] == 2
        assert [body["k"] for body in records(stage, run["run_id"])] == [
            "started",
            "done",
            "done",
            "done",
            "run_completed",
        ]
        assert run["run_id"] != parent["run_id"] and stage.view(parent["run_id"])["status"] == "failed"


@both
@pytest.mark.parametrize("step", [None, "a", "b", "same", "same (2)"])
def test_a_run_is_done_again_from_any_step(kind, step):
    world = World()

    async def work(event, step):
        await step.run("a", world.do, "a")
        await step.sleep("rest", 60)
        await step.run("b", world.do, "b")
        return [await step.run("same", world.do, f"same{n}") for n in (1, 2)]

    with Rehearsal(kind.app(work)) as stage:
        parent = stage.send("go")
        world.mended()
        run = redone(stage, forks.fork, parent["run_id"], step)
        everything = ["a", "b", "same1", "same2"]
        first = {None: 0, "a": 0, "b": 1, "same": 2, "same (2)": 3}[step]
        assert run["result"] == ["same1", "same2"] and world.done == everything[first:]


def test_a_sleep_is_slept_again_where_a_run_is_done_again_from_it():
    with Rehearsal(SYNC.app(lambda event, step: step.sleep("rest", 3600))) as stage:
        parent = stage.send("go")
        began_ms = stage.clock.now_ms()
        assert redone(stage, forks.fork, parent["run_id"], "rest")["status"] == "completed"
        assert stage.clock.now_ms() >= began_ms + 3_600_000


def test_a_workflow_that_raised_by_itself_is_retried_from_the_end_of_its_log():
    world, faults = World("caught"), [1]

    def work(event, step):
        try:
            step.run("caught", world.do, "caught", retries=0)
        except StepError:
            step.run("instead", world.do, "instead")
        if faults:
            raise RuntimeError("not yet")
        return "mended"

    with Rehearsal(SYNC.app(work)) as stage:
        parent = stage.send("go")
        world.mended()
        assert redone(stage, forks.retry, parent["run_id"])["error"]["type"] == "RuntimeError" and not world.done
        faults.clear()
        run = redone(stage, forks.retry, parent["run_id"], request="after the fix")
        assert run["result"] == "mended" and not world.done, "a step whose failure was caught is not the failed step"


def test_a_step_whose_failure_the_workflow_passes_on_as_another_error_is_the_failed_step():
    world = World("a")

    def work(event, step):
        try:
            return step.run("a", world.do, "a", retries=0)
        except StepError as error:
            raise RuntimeError("no order") from error

    with Rehearsal(SYNC.app(work)) as stage:
        parent = stage.send("go")
        world.mended()
        assert redone(stage, forks.retry, parent["run_id"])["result"] == "a" and world.done == ["a"]


@pytest.mark.parametrize("together", ["gather", "group"])
@pytest.mark.parametrize("count", [3, 12])
def test_a_retry_of_a_parallel_step_keeps_what_its_siblings_returned(together, count):
    world = World("s0", "s2")

    async def work(event, step):
        await step.run("before", world.do, "before")
        steps = [step.run(f"s{n}", world.do, f"s{n}", retries=0) for n in range(count)]
        if together == "gather":
            found = await asyncio.gather(*steps)
        else:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for one in steps]
            found = [task.result() for task in tasks]
        await step.run("after", world.do, "after")
        return found

    with Rehearsal(ASYNC.app(work)) as stage:
        parent = stage.send("go")
        assert parent["status"] == "failed"
        performed = {name for name in world.done if name not in world.broken}
        world.mended()
        run = redone(stage, forks.retry, parent["run_id"])
        assert run["result"] == [f"s{n}" for n in range(count)]
        assert not performed & set(world.done), "a result was performed again"
        assert len(world.done) == len(set(world.done)) and {"s0", "s2", "after"} <= set(world.done)


def test_a_step_in_flight_beside_others_is_done_again_alone():
    world = World()

    def work(event, step):
        def branch(name):
            step.run(f"{name}1", world.do, f"{name}1")
            return step.run(f"{name}2", world.do, f"{name}2")

        return step.parallel(lambda: branch("a"), lambda: branch("b"))

    with Rehearsal(SYNC.app(work)) as stage:
        parent = stage.send("go")
        world.mended()
        run = redone(stage, forks.fork, parent["run_id"], "b2")
        assert run["result"] == ["a2", "b2"] and world.done == ["b2"]


@both
def test_a_fork_may_have_other_event_data_and_another_input_for_its_step(kind):
    calls = []

    async def work(event, step):
        first = await step.run("a", lambda: event.data["n"])
        await step.run("b", lambda *args, **kwargs: calls.append((args, kwargs)), first, key=event.data["n"])
        await step.run("c", lambda *args: calls.append(args), first)

    with Rehearsal(kind.app(work)) as stage:
        parent = stage.send("go", {"n": 1})
        calls.clear()
        run = redone(stage, forks.fork, parent["run_id"], "b", data={"n": 2})
        assert calls == [((1,), {"key": 2}), (1,)], "what is reused was made with the old data"
        calls.clear()
        again = redone(stage, forks.fork, run["run_id"], "b", args=[[7]], kwargs={"key": "k" * 100_000})
        assert calls == [(([7],), {"key": "k" * 100_000}), (1,)]
        calls.clear()
        redone(stage, forks.fork, again["run_id"], "a")
        assert calls == [(([7],), {"key": "k" * 100_000}), (2,)], "a fork of a fork keeps the input of its step"


def test_a_lane_is_handed_its_new_input():
    given = []

    async def work(event, step):
        await asyncio.gather(*(step.run(f"s{n}", given.append, n) for n in range(2)))

    with Rehearsal(ASYNC.app(work)) as stage:
        parent = stage.send("go")
        given.clear()
        redone(stage, forks.fork, parent["run_id"], "s1", args=["new"])
    assert given == ["new"]


def test_what_was_received_is_kept_and_a_wait_that_is_begun_again_has_its_whole_time():
    world = World()

    def work(event, step):
        paid = step.wait_for_event("paid", timeout=3600)
        step.run("ship", world.do, "ship")
        again = step.wait_for_event("again", event="paid", timeout=3600)
        return [paid and paid.data, again and again.data]

    with Rehearsal(SYNC.app(work)) as stage:
        [parent] = stage.start("go")
        stage.step()
        stage.start("paid", 1)
        stage.drain()
        assert stage.view(parent)["result"] == [1, None]
        assert redone(stage, forks.fork, parent, "ship")["result"] == [1, None]
        began_ms = stage.clock.now_ms()
        run = forks.fork(stage.engine, parent, "again")
        while stage.view(run)["steps"][-1]["status"] != "waiting":
            stage.step()
        stage.start("paid", 2)
        stage.drain()
        assert stage.view(run)["result"] == [1, 2] and stage.clock.now_ms() < began_ms + 3_600_000
        assert redone(stage, forks.fork, parent, "paid")["result"] == [1, 2], "what arrived meanwhile counts"


def test_a_fork_uses_what_its_parents_children_returned_and_starts_new_ones_where_it_invokes_again():
    world = World()
    app = App("rules")

    @app.workflow(on="never")
    def child(event, step):
        return step.run("inner", world.do, "inner")

    @app.workflow(on="go", retries=STEADY)
    def work(event, step):
        found = step.invoke(child)
        step.run("after", world.do, "after")
        return found

    with Rehearsal(app) as stage:
        parent = stage.send("go")
        world.mended()
        assert redone(stage, forks.fork, parent["run_id"], "after")["result"] == "inner" and world.done == ["after"]
        world.mended()
        assert redone(stage, forks.fork, parent["run_id"], "child")["result"] == "inner"
        assert world.done == ["inner", "after"]


def test_a_fork_of_a_child_does_not_report_to_the_run_that_had_invoked_it():
    app, children = App("rules"), []

    @app.workflow(on="never")
    def child(event, step):
        children.append(1)
        return len(children)

    @app.workflow(on="go")
    def work(event, step):
        found = step.invoke(child)
        step.sleep("rest", 60)
        return found

    with Rehearsal(app) as stage:
        [parent] = stage.start("go")
        while not children:
            stage.step()
        [inner] = {
            body["child"]
            for sort, _, text, *_ in items_of(stage, parent)
            if sort.startswith("S#") and (body := json.loads(text)).get("child")
        }
        fork = forks.fork(stage.engine, inner)
        stage.drain()
        assert "lane" not in records(stage, fork)[0] and records(stage, fork)[0]["parent"] == parent
        assert stage.view(parent)["result"] == 1


def test_a_sibling_that_may_run_only_once_is_not_performed_again():
    charged = []
    world = World("worse")

    def charge():
        charged.append(1)
        raise Died

    def work(event, step):
        def once():
            try:
                return step.run("charge", charge, once=True)
            except StepError as error:
                return error.type

        return step.parallel(once, lambda: step.run("worse", world.do, "worse", retries=0))

    with Rehearsal(SYNC.app(work)) as stage:
        [parent] = stage.start("go")
        stage.step()
        with pytest.raises(Died):
            stage.step()
        stage.drain()
        assert stage.view(parent)["status"] == "failed"
        world.mended()
        run = redone(stage, forks.retry, parent)
        assert run["result"] == ["Crashed", "worse"] and charged == [1]


class Died(BaseException):
    """A process dies in a step."""


def test_on_failure_is_called_for_a_fork_that_fails():
    told = []
    world = World("a")
    app = SYNC.app(
        lambda event, step: step.run("a", world.do, "a", retries=0),
        on_failure=lambda event, step: told.append(event.data["run_id"]),
    )
    with Rehearsal(app) as stage:
        parent = stage.send("go")["run_id"]
        fork = redone(stage, forks.retry, parent)["run_id"]
    assert told == [parent, fork]


def test_the_same_fork_asked_for_twice_is_one_run():
    world = World("a")
    with Rehearsal(SYNC.app(lambda event, step: step.run("a", world.do, "a", retries=0))) as stage:
        parent = stage.send("go")["run_id"]
        world.mended()
        runs = {forks.retry(stage.engine, parent) for _ in range(2)}
        stage.drain()
        runs.add(forks.retry(stage.new_engine(), parent))
        stage.drain()
        assert len(runs) == 1 and world.done == ["a"]
        assert forks.retry(stage.engine, parent, request="another") not in runs
        assert forks.fork(stage.engine, parent, "a", args=["b"]) not in runs
        assert forks.fork(stage.engine, parent, data=5) not in runs


class Breaking:
    """A store that fails at its n-th write, applied or not."""

    def __init__(self, store, number, applied):
        self.store = store
        self.left = number
        self.applied = applied

    def __getattr__(self, name):
        return getattr(self.store, name)

    def write(self, writes):
        self.left -= 1
        if self.left == 0:
            if self.applied:
                self.store.write(writes)
            raise Unavailable
        return self.store.write(writes)


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_fork_that_was_begun_and_not_finished_is_no_run_and_is_completed_when_asked_for_again(number, applied):
    """With a log that takes two transactions, and a third that makes it a run."""
    world = World("last")

    def work(event, step):
        for n in range(150):
            step.run(f"s{n}", world.do, f"s{n}")
        return step.run("last", world.do, "last", retries=0)

    with Rehearsal(SYNC.app(work), fill=True) as stage:
        parent = stage.send("go")["run_id"]
        world.mended()
        engine = stage.new_engine()
        whole = engine.ledger.store
        engine.store = engine.ledger.store = Breaking(whole, number, applied)
        with pytest.raises(Unavailable):
            forks.retry(engine, parent)
        made = number == 3 and applied
        assert len(list(stage.open_heads())) == made and stage.queue.next_ms() is None
        run = redone(stage, forks.retry, parent)
        assert run["result"] == "last" and world.done == ["last"] and run["steps_done"] == 151


def test_a_fork_that_is_being_copied_is_no_run():
    with Rehearsal(SYNC.app(lambda event, step: step.run("a", lambda: 1))) as stage:
        body = {"k": "done", "s": "a", "n": 1, "a": 1, "at": 1}
        stage.store.write([Put(stage.engine.ledger.item("half", log_key(1), body))])
        for do in ("advance", "recover"):
            stage.engine.handle({"do": do, "run": "half", "seq": 1})
        with pytest.raises(UnknownRun):
            stage.view("half")
        with pytest.raises(UnknownRun):
            forks.fork(stage.engine, "half")


def test_what_cannot_be_forked_says_why():
    with Rehearsal(SYNC.app(lambda event, step: [step.run("a", lambda: 1), step.sleep("rest", 5)])) as stage:
        [run] = stage.start("go")
        with pytest.raises(InvalidOption, match="has not ended: wait for its end, or cancel it"):
            forks.fork(stage.engine, run)
        stage.drain()
        with pytest.raises(InvalidOption, match="is completed, not failed: a retry begins at the step that failed"):
            forks.retry(stage.engine, run)
        with pytest.raises(InvalidOption, match="has come to no step 'x'; it has 'a', 'rest'"):
            forks.fork(stage.engine, run, "x")
        with pytest.raises(InvalidOption, match="name the step"):
            forks.fork(stage.engine, run, args=[1])
        with pytest.raises(InvalidOption, match="is a sleep or a wait, which takes no arguments"):
            forks.fork(stage.engine, run, "rest", args=[1])
        for nowhere in ("nowhere", "no/where"):
            with pytest.raises(UnknownRun):
                forks.fork(stage.engine, nowhere)


def test_a_cancelled_run_is_done_again_and_its_closed_lanes_are_open():
    world = World()

    async def work(event, step):
        await asyncio.gather(step.run("a", world.do, "a"), step.run("b", world.do, "b"))
        return await step.run("c", world.do, "c")

    with Rehearsal(ASYNC.app(work)) as stage:
        [parent] = stage.start("go")
        stage.step()
        stage.step()
        control.cancel(stage.engine, parent)
        stage.drain()
        [first] = world.done
        world.done.clear()
        other = "b" if first == "a" else "a"
        assert redone(stage, forks.fork, parent, other)["result"] == "c" and world.done == [other, "c"]


def test_a_time_limit_that_was_open_beside_the_failed_step_has_as_much_left_as_it_had():
    world = World("slow")

    async def work(event, step):
        slow = asyncio.ensure_future(step.run("slow", world.do, "slow", retries=0))
        limit = asyncio.ensure_future(step.sleep("limit", 60))
        done, _ = await asyncio.wait({slow, limit}, return_when=asyncio.FIRST_COMPLETED)
        return slow.result() if slow in done else "timed out"

    with Rehearsal(ASYNC.app(work)) as stage:
        parent = stage.send("go")
        assert parent["status"] == "failed"
        stage.clock.turn(stage.clock.now_ms() + 86_400_000)
        world.mended()
        assert redone(stage, forks.retry, parent["run_id"])["result"] == "slow"


# ------------------------------------------------------------------------------------- options of the workflow
def test_a_fork_takes_a_slot_before_what_it_has_in_flight_is_performed():
    world = World("s1")

    async def work(event, step):
        await step.sleep("rest", 60)
        found = await asyncio.gather(*[step.run(f"s{n}", world.do, f"s{n}", retries=0) for n in range(3)])
        await step.sleep("rest", 60)
        return found

    with Rehearsal(ASYNC.app(work, concurrency=Concurrency(1))) as stage:
        parents = [stage.send("go") for _ in range(3)]
        assert [parent["status"] for parent in parents] == ["failed"] * 3
        world.mended()
        runs = [forks.retry(stage.engine, parent["run_id"]) for parent in parents]
        stage.drain()
        views = [stage.view(run) for run in runs]
        assert [view["result"] for view in views] == [["s0", "s1", "s2"]] * 3
        assert world.done == ["s1", "s2"] * 3, "what had failed or was not begun, and one fork after the other"
        ends = sorted(view["ended_ms"] for view in views)
        assert ends[1] - ends[0] >= 60_000 and ends[2] - ends[1] >= 60_000, "one at a time"


def test_a_fork_waits_for_its_turn():
    with Rehearsal(SYNC.app(lambda event, step: step.run("a", int), throttle=Throttle(1, period=60))) as stage:
        parent = stage.send("go")
        began_ms = stage.clock.now_ms()
        runs = [forks.fork(stage.engine, parent["run_id"], "a", request=text) for text in "12"]
        stage.drain()
        ends = sorted(stage.view(run)["ended_ms"] - began_ms for run in runs)
        assert ends == [60_000, 120_000]


def test_a_fork_has_a_finish_timeout_of_its_own():
    with Rehearsal(SYNC.app(lambda event, step: step.sleep("rest", 3600), finish_timeout=60)) as stage:
        parent = stage.send("go")
        assert parent["status"] == "failed"
        stage.pass_time(100)
        began_ms = stage.clock.now_ms()
        run = redone(stage, forks.fork, parent["run_id"])
        assert run["error"]["type"] == "FinishTimeout" and 60_000 <= run["ended_ms"] - began_ms < 61_000


@pytest.mark.parametrize("step", [None, "b"])
def test_a_start_timeout_is_for_a_fork_that_begins_at_its_start(step):
    def work(event, step):
        step.run("a", int)
        step.run("b", int)
        return step.sleep("rest", 600)

    with Rehearsal(SYNC.app(work, concurrency=Concurrency(1), start_timeout=60)) as stage:
        parent = stage.send("go")
        runs = [forks.fork(stage.engine, parent["run_id"], step, request=text) for text in "12"]
        stage.drain()
        told = sorted(stage.view(run)["status"] for run in runs)
        assert told == (["completed", "failed"] if step is None else ["completed", "completed"])


def test_what_cancels_its_parent_cancels_a_fork_and_what_has_cancelled_it_does_not():
    app = SYNC.app(
        lambda event, step: step.sleep("rest", 3600), cancel_on=CancelOn("stop", match={"data.id": "data.id"})
    )
    with Rehearsal(app) as stage:
        [parent] = stage.start("go", {"id": 1})
        stage.start("stop", {"id": 1})
        stage.drain()
        assert stage.view(parent)["status"] == "cancelled"
        stage.pass_time(60)
        assert redone(stage, forks.fork, parent)["status"] == "completed"
        run = forks.fork(stage.engine, parent, request="again", data={"id": 2})
        stage.start("stop", {"id": 1})
        stage.pass_time(60)
        assert stage.view(run)["status"] == "sleeping", "its data is another"
        stage.start("stop", {"id": 2})
        stage.drain()
        assert stage.view(run)["status"] == "cancelled"


@pytest.mark.parametrize("size", [1, 100_000])
def test_what_middleware_encodes_is_encoded_anew_for_a_fork(size):
    world = World("c")

    async def work(event, step):
        found = [await step.run("a", world.do, "a", "x" * size)]
        found += await asyncio.gather(*[step.run(name, world.do, name, name * size) for name in "bc"])
        return [[text[0] for text in found], event.data]

    app = App("sealed", middleware=[Sealed()])
    app.workflow(on="go", retries=0)(work)
    with Rehearsal(app) as stage:
        parent = stage.send("go", "data")
        world.mended()
        run = redone(stage, forks.retry, parent["run_id"])
        assert run["result"] == [["x", "b", "c"], "data"] and world.done == ["c"]
        world.mended()
        again = redone(stage, forks.fork, run["run_id"], "c", args=["c", "new"], data="other")
        assert again["result"] == [["x", "b", "n"], "other"] and world.done == ["c"]
        last = redone(stage, forks.fork, again["run_id"], "b")
        assert last["result"] == [["x", "b", "n"], "other"], "a fork of a fork keeps the input of its step"
        values = [
            item.value for one in (run, again, last) for item in stage.store.read(f"run#{one['run_id']}", "A", "Z")
        ]
        assert all(value.startswith(KEPT) for value in values if value is not None)


def test_a_fork_of_a_workflow_that_is_gone_says_so():
    with Rehearsal(SYNC.app(lambda event, step: step.run("a", int))) as stage:
        parent = stage.send("go")
        stage.engine.app = App("without")
        with pytest.raises(UnknownWorkflow):
            forks.fork(stage.engine, parent["run_id"])


# ----------------------------------------------------------------------------------- callbacks, and conditions
def approving(tokens, world):
    async def work(event, step):
        async def ask():
            return await step.callback("approve", tokens.append, timeout=3600)

        async def act():
            await step.sleep("rest", 60)
            return await step.run("act", world.do, "act", retries=0)

        return await asyncio.gather(ask(), act())

    return work


def test_who_was_asked_in_vain_is_asked_anew():
    tokens = []
    with Rehearsal(SYNC.app(lambda event, step: step.callback("approve", tokens.append, timeout=60))) as stage:
        parent = stage.send("go")
        assert "StepTimeout" in parent["error"]["message"]
        run = forks.retry(stage.engine, parent["run_id"])
        stage.pass_time(1)
        assert len(set(tokens)) == 2, "another token"
        assert callbacks.complete(stage.engine, tokens[0], "no") == callbacks.TOO_LATE
        assert callbacks.complete(stage.engine, tokens[1], "yes") == callbacks.ACCEPTED
        stage.drain()
        assert stage.view(run)["result"] == "yes"
        again = forks.fork(stage.engine, run, "approve")
        stage.pass_time(1)
        assert len(set(tokens)) == 3, "also where there is an answer"
        callbacks.complete(stage.engine, tokens[2], "perhaps")
        stage.drain()
        assert stage.view(again)["result"] == "perhaps" and stage.view(run)["result"] == "yes"


@pytest.mark.parametrize("times", [1, 2])
def test_a_callback_that_is_open_in_a_fork_keeps_its_token(times):
    tokens, world = [], World("act")
    with Rehearsal(ASYNC.app(approving(tokens, world))) as stage:
        run = stage.send("go")["run_id"]
        for _ in range(times):
            assert callbacks.complete(stage.engine, tokens[0], "early") == callbacks.TOO_LATE, "nobody waits any more"
            stage.pass_time(100)
            run = forks.retry(stage.engine, run)
            stage.pass_time(5)
        world.mended()
        run = forks.retry(stage.engine, run) if stage.view(run)["status"] == "failed" else run
        stage.pass_time(5)
        assert len(tokens) == 1
        assert callbacks.complete(stage.engine, tokens[0], "yes") == callbacks.ACCEPTED
        stage.drain()
        assert stage.view(run)["result"] == ["yes", "act"]


def test_a_condition_has_the_time_that_it_had_left():
    looks = []

    def look():
        looks.append(stage.clock.now_ms())
        if len(looks) == 2:
            raise NonRetriable("broken")

    app = SYNC.app(lambda event, step: step.wait_until("look", look, every=60, timeout=300))
    with Rehearsal(app) as stage:
        parent = stage.send("go")
        assert parent["status"] == "failed" and len(looks) == 2
        stage.pass_time(100_000)
        began_ms = stage.clock.now_ms()
        run = redone(stage, forks.retry, parent["run_id"])
        assert run["status"] == "completed" and run["result"] is None
        assert [at_ms - began_ms for at_ms in looks[2:]] == [0, 60_000, 120_000, 180_000, 240_000]
