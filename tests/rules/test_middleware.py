"""Middleware: which hook is called when, how often, in which order, and what comes of one that raises."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import onward
from onward import App, Event, Middleware, MiddlewareFailed, NonRetriable, PayloadCorrupt, current_step
from onward.core.errors import InvalidEvent, InvalidOption
from onward.core.log import partition_of
from onward.engine import control
from onward.engine.check import Check
from onward.engine.ingest import ingest
from onward.engine.sweep import MAX_STALLS
from onward.entry.aws import Door
from onward.entry.local import Local
from onward.local.blobs import FolderBlobs
from onward.testing import Rehearsal
from tests.sealed import Sealed

from .acting import ASYNC, SYNC, Notes, both, failed_with, failing, records


class Diary(Middleware):
    """Writes down every call of a hook."""

    def __init__(self, name="m", lines=None):
        self.name = name
        self.lines = [] if lines is None else lines

    def say(self, hook, *told):
        self.lines.append(" ".join(map(str, (self.name, hook, *told))))

    def event(self, event):
        self.say("event", event.name, event.data)
        return event

    def before_run(self, run, event):
        assert run.status is None and (run.event_name, run.event_id) == (event.name, event.id)
        self.say("before_run", run.workflow)

    def after_run(self, run):
        self.say("after_run", run.workflow)

    def run_ended(self, run, error):
        self.say("run_ended", run.workflow, run.status, type(error).__name__)

    def before_step(self, call):
        call.kept[self.name] = call.attempt
        self.say("before_step", call.step, call.attempt, call.args)

    def after_step(self, call, result):
        assert call.kept[self.name] == call.attempt
        self.say("after_step", call.step, result)
        return result

    def step_failed(self, call, error, final):
        self.say("step_failed", call.step, call.attempt, type(error).__name__, final)

    def of(self, *hooks):
        """What was said of these hooks, without the name of the middleware."""
        parts = [line.partition(" ")[2] for line in self.lines]
        return [line for line in parts if line.split()[0] in hooks]


def with_middleware(*middleware):
    return App("rules", middleware=list(middleware))


STEPS = ("before_step", "after_step", "step_failed")


# ---------------------------------------------------------------------------------------------------------- in order
@both
def test_hooks_are_called_in_order_on_the_way_in_and_in_reverse_on_the_way_out(kind):
    async def work(event, step):
        return await step.run("add", lambda a, b=0: a + b, 1, b=2)

    lines = []
    app = kind.app(work, into=with_middleware(Diary("a", lines), Diary("b", lines)))
    with Rehearsal(app, fill=True) as stage:
        assert stage.send("go", 5)["result"] == 3
    assert lines == [
        "a event go 5", "b event go 5",
        "a before_run work", "b before_run work",
        "a before_step add 1 (1,)", "b before_step add 1 (1,)",
        "b after_step add 3", "a after_step add 3",
        "b after_run work", "a after_run work",
        "b run_ended work completed NoneType", "a run_ended work completed NoneType",
    ]  # fmt: skip


@both
@pytest.mark.parametrize("fill", [False, True])
def test_the_hooks_of_steps_are_called_once_for_each_performed_attempt_however_often_the_run_is_replayed(kind, fill):
    async def work(event, step):
        def flaky():
            if current_step().attempt < 3:
                raise ConnectionError("not yet")
            return "there"

        await step.run("one", str, 1)
        found = await step.run("flaky", flaky)
        await step.sleep("rest", 60)
        return [found, await step.run("two", str, 2)]

    diary = Diary()
    with Rehearsal(kind.app(work, into=with_middleware(diary)), fill=fill, fresh=True) as stage:
        assert stage.send("go")["result"] == ["there", "2"]
    assert diary.of(*STEPS) == [
        "before_step one 1 (1,)", "after_step one 1",
        "before_step flaky 1 ()", "step_failed flaky 1 ConnectionError False",
        "before_step flaky 2 ()", "step_failed flaky 2 ConnectionError False",
        "before_step flaky 3 ()", "after_step flaky there",
        "before_step two 1 (2,)", "after_step two 2",
    ]  # fmt: skip
    counts = Counter(line.split()[0] for line in diary.of("event", "before_run", "after_run", "run_ended"))
    assert counts["event"] == counts["run_ended"] == 1
    assert counts["before_run"] == counts["after_run"] > (3 if fill else 5)


def test_steps_beside_each_other_have_their_hooks_once_each():
    async def work(event, step):
        async def double(n):
            await asyncio.sleep(0)
            return 2 * n

        return await asyncio.gather(*(step.run(f"s{n}", double, n) for n in range(12)))

    diary = Diary()
    app = with_middleware(diary)
    app.workflow(on="go")(work)
    with Rehearsal(app, fresh=True) as stage:
        assert stage.send("go")["result"] == [2 * n for n in range(12)]
    told = Counter(" ".join(line.split()[:2]) for line in diary.of(*STEPS))
    assert told == {f"{hook} s{n}": 1 for n in range(12) for hook in ("before_step", "after_step")}


@both
def test_an_event_that_a_step_sends_meets_the_same_hooks(kind):
    async def work(event, step):
        await step.send_event("tell", {"n": 1}, event="told")

    class Stamp(Diary):
        def event(self, event):
            return Event(event.name, {**(event.data or {}), "by": "stamp"}, event.id, event.at_ms)

    seen = []
    diary = Stamp()
    app = kind.app(work, into=with_middleware(diary))
    app.workflow(on="told")(lambda event, step: seen.append(event.data))
    with Rehearsal(app) as stage:
        assert stage.send("go")["status"] == "completed"
    assert seen == [{"n": 1, "by": "stamp"}]
    assert diary.of("before_step") == ["before_step tell 1 ('told', {'n': 1})"]


# ---------------------------------------------------------------------------------------------------- what they alter
@both
def test_arguments_and_results_may_be_changed_and_the_log_has_what_the_workflow_saw(kind):
    class Doubles(Middleware):
        def before_step(self, call):
            call.args = tuple(2 * arg for arg in call.args)
            call.kwargs["b"] = call.kwargs["b"] + 1

        def after_step(self, call, result):
            return {"made": result}

    async def work(event, step):
        made = await step.run("add", lambda a, b: a + b, 10, b=1)
        await step.sleep("rest", 60)
        return made

    with Rehearsal(kind.app(work, into=with_middleware(Doubles())), fresh=True) as stage:
        assert stage.send("go")["result"] == {"made": 22}


@both
def test_an_event_may_be_changed_before_it_is_kept_and_its_runs_are_chosen(kind):
    class Renames(Middleware):
        def event(self, event):
            return Event("go", [event.name, event.data], event.id, event.at_ms)

    async def work(event, step):
        return event.data

    with Rehearsal(kind.app(work, into=with_middleware(Renames()))) as stage:
        assert stage.send("old/name", 1)["result"] == ["old/name", 1]


@both
def test_an_event_that_comes_again_is_what_came_first_whatever_a_hook_makes_of_it(kind):
    class Counts(Middleware):
        n = 0

        def event(self, event):
            self.n += 1
            return Event(event.name, {**event.data, "n": self.n}, event.id, event.at_ms)

    async def work(event, step):
        found = await step.wait_for_event("paid", timeout=60)
        return found.data["n"]

    with Rehearsal(kind.app(work, into=with_middleware(Counts()))) as stage:
        stage.start("paid", {}, id="e1")
        [run] = stage.start("go", {})
        stage.start("paid", {}, id="e1")
        stage.drain()
        assert stage.view(run)["result"] == 1


@both
def test_an_event_keeps_its_id(kind):
    class Loses(Middleware):
        def event(self, event):
            return Event(event.name, event.data, "other", event.at_ms)

    with Rehearsal(kind.app(failing(AssertionError), into=with_middleware(Loses()))) as stage:
        with pytest.raises(InvalidEvent, match="must return an event with the id 'e1'"):
            stage.start("go", id="e1")


# ----------------------------------------------------------------------------------------------------- hooks that raise
@both
def test_an_event_hook_that_raises_keeps_the_event_out_and_says_so(kind):
    class Refuses(Middleware):
        event = failing(ValueError("no tenant"))

    with Rehearsal(kind.app(failing(AssertionError), into=with_middleware(Refuses()))) as stage:
        with pytest.raises(MiddlewareFailed, match=r"event\(\) of middleware Refuses raised ValueError: no tenant"):
            stage.start("go")
        assert list(stage.open_heads()) == []


def test_an_event_that_a_hook_keeps_out_keeps_none_of_its_batch_out():
    class Refuses(Middleware):
        def event(self, event):
            if event.data == "bad":
                raise ValueError("no tenant")
            return event

    notes = Notes()
    app = with_middleware(Refuses())
    app.workflow(on="go", name="work")(lambda event, step: None)
    door = Door(app, {"ONWARD_STORE": ":memory:", "AWS_REGION": "us-east-1"}, note=notes)
    door.engine.wakes = type("Kept", (), {"reach_ms": 0, "send": lambda *_: None})()
    sent = {"detail-type": "go", "source": "s", "time": "2026-01-01T00:00:00Z"}
    batch = [{**sent, "id": id, "detail": detail} for id, detail in (("e1", "bad"), ("e2", "good"), ("e3", "good"))]
    with pytest.raises(MiddlewareFailed, match="no tenant"):
        door.handle(batch, None)
    assert len(notes.of("run started")) == 2
    door.engine.store.close()


@both
@pytest.mark.parametrize("hook", ["before_step", "after_step", "encode"])
def test_a_step_hook_that_raises_fails_the_attempt_which_is_retried(kind, hook):
    calls, performed = [], []

    def twice(self, *given):
        calls.append(given)
        if hook == "encode" and not given[1].startswith("step "):
            return given[0]
        if sum(hook != "encode" or told[1].startswith("step ") for told in calls) <= 2:
            raise KeyError("not yet")
        return given[-1] if hook == "after_step" else given[0] if hook == "encode" else None

    diary = Diary()
    odd = type("Odd", (Middleware,), {hook: twice})()

    async def work(event, step):
        return await step.run("a", lambda: performed.append(1) or "done")

    with Rehearsal(kind.app(work, into=with_middleware(diary, odd))) as stage:
        run = stage.send("go")
    assert (run["result"], run["retries"]) == ("done", 2)
    assert len(performed) == (1 if hook == "before_step" else 3)
    error = "MiddlewareFailed" if hook == "encode" else "KeyError"
    assert diary.of("step_failed") == [f"step_failed a {n} {error} False" for n in (1, 2)]


@both
def test_the_end_of_attempts_and_of_the_run_is_told_with_the_error_itself(kind):
    told = []

    class Reports(Middleware):
        def step_failed(self, call, error, final):
            told.append((call.run_id, call.workflow, call.step, call.attempt, error, final))

        def run_ended(self, run, error):
            told.append((run.run_id, run.workflow, run.status, error))

    last, after = NonRetriable("never"), RuntimeError("after all")

    async def work(event, step):
        try:
            await step.run("bad", failing(last))
        except onward.StepError:
            raise after from None

    with Rehearsal(kind.app(work, into=with_middleware(Reports()))) as stage:
        run = stage.send("go")
    assert told == [(run["run_id"], "work", "bad", 1, last, True), (run["run_id"], "work", "failed", after)]


@pytest.mark.parametrize(("kind", "beside"), [(SYNC, False), (ASYNC, False), (ASYNC, True)])
def test_writes_that_are_refused_are_told_as_the_failure_of_their_attempt(kind, beside):
    diary = Diary()

    async def work(event, step):
        if beside:
            return await asyncio.gather(step.sleep("nap", 1), step.transact("pay", [("insert into nowhere", ())]))
        return await step.transact("pay", [("insert into nowhere", ())])

    with Rehearsal(kind.app(work, into=with_middleware(diary))) as stage:
        assert stage.send("go")["status"] == "failed"
    assert diary.of(*STEPS) == ["before_step pay 1 ()", "after_step pay 1", "step_failed pay 1 WriteRefused True"]


@both
def test_a_run_that_is_cancelled_or_given_up_has_ended_as_well(kind):
    async def work(event, step):
        await step.sleep("rest", 3_600)

    diary = Diary()
    with Rehearsal(kind.app(work, into=with_middleware(diary))) as stage:
        [run] = stage.start("go")
        control.cancel(stage.engine, run)
        control.cancel(stage.engine, run)
        [run] = stage.start("go")
        for _ in range(MAX_STALLS + 1):  # every wake is lost
            stage.queue._queue.clear()
            stage.sweep()
        assert stage.view(run)["error"]["type"] == "Stalled"
    assert diary.of("run_ended") == ["run_ended work cancelled NoneType", "run_ended work failed OnwardError"]


@both
@pytest.mark.parametrize("hook", ["after_run", "run_ended", "step_failed"])
def test_a_hook_that_comes_too_late_to_stop_anything_is_logged_and_hides_nothing(kind, hook):
    odd = type("Odd", (Middleware,), {hook: failing(OSError("no network"))})()
    diary, notes = Diary(), Notes()

    async def work(event, step):
        await step.run("bad", failing(ValueError("the error")), retries=0)

    with Rehearsal(kind.app(work, into=with_middleware(diary, odd)), note=notes) as stage:
        run = stage.send("go")
    with failed_with(run, "StepError") as message:
        assert "ValueError: the error" in message
    told = notes.of("middleware raised, passed over")
    assert {(line["middleware"], line["hook"], line["reason"]) for line in told} == {("Odd", hook, "no network")}
    assert all(line["run_id"] == run["run_id"] for line in told)
    assert diary.of(hook), "the others are told all the same"


@both
@pytest.mark.parametrize("hook", ["before_run", "decode"])
def test_a_hook_of_a_replay_that_raises_leaves_the_run_as_it_stands_until_it_is_mended(kind, hook):
    """Not failed, however often the sweep wakes it: what is broken is the deployment, and no run."""
    broken = True

    class Odd(Sealed):
        def before_run(self, run, event):
            if broken and hook == "before_run":
                raise OSError("no network")

        def decode(self, text, context):
            if broken and hook == "decode" and context.startswith("step "):
                raise OSError("no network")
            return super().decode(text, context)

    async def work(event, step):
        one = await step.run("one", str, 1)
        return [one, await step.run("two", str, 2)]

    notes = Notes()
    with Rehearsal(kind.app(work, into=with_middleware(Odd())), fresh=True, note=notes) as stage:
        [run] = stage.start("go")
        for _ in range(2 * MAX_STALLS):
            while stage.queue.next_ms() is not None:
                try:
                    stage.step()
                except MiddlewareFailed as error:
                    assert str(error) == f"{hook}() of middleware Odd raised OSError: no network"
            assert stage.sweep()
        assert stage.view(run)["status"] == ("queued" if hook == "before_run" else "running")
        assert {line["run_id"] for line in notes.of("run stands, a middleware failed")} == {run}
        broken = False
        stage.drain()
        assert stage.view(run)["result"] == ["1", "2"]
        assert len([record for record in records(stage, run) if record["k"] == "done"]) == 2


@both
def test_a_value_that_a_middleware_calls_corrupt_fails_the_run(kind):
    class Odd(Sealed):
        def decode(self, text, context):
            if context.startswith("step "):
                raise PayloadCorrupt(f"{context} was changed")
            return super().decode(text, context)

    async def work(event, step):
        return await step.run("one", str, 1)

    with Rehearsal(kind.app(work, into=with_middleware(Odd())), fresh=True) as stage:
        run = stage.send("go")
    with failed_with(run, "PayloadCorrupt") as message:
        assert message == f"step {run['run_id']} 1 one was changed"


@both
def test_a_result_that_cannot_be_encoded_leaves_the_run_before_its_end(kind):
    class Odd(Sealed):
        broken = True

        def encode(self, text, context):
            if self.broken and context.startswith("run "):
                raise OSError("no network")
            return super().encode(text, context)

    async def work(event, step):
        return await step.run("one", str, 1)

    odd = Odd()
    with Rehearsal(kind.app(work, into=with_middleware(odd))) as stage:
        [run] = stage.start("go")
        with pytest.raises(MiddlewareFailed):
            stage.drain()
        odd.broken = False
        stage.drain()
        assert stage.view(run)["result"] == "1"


# ------------------------------------------------------------------------------------------------------------ payloads
@both
def test_every_value_is_kept_encoded_and_decoded_as_what_it_is_the_value_of(kind, tmp_path):
    """`Sealed` asserts that each value is read with the context with which it was kept."""

    async def child(event, step):
        return [event.data, await step.run("inner", str, "inner")]

    async def work(event, step):
        await step.send_event("tell", "marker", event="told")
        found = await step.wait_for_event("told", match={"id": event.data["never"]}, timeout=5)
        came = await step.wait_for_event("told", event="told", timeout=5)
        below = await step.invoke("child", "for the child")
        large = await step.run("large", lambda: "x" * 200_000)
        return [found, came.data, below, len(large), event.data]

    app = kind.app(work, into=with_middleware(Sealed("one:"), Sealed("two:")))
    kind.app(child, into=app, on="x", name="child")
    with Rehearsal(app, fresh=True, blobs=FolderBlobs(tmp_path)) as stage:
        run = stage.send("go", {"never": "no"})
        assert run["result"] == [None, "marker", ["for the child", "inner"], 200_000, {"never": "no"}]
        values = [value for (value,) in stage.store.rows("SELECT value FROM items WHERE value IS NOT NULL", ())]
    kept = values + [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 8 and all(value.startswith("~two:") for value in kept)


@both
def test_what_on_failure_gets_went_through_the_same_hooks(kind):
    got = []

    async def work(event, step):
        raise RuntimeError("after all")

    app = kind.app(
        work, into=with_middleware(Sealed()), on_failure=lambda event, step: got.append(event.data["event"]["data"])
    )
    with Rehearsal(app, fresh=True) as stage:
        stage.send("go", {"a": 1})
    assert got == [{"a": 1}]


@both
def test_values_from_before_the_middleware_are_handed_to_decode_plain(kind):
    async def work(event, step):
        one = await step.run("one", str, 1)
        await step.sleep("rest", 60)
        return [one, await step.run("two", str, 2)]

    with Rehearsal(kind.app(work)) as plain:
        [run] = plain.start("go")
        for _ in range(2):
            plain.step()
        app = kind.app(work, into=with_middleware(Sealed()))
        with Rehearsal(app, store=plain.store, wakes=plain.queue, clock=plain.clock) as stage:
            stage.queue = plain.queue
            stage.drain()
            assert stage.view(run)["result"] == ["1", "2"]


@both
def test_an_app_that_has_lost_its_middleware_shows_and_hurts_nothing(kind):
    async def work(event, step):
        await step.sleep("rest", 60)
        return "secret"

    with Rehearsal(kind.app(work, into=with_middleware(Sealed()))) as stage:
        done = stage.send("go")["run_id"]
        [run] = stage.start("go")
        bare = Rehearsal(kind.app(work), store=stage.store, clock=stage.clock)
        view = bare.view(done)
        assert (view["status"], view["output"], view["result"]) == ("completed", None, None)
        assert "was encoded by middleware, and this app has none that decodes" in view["unreadable"]
        with pytest.raises(MiddlewareFailed, match=r"a value \(event [0-9a-z]{16}\) was encoded by middleware"):
            bare.engine.handle({"do": "advance", "run": run, "seq": 1})
        bare.close()
        stage.drain()
        assert stage.view(run)["result"] == "secret"


@both
def test_the_check_before_a_deploy_reads_encoded_values_and_tells_of_those_that_it_cannot(kind):
    async def work(event, step):
        one = await step.run("one", str, event.data)
        await step.sleep("rest", 3_600)
        return one

    with Rehearsal(kind.app(work, into=with_middleware(Sealed()))) as stage:
        [run] = stage.start("go", 7)
        for _ in range(2):
            stage.step()
        for middleware, expected in (([Sealed()], "Fits"), ([], "Finding"), ([Sealed("other:")], "Finding")):
            with Check(kind.app(work, into=App("rules", middleware=middleware)), stage.store, None, stage.clock) as it:
                outcome = it.run(run)
                assert type(outcome).__name__ == expected, outcome
                assert expected == "Fits" or outcome.kind == "value_unreadable"


@both
def test_a_local_worker_leaves_a_run_that_it_cannot_read_and_does_the_others(kind, tmp_path):
    async def work(event, step):
        return await step.run("one", str, event.data)

    path = tmp_path / "store.db"
    with_codec = Local(kind.app(work, into=with_middleware(Sealed())), path)
    [run] = ingest(with_codec.engine, Event("go", 1, "e1", with_codec.clock.now_ms()))
    with_codec.close()
    notes = Notes()
    bare = Local(kind.app(work), path, note=notes)
    [other] = ingest(bare.engine, Event("go", 2, "e2", bare.clock.now_ms()))
    while bare.work_once():
        pass
    assert notes.of("run completed") == [{"run_id": other, "workflow": "work"}]
    assert [line["run_id"] for line in notes.of("run stands, a middleware failed")] == [run]
    assert bare.unfinished() == [run]
    bare.close()


# -------------------------------------------------------------------------------------------------------- definitions
@pytest.mark.parametrize("given", [Diary, "encryption", [Diary], [None], 5], ids=repr)
def test_what_is_no_middleware_is_refused_where_it_is_written(given):
    with pytest.raises(InvalidOption, match="middleware= takes objects of classes derived from"):
        App("rules", middleware=given)


@both
def test_an_app_without_middleware_asks_nobody(kind):
    async def work(event, step):
        return await step.run("one", str, event.data)

    with Rehearsal(kind.app(work)) as stage:
        run = stage.send("go", 1)
        assert stage.engine.hooks is None and stage.engine.ledger.payloads is None
        values = [item.value for item in stage.store.read(partition_of(run["run_id"]), "L#", "L~")]
    assert values == ["1", '"1"', '"1"']
