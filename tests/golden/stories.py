"""The stories of the golden runs: how each came to where it stands, and what it must come to.

A story leaves its run in one state in which a log can be. What must follow is written here by hand: the status, the
result, and `again`, which effects are to be begun once the run is resumed and how often; any other would be a finished
step that is performed again. `after` lists what the story's `on_failure` run must come to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from onward.core.ids import run_id
from onward.core.log import attempt_key, fields_of, partition_of
from onward.core.status import CANCELLED, COMPLETED, FAILED
from onward.core.values import Event
from onward.engine import control, fanout, pause
from onward.engine.ingest import ingest
from onward.engine.sweep import MAX_STALLS
from tests.golden.app import BIG_CHARS, BRANCHES, HOSTILE, WIDE, price
from tests.golden.stage import Stage

Drive = Callable[[Stage, str], None]

DAY_S = 24 * 3600
SWEPT_AFTER_MS = 41 * 60 * 1000  # more than one horizon


class Story:
    """One run. `wake`: the verb of the one wake that alone brings it to its end, where there is one."""

    def __init__(
        self,
        name: str,
        event: str,
        data: Any,
        drive: Drive,
        *,
        status: str = COMPLETED,
        result: Any = None,
        late: Any = None,
        error: Sequence[str] = (),
        again: Mapping[str, int] | Sequence[str] = (),
        after: Mapping[str, Any] | None = None,
        wake: str | None = None,
        ended: bool = False,
    ) -> None:
        self.name = name
        self.event = event
        self.data = data
        self.drive = drive
        self.status = status
        self.result = result
        self.late = result if late is None else late  # where all its times are over before it is resumed
        self.error = tuple(error)  # its type, and what its message holds
        self.again = dict(again) if isinstance(again, Mapping) else dict.fromkeys(again, 1)
        self.after = after
        self.wake = wake
        self.ended = ended  # already, when the store was kept

    @property
    def id(self) -> str:
        """The id of its event."""
        return f"golden-{self.name}"


STORIES: list[Story] = []


@contextmanager
def unobserved() -> Iterator[None]:
    """The invocations that perform steps die right after they have put their results."""
    collect = fanout.collect
    fanout.collect = lambda *_: None
    try:
        yield
    finally:
        fanout.collect = collect


def after_run(run: str) -> str:
    """The `on_failure` run of a run of `doomed`."""
    return run_id("doomed.on_failure", f"{run}.failed")


def story(event: str, data: Any = None, **comes_to: Any) -> Callable[[Drive], Drive]:
    def register(drive: Drive) -> Drive:
        STORIES.append(Story(drive.__name__, event, {} if data is None else data, drive, **comes_to))
        return drive

    return register


# ------------------------------------------------------------------------------------------------------ in sequence
in_sequence = partial(story, "sequence", {"client": "c1"}, result={"client": "c1", "sum": 6})


@in_sequence(again="bc", wake="recover")
def swept_to_its_last_chance(stage, run):
    """Played first, for it turns the clock, and every other run would be swept as well."""
    stage.deliver(run)
    for _ in range(MAX_STALLS - 1):
        stage.lose(run)
        stage.clock.turn(stage.clock.now_ms() + SWEPT_AFTER_MS)
        stage.sweep()


@in_sequence(again="abc", wake="advance")
def queued(stage, run):
    pass


@in_sequence(again="bc")
def one_step_done(stage, run):
    stage.deliver(run)


@in_sequence(again="bc")
def killed_inside_a_step(stage, run):
    stage.deliver(run)
    stage.kill(run, "b")


@in_sequence(again="bc")
def death_was_told(stage, run):
    stage.deliver(run)
    stage.die(run, "b")
    stage.die(run, "b")


@in_sequence(again="bc")
def retrying(stage, run):
    stage.deliver(run)
    with stage.down("b"):
        stage.deliver(run)


@in_sequence(again="bc")
def retrying_for_the_third_time_after_a_death(stage, run):
    stage.deliver(run)
    with stage.down("b"):
        stage.deliver(run)
        stage.deliver(run)
    stage.die(run, "b")


@in_sequence(again="c")
def wake_was_lost(stage, run):
    stage.deliver(run, 2)
    stage.lose(run)


@in_sequence(again="c")
def wake_was_sent_twice(stage, run):
    stage.deliver(run, 2)
    stage.wakes.send(stage.wake(run).wake)


@in_sequence(again="bc", wake="recover")
def a_service_did_not_answer(stage, run):
    stage.deliver(run)
    row = stage.wake(run)
    stage.wakes.drop(row.id)
    control.failed(stage.engine(), row.wake, "Unavailable: the table did not answer")


@in_sequence(ended=True)
def completed(stage, run):
    stage.finish(run)


@story("sequence", {"client": "c1"}, status=CANCELLED, ended=True)
def cancelled(stage, run):
    stage.deliver(run)
    control.cancel(stage.engine(), run)


@story("same", result=[0, 1, 2, 3], again=["same2", "same3"])
def two_steps_of_one_name_done(stage, run):
    stage.deliver(run, 2)


@story("caught", result=["NonRetriable", "at last"], again=["later"])
def failed_for_good_and_caught_and_asked_to_wait(stage, run):
    stage.deliver(run, 2)


@story("filled", result=10, again="cd")
def killed_while_filling(stage, run):
    stage.kill(run, "c")


@story("filled", result=10, again="d")
def killed_while_filling_and_told(stage, run):
    stage.die(run, "c")
    stage.kill(run, "d")


# ---------------------------------------------------------------------------------------------------- at most once
@story("charge", result="Crashed", again=["after"])
def charge_had_begun(stage, run):
    stage.deliver(run)
    stage.kill(run, "charge")


@story("charge", result="Crashed", again=["after"])
def charge_had_begun_and_its_death_was_told(stage, run):
    stage.deliver(run)
    stage.die(run, "charge")


@story("charge", result="charged", again=["charge", "after"])
def charge_had_not_begun(stage, run):
    stage.deliver(run)


@story("charges", result=["charged", "Crashed", "charged"], again=["charge2"])
def charges_beside_each_other(stage, run):
    stage.deliver(run)
    stage.deliver(run, index=0)
    stage.kill(run, "charge1", index=1)


@story("charges", result=["Crashed", "charged", "charged"], again=["charge1", "charge2"])
def charge_had_begun_and_its_wake_came_again(stage, run):
    stage.deliver(run)
    row = stage.kill(run, "charge0", index=0)
    stage.wakes.drop(row.id)  # the notice of that death is lost, and the same wake is delivered again
    stage.wakes.send(row.wake)


# ------------------------------------------------------------------------------------------------ beside each other
beside = partial(story, "lanes", result=[[f"{name}1", f"{name}2"] for name in "pqrs"] + ["end"])


@beside(again=["p1", "p2", "q1", "q2", "r1", "r2", "s1", "s2", "after"])
def planned_and_not_begun(stage, run):
    stage.deliver(run, 2)


@beside(again=["p2", "q1", "q2", "r1", "r2", "s1", "s2", "after"])
def one_done_one_retrying_one_died_one_not_begun(stage, run):
    stage.deliver(run, 2)
    stage.deliver(run, index=0)
    with stage.down("q1"):
        stage.deliver(run, index=1, attempt=1)
    stage.die(run, "r1", index=2)


@beside(again=["p1", "p2", "q1", "q2", "r1", "r2", "s1", "s2", "after"])
def the_wake_of_an_attempt_that_failed_came_again(stage, run):
    stage.deliver(run, 2)
    row = stage.wake(run, index=0)
    with stage.down("p1"):
        stage.deliver(run, index=0)
    stage.wakes.send(row.wake)


@beside(again=["p2", "q1", "q2", "r2", "s2", "after"])
def some_observed_and_some_killed(stage, run):
    stage.deliver(run, 2)
    stage.deliver(run, index=3)
    stage.deliver(run, index=2)
    stage.deliver(run, index=0, attempt=1)
    with stage.down("q1"):
        stage.deliver(run, index=1, attempt=1)
        stage.deliver(run, index=1, attempt=2)
    plan = max(row.wake["plan"] for row in stage.wakes.of(run))  # the last that was made
    stage.kill(run, "p2", plan=plan, index=0)


@beside(again=["after"], wake="step")
def a_result_that_nobody_observed(stage, run):
    stage.deliver(run, 2 + 7)
    with unobserved():
        stage.engine().handle(stage.wake(run).wake)


@beside(status=CANCELLED, ended=True)
def cancelled_in_flight(stage, run):
    stage.deliver(run, 3)
    control.cancel(stage.engine(), run)


@story("nested", result=[[1, 2], 3], again=["one1", "one3"])
def nested_branches(stage, run):
    stage.deliver(run)
    stage.deliver(run, index=1)


# ------------------------------------------------------------------------------------------------------------- wide
of_many = partial(story, "wide", result=sum(range(WIDE)))


def named(letter: str, count: int, done: int) -> list[str]:
    """The effects of a plan's steps but for the first so many, in the order in which a plan has them."""
    return sorted(f"{letter}{number}" for number in range(count))[done:]


