"""Conditions that are asked again and again until they hold."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from onward.testing import Rehearsal

from .acting import ASYNC, both, failing


class Oracle:
    """Says yes at the call of that number; notes when it was asked."""

    def __init__(self, yes_at=1 << 30, answer="yes"):
        self.yes_at = yes_at
        self.answer = answer
        self.asked_ms = []
        self.clock = None

    def ask(self, *args):
        self.asked_ms.append(self.clock.now_ms())
        return self.answer if len(self.asked_ms) >= self.yes_at else None

    @property
    def pauses_s(self):
        return [round((b - a) / 1000) for a, b in zip(self.asked_ms, self.asked_ms[1:], strict=False)]


def asking(oracle, **options):
    async def work(event, step):
        return await step.wait_until("export", oracle.ask, "j-1", **{"every": 30, **options})

    return work


def tell(kind, oracle, app_options=None, **options):
    with Rehearsal(kind.app(asking(oracle, **options), **(app_options or {})), fresh=True) as stage:
        oracle.clock = stage.clock
        return stage.send("go")


@both
def test_it_returns_the_first_answer_that_holds(kind):
    oracle = Oracle(yes_at=3, answer={"url": "s3://x"})
    view = tell(kind, oracle)
    assert view["result"] == {"url": "s3://x"} and oracle.pauses_s == [30, 30]
    names = [step["name"] for step in view["steps"]]
    assert names == ["export", "export.pause", "export (2)", "export.pause (2)", "export (3)"]


@both
def test_a_condition_that_holds_at_once_costs_one_step(kind):
    assert len(tell(kind, Oracle(yes_at=1))["steps"]) == 1


@both
def test_pauses_grow_up_to_their_bound(kind):
    oracle = Oracle(yes_at=6)
    tell(kind, oracle, every=timedelta(seconds=10), backoff=3, max_every=100)
    assert oracle.pauses_s == [10, 30, 90, 100, 100]


@both
def test_when_the_time_is_over_it_is_asked_a_last_time_and_then_it_is_none(kind):
    oracle = Oracle()
    view = tell(kind, oracle, every=40, timeout=100)
    assert view["result"] is None and oracle.pauses_s == [40, 40, 20]
    oracle = Oracle(yes_at=4)
    assert tell(kind, oracle, every=40, timeout=100)["result"] == "yes"


@both
def test_with_no_time_at_all_it_is_asked_once(kind):
    oracle = Oracle()
    assert tell(kind, oracle, timeout=0)["result"] is None and len(oracle.asked_ms) == 1


@both
def test_an_error_is_retried_as_that_of_any_step_and_is_no_answer(kind):
    async def work(event, step):
        return await step.wait_until("export", failing(ConnectionError("down")), every=5)

    view = kind.go(work, options={"retries": 1})
    assert view["status"] == "failed" and view["error"]["type"] == "StepError"
    assert [step["attempts"] for step in view["steps"]] == [2]


@both
def test_a_condition_that_never_holds_ends_at_the_bound_on_steps(kind):
    oracle = Oracle()
    view = tell(kind, oracle, {"max_steps": 9})
    assert view["status"] == "failed" and "more than 9 steps" in view["error"]["message"]
    assert len(oracle.asked_ms) == 5


def test_several_are_asked_beside_each_other():
    oracles = [Oracle(yes_at=n, answer=n) for n in (1, 2, 4)]

    async def work(event, step):
        found = await asyncio.gather(*(step.wait_until("same", oracle.ask, every=60) for oracle in oracles))
        return [*found, await step.run("after", str, "end")]

    with Rehearsal(ASYNC.app(work), fresh=True) as stage:
        for oracle in oracles:
            oracle.clock = stage.clock
        assert stage.send("go")["result"] == [1, 2, 4, "end"]
        assert [len(oracle.asked_ms) for oracle in oracles] == [1, 2, 4]


def test_a_condition_may_be_a_coroutine_function():
    async def ready():
        return "ready"

    async def work(event, step):
        return await step.wait_until("export", ready, every=5)

    assert ASYNC.go(work)["result"] == "ready"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every= takes seconds, over 0"),
        ({"max_every": -1}, "max_every= takes seconds, over 0"),
        ({"backoff": 0.5}, "backoff= takes a factor of 1 to 1,000"),
        ({"backoff": float("nan")}, "backoff= takes a factor of 1 to 1,000"),
        ({"timeout": "1h"}, "timeout= takes 0 seconds to 366 days"),
    ],
)
@both
def test_what_makes_no_sense_is_refused(kind, options, message):
    view = tell(kind, Oracle(), **options)
    assert view["status"] == "failed" and message in view["error"]["message"], view["error"]
