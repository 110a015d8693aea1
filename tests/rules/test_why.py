"""What a run waits for is said, whatever it is, and saying it writes nothing."""

from __future__ import annotations

import asyncio
import json

import pytest

from onward import App, Concurrency, Throttle
from onward.core.errors import UnknownRun
from onward.core.log import HEAD, attempt_key, lane_key, log_key, partition_of
from onward.core.status import IllegalRecord
from onward.engine import control
from onward.engine import why as module
from onward.engine.ledger import Ledger
from onward.engine.why import why
from onward.ports import Item, Put, Swap
from onward.testing import Rehearsal

from .acting import ASYNC, both, failing
from .test_waits import until_it_stands

HOUR_S = 3600
HOUR_MS = HOUR_S * 1000
TIMES = ("since_ms", "until_ms", "due_ms")


class Reading:
    """A store that can be read, and nothing else: whatever writes raises."""

    def __init__(self, store):
        self.read, self.get = store.read, store.get


def ask(stage, run, **options):
    view = why(Ledger(Reading(stage.store), None, stage.clock), run, stage.clock.now_ms(), **options)
    assert json.loads(json.dumps(view)) == view
    return view


def one(stage, run, **options):
    [reason] = ask(stage, run, **options)["reasons"]
    return reason


def until(reason, stage):
    """Milliseconds until the time of a reason."""
    return reason["until_ms"] - stage.clock.now_ms()


@pytest.fixture
def begin():
    """Start a story and let it come to where it stands: the stage and the run."""
    stages = []

    def begin(app, data=None, steps=None, **rehearsal):
        stage = Rehearsal(app, **rehearsal)
        stages.append(stage)
        [run] = stage.start("go", data)
        if steps is None:
            until_it_stands(stage)
        for _ in range(steps or 0):
            stage.step()
        return stage, run

    yield begin
    for stage in stages:
        stage.close()


# ------------------------------------------------------------------------------------------------ before it begins
@both
def test_a_run_that_has_not_begun_is_queued(kind, begin):
    async def work(event, step):
        await step.run("a", str)

    stage, run = begin(kind.app(work), steps=0)
    reason = one(stage, run)
    assert (reason["kind"], reason["step"], reason["since_ms"]) == ("queued", None, stage.clock.now_ms())
    [head] = stage.open_heads()
    assert reason["due_ms"] == ask(stage, run)["due_ms"] == head.due_ms > stage.clock.now_ms()


@both
def test_a_delayed_run_names_the_time_from_which_it_begins(kind, begin):
    async def work(event, step):
        await step.run("a", str)

    stage, run = begin(kind.app(work, delay=HOUR_S))
    reason = one(stage, run)
    assert (reason["kind"], until(reason, stage), reason["due_ms"]) == ("delayed", HOUR_MS, None)
    stage.clock.turn(reason["until_ms"])
    assert one(stage, run)["kind"] == "queued" and one(stage, run)["since_ms"] == reason["until_ms"]


@both
def test_a_run_that_queues_names_who_holds_the_slots_and_how_many_are_before_it(kind, begin):
    async def work(event, step):
        await step.sleep("rest", HOUR_S)

    stage, first = begin(kind.app(work, concurrency=Concurrency(1)))
    others = []
    for _ in range(2):
        stage.clock.turn(stage.clock.now_ms() + 1)
        others += stage.start("go")
        until_it_stands(stage)
    assert one(stage, first)["kind"] == "sleeping"
    for place, run in enumerate(others):
        reason = one(stage, run)
        assert (reason["kind"], reason["limit"], reason["holders"], reason["ahead"]) == ("limited", 0, [first], place)
        assert first in reason["text"] and reason["due_ms"] > stage.clock.now_ms()
    control.cancel(stage.engine, first)
    until_it_stands(stage)
    assert one(stage, others[0])["kind"] == "sleeping" and one(stage, others[1])["holders"] == [others[0]]