@of_many(again=[*named("w", WIDE, 0), "sum"])
def wide_and_not_begun(stage, run):
    stage.deliver(run)


@of_many(again=[*named("w", WIDE, 20), "sum"])
def wide_with_some_done(stage, run):
    stage.deliver(run)
    stage.deliver(run, 5, do="fan")
    stage.deliver(run, 20, do="step")


@of_many(again=[*named("w", WIDE, WIDE - 2), "sum"], wake="fan")
def wide_but_for_one_part(stage, run):
    stage.deliver(run)
    stage.deliver(run, stage.count(run, "fan") - 1, do="fan")
    stage.deliver(run, WIDE - 2, do="step")
    stage.lose(run, do="collect")


@of_many(again=["sum"], wake="collect")
def wide_and_nobody_observed(stage, run):
    stage.deliver(run)
    with unobserved():
        stage.deliver(run, stage.count(run, "fan"), do="fan")
        stage.deliver(run, WIDE, do="step")


@story(
    "wide-branches",
    result=sum(range(BRANCHES)) * 2,
    again=[*named("u", BRANCHES, 5), *named("v", BRANCHES, 0)],
)
def wide_branches_in_their_middle(stage, run):
    stage.deliver(run)
    with stage.down("u3"):
        stage.deliver(run, 6, do="step", attempt=1)
    stage.deliver(run, do="collect")


