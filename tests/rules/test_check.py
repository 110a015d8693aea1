"""What a deploy would do to the runs that it finds is told before it is done, and telling it changes nothing."""

import asyncio
import contextlib
import dataclasses
import datetime
import decimal
import itertools
import json
import sys
import threading
from functools import partial

import pytest

from onward import App
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.core.errors import Misconfigured, Unavailable
from onward.core.log import HEAD, LAYOUT, log_key, partition_of
from onward.engine import advance, fanout
from onward.engine.check import (
    DRIFT,
    GONE,
    LOG,
    SWALLOWED,
    TOO_LONG,
    VALUE,
    WOULD_FAIL,
    Check,
    Ended,
    Finding,
    Fits,
)
from onward.engine.check import (
    LAYOUT as NEWER_LAYOUT,
)
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from onward.ports import Item, Put, Swap
from onward.testing import Rehearsal
from tests.corpus import CASES, Effects
from tests.rules.acting import ASYNC, SYNC, both, failing, records
from tests.rules.test_drift import Story, branched, gathered

_numbers = itertools.count()
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
MAX_WAKES = 500


@pytest.fixture(params=["sqlite", "dynamodb"])
def store(request):
    if request.param == "sqlite":
        store = SqliteStore(":memory:")
        yield store
        store.close()
        return
    wire = Wire(endpoint_url=request.getfixturevalue("dynoxide_url"), environ=_KEYS)
    table = f"check-{next(_numbers)}"
    create_table(wire, table)
    yield DynamoStore(wire, table)
    wire.close()


