"""Callbacks: steps that somebody outside completes or fails."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from onward import StepError
from onward.core.errors import InvalidEvent, UnknownCallback
from onward.core.ids import callback_event
from onward.engine import callbacks, control
from onward.engine.callbacks import ACCEPTED, ANSWERED, TOO_LATE
from onward.testing import Rehearsal

from .acting import ASYNC, both
from .test_waits import HOUR_S, until_it_stands, waits_left


class Desk:
    """Where tokens arrive."""

    def __init__(self, fails=0):
        self.tokens = []
        self.told = []
        self.fails = fails

    def notify(self, token, *args):
        self.tokens.append(token)
        self.told.append(args)
        if len(self.tokens) <= self.fails:
            raise ConnectionError("no post today")
        return "posted"


def asking(desk, timeout=timedelta(days=3), **options):
    async def work(event, step):
        try:
            return await step.callback("approve", desk.notify, "o-17", timeout=timeout, **options)
        except StepError as error:
            return [error.step, error.type, error.message]

    return work


@both
def test_what_somebody_gives_is_what_the_step_returns(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk)), fresh=True) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        assert stage.view(run)["status"] == "waiting" and desk.told == [("o-17",)]
        assert [step["name"] for step in stage.view(run)["steps"]] == ["approve.notify", "approve"]
        assert callbacks.complete(stage.engine, desk.tokens[0], {"by": "Ada"}) == ACCEPTED
        stage.drain()
        assert stage.view(run)["result"] == {"by": "Ada"} and waits_left(stage) == []
        assert len(desk.tokens) == 1, "it was asked once"


@both
def test_what_somebody_fails_is_raised_with_their_error(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk))) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        assert callbacks.fail(stage.engine, desk.tokens[0], "too dear", "Refused") == ACCEPTED
        stage.drain()
        assert stage.view(run)["result"] == ["approve", "Refused", "too dear"]


@both
def test_nobody_answers_and_it_ends_at_its_time(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk))) as stage:
        view = stage.send("go")
        assert view["result"] == ["approve", "StepTimeout", "nobody has completed it within 259200 s"]
        assert 0 <= view["ended_ms"] - view["started_ms"] - 72 * HOUR_S * 1000 < 60_000
        assert callbacks.complete(stage.engine, desk.tokens[0], 1) == TOO_LATE
        assert callbacks.beat(stage.engine, desk.tokens[0]) == TOO_LATE


@both
def test_too_late_is_told_while_the_run_goes_on_as_well(kind):
    desk = Desk()

    async def work(event, step):
        await asking(desk, timeout=60)(event, step)
        await step.sleep("on", 2 * HOUR_S)

    with Rehearsal(kind.app(work)) as stage:
        [run] = stage.start("go")
        while not any(step["name"] == "on" for step in stage.view(run)["steps"]):
            stage.step()
        assert callbacks.fail(stage.engine, desk.tokens[0], "no") == TOO_LATE
        assert stage.view(run)["status"] != "completed"


@both
def test_the_first_answer_counts_and_the_others_are_told(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk))) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        [token] = desk.tokens
        assert callbacks.complete(stage.engine, token, "yes") == ACCEPTED
        assert callbacks.fail(stage.engine, token, "no") == ANSWERED
        stage.drain()
        assert callbacks.complete(stage.engine, token, "again") == ANSWERED
        assert stage.view(run)["result"] == "yes"


@both
def test_an_answer_may_come_before_the_wait_begins(kind):
    class Eager(Desk):
        def notify(self, token, *args):
            super().notify(token, *args)
            assert callbacks.complete(stage.engine, token, "at once") == ACCEPTED

    with Rehearsal(kind.app(asking(Eager()))) as stage:
        view = stage.send("go")
        assert view["result"] == "at once" and view["ended_ms"] - view["started_ms"] < 60_000


def test_an_answer_that_nobody_brought_is_found_at_the_end():
    """Its giver died when it was kept, and it came too late to be looked back at."""
    desk = Desk()
    with Rehearsal(ASYNC.app(asking(desk, timeout=HOUR_S))) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        stage.clock.turn(stage.clock.now_ms() + (HOUR_S + 30) * 1000)
        brought = callbacks.bring
        callbacks.bring = lambda *args: None
        try:
            assert callbacks.complete(stage.engine, desk.tokens[0], "just so") == ACCEPTED
        finally:
            callbacks.bring = brought
        stage.drain()
        assert stage.view(run)["result"] == "just so" and waits_left(stage) == []


@both
def test_the_token_is_the_same_in_each_attempt_and_no_other_steps(kind):
    desk = Desk(fails=2)

    async def work(event, step):
        return [await step.callback("ask", desk.notify, timeout=HOUR_S)]

    with Rehearsal(kind.app(work), fresh=True) as stage:
        runs = [stage.start("go")[0] for _ in range(2)]
        while len(desk.tokens) < 4:  # the first two of all attempts fail
            stage.step()
        first, second = dict.fromkeys(desk.tokens)
        assert first.startswith(f"{runs[0]}.") and second.startswith(f"{runs[1]}.")
        assert first.partition(".")[2] != second.partition(".")[2]
        until_it_stands(stage)
        for token in (first, second):
            assert callbacks.complete(stage.engine, token, token) == ACCEPTED
        stage.drain()
        assert [stage.view(run)["result"] for run in runs] == [[first], [second]]


def test_callbacks_of_one_name_beside_each_other_have_tokens_of_their_own():
    desk = Desk()

    async def work(event, step):
        return await asyncio.gather(*(step.callback("ask", desk.notify, n, timeout=HOUR_S) for n in range(3)))

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        assert len(set(desk.tokens)) == 3
        for token, (n,) in zip(desk.tokens, desk.told, strict=True):
            callbacks.complete(stage.engine, token, n * 10)
        stage.drain()
        assert stage.view(run)["result"] == [0, 10, 20]


@both
def test_a_token_that_no_run_has_made_is_an_error_that_says_so(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk))) as stage:
        stage.start("go")
        until_it_stands(stage)
        [token] = desk.tokens
        wrong = [token[:-1], token[:-1] + ("0" if token[-1] != "0" else "1"), "nobody." + token.partition(".")[2]]
        for bad in [*wrong, "", "x", ".", None, 7, token.partition(".")[0], token + "0"]:
            with pytest.raises(UnknownCallback, match="the token"):
                callbacks.complete(stage.engine, bad, "mine")
        assert callbacks.complete(stage.engine, token, 1) == ACCEPTED


@both
def test_a_cancelled_run_takes_no_answer(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk))) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        control.cancel(stage.engine, run)
        assert callbacks.complete(stage.engine, desk.tokens[0], 1) == TOO_LATE
        assert callbacks.beat(stage.engine, desk.tokens[0]) == TOO_LATE


@both
def test_notify_that_fails_for_good_fails_the_step_under_its_own_name(kind):
    view = kind.go(asking(Desk(fails=99)))
    assert view["result"][:2] == ["approve.notify", "ConnectionError"]


@both
def test_no_event_from_outside_completes_a_callback(kind):
    desk = Desk()

    async def work(event, step):
        if event.data:
            await step.send_event("fake", {"token": event.data}, event="onward/callback")
        return await asking(desk, timeout=HOUR_S)(event, step)

    with Rehearsal(kind.app(work)) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        [token] = desk.tokens
        for name, id in (("onward/callback", "e1"), ("onward/beat", "e2"), ("mine", callback_event(token))):
            with pytest.raises(InvalidEvent, match="Onward's own"):
                stage.start(name, {"token": token, "data": "mine"}, id=id)
        faker = stage.send("go", token)
        assert faker["status"] == "failed" and "Onward's own" in faker["error"]["message"]
        assert stage.view(run)["result"][1] == "StepTimeout"


@both
def test_whoever_may_look_at_a_run_does_not_see_its_token(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk))) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        assert desk.tokens[0].partition(".")[2] not in repr(stage.view(run))


# ------------------------------------------------------------------------------------------------- heartbeats
@both
def test_heartbeats_keep_it_standing_and_without_them_it_is_lost(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk, heartbeat=600))) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        [token] = desk.tokens
        began_ms = stage.clock.now_ms()
        for _ in range(5):
            stage.clock.turn(stage.clock.now_ms() + 500_000)
            assert callbacks.beat(stage.engine, token) == ACCEPTED
            until_it_stands(stage)
        assert stage.view(run)["status"] == "waiting"
        stage.drain()
        assert stage.view(run)["result"] == ["approve", "HeartbeatLost", "no heartbeat came for 600 s"]
        assert 3_100_000 <= stage.view(run)["ended_ms"] - began_ms < 3_200_000
        assert callbacks.complete(stage.engine, token, 1) == TOO_LATE and waits_left(stage) == []


@both
def test_an_answer_between_heartbeats_counts(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk, heartbeat=600)), fresh=True) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        [token] = desk.tokens
        for _ in range(3):
            callbacks.beat(stage.engine, token)
            stage.clock.turn(stage.clock.now_ms() + 1_000)
        assert callbacks.complete(stage.engine, token, "done") == ACCEPTED  # beats and answer wait to be taken in
        assert callbacks.beat(stage.engine, token) == ANSWERED
        stage.drain()
        assert stage.view(run)["result"] == "done"


@both
def test_heartbeats_do_not_move_the_timeout(kind):
    desk = Desk()
    with Rehearsal(kind.app(asking(desk, timeout=1500, heartbeat=600))) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        began_ms = stage.clock.now_ms()
        for _ in range(2):
            stage.clock.turn(stage.clock.now_ms() + 500_000)
            callbacks.beat(stage.engine, desk.tokens[0])
            until_it_stands(stage)
        stage.drain()
        assert stage.view(run)["result"][1] == "StepTimeout"
        assert 1_500_000 <= stage.view(run)["ended_ms"] - began_ms < 1_600_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": -1}, "timeout= takes 0 seconds to 366 days"),
        ({"heartbeat": 0}, "heartbeat= takes seconds, over 0"),
        ({"heartbeat": "1m"}, "heartbeat= takes seconds, over 0"),
    ],
)
@both
def test_what_makes_no_sense_is_refused(kind, options, message):
    async def work(event, step):
        await step.callback("ask", print, **options)

    view = kind.go(work)
    assert view["status"] == "failed" and message in view["error"]["message"], view["error"]