# ----------------------------------------------------------------------------------------------------------- values
@story(
    "spilled",
    {"text": "š" * BIG_CHARS},
    result={"event": BIG_CHARS, "step": BIG_CHARS, "text": "žš"},
    again=["small"],
)
def large_values(stage, run):
    stage.deliver(run)


@story("values", {"price": price()[0]}, result=price(), again=["keep"])
def rich_values(stage, run):
    stage.deliver(run, 2)


@story(
    "hostile/<event> 'name'\n",
    dict.fromkeys(HOSTILE, "ž�\x00"),
    result=dict.fromkeys(HOSTILE, "ž�\x00"),
    again=[f"{name} again" for name in sorted(HOSTILE)[3:]],
)
def hostile_names(stage, run):
    stage.deliver(run, len(HOSTILE) + 1)
    stage.deliver(run, 3, do="step")


# ----------------------------------------------------------------------------------------------------- failed runs
doomed = partial(story, "doomed", {"n": 7}, status=FAILED, error=["StepError", "bad data"])
AFTER = {"workflow": "doomed", "kind": "StepError", "data": {"n": 7}}


@doomed(again=["bad"], after={"result": AFTER, "again": ["tell", "note"]})
def before_its_last_attempt(stage, run):
    stage.deliver(run, 2)


@doomed(ended=True, after={"result": AFTER, "again": ["note"]})
def failed_and_its_on_failure_run_goes_on(stage, run):
    stage.deliver(run, 4)
    stage.deliver(after_run(run))


@doomed(ended=True, after={"result": AFTER, "again": []})
def failed_and_told(stage, run):
    stage.finish(run)
    stage.finish(after_run(run))


# ------------------------------------------------------------------------------------------------------------ async
@story("gathered", result=[0, 1, 2, None, "end"], again=["g0", "g2", "after"])
def gathered_beside_a_sleep(stage, run):
    stage.deliver(run)
    stage.deliver(run, index=1)


