"""A story for each feature, as its user would tell it: sync and async, over both stores, under a clock that is set."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

import pytest

from onward import (
    App,
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    Middleware,
    RateLimit,
    Singleton,
    StepError,
    Throttle,
    cron,
    pattern,
)
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.core.values import Event
from onward.engine import bulk, callbacks, control, forks, pause
from onward.engine.ingest import ingest
from onward.testing import Rehearsal
from tests.rules.acting import ASYNC, SYNC

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
_numbers = itertools.count()


@pytest.fixture(params=[SYNC, ASYNC], ids=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture(params=["sqlite", "dynamodb"])
def rehearse(request):
    """What makes a rehearsal of an app, over a store of its own."""
    opened = []

    def rehearse(app):
        store = None
        if request.param == "dynamodb":
            wire = Wire(endpoint_url=request.getfixturevalue("dynoxide_url"), environ=KEYS)
            table = f"features-{next(_numbers)}"
            create_table(wire, table)
            store = DynamoStore(wire, table)
            opened.append(wire)
        stage = Rehearsal(app, store=store, fresh=True)
        opened.append(stage)
        return stage

    yield rehearse
    for one in reversed(opened):
        one.close()


class Seen:
    """When what was done, in seconds from the beginning."""

    def __init__(self):
        self.done = []
        self.stage = None

    def begin(self, stage):
        self.stage, self.began_ms = stage, stage.clock.now_ms()

    def do(self, what=None):
        self.done.append(((self.stage.clock.now_ms() - self.began_ms) // 1000, what))
        return what

    @property
    def what(self):
        return [what for _, what in self.done]

    @property
    def times(self):
        return [at for at, _ in self.done]


def takes(seen, lasts_s=0):
    """A workflow that notes what its event says, and lasts a while."""

    async def work(event, step):
        await step.run("begin", seen.do, event.data)
        if lasts_s:
            await step.sleep("work", lasts_s)
        return event.data

    return work


@pytest.fixture
def told(kind, rehearse):
    """Tell how a workflow with these options takes events: (seconds, data), for so many seconds."""

    def told(events, upto_s, lasts_s=0, **options):
        seen = Seen()
        stage = rehearse(kind.app(takes(seen, lasts_s), **options))
        seen.begin(stage)
        for at_s, data in events:
            now_s = (stage.clock.now_ms() - seen.began_ms) / 1000
            stage.pass_time(at_s - now_s) if at_s > now_s else None
            stage.start("go", data)
        stage.pass_time(upto_s - (stage.clock.now_ms() - seen.began_ms) / 1000)
        return seen

    return told


# ---------------------------------------------------------------------------------------------------------- triggers
@pytest.mark.parametrize(
    ("options", "starts", "does_not"),
    [
        ({"on": ["price/changed", "price/gone"]}, "price/gone", "price/kept"),
        ({"on": "price/*"}, "price/changed", "order/changed"),
        ({"on": pattern({"detail-type": [{"prefix": "pri"}]})}, "price", "order"),
        ({"on": "*", "where": lambda event: event.name == "yes"}, "yes", "no"),
    ],
    ids=["list", "wildcard", "pattern", "where"],
)
def test_triggers(kind, rehearse, options, starts, does_not):
    seen = Seen()
    stage = rehearse(kind.app(takes(seen), **options))
    seen.begin(stage)
    for name in (starts, does_not):
        event = Event(name, name, f"id-{name}", stage.clock.now_ms())
        assert ingest(stage.engine, event) == ingest(stage.engine, event), "delivered again, it starts the same"
    stage.drain()
    assert seen.what == [starts]


def test_a_schedule(kind, rehearse):
    seen = Seen()

    async def work(event, step):
        await step.run("begin", seen.do, event.data["scheduled"])

    stage = rehearse(kind.app(work, on=cron("30 7 * * *", tz="Europe/Paris")))
    seen.begin(stage)
    stage.pass_time(2 * 86_400)
    assert seen.what == ["2025-12-01T06:30:00Z", "2025-12-02T06:30:00Z"]


def test_an_event_of_the_future_and_a_delay(kind, rehearse):
    seen = Seen()
    stage = rehearse(kind.app(takes(seen), delay=60))
    seen.begin(stage)
    ingest(stage.engine, Event("go", "later", "e1", stage.clock.now_ms() + 600_000))
    ingest(stage.engine, Event("go", "soon", "e2", stage.clock.now_ms()))
    stage.pass_time(1_000)
    assert seen.done == [(60, "soon"), (660, "later")]


# ------------------------------------------------------------------------------------------------------------- waits
def test_waits_for_events(kind, rehearse):
    async def work(event, step):
        paid = await step.wait_for_event("paid", match={"data.order": event.data}, timeout=600)
        first = await step.wait_for_any("first", {"shipped": {"data": event.data}, "lost": None}, timeout=600)
        never = await step.wait_for_event("never", timeout=60)
        return [paid.data["by"], first.name, never]

    stage = rehearse(kind.app(work))
    stage.start("paid", {"order": 7, "by": "card"})  # a moment too early
    [run] = stage.start("go", 7)
    stage.pass_time(10)
    stage.start("shipped", 8)
    stage.start("shipped", 7)
    stage.drain()
    assert stage.view(run)["result"] == ["card", "shipped", None]


def test_a_run_of_another_workflow_and_an_event_that_is_sent(kind, rehearse):
    app = App("rules")

    async def child(event, step):
        if event.data == "bad":
            raise ValueError("no")
        return await step.run("double", lambda: event.data * 2)

    async def work(event, step):
        double = await step.invoke("child", 4)
        try:
            await step.invoke("child", "bad")
        except StepError as error:
            sent = await step.send_event("told", {"double": double, "error": error.type})
        return [await step.wait_for_event("told", match={"id": sent}, timeout=60) is not None, double]

    kind.app(child, into=app, on="never", name="child", retries=0)
    stage = rehearse(kind.app(work, into=app))
    assert stage.send("go")["result"] == [True, 8]


def test_a_person_and_a_condition(kind, rehearse):
    tokens, looks = [], []

    async def work(event, step):
        approved = await step.callback("approve", tokens.append, timeout=600, heartbeat=120)
        found = await step.wait_until("look", lambda: looks.append(1) or len(looks) == 3, every=30, backoff=2)
        return [approved, found]

    stage = rehearse(kind.app(work))
    [run] = stage.start("go")
    for _ in range(3):
        stage.pass_time(100)
        assert callbacks.beat(stage.engine, tokens[0]) == callbacks.ACCEPTED
    callbacks.complete(stage.engine, tokens[0], "yes")
    stage.drain()
    assert stage.view(run)["result"] == ["yes", True]


# --------------------------------------------------------------------------------------------------------- lifecycle
def test_what_ends_a_run_from_outside(kind, rehearse):
    ended = []

    async def work(event, step):
        await step.sleep("work", 3600)

    def tell(event, step):
        step.run("tell", ended.append, (event.data["event"]["data"]["id"], event.name))

    cancel_on = CancelOn("stop", match={"data.id": "data.id"})
    stage = rehearse(
        kind.app(work, cancel_on=cancel_on, finish_timeout=600, start_timeout=300, on_failure=tell, on_cancel=tell)
    )
    runs = [stage.start("go", {"id": n})[0] for n in range(4)]
    stage.pass_time(10)
    stage.start("stop", {"id": 0})
    control.cancel(stage.engine, runs[1])
    for chosen in bulk.open_runs(stage.engine.ledger, "work", 0, stage.clock.now_ms()):
        if chosen.run == runs[2]:
            bulk.cancel(stage.engine, chosen)
    stage.pass_time(700)
    assert [stage.view(run)["status"] for run in runs] == ["cancelled"] * 3 + ["failed"]
    assert sorted(ended) == [*((n, "onward/run.cancelled") for n in range(3)), (3, "onward/run.failed")]


def test_a_workflow_is_paused_and_goes_on(kind, rehearse):
    seen = Seen()
    stage = rehearse(kind.app(takes(seen)))
    seen.begin(stage)
    pause.pause(stage.engine, "work")
    stage.start("go", "held")
    stage.pass_time(600)
    pause.unpause(stage.engine, "work")
    stage.pass_time(15)
    assert not seen.done and pause.wake_held(stage.engine, "work") == 1
    stage.drain()
    assert seen.what == ["held"]


def test_runs_are_done_again(kind, rehearse):
    seen, broken = Seen(), [True]

    def act(*args):
        seen.do(args)
        if broken[0]:
            raise ValueError("broken")

    async def work(event, step):
        await step.run("first", seen.do, "first")
        await step.run("act", act, event.data, retries=0)

    stage = rehearse(kind.app(work))
    seen.begin(stage)
    runs = [stage.send("go", n)["run_id"] for n in range(3)]
    broken[0], seen.done = False, []
    forks.retry(stage.engine, runs[0])
    forks.fork(stage.engine, runs[1], "act", args=["new"])
    forks.fork(stage.engine, runs[1], data="other")
    stage.drain()
    assert seen.what == [(0,), ("new",), "first", ("other",)]
    chosen = list(bulk.failed_runs(stage.store, "work", seen.began_ms, stage.clock.now_ms() + 1))
    assert sorted(one.run for one in chosen) == sorted(runs) and all(bulk.retry(stage.engine, one) for one in chosen)
    stage.drain()
    assert all(stage.view(one.fork)["status"] == "completed" for one in chosen)


# ------------------------------------------------------------------------------------------------------ flow control
def test_concurrency_of_runs_and_priority(told):
    urgent = partial(told, lasts_s=10, concurrency=Concurrency(2), priority=lambda event: event.data)
    seen = urgent([(0, 1), (0, 1), (1, 1), (1, 1), (2, 5)], 100)
    assert seen.done == [(0, 1), (0, 1), (10, 5), (10, 1), (20, 1)]


def test_concurrency_by_key(told):
    seen = told([(0, "a"), (0, "a"), (0, "b")], 100, 10, concurrency=Concurrency(1, key=lambda event: event.data))
    assert seen.done == [(0, "a"), (0, "b"), (10, "a")]


def test_throttle(told):
    seen = told([(0, n) for n in range(5)], 100, throttle=Throttle(1, period=10, burst=2))
    assert seen.times == [0, 0, 10, 20, 30] and sorted(seen.what) == list(range(5))


def test_rate_limit(told):
    seen = told([(0, 1), (1, 2), (2, 3), (11, 4)], 100, rate_limit=RateLimit(2, period=10))
    assert seen.done == [(0, 1), (1, 2), (11, 4)]


def test_debounce(told):
    seen = told([(0, 1), (5, 2), (9, 3), (30, 4)], 100, debounce=Debounce(10, max_delay=60))
    assert seen.done == [(19, 3), (40, 4)]


def test_batch(kind, rehearse):
    seen = Seen()

    async def work(event, step):
        await step.run("take", seen.do, [one["data"] for one in event.data["events"]])

    stage = rehearse(kind.app(work, batch=Batch(2, timeout=10, key=lambda event: event.data % 2)))
    seen.begin(stage)
    for n in range(5):
        stage.start("go", n)
    stage.pass_time(60)
    assert seen.done == [(0, [0, 2]), (0, [1, 3]), (10, [4])]


@pytest.mark.parametrize(("mode", "done"), [("skip", ["a", "c"]), ("cancel", ["a", "b", "c"])])
def test_singleton(told, mode, done):
    assert told([(0, "a"), (5, "b"), (20, "c")], 100, 10, singleton=Singleton(mode=mode)).what == done


def test_idempotency(told):
    seen = told([(0, 1), (1, 1), (2, 2), (70, 1)], 100, idempotency=Idempotency(lambda event: event.data, period=60))
    assert seen.done == [(0, 1), (2, 2), (70, 1)]


# -------------------------------------------------------------------------------------------------------- middleware
def test_middleware(kind, rehearse):
    class Doubles(Middleware):
        def before_step(self, call):
            call.args = tuple(2 * value for value in call.args)

        def encode(self, text, context):
            return text[::-1]

        def decode(self, text, context):
            return text[::-1]

    async def work(event, step):
        return [await step.run("keep", lambda value: value, event.data), event.data]

    stage = rehearse(kind.app(work, into=App("rules", middleware=[Doubles()])))
    run = stage.send("go", 12)
    assert run["result"] == [24, 12]
    items = stage.store.read(f"run#{run['run_id']}", "", "~")
    assert {item.value for item in items if item.value is not None} == {"~21", "~42", "~]21,42["}


def test_steps_beside_each_other(kind, rehearse):
    seen = Seen()

    async def work(event, step):
        return await asyncio.gather(*[step.run(f"s{n}", seen.do, n) for n in range(4)], step.sleep("rest", 60))

    def branches(event, step):
        return step.parallel(
            *[partial(step.run, f"s{n}", seen.do, n) for n in range(4)], partial(step.sleep, "rest", 60)
        )

    stage = rehearse(kind.app(work if kind is ASYNC else branches))
    seen.begin(stage)
    assert stage.send("go")["result"] == [0, 1, 2, 3, None] and sorted(seen.what) == [0, 1, 2, 3]