@both
def test_a_throttled_run_names_its_turn(kind, begin):
    async def work(event, step):
        await step.sleep("rest", HOUR_S)

    stage, _ = begin(kind.app(work, throttle=Throttle(1, period=HOUR_S)))
    [second] = stage.start("go")
    until_it_stands(stage)
    reason = one(stage, second)
    assert (reason["kind"], until(reason, stage)) == ("throttled", HOUR_MS)


# --------------------------------------------------------------------------------------------------- one step alone
@both
def test_a_sleep_names_its_step_and_its_end(kind, begin):
    async def work(event, step):
        await step.run("a", str)
        await step.sleep("rest", HOUR_S)

    stage, run = begin(kind.app(work))
    reason = one(stage, run)
    assert (reason["kind"], reason["step"], until(reason, stage)) == ("sleeping", "rest", HOUR_MS)
    assert ask(stage, run)["status"] == "sleeping"


@both
def test_a_sleep_that_is_over_is_not_what_it_waits_for(kind, begin):
    async def work(event, step):
        await step.sleep("rest", HOUR_S)
        await step.run("a", str)

    stage, run = begin(kind.app(work))
    ends_ms = one(stage, run)["until_ms"]
    stage.clock.turn(ends_ms + 5_000)
    reason = one(stage, run)
    assert (reason["kind"], reason["until_ms"], reason["since_ms"]) == ("performing", None, ends_ms)
    assert "behind the sleep 'rest'" in reason["text"] and reason["due_ms"] is not None


@both
def test_a_retry_names_its_time_and_the_last_error(kind, begin):
    async def work(event, step):
        await step.run("bad", failing(ValueError("one\ntwo")))

    stage, run = begin(kind.app(work), steps=2)
    reason = one(stage, run)
    assert (reason["kind"], reason["step"], reason["attempt"], until(reason, stage)) == ("retry", "bad", 2, 2_000)
    assert reason["error"] == {"type": "ValueError", "message": "one\ntwo"}
    assert "attempt 2 failed (ValueError: one)" in reason["text"]
    stage.clock.turn(reason["until_ms"])
    later = one(stage, run)
    assert (later["kind"], later["step"], later["attempt"]) == ("performing", "bad", 3)
    assert later["since_ms"] == reason["until_ms"] and later["due_ms"] and "ValueError: one" in later["text"]


@both
def test_what_is_performed_or_was_lost_says_since_when_and_by_when_the_sweep_looks(kind, begin):
    async def work(event, step):
        await step.run("a", str)
        await step.run("b", str)

    stage, run = begin(kind.app(work), steps=1)
    stage.queue.take()
    at_ms = stage.clock.now_ms()
    stage.clock.turn(at_ms + 60_000)
    reason = one(stage, run)
    assert (reason["kind"], reason["step"], reason["since_ms"]) == ("performing", None, at_ms)
    assert "the step behind 'a' is performed, or its wake was lost" in reason["text"]
    [head] = stage.open_heads()
    assert reason["due_ms"] == head.due_ms
    stage.sweep()
    assert "the sweep has woken it 1 time since it last went on" in one(stage, run)["text"]
    stage.drain()
    assert one(stage, run)["kind"] == "ended"


@both
def test_a_failed_step_that_a_deploy_has_renamed_is_not_what_it_waits_for(kind, begin):
    names = ["old", "new"]

    async def work(event, step):
        await step.run(names[0], failing(LookupError("gone")))

    stage, run = begin(kind.app(work), steps=1)
    assert one(stage, run)["step"] == "old"
    names.pop(0)
    stage.step()
    reason = one(stage, run)
    assert (reason["kind"], reason["step"], reason["attempt"]) == ("retry", "new", 1)


@both
def test_deaths_are_counted_and_their_reason_is_told(kind, begin):
    async def work(event, step):
        await step.run("a", str)
        await step.run("b", str)

    stage, run = begin(kind.app(work), steps=1)
    for _ in range(2):
        _, wake = stage.queue.take()
        control.died(stage.engine, wake, "out of memory")
    assert "2 invocations have died here (out of memory)" in one(stage, run)["text"]