@story("grouped", result=[2, 2, 2], again=["x1", "x2", "y2", "z2"])
def a_task_group_in_its_middle(stage, run):
    stage.deliver(run)
    stage.deliver(run, index=1)
    stage.deliver(run, index=2)


@story("raced", result=["tortoise", "hare", "tortoise"], again=["hare", "told"])
def the_tortoise_came_first(stage, run):
    stage.deliver(run)
    stage.deliver(run, index=1)


@story("raced", result=["tortoise", "hare", "tortoise"], again=["told"])
def the_tortoise_was_observed_first_and_then_the_hare_came(stage, run):
    stage.deliver(run)
    stage.deliver(run, index=1)
    stage.deliver(run, index=0)
    with stage.down("told"):
        stage.deliver(run)


@story("limited", result="in time", again=["work", "after"])
def a_sleep_of_days_as_a_limit(stage, run):
    stage.deliver(run)


@story("limited", result="in time", again=["after"])
def a_limit_that_nobody_awaits_any_more(stage, run):
    stage.deliver(run)
    with stage.down("after"):
        stage.deliver(run, index=1)
        stage.deliver(run)


@story("limited", result="in time", late="too late", again=["work", "after"])
def a_limit_whose_work_was_lost(stage, run):
    stage.deliver(run)
    stage.lose(run, do="step")


# --------------------------------------------------------------------------------------------------------- sleeping
@story("rest", {"seconds": 30}, result="rested", again=["after"])
def sleeping_for_seconds(stage, run):
    stage.deliver(run, 2)


@story("rest", {"seconds": 30}, result="rested", again=["after"])
def sleeping_and_its_wake_was_lost(stage, run):
    stage.deliver(run, 2)
    stage.lose(run)


@story("rest", {"seconds": 3 * DAY_S}, result="rested", again=["after"])
def sleeping_for_days(stage, run):
    stage.deliver(run, 2)


@story("rest", {"seconds": 3 * DAY_S}, status=CANCELLED, ended=True)
def cancelled_asleep(stage, run):
    stage.deliver(run, 2)
    control.cancel(stage.engine(), run)


@story("date", result="February", again=["after"])
def sleeping_until_a_date(stage, run):
    stage.deliver(run)


# ------------------------------------------------------------------- waits, other runs, people, conditions, limits
@story("waits", {"client": "w1"}, result=[None, "end"], again=["after"])
def waiting_for_an_event(stage, run):
    stage.deliver(run, 2)


@story("waits", {"client": "w2"}, result=[5, "end"], again=["after"])
def an_event_came_and_nobody_observed(stage, run):
    stage.deliver(run, 2)
    ingest(stage.engine(), Event("paid", {"client": "w2", "n": 5}, "golden-paid", stage.clock.now_ms()))


@story("invokes", result=[6, "end"], again=["after"])
def a_run_that_was_invoked_has_ended(stage, run):
    stage.deliver(run, 2)
    [begun] = stage.store.get([(partition_of(run), attempt_key((1, 0), 1))])
    stage.finish(fields_of(begun)["child"])


@story("asks", result="StepTimeout", again=["after"])
def asked_and_not_answered(stage, run):
    stage.deliver(run, 3)


@story("polls", result=[None], again=["look (2)"])
def a_condition_did_not_hold_yet(stage, run):
    stage.deliver(run)


@story("slots", result="end", again=["last"])
def holds_a_slot(stage, run):
    stage.deliver(run, 2)


@story("slots", result="end", again=["first", "last"])
def queues_for_a_slot(stage, run):
    stage.deliver(run)


@story("few", result=["a", "b"], again=["b"])
def killed_inside_a_step_that_holds_a_slot(stage, run):
    stage.deliver(run)
    stage.kill(run, "b")


@story("few", result=["a", "b"], again=["a", "b"])
def a_step_queues_for_a_slot(stage, run):
    stage.deliver(run)


@story("calm", result=["k", "l"], again="l")
def held_by_a_pause_that_is_over(stage, run):
    stage.deliver(run)
    stage.deliver(run, index=0)
    pause.pause(stage.engine(), "calm")
    stage.deliver(run, stage.count(run, "step"), do="step")
    pause.unpause(stage.engine(), "calm")