def content(store):
    """Everything that stands in a store."""
    if isinstance(store, SqliteStore):
        return [store.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4", ()) for table in ("items", "marks", "wakes")]
    request, found = {"TableName": store.table, "ConsistentRead": True}, []
    while True:
        reply = store.wire.json("dynamodb", "Scan", request, store.table)
        found += reply["Items"]
        if "LastEvaluatedKey" not in reply:
            return sorted(found, key=lambda fields: json.dumps(fields, sort_keys=True))
        request["ExclusiveStartKey"] = reply["LastEvaluatedKey"]


def foretell(stage, app=None, **options):
    """What the check says of every unfinished run, by its id. It must leave no trace."""
    before, sent = content(stage.store), stage.queue.sent
    with Check(app or stage.app, stage.store, stage.blobs, stage.clock, **options) as check:
        runs, complete = check.unfinished()
        told = {run: check.run(run) for run in runs}
    assert complete and content(stage.store) == before and stage.queue.sent == sent
    return told


def deployed_in_the_middle(store, old, new, *, after, blobs=None):
    """Deliver `after` wakes to the old app; what the check foretells of the new one, and what then becomes of the run
    under it."""
    with Rehearsal(old, store=store, blobs=blobs, fresh=True) as stage:
        [run] = stage.start("go")
        for _ in range(after):
            assert stage.step()
        told = foretell(stage, new)[run]
        stage.app = new
        stage.drain()
        return told, stage.view(run)


def says(told, kind, *words):
    assert isinstance(told, Finding), told
    assert told.kind == kind, told
    for word in words:
        assert word in told.message, told.message
    return told


# ------------------------------------------------------------------------------------------------ no false alarms
@pytest.mark.parametrize("few", [2, 8], ids=["wide", "narrow"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_fits_its_own_code_after_every_wake_and_a_failure_is_foretold_as_it_comes(
    case, few, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(fanout, "FEW", few)
    monkeypatch.setattr(fanout, "CHUNK", 2)
    effects, foretold = Effects(), {}
    with Rehearsal(case.build(effects), store=store, blobs=FolderBlobs(tmp_path), fresh=True) as stage:
        [run] = stage.start("go", case.data, id="event-1")
        for _ in range(MAX_WAKES):
            counts, files = effects.counts.copy(), list(tmp_path.rglob("*"))
            told = foretell(stage)
            assert effects.counts == counts and list(tmp_path.rglob("*")) == files, "nothing is performed or kept"
            foretold.update((name, outcome) for name, outcome in told.items() if not isinstance(outcome, Fits))
            if not stage.step() and not stage.sweep():
                break
        else:
            raise AssertionError("it goes on for ever")
        views = {name: stage.view(name) for name in {run, *foretold}}  # it may have had others begun
    assert not told, "every run has ended"
    error = views[run]["error"] or {"type": ""}
    by_time = error["type"].endswith("Timeout")  # which no replay can tell
    assert (run in foretold) == (views[run]["status"] == "failed" and not by_time)
    for name, outcome in foretold.items():
        error = views[name]["error"]
        says(outcome, WOULD_FAIL, f"{error['type']}: {error['message']}")
        assert (outcome.run, outcome.workflow) == (name, views[name]["workflow"])


# ---------------------------------------------------------------------------------------------------- drift
@both
@pytest.mark.parametrize(
    ("new", "finished"),
    [
        (["x", "b", "c"], "a"),  # renamed
        (["b", "c"], "a"),  # removed
        (["n", "a", "b", "c"], "a"),  # one put in front
        (["c", "a", "b"], "a"),
        (["a", "c", "b"], "b"),
        (["a", "n", "b", "c"], "b"),
    ],
    ids=" ".join,
)
def test_a_drift_in_sequence_is_foretold_in_the_words_in_which_the_run_would_fail(kind, new, finished, store):
    story = Story()
    old, after = kind.app(story.steps("a", "b", "c")), 1 if finished == "a" else 2
    told, run = deployed_in_the_middle(store, old, kind.app(story.steps(*new)), after=after)
    called = next(place for place, name in enumerate(new) if name not in ["a", "b"][:after])
    says(told, DRIFT, f"finished step '{finished}', which the code does not call")
    assert (told.run, told.workflow, told.where) == (run["run_id"], "work", f"at step '{new[called]}'")
    assert run["error"]["type"] == "Drift" and run["error"]["message"] == f"{told.message}\n{told.report}"
    assert [cell.strip() for cell in told.report.splitlines()[0].split("|")] == ["log", "code"]


@both
@pytest.mark.parametrize("new", [["b", "a", "c"], ["a", "b", "n", "c"], ["a", "b"], ["a", "b", "mended"]], ids=" ".join)
def test_a_change_that_keeps_the_finished_steps_fits(kind, new, store):
    story = Story()
    told, run = deployed_in_the_middle(
        store, kind.app(story.steps("a", "b", "c")), kind.app(story.steps(*new)), after=2
    )
    assert isinstance(told, Fits) and run["status"] == "completed"


@both
def test_a_finished_step_behind_which_nothing_is_called_any_more_completes_and_fits(kind, store):
    story = Story()
    told, run = deployed_in_the_middle(store, kind.app(story.steps("a", "b")), kind.app(story.steps("a")), after=2)
    assert isinstance(told, Fits) and run["result"] == ["a"]


@both
@pytest.mark.parametrize("new", ["rest", "nap"])
def test_a_run_that_sleeps_must_find_its_sleep_again(kind, new, store):
    story = Story()
    old = kind.app(story.steps("rest", "a", sleeps=["rest"]))
    told, run = deployed_in_the_middle(store, old, kind.app(story.steps(new, "a", sleeps=[new])), after=1)
    if new == "rest":
        assert isinstance(told, Fits) and run["status"] == "completed"
    else:
        says(told, DRIFT, "'rest'", "'nap'")
        assert run["error"]["message"].startswith(told.message)


@both
@pytest.mark.parametrize("after", [1, 2])
def test_a_sleep_that_became_a_step_to_perform_is_told(kind, after, store):
    story = Story()
    old, new = kind.app(story.steps("rest", "a", sleeps=["rest"])), kind.app(story.steps("rest", "a"))
    told, run = deployed_in_the_middle(store, old, new, after=after)
    says(told, DRIFT, "the log has slept in step 'rest', where the code performs a function")
    assert run["error"]["message"].startswith(told.message) and story.done == ["a"][: after - 1]


@both
def test_a_sleep_that_is_over_by_the_clock_is_replayed_as_over(kind, store):
    async def old(event, step):
        await step.sleep("rest", 60)
        return await step.run("a", str)

    async def new(event, step):
        await step.sleep("rest", 60)
        raise ValueError("behind the sleep")

    with Rehearsal(kind.app(old), store=store) as stage:
        [run] = stage.start("go")
        stage.step()
        assert isinstance(foretell(stage, kind.app(new))[run], Fits), "what comes after it is not in the log"
        stage.clock.turn(stage.clock.now_ms() + 60_000)
        says(foretell(stage, kind.app(new))[run], WOULD_FAIL, "ValueError: behind the sleep")


@both
@pytest.mark.parametrize("new", ["bad", "mended"])
def test_a_step_that_is_being_retried_may_be_renamed(kind, new, store):
    story = Story()
    old = kind.app(story.steps("a", "bad", fails=["bad"]))
    told, run = deployed_in_the_middle(store, old, kind.app(story.steps("a", new)), after=3)
    assert isinstance(told, Fits) and run["result"] == ["a", new]


@both
@pytest.mark.parametrize("new", ["charge", "renamed"])
def test_a_step_that_began_and_may_run_only_once_must_be_found_again(kind, new, store):
    def app(name, do):
        async def work(event, step):
            return await step.run(name, do, once=True)

        return kind.app(work)

    told, run = deployed_while_it_runs(store, app("charge", dies), app(new, str))
    if new == "charge":
        assert isinstance(told, Fits) and run["error"]["type"] == "StepError"
    else:
        says(told, DRIFT, "finished step 'charge'")
        assert run["error"]["type"] == "Drift"


class Died(BaseException):
    pass


def dies():
    raise Died


def deployed_while_it_runs(store, old, new):
    """The invocation dies inside the step; the check comes before the notice of it."""
    with Rehearsal(old, store=store, fresh=True) as stage:
        [run] = stage.start("go")
        with contextlib.suppress(Died):
            stage.step()
        assert records(stage, run)[-1]["k"] == "begun"
        told = foretell(stage, new)[run]
        stage.app = new
        stage.drain()
        return told, stage.view(run)


@both
def test_the_run_of_on_failure_is_checked_like_any_other(kind, store):
    def app(name, **options):
        def told(event, step):
            step.run(name, str, event.data["error"]["type"])
            return step.run("second", str, "x")

        async def work(event, step):
            await step.run("bad", failing(ValueError("no")), retries=0)

        return kind.app(work, on_failure=told)

    with Rehearsal(app("tell"), store=store) as stage:
        stage.start("go")
        for _ in range(MAX_WAKES):
            if any(json.loads(head.body)["workflow"] == "work.on_failure" for head in stage.open_heads()):
                break
            stage.step()
        stage.step()
        [told] = foretell(stage).values()
        assert isinstance(told, Fits)
        [told] = foretell(stage, app("shout")).values()
        assert says(told, DRIFT, "finished step 'tell'").workflow == "work.on_failure"
        without = kind.app(app("tell")["work"].fn)
        [told] = foretell(stage, without).values()
        says(told, GONE, "no workflow 'work.on_failure'")


# ------------------------------------------------------------------------------------------------ steps in parallel
@pytest.mark.parametrize("make", [branched, gathered])
@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("new", ["ax", "a", "abc", "xy"])
def test_a_step_in_flight_that_the_code_no_longer_plans_is_a_drift(make, after, new, store):
    done = []
    told, run = deployed_in_the_middle(store, ASYNC.app(make(done, *"ab")), ASYNC.app(make(done, *new)), after=after)
    says(told, DRIFT, "record 1 put 2 steps in flight here")
    assert run["error"]["message"] == f"{told.message}\n{told.report}" and len(done) == after - 1


@pytest.mark.parametrize("make", [branched, gathered])
@pytest.mark.parametrize("after", [1, 2])
def test_steps_in_flight_may_change_their_order(make, after, store):
    told, run = deployed_in_the_middle(store, ASYNC.app(make([], *"abc")), ASYNC.app(make([], *"cab")), after=after)
    assert isinstance(told, Fits) and run["result"] == ["c", "a", "b"]


def with_an_unobserved_result(stage):
    """A run whose step "a" has a result in its lane that the log has not observed."""
    [run] = stage.start("go")
    stage.step()
    while not stage.store.read(partition_of(run), "S#", "S~"):
        stage.step()
    assert [record["k"] for record in records(stage, run)] == ["started", "planned"]
    return run


@pytest.mark.parametrize("kind", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_result_that_was_not_observed_yet_is_replayed_as_collecting_it_would(kind, store, monkeypatch):
    """In a wide plan, a result that alone leads nowhere waits for the others. New code may make it lead somewhere."""
    monkeypatch.setattr(fanout, "FEW", 0)

    def app(check=None):
        def first(step):
            found = step.run("a", lambda: "A")
            if check:
                check(found)
            return found

        def branches(event, step):
            return step.parallel(partial(first, step), partial(step.run, "b", lambda: "B"))

        async def awaited(step):
            found = await step.run("a", lambda: "A")
            if check:
                check(found)
            return found

        async def gather(event, step):
            return await asyncio.gather(awaited(step), step.run("b", lambda: "B"))

        made = App("rules")
        made.workflow(on="go", name="work")(branches if kind is SYNC else gather)
        return made

    seen = []

    def refuses(found):
        seen.append(found)
        raise BaseException(found)

    with Rehearsal(app(), store=store) as stage:
        run = with_an_unobserved_result(stage)
        assert isinstance(foretell(stage)[run], Fits)
        says(foretell(stage, app(refuses))[run], WOULD_FAIL, "BaseException: A")
        assert seen == ["A"]


def test_of_steps_that_were_raced_the_order_in_the_log_is_replayed(store):
    def app(second):
        async def work(event, step):
            tasks = {asyncio.ensure_future(step.run(name, str, name)) for name in "ab"}
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await step.run(f"{second}-{min(task.result() for task in done)}", str)
            await asyncio.gather(*pending)
            return await step.run("last", str)

        return ASYNC.app(work)

    told, run = deployed_in_the_middle(store, app("use"), app("use"), after=3)
    assert isinstance(told, Fits) and run["status"] == "completed"


def test_of_steps_that_were_raced_another_step_behind_the_first_is_a_drift(store):
    def app(second):
        async def work(event, step):
            tasks = {asyncio.ensure_future(step.run(name, str, name)) for name in "ab"}
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await step.run(second, str)
            await asyncio.gather(*pending)

        return ASYNC.app(work)

    told, run = deployed_in_the_middle(store, app("use"), app("drop"), after=2)
    says(told, DRIFT, "'drop'")
    assert run["error"]["message"] == f"{told.message}\n{told.report}"


# ------------------------------------------------------------------------------------- what else would end a run
@both
def test_a_workflow_function_that_would_raise_is_told_with_its_traceback(kind, store):
    async def new(event, step):
        await step.run("a", str)
        raise LookupError("new code")

    told, run = deployed_in_the_middle(store, kind.app(Story().steps("a", "b")), kind.app(new), after=1)
    says(told, WOULD_FAIL, "LookupError: new code")
    assert told.where == "at step 'a'" and 'raise LookupError("new code")' in told.report
    assert run["error"]["type"] == "LookupError"


@both
def test_a_result_of_the_workflow_that_cannot_be_kept_is_told(kind, store):
    async def new(event, step):
        await step.run("a", str)
        return {1, 2}

    told, run = deployed_in_the_middle(store, kind.app(Story().steps("a", "b")), kind.app(new), after=1)
    says(told, WOULD_FAIL, "NotEncodable: the result of workflow 'work' has a value of type set")
    assert run["error"]["type"] == "NotEncodable"


@both
def test_more_steps_than_the_new_code_allows_are_told(kind, store):
    story = Story()
    old, new = kind.app(story.steps("a", "b", "c")), kind.app(story.steps("a", "b", "c"), max_steps=1)
    told, run = deployed_in_the_middle(store, old, new, after=1)
    says(told, WOULD_FAIL, "called more than 1 steps in one run")
    assert run["error"]["message"].endswith(told.message.partition(": ")[2])


@both
@pytest.mark.parametrize("parallel", [False, True])
def test_a_sleep_beyond_reach_is_told_before_the_engine_refuses_it(kind, parallel, store, monkeypatch):
    """In parallel, behind a result that was not observed yet, which the engine would write down first."""
    monkeypatch.setattr(fanout, "FEW", 0)
    names = "ab" if parallel else "a"

    def app(*sleep):
        def work(event, step):
            step.parallel(*(partial(step.run, name, str, name) for name in names))
            return step.sleep_until(*sleep) if sleep else step.run("end", str)

        async def gather(event, step):
            await asyncio.gather(*(step.run(name, str, name) for name in names))
            return await (step.sleep_until(*sleep) if sleep else step.run("end", str))

        return kind.app(work if kind is SYNC else gather)

    new = app("long", datetime.datetime(2999, 1, 1))
    with Rehearsal(app(), store=store, fresh=True) as stage:
        [run] = stage.start("go")
        stage.step()
        with monkeypatch.context() as patch:
            patch.setattr(fanout, "collect", lambda *args: None)
            while parallel and len(stage.store.read(partition_of(run), "S#", "S~")) < len(names):
                stage.step()
        told = says(foretell(stage, new)[run], WOULD_FAIL, "sleep_until takes a time within 366 days")
        stage.app = new
        stage.drain()
        assert told.message == ": ".join(stage.view(run)["error"][part] for part in ("type", "message"))


def test_more_steps_beside_each_other_than_the_engine_takes_are_told(store, monkeypatch):
    monkeypatch.setattr(advance, "MAX_IN_FLIGHT", 1)

    def new(event, step):
        step.run("a", str)
        return step.parallel(*(partial(step.run, name, str) for name in "bc"))

    told, run = deployed_in_the_middle(store, SYNC.app(Story().steps("a", "b")), SYNC.app(new), after=1)
    says(told, WOULD_FAIL, "more than 1 steps in flight")
    assert told.message.endswith(run["error"]["message"])


@both
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("odd")], ids=repr)
def test_whatever_user_code_raises_the_check_goes_on_with_the_next_run(kind, error, store, caplog):
    async def new(event, step):
        await step.run("a", str)
        if event.data["bad"]:
            raise error

    with Rehearsal(kind.app(Story().steps("a", "b")), store=store) as stage:
        bad, good, other = (stage.start("go", {"bad": bad})[0] for bad in (True, False, True))
        for _ in range(3):
            stage.step()
        told = foretell(stage, kind.app(new))
        for run in (bad, other):
            says(told[run], WOULD_FAIL, type(error).__name__)
        assert isinstance(told[good], Fits)
    assert not caplog.records


@both
def test_a_workflow_that_swallows_the_signal_to_leave_is_told(kind, store):
    async def new(event, step):
        with contextlib.suppress(BaseException):
            await step.run("a", str)
            await step.run("b", str)
        return "?"

    told, run = deployed_in_the_middle(store, kind.app(Story().steps("a", "b")), kind.app(new), after=1)
    says(told, SWALLOWED, "caught the signal")
    assert run["error"]["type"] == "LeaveSwallowed"


@both
def test_a_workflow_function_that_never_comes_back_is_left_alone(kind, store):
    gate = threading.Event()

    async def new(event, step):
        await step.run("a", str)
        if event.data["bad"]:
            gate.wait(60)

    with Rehearsal(kind.app(Story().steps("a", "b")), store=store) as stage:
        bad, good = (stage.start("go", {"bad": bad})[0] for bad in (True, False))
        stage.step()
        stage.step()
        with Check(kind.app(new), store, None, stage.clock, replay_s=0.5) as check:
            try:
                told = {run: check.run(run) for run in (bad, good)}
            finally:
                gate.set()
        says(told[bad], TOO_LONG, "came to no step and no end within 0.5 s")
        assert told[bad].where == "after step 'a'" and "gate.wait(60)" in told[bad].report
        assert isinstance(told[good], Fits)


@both
def test_a_workflow_that_is_gone_is_told(kind, store):
    with Rehearsal(kind.app(Story().steps("a", "b")), store=store) as stage:
        [run] = stage.start("go")
        stage.step()
        told = says(foretell(stage, App("rules"))[run], GONE, "app 'rules' has no workflow 'work'")
        assert told.workflow == "work"


# ---------------------------------------------------------------------------------------------- values and logs
@dataclasses.dataclass
class Box:
    size: int


@both
@pytest.mark.parametrize("place", ["result", "event"])
def test_a_value_whose_class_is_gone_is_told(kind, place, store, monkeypatch):
    async def work(event, step):
        await step.run("a", lambda: Box(1))
        return await step.run("b", str)

    with Rehearsal(kind.app(work), store=store) as stage:
        [run] = stage.start("go", Box(2) if place == "event" else None)
        stage.step()
        assert isinstance(foretell(stage)[run], Fits)
        monkeypatch.delattr(sys.modules[__name__], "Box")
        told = says(foretell(stage)[run], VALUE, f"NotEncodable: the log holds a value of class {__name__}:Box")
        assert told.where == ("in the event's data" if place == "event" else "in the result of step 'a'")
        stage.drain()
        assert stage.view(run)["error"]["type"] == "NotEncodable"


@both
def test_a_result_that_no_longer_fits_its_output_type_is_told_and_fails_the_run(kind, store):
    def app(type):
        async def work(event, step):
            await step.run("a", lambda: "free text", output_type=type)
            return await step.run("b", str)

        return kind.app(work)

    told, run = deployed_in_the_middle(store, app(str), app(decimal.Decimal), after=1)
    says(told, VALUE, "NotEncodable: the result of step 'a' in the log does not fit its output_type=")
    assert told.message == f"{run['error']['type']}: {run['error']['message']}"


@both
@pytest.mark.parametrize("parallel", [False, True])
def test_a_blob_that_is_missing_or_changed_is_told(kind, parallel, store, tmp_path):
    async def work(event, step):
        if parallel and kind is ASYNC:
            await asyncio.gather(step.run("big", lambda: "x" * 100_000), step.run("small", str))
        else:
            await step.run("big", lambda: "x" * 100_000)
        return await step.run("b", str)

    with Rehearsal(kind.app(work), store=store, blobs=FolderBlobs(tmp_path)) as stage:
        [run] = stage.start("go")
        while not any(path.is_file() for path in tmp_path.rglob("*")):
            stage.step()
        assert isinstance(foretell(stage)[run], Fits)
        [blob] = [path for path in tmp_path.rglob("*") if path.is_file()]
        blob.write_text("changed")
        assert says(foretell(stage)[run], VALUE, "BlobCorrupt: ").where == "in the result of step 'big'"
        blob.unlink()
        says(foretell(stage)[run], VALUE, "BlobMissing: ")


def rewritten(store, partition, sort, **fields):
    [item] = store.get([(partition, sort)])
    body = json.dumps({**json.loads(item.body), **fields})
    assert store.write([Swap(Item(partition, sort, "edited", body, item.value, item.due_ms), item.token)]) is None


def test_a_run_of_a_newer_layout_is_told(store):
    with Rehearsal(SYNC.app(Story().steps("a", "b")), store=store) as stage:
        [run], [other] = stage.start("go"), stage.start("go")
        rewritten(store, partition_of(run), log_key(0), layout=LAYOUT + 1)
        told = foretell(stage)
        assert says(told[run], NEWER_LAYOUT, "upgrade onward").workflow == "work"
        assert isinstance(told[other], Fits)


def test_a_log_that_was_edited_or_deleted_in_part_is_told(store):
    with Rehearsal(SYNC.app(Story().steps("a", "b")), store=store) as stage:
        [run], [other] = stage.start("go"), stage.start("go")
        rewritten(store, partition_of(run), log_key(0), k="nonsense")
        headless = Item("run#headonly", HEAD, "token", json.dumps({"workflow": "work", "status": "queued"}), due_ms=1)
        assert store.write([Put(headless)]) is None
        told = foretell(stage)
        assert says(told[run], LOG, "nonsense").workflow == "work"
        assert says(told["headonly"], LOG, "no log").workflow == "work"
        assert isinstance(told[other], Fits)


def test_items_that_are_due_and_are_no_runs_are_left_alone(store):
    with Rehearsal(SYNC.app(Story().steps("a", "b")), store=store) as stage:
        [run] = stage.start("go")
        assert store.write([Put(Item("slot#x", "S", "token", "{}", due_ms=1))]) is None
        assert list(foretell(stage)) == [run]


def test_a_run_that_ends_while_the_check_reads_is_no_finding(store):
    with Rehearsal(SYNC.app(Story().steps("a", "b")), store=store) as stage:
        [run] = stage.start("go")
        with Check(stage.app, store, None, stage.clock) as check:
            assert check.unfinished() == ([run], True)
            stage.drain()
            assert isinstance(check.run(run), Ended) and isinstance(check.run("never-was"), Ended)


def test_a_bound_on_the_runs_that_are_listed_is_told(store):
    with Rehearsal(SYNC.app(Story().steps("a", "b")), store=store) as stage:
        for _ in range(3):
            stage.start("go")
        with Check(stage.app, store, None, stage.clock) as check:
            for most, listed, complete in [(2, 2, False), (3, 3, True), (4, 3, True)]:
                runs, told = check.unfinished(most)
                assert (len(runs), told) == (listed, complete)


# ------------------------------------------------------------------------------------- what says nothing about a run
class Stuck:
    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        def call(*args, **kwargs):
            raise self.error

        return call


@pytest.mark.parametrize("error", [Unavailable("later"), Misconfigured("no bucket")], ids=repr)
def test_a_store_or_bucket_that_does_not_answer_is_no_finding_but_an_error(error, tmp_path):
    def work(event, step):
        step.run("big", lambda: "x" * 100_000)
        return step.run("b", str)

    with Rehearsal(SYNC.app(work), blobs=FolderBlobs(tmp_path)) as stage:
        [run] = stage.start("go")
        stage.step()
        for store, blobs in [(stage.store, Stuck(error)), (Stuck(error), stage.blobs)]:
            with Check(stage.app, store, blobs, stage.clock) as check:
                with pytest.raises(type(error), match=str(error)):
                    check.run(run)


def test_the_ports_of_a_check_refuse_every_write(tmp_path):
    with Rehearsal(SYNC.app(Story().steps("a")), blobs=FolderBlobs(tmp_path)) as stage:
        with Check(stage.app, stage.store, stage.blobs, stage.clock) as check:
            engine = check.engine
            for attempt in (
                lambda: engine.store.write([Put(Item("p", "s", "t", "{}"))]),
                lambda: engine.store.mark("p", "s", {"done": ["1"]}),
                lambda: engine.wakes.send({"do": "sweep"}),
            ):
                with pytest.raises(Exception, match="a bug in Onward"):
                    attempt()
            assert engine.ledger.blobs.put(b"x").startswith("sha256:") and not list(tmp_path.iterdir())