@both
def test_a_step_that_runs_once_says_that_it_has_begun(kind, begin):
    seen = []

    async def work(event, step):
        await step.run("pay", lambda: seen.append(one(stage, run)), once=True)

    stage, run = begin(kind.app(work), steps=0)
    until_it_stands(stage)
    [reason] = seen
    assert (reason["kind"], reason["step"], reason["attempt"]) == ("performing", "pay", 1)
    assert "once=True" in reason["text"]


# ---------------------------------------------------------------------------------------------------------- outside
@both
def test_a_wait_names_its_event_its_match_and_its_end(kind, begin):
    async def work(event, step):
        await step.wait_for_any("answer", {"paid": {"data.order": 7}, "refused": None}, timeout=HOUR_S)

    stage, run = begin(kind.app(work))
    reason = one(stage, run)
    assert (reason["kind"], reason["step"], until(reason, stage)) == ("event", "answer", HOUR_MS)
    assert reason["events"] == ["'paid' with data.order = 7", "'refused'"]
    assert reason["text"] == "waits for an event 'paid' with data.order = 7 or 'refused'"
    stage.clock.turn(reason["until_ms"])
    assert one(stage, run)["kind"] == "performing" and "the wait is over" in one(stage, run)["text"]


@both
def test_a_wait_that_is_not_written_down_yet_is_none(kind, begin):
    async def work(event, step):
        await step.wait_for_event("paid", timeout=HOUR_S)

    stage, run = begin(kind.app(work), steps=1)
    reason = one(stage, run)
    assert (reason["kind"], reason["step"]) == ("performing", "paid") and "is written down" in reason["text"]


@both
def test_a_death_in_front_of_a_wait_does_not_hide_it(kind, begin):
    async def work(event, step):
        await step.wait_for_event("paid", timeout=600)

    stage, run = begin(kind.app(work))
    _, wake = stage.queue.take()
    control.died(stage.engine, wake, "killed")
    assert one(stage, run)["kind"] == "event"


def family(kind):
    """A run that waits for a child, which waits for a grandchild, which sleeps."""
    app = App("family")

    async def work(event, step):
        await step.invoke("child", name="kid")

    async def child(event, step):
        await step.invoke("grandchild")

    async def grandchild(event, step):
        await step.sleep("nap", HOUR_S)

    for name, story in (("work", work), ("child", child), ("grandchild", grandchild)):
        kind.app(story, into=app, name=name, on="go" if name == "work" else f"{name}/go")
    return app


@both
def test_a_run_that_waits_for_another_says_what_that_one_waits_for(kind, begin):
    stage, run = begin(family(kind))
    reason = one(stage, run)
    assert (reason["kind"], reason["step"]) == ("child", "kid") and "of 'child'" in reason["text"]
    [inner] = reason["run"]["reasons"]
    assert reason["run"]["run_id"] == reason["run_id"] and (inner["kind"], inner["step"]) == ("child", "grandchild")
    [innermost] = inner["run"]["reasons"]
    assert (innermost["kind"], innermost["step"], until(innermost, stage)) == ("sleeping", "nap", HOUR_MS)


@both
def test_children_are_followed_so_deep_and_no_deeper(kind, begin, monkeypatch):
    stage, run = begin(family(kind))
    monkeypatch.setattr(module, "MAX_DEPTH", 1)
    [inner] = one(stage, run)["run"]["reasons"]
    assert inner["run"] is None and inner["run_id"] in inner["text"]
    monkeypatch.setattr(module, "MAX_RUNS", 1)
    assert one(stage, run)["run"] is None


@both
def test_a_child_that_somebody_has_edited_hides_nothing_of_its_parent(kind, begin):
    stage, run = begin(family(kind))
    child = one(stage, run)["run_id"]
    edit(stage, child, log_key(1), body="nonsense")
    reason = one(stage, run)
    assert (reason["kind"], reason["run"]) == ("child", None)


