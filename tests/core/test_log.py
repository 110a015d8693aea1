"""A run is the fold of its log."""

import json

import pytest

from onward.core import status
from onward.core.errors import Fault, LayoutMismatch, Misconfigured
from onward.core.log import (
    LAYOUT,
    LOG_END,
    Broken,
    Done,
    Fold,
    attempt_key,
    event_of,
    lane_key,
    log_key,
    marks_key,
    partition_of,
    plan_marks_key,
    run_of,
)
from onward.ports import Item

STARTED = {"k": "started", "layout": 1, "workflow": "work", "event": {"name": "go", "id": "e1", "at": 5}, "at": 5}
ERROR = {"type": "ValueError", "message": "bad", "traceback": "..."}


def record(seq, body, value=None):
    return Item("run#r", log_key(seq), "token", json.dumps(body), value)


def folded(*bodies):
    fold = Fold("r")
    for seq, body in enumerate([STARTED, *bodies]):
        body, value = body if isinstance(body, tuple) else (body, None)
        fold.apply(record(seq, body, value))
    return fold


def of_step(kind, name="a", ordinal=1, attempt=1, **fields):
    return {"k": kind, "s": name, "n": ordinal, "a": attempt, "at": 9, **fields}


def planned(seen=(), names=(), **fields):
    names = [[name, 1] for name in names]
    return {
        "k": "planned",
        "seen": [list(lane) for lane in seen],
        "count": len(names),
        "digest": "d",
        "names": names,
        **fields,
    }


def test_a_started_run_is_queued_and_knows_its_event():
    fold = folded()
    event = event_of(fold, {"x": 1})
    assert (fold.status, fold.next_seq, fold.workflow, fold.steps) == (status.QUEUED, 1, "work", 0)
    assert (event.name, event.id, event.at_ms, event.data) == ("go", "e1", 5, {"x": 1})


def test_a_step_that_failed_and_then_succeeded():
    failed = folded(of_step("retrying", until=70, e=ERROR))
    assert failed.status == status.RUNNING and not failed.memo
    assert failed.attempts(("a", 1)) == 1 and failed.trouble["a", 1].until_ms == 70
    fold = folded(of_step("retrying", until=70, e=ERROR), (of_step("done", attempt=2), "42"))
    outcome = fold.memo["a", 1]
    assert isinstance(outcome, Done) and (outcome.text, outcome.blob, outcome.attempts) == ("42", None, 2)
    assert not fold.trouble and fold.steps == 1


def test_a_step_that_failed_for_good():
    outcome = folded(of_step("broken", attempt=5, e=ERROR)).memo["a", 1]
    assert isinstance(outcome, Broken) and outcome.attempts == 5
    assert (outcome.failure.type, outcome.failure.message, outcome.failure.traceback) == ("ValueError", "bad", "...")


def test_a_step_that_may_run_only_once_has_begun():
    fold = folded(of_step("begun"))
    assert fold.trouble["a", 1].begun and fold.attempts(("a", 1)) == 1 and not fold.memo


def test_a_value_that_was_spilled_is_kept_as_its_reference():
    outcome = folded(of_step("done", blob="sha256:0")).memo["a", 1]
    assert isinstance(outcome, Done) and (outcome.text, outcome.blob) == (None, "sha256:0")


def test_a_sleep_rests_until_another_record_follows():
    fold = folded(of_step("slept", until=100))
    assert (fold.status, fold.resting, fold.slept) == (status.SLEEPING, ("a", 1), {("a", 1): 100})
    fold.apply(record(2, {"k": "died", "at": 50, "why": "killed"}))
    assert (fold.status, fold.resting) == (status.SLEEPING, ("a", 1)), "a death ends no sleep"
    fold.apply(record(3, of_step("done", "b"), "1"))
    assert (fold.status, fold.resting) == (status.RUNNING, None)


def test_a_death_counts_as_an_attempt_of_the_step_that_stands_there_until_the_log_grows():
    fold = folded(of_step("retrying", until=1, e=ERROR), {"k": "died", "at": 1}, {"k": "died", "at": 2})
    assert fold.attempts(("a", 1)) == 3 and fold.attempts(("b", 1)) == 2
    fold.apply(record(4, of_step("retrying", attempt=4, until=1, e=ERROR)))
    assert fold.deaths == 0 and fold.attempts(("a", 1)) == 4


def test_steps_in_flight_and_what_was_observed_of_them():
    fold = folded(planned(names="ab", sleeps={"1": 500}))
    assert fold.in_flight == 2 and fold.flight == {1: {0, 1}} and fold.moves[0].sleeps == {1: 500}
    fold.apply(record(2, planned(seen=[(1, 1)], names="c", wide=True)))
    assert fold.flight == {1: {0}, 2: {0}} and fold.unread == [(1, 1)] and fold.steps == 3
    assert [(move.first, move.wide) for move in fold.moves] == [(0, False), (2, True)]
    fold.apply_lane(Item("run#r", lane_key((1, 0)), "t", json.dumps(of_step("done")), "7"))
    fold.apply(record(3, planned(seen=[(1, 0), (2, 0)])))
    assert fold.in_flight == 0 and fold.unread == [(1, 1), (2, 0)], "what was read before is not read again"
    key, outcome = fold.results[1, 0]
    assert key == ("a", 1) and outcome.text == "7"


@pytest.mark.parametrize(
    ("kind", "ended"), [("run_completed", "completed"), ("run_failed", "failed"), ("run_cancelled", "cancelled")]
)
def test_a_run_ends_once(kind, ended):
    fold = folded(({"k": kind, "at": 9}, "1"))
    assert fold.status == ended and fold.ended == ({"k": kind, "at": 9}, "1")
    for late in ("done", "planned", "run_cancelled", "died"):
        with pytest.raises(status.IllegalRecord, match=f"a run that is {ended} cannot have a record '{late}'"):
            fold.apply(record(2, {**of_step(late), "seen": [], "count": 0, "digest": "", "names": []}))


def test_a_gap_in_the_log_is_an_error():
    fold = folded()
    with pytest.raises(status.IllegalRecord, match="the log of run r has L#00000002 where record 1 belongs"):
        fold.apply(record(2, of_step("done"), "1"))
    assert issubclass(status.IllegalRecord, Fault)


def test_a_log_that_does_not_begin_with_its_start_is_an_error():
    with pytest.raises(status.IllegalRecord, match="not started"):
        Fold("r").apply(record(0, of_step("done"), "1"))


def test_a_run_of_a_newer_layout_is_refused():
    with pytest.raises(
        LayoutMismatch, match=f"run r was written in layout {LAYOUT + 1} by a newer Onward.*: upgrade onward"
    ):
        Fold("r").apply(record(0, {**STARTED, "layout": LAYOUT + 1}))
    assert issubclass(LayoutMismatch, Misconfigured), "no fault of the run's: it must not fail for it"


def test_keys_sort_as_the_log_is_read():
    assert [log_key(seq) for seq in (9, 10, 99_999_999)] == ["L#00000009", "L#00000010", "L#99999999"]
    assert "H" < log_key(0) < LOG_END < marks_key(0) < plan_marks_key(0) < lane_key((0, 0))
    assert lane_key((1, 2)) == "S#00000001.00002" and attempt_key((1, 2), 3) == "S#00000001.00002#0003"
    assert run_of(partition_of("abc")) == "abc"
