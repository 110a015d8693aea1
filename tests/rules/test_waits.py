"""Waits for events, and runs that wait for other runs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from onward import App, StepError
from onward.core.log import LOG_END, partition_of
from onward.core.waits import WAITS
from onward.engine import control
from onward.local.store import SqliteStore
from onward.testing import Rehearsal

from .acting import ASYNC, both

HOUR_S = 3600


def until_it_stands(stage: Rehearsal) -> None:
    """Deliver what is there to be delivered now, and nothing that lies ahead."""
    while (at_ms := stage.queue.next_ms()) is not None and at_ms <= stage.clock.now_ms() + 1_000:
        stage.step()


def waits_left(stage: Rehearsal) -> list[str]:
    assert isinstance(stage.store, SqliteStore)
    return [str(sort) for (sort,) in stage.store.rows("SELECT sort FROM items WHERE sort LIKE ?", (f"{WAITS}%",))]


def waiting(timeout=HOUR_S, **options):
    async def work(event, step):
        found = await step.wait_for_event("paid", timeout=timeout, **options)
        return found and [found.name, found.id, found.data]

    return work


@both
def test_the_first_event_that_fits_is_brought_and_no_other(kind):
    with Rehearsal(kind.app(waiting(match={"data.order": 7}))) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        assert stage.view(run)["status"] == "waiting"
        for n, order in enumerate((8, "7", None, 7, 7)):
            stage.start("paid", {"order": order}, id=f"e{n}")
        stage.drain()
        assert stage.view(run)["result"] == ["paid", "e3", {"order": 7}]
        assert waits_left(stage) == []


@both
def test_nothing_comes_and_the_wait_ends_at_its_time(kind):
    with Rehearsal(kind.app(waiting(timeout=timedelta(days=30)))) as stage:
        [run] = stage.start("go")
        stage.drain()
        view = stage.view(run)
        assert (view["status"], view["result"]) == ("completed", None)
        assert 0 <= view["ended_ms"] - view["started_ms"] - 30 * 24 * HOUR_S * 1000 < 60_000
        assert waits_left(stage) == []


@both
def test_an_event_that_was_sent_a_moment_too_early_is_not_missed(kind):
    async def work(event, step):
        await step.sleep("rest", 60)
        found = await step.wait_for_event("paid", match={"data.order": 7}, timeout=HOUR_S)
        return found.data

    with Rehearsal(kind.app(work)) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        stage.start("paid", {"order": 6})
        stage.start("paid", {"order": 7, "first": True})
        stage.clock.turn(stage.clock.now_ms() + 10)
        stage.start("paid", {"order": 7, "first": False})
        stage.drain()
        assert stage.view(run)["result"] == {"order": 7, "first": True}


@both
def test_an_event_from_before_the_run_counts_only_where_since_says_so(kind):
    async def work(event, step):
        since = datetime.fromtimestamp(event.at_ms / 1000 - HOUR_S, UTC) if event.data["since"] else None
        found = await step.wait_for_event("paid", timeout=60, since=since)
        return found and found.data

    with Rehearsal(kind.app(work)) as stage:
        stage.start("paid", "old")
        stage.clock.turn(stage.clock.now_ms() + 60_000)
        assert [stage.send("go", {"since": since})["result"] for since in (True, False)] == ["old", None]


@both
def test_one_run_receives_an_event_once_and_two_runs_receive_it_each(kind):
    async def work(event, step):
        first = await step.wait_for_event("paid", timeout=60)
        second = await step.wait_for_event("paid", timeout=60)
        return [first and first.data, second and second.data]

    with Rehearsal(kind.app(work)) as stage:
        runs = [stage.start("go")[0] for _ in range(2)]
        until_it_stands(stage)
        for _ in range(3):  # it is delivered three times
            stage.start("paid", 1, id="e1")
            until_it_stands(stage)
        stage.drain()
        assert [stage.view(run)["result"] for run in runs] == [[1, None]] * 2


@both
def test_where_decides_what_match_cannot(kind):
    work = waiting(where=lambda event: event.data["amount"] > 100)
    with Rehearsal(kind.app(work)) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        for amount in (5, "a lot", 101, 500):  # a predicate that raises says no
            stage.start("paid", {"amount": amount})
            until_it_stands(stage)
        stage.drain()
        assert stage.view(run)["result"][2] == {"amount": 101}


@both
def test_of_several_events_the_first_counts(kind):
    async def work(event, step):
        found = await step.wait_for_any("answer", {"paid": {"data.n": 1}, "refused": {"data.n": 1}}, timeout=60)
        return found.name

    with Rehearsal(kind.app(work)) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        for name in ("refused", "paid"):
            stage.start(name, {"n": 1})
        stage.drain()
        assert stage.view(run)["result"] == "refused" and waits_left(stage) == []


def test_waits_stand_beside_other_steps():
    async def work(event, step):
        a, b, found = await asyncio.gather(
            step.run("a", str, 1), step.sleep("b", 30), step.wait_for_event("paid", timeout=HOUR_S)
        )
        return [a, b, found.data]

    with Rehearsal(ASYNC.app(work)) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        stage.start("paid", "x")
        stage.drain()
        assert stage.view(run)["result"] == ["1", None, "x"]


@both
def test_a_cancelled_run_waits_for_nothing_any_more(kind):
    with Rehearsal(kind.app(waiting())) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        assert len(waits_left(stage)) == 1 and control.cancel(stage.engine, run) and waits_left(stage) == []
        log = stage.store.read(partition_of(run), "L", LOG_END)
        stage.start("paid", 1)
        stage.drain()
        assert stage.store.read(partition_of(run), "L", LOG_END) == log


def test_an_event_costs_the_same_however_many_wait():
    class Counting:
        def __init__(self, store):
            self.store, self.calls, self.items = store, 0, 0

        def __getattr__(self, name):
            def call(*args, **options):
                answer = getattr(self.store, name)(*args, **options)
                self.calls += 1
                self.items += len(answer) if isinstance(answer, list) else 0
                return answer

            return call

    spent = []
    for others in (1, 300):
        with Rehearsal(ASYNC.app(waiting(match={"data.order": 0}))) as stage:
            stage.app = app = App("many")

            @app.workflow(on="go", name="work")
            def work(event, step):
                found = step.wait_for_event("paid", match={"data.order": event.data}, timeout=HOUR_S)
                return found.data["order"]

            stage.engine = stage.new_engine()
            runs = [stage.start("go", n)[0] for n in range(others)]
            until_it_stands(stage)
            counting = Counting(stage.store)
            stage.engine.store = stage.engine.ledger.store = counting
            stage.start("paid", {"order": 0})
            spent.append((counting.calls, counting.items))
            stage.engine.store = stage.engine.ledger.store = stage.store
            until_it_stands(stage)
            assert stage.view(runs[0])["result"] == 0
    assert spent[0] == spent[1], "the waits of others are read"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": -1}, "timeout= takes 0 seconds to 366 days"),
        ({"match": {"order": 1}}, 'match= takes paths that begin with "data."'),
        ({"match": {"data.x": [1]}}, "match= compares with strings, numbers, booleans and None, not list"),
        ({"match": {f"data.{n}": n for n in range(6)}}, "match= takes up to 5 paths"),
        ({"since": "yesterday"}, "since= takes a datetime"),
        ({"where": "x > 1"}, "where= takes a function of the event, not str"),
        ({"event": ""}, "the name of an event is a string of 1 to 256 characters"),
    ],
)
@both
def test_what_makes_no_sense_is_refused(kind, options, message):
    async def work(event, step):
        await step.wait_for_event("paid", **options)

    view = kind.go(work)
    assert view["status"] == "failed" and message in view["error"]["message"], view["error"]


# ------------------------------------------------------------------------------------------------- other runs
def with_child(kind, story, child):
    app = kind.app(story)
    app.workflow(on="child/go", name="child", retries=0)(child)
    return app


@both
def test_a_run_brings_the_result_of_another_and_both_know_of_each_other(kind):
    async def work(event, step):
        return await step.invoke("child", {"n": 20}, name="kid")

    with Rehearsal(with_child(kind, work, lambda event, step: step.run("twice", lambda: 2 * event.data["n"]))) as stage:
        view = stage.send("go")
        assert view["result"] == 40
        [told] = [step for step in view["steps"] if step["name"] == "kid"]
        assert told["status"] == "completed" and told["attempts"] == 1


@both
@pytest.mark.parametrize("ends", ["fails", "is cancelled", "is late"])
def test_what_becomes_of_another_run_can_be_caught(kind, ends):
    async def work(event, step):
        try:
            await step.invoke("child", timeout=60)
        except StepError as error:
            return error.type

    def child(event, step):
        if ends == "fails":
            raise LookupError("gone")
        step.sleep("long", HOUR_S)

    with Rehearsal(with_child(kind, work, child)) as stage:
        [run] = stage.start("go")
        until_it_stands(stage)
        if ends == "is cancelled":
            [other] = [head for head in stage.open_heads() if head.partition != partition_of(run)]
            control.cancel(stage.engine, other.partition.removeprefix("run#"))
        stage.drain()
        expected = {"fails": "LookupError", "is cancelled": "Cancelled", "is late": "StepTimeout"}
        assert stage.view(run)["result"] == expected[ends]


@both
def test_a_workflow_that_is_not_there_fails_the_run_at_once(kind):
    async def work(event, step):
        await step.invoke("nobody")

    view = kind.go(work)
    assert view["status"] == "failed" and "has no workflow 'nobody'; it has work" in view["error"]["message"]


@both
def test_an_event_that_a_step_sends_is_one_event(kind):
    async def work(event, step):
        sent = await step.send_event("paid", {"order": 7})
        found = await step.wait_for_event("paid", match={"data.order": 7}, timeout=60)
        return [sent == found.id, found.data]

    with Rehearsal(with_child(kind, work, lambda event, step: None)) as stage:
        assert stage.send("go")["result"] == [True, {"order": 7}]