@both
def test_a_workflow_that_the_app_does_not_have_is_told_first(kind, begin):
    async def work(event, step):
        await step.sleep("rest", HOUR_S)

    stage, run = begin(kind.app(work))
    assert one(stage, run, workflows={"work"})["kind"] == "sleeping"
    gone, rest = ask(stage, run, workflows={"other"})["reasons"]
    assert (gone["kind"], rest["kind"]) == ("gone", "sleeping") and "no workflow 'work'" in gone["text"]


# ------------------------------------------------------------------------------------------------- beside each other
def test_steps_beside_each_other_are_told_each_for_itself(begin):
    seen = []

    async def work(event, step):
        await asyncio.gather(
            step.run("done", str),
            step.run("bad", failing(LookupError("gone"))),
            step.sleep("rest", HOUR_S),
            step.wait_for_event("paid", timeout=2 * HOUR_S),
            step.invoke("child", timeout=3 * HOUR_S),
            step.run("slow", lambda: seen.append(ask(stage, run)["reasons"])),
        )

    async def child(event, step):
        await step.sleep("nap", HOUR_S)

    app = ASYNC.app(work)
    ASYNC.app(child, into=app, name="child", on="child/go")
    stage, run = begin(app, steps=0)
    until_it_stands(stage)
    [then] = seen
    slow = next(reason for reason in then if reason["step"] == "slow")
    assert (slow["kind"], slow["attempt"]) == ("performing", 1)
    told = {reason["step"]: reason for reason in ask(stage, run)["reasons"]}
    assert {step: reason["kind"] for step, reason in told.items()} == {
        "bad": "retry", "rest": "sleeping", "paid": "event", "child": "child",
    }  # fmt: skip
    assert told["bad"]["error"]["type"] == "LookupError" and told["child"]["run"]["status"] == "sleeping"
    assert abs(until(told["rest"], stage) - HOUR_MS) <= 5_000


def test_sync_branches_are_told_as_well(begin):
    def work(event, step):
        step.parallel(
            lambda: step.sleep("rest", HOUR_S),
            lambda: step.run("bad", failing(LookupError("gone"))),
            lambda: step.wait_for_event("paid", timeout=HOUR_S),
        )

    app = App("sync")
    app.workflow(on="go", name="work")(work)
    stage, run = begin(app, steps=4)
    kinds = {reason["step"]: reason["kind"] for reason in ask(stage, run)["reasons"]}
    assert kinds == {"rest": "sleeping", "bad": "retry", "paid": "event"}


def test_an_attempt_that_died_beside_others_is_told(begin):
    async def work(event, step):
        await asyncio.gather(step.run("a", str), step.sleep("rest", HOUR_S))

    stage, run = begin(ASYNC.app(work), steps=1)
    control.died(stage.engine, {"do": "step", "run": run, "plan": 1, "index": 0, "attempt": 1}, "killed")
    told = {reason["step"]: reason for reason in ask(stage, run)["reasons"]}
    assert (told["a"]["kind"], told["a"]["attempt"]) == ("performing", 2) and "died in it (killed)" in told["a"]["text"]


def test_a_death_behind_a_failure_does_not_hide_the_error(begin):
    async def work(event, step):
        await asyncio.gather(step.run("a", failing(LookupError("gone"))), step.sleep("rest", HOUR_S))

    stage, run = begin(ASYNC.app(work), steps=2)
    control.died(stage.engine, {"do": "step", "run": run, "plan": 1, "index": 0, "attempt": 2}, "killed")
    told = {reason["step"]: reason for reason in ask(stage, run)["reasons"]}
    assert (told["a"]["attempt"], told["a"]["error"]) == (3, {"type": "LookupError", "message": "gone"})
    assert "died in it (killed); the last error was LookupError: gone" in told["a"]["text"]


def test_results_that_nobody_has_gone_on_with_are_told(begin, monkeypatch):
    from onward.engine import fanout

    async def work(event, step):
        await asyncio.gather(step.run("a", str), step.run("b", str))

    stage, run = begin(ASYNC.app(work), steps=1)
    monkeypatch.setattr(fanout, "completed", lambda *args: None)
    until_it_stands(stage)
    reason = one(stage, run)
    assert (reason["kind"], reason["step"]) == ("observing", None) and "the 2 results" in reason["text"]
    monkeypatch.undo()
    stage.drain()
    assert one(stage, run)["kind"] == "ended"


@pytest.mark.parametrize("behind", ["a step", "a sleep", "nothing yet"])
def test_the_losers_of_a_race_are_not_what_it_waits_for(begin, behind):
    async def work(event, step):
        racers = [asyncio.ensure_future(step.run("quick", str)), asyncio.ensure_future(step.sleep("slow", HOUR_S))]
        await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        racers[1].cancel()
        if behind == "a sleep":
            await step.sleep("rest", HOUR_S)
        await step.run("then", failing(LookupError("gone")))

    stage, run = begin(ASYNC.app(work), steps=2 if behind == "nothing yet" else 3)
    reason = one(stage, run)
    expected = {"a step": ("retry", "then"), "a sleep": ("sleeping", "rest"), "nothing yet": ("performing", None)}
    assert (reason["kind"], reason["step"]) == expected[behind]


def test_a_loser_that_nobody_cancels_is_named_since_the_workflow_may_still_come_back_to_it(begin):
    async def work(event, step):
        racers = [asyncio.ensure_future(step.run("quick", str)), asyncio.ensure_future(step.sleep("slow", HOUR_S))]
        await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        await step.run("then", failing(LookupError("gone")))
        await racers[1]

    stage, run = begin(ASYNC.app(work), steps=3)
    kinds = {reason["step"]: reason["kind"] for reason in ask(stage, run)["reasons"]}
    assert kinds == {"slow": "sleeping", "then": "retry"}


def test_in_a_wide_fan_out_the_one_that_waits_is_seen(begin):
    async def work(event, step):
        tasks = [step.run(f"s{n:03}", str, n) for n in range(600)]
        await asyncio.gather(*tasks, step.wait_for_event("zz-paid", timeout=HOUR_S))

    stage, run = begin(ASYNC.app(work), steps=1)
    index = 600  # of the wait: the last by its name
    stage.deliver({"do": "step", "run": run, "plan": 1, "index": index, "attempt": 1})
    view = ask(stage, run)
    kinds = [reason["kind"] for reason in view["reasons"]]
    assert kinds == ["performing"] * module.MAX_OF_A_KIND + ["event"]
    assert view["more"] == {"performing": 600 - module.MAX_OF_A_KIND}
    assert view["reasons"][-1]["step"] == "zz-paid"
    until_it_stands(stage)
    assert [reason["step"] for reason in ask(stage, run)["reasons"]] == ["zz-paid"]


def test_lanes_are_read_in_pages(begin, monkeypatch):
    async def work(event, step):
        await asyncio.gather(*(step.run(f"s{n}", failing(LookupError(n))) for n in range(7)))

    monkeypatch.setattr(module, "PAGE", 2)
    stage, run = begin(ASYNC.app(work), steps=8)
    assert [reason["step"] for reason in ask(stage, run)["reasons"]] == [f"s{n}" for n in range(7)]
    assert {reason["kind"] for reason in ask(stage, run)["reasons"]} == {"retry"}


# -------------------------------------------------------------------------------------------------------- when ended
@both
@pytest.mark.parametrize("ends", ["completed", "failed", "cancelled"])
def test_a_run_that_has_ended_says_how(kind, begin, ends):
    async def work(event, step):
        await step.sleep("rest", 60)
        if ends == "failed":
            raise LookupError("one\ntwo")

    stage, run = begin(kind.app(work))
    if ends == "cancelled":
        control.cancel(stage.engine, run)
    stage.drain()
    view, reason = ask(stage, run), one(stage, run)
    assert (view["status"], view["due_ms"], reason["kind"]) == (ends, None, "ended")
    assert reason["since_ms"] == stage.view(run)["ended_ms"] and ends in reason["text"]
    if ends == "failed":
        assert reason["text"].endswith("LookupError: one") and reason["error"]["message"] == "one\ntwo"


@pytest.mark.parametrize("run", ["0" * 24, "", "no run", "../x", "x" * 100])
def test_a_run_that_is_not_there_is_refused(begin, run):
    stage, _ = begin(family(ASYNC))
    with pytest.raises(UnknownRun, match="there is no run"):
        ask(stage, run)


# ------------------------------------------------------------------------------------------------------ edited items
def edit(stage, run, sort, **fields):
    """Change an item, or some fields of its body, as with the console."""
    [item] = stage.store.get([(partition_of(run), sort)])
    if "body" not in fields:
        fields = {"body": json.dumps({**(json.loads(item.body) if item else {}), **fields})}
    edited = Item(partition_of(run), sort, "edited", fields["body"], None, item.due_ms if item else None)
    assert stage.store.write([Swap(edited, item.token) if item else Put(edited)]) is None


ALONE = [
    (log_key(1), {"e": 5}), (log_key(1), {"e": {"type": 5, "message": ""}}), (log_key(1), {"a": "x"}),
    (log_key(1), {"at": None}), (log_key(1), {"until": "soon"}), (log_key(1), {"s": ["x"]}), (log_key(1), {"s": 5}),
    (log_key(1), {"body": "[" * 50_000}), (log_key(0), {"from": "then"}), (HEAD, {"queue": 5}),
    (HEAD, {"queue": [1, 2]}), (HEAD, {"body": "[]"}), (log_key(2), {"k": "died", "at": 1, "why": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("sort", "fields"), ALONE, ids=str)
def test_an_edited_run_is_told(begin, sort, fields):
    async def work(event, step):
        await step.run("bad", failing(LookupError("gone")))

    stage, run = begin(ASYNC.app(work), steps=1)
    assert one(stage, run)["kind"] == "retry"
    edit(stage, run, sort, **fields)
    with pytest.raises(IllegalRecord) as told:
        ask(stage, run)
    assert run in str(told.value) and len(str(told.value)) < 600


LANES = [
    (attempt_key((1, 0), 2), {"e": 5}), (attempt_key((1, 0), 2), {"k": "nonsense"}),
    (attempt_key((1, 0), 2), {"n": "x"}), (attempt_key((1, 0), 2), {"a": None}),
    (attempt_key((1, 1), 1), {"for": 5}), (attempt_key((1, 1), 1), {"for": [5]}),
    (attempt_key((1, 1), 1), {"for": ["x"], "child": 5}), (attempt_key((1, 1), 1), {"at": "x"}),
    (f"{lane_key((1, 0))}#zz", {"k": "died"}), (log_key(1), {"names": [[5, 1], ["x", 1]]}),
]  # fmt: skip


@pytest.mark.parametrize(("sort", "fields"), LANES, ids=str)
def test_an_edited_lane_is_told(begin, sort, fields):
    async def work(event, step):
        await asyncio.gather(step.run("a", failing(LookupError("x"))), step.wait_for_event("paid", timeout=HOUR_S))

    stage, run = begin(ASYNC.app(work))
    assert [reason["kind"] for reason in ask(stage, run)["reasons"]] == ["retry", "event"]
    edit(stage, run, sort, **fields)
    with pytest.raises(IllegalRecord) as told:
        ask(stage, run)
    assert run in str(told.value) and len(str(told.value)) < 600


def test_a_callback_says_who_was_asked_and_never_the_token(begin):
    tokens = []
    stage, run = begin(ASYNC.app(asks(tokens)))
    reason = one(stage, run)
    assert (reason["kind"], reason["step"]) == ("callback", "approve") and until(reason, stage) <= HOUR_MS
    assert "approve.notify has handed out its token" in reason["text"]
    assert tokens and not any(token in json.dumps(ask(stage, run)) for token in tokens)


def asks(tokens):
    async def work(event, step):
        return await step.callback("approve", tokens.append, timeout=HOUR_S)

    return work
