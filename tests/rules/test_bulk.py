"""Many runs at once: those of a workflow and a time are cancelled, those that failed in a period are done again."""

import itertools

import pytest

from onward import App, NonRetriable
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.engine import bulk
from onward.testing import Rehearsal

from .acting import failing

HOUR_MS = 3_600_000
FOREVER = (1_764_000_000_000, 1_768_000_000_000)  # as far as a rehearsal goes here
_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "dynamodb"])
def store(request):
    if request.param == "sqlite":
        yield None
        return
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
    wire = Wire(endpoint_url=request.getfixturevalue("dynoxide_url"), environ=keys)
    table = f"bulk-{next(_numbers)}"
    create_table(wire, table)
    yield DynamoStore(wire, table)
    wire.close()


class Shop:
    """Two workflows: one that sleeps for a day, one whose second step fails while the shop is broken."""

    def __init__(self, store=None):
        self.broken, self.done, self.told = True, [], []
        self.app = App("shop")
        self.app.workflow(on="sleep", name="sleeps", on_cancel=self.tell)(lambda event, step: step.sleep("day", 86_400))
        self.app.workflow(on="fail", name="fails", retries=0)(self.fails)
        self.app.workflow(on="once", name="once", retries=0)(self.fails_once)
        self.stage = Rehearsal(self.app, store=store)

    def tell(self, event, step):
        step.run("tell", self.told.append, event.data["run_id"])

    def act(self, name):
        self.done.append(name)
        if self.broken:
            raise NonRetriable("broken")

    def fails(self, event, step):
        step.run("fine", self.done.append, "fine")
        step.run("bad", self.act, "bad")

    def fails_once(self, event, step):
        step.run("bad", self.act, "once", once=True)

    def failed(self, name, *period):
        return [one.run for one in bulk.failed_runs(self.stage.store, name, *(period or FOREVER))]


@pytest.fixture
def shop(store):
    shop = Shop(store)
    yield shop
    shop.stage.close()


def test_the_unfinished_runs_of_a_workflow_and_a_time_are_cancelled(shop):
    with shop.stage as stage:
        [old] = stage.start("sleep")
        stage.pass_time(3600)
        runs = [stage.start("sleep")[0] for _ in range(3)]
        stage.pass_time(10)
        since_ms = stage.clock.now_ms() - HOUR_MS // 2
        [gone] = stage.start("sleep")
        chosen = list(bulk.open_runs(stage.engine.ledger, "sleeps", since_ms, stage.clock.now_ms()))
        assert sorted(one.run for one in chosen) == sorted(runs), "neither the older nor the newer one"
        assert all(bulk.cancel(stage.engine, one) for one in chosen)
        assert not bulk.cancel(stage.engine, chosen[0]) and chosen[0].why == "it has ended meanwhile"
        assert not list(bulk.open_runs(stage.engine.ledger, "fails", *FOREVER))
        stage.pass_time(60)
        assert sorted(shop.told) == sorted(runs), "and on_cancel= is called for each"
        assert [stage.view(run)["status"] for run in (old, gone)] == ["sleeping"] * 2


def test_what_failed_in_a_period_is_done_again_from_what_failed_it(shop):
    with shop.stage as stage:
        first = stage.send("fail")["run_id"]
        stage.clock.turn(stage.clock.now_ms() + 90_000_000)
        at_ms = stage.clock.now_ms()
        runs = []
        for _ in range(5):
            runs.append(stage.send("fail")["run_id"])
            stage.pass_time(1)
        other = stage.send("once")["run_id"]
        assert shop.failed("fails") == [first, *runs] and shop.failed(None) == [first, *runs, other]
        assert shop.failed("fails", at_ms, at_ms + HOUR_MS) == runs and not shop.failed("fails", 0, at_ms - 90_000_000)
        shop.broken, shop.done = False, []
        for _ in range(2):  # the second time finds what the first has begun
            chosen = list(bulk.failed_runs(stage.store, "fails", at_ms, at_ms + HOUR_MS))
            assert all(bulk.retry(stage.engine, one) for one in chosen)
            stage.drain()
            assert [stage.view(one.fork)["status"] for one in chosen] == ["completed"] * 5
        assert shop.done == ["bad"] * 5 and shop.failed("fails") == [first, *runs]


def test_what_may_run_only_once_is_left_out_unless_it_is_asked_for(shop):
    with shop.stage as stage:
        stage.send("once")
        shop.broken = False
        [chosen] = bulk.failed_runs(stage.store, None, *FOREVER)
        assert not bulk.retry(stage.engine, chosen) and "'bad' may run only once" in chosen.why
        [chosen] = bulk.failed_runs(stage.store, None, *FOREVER)
        assert bulk.retry(stage.engine, chosen, once=True)
        stage.drain()
        assert stage.view(chosen.fork)["status"] == "completed" and shop.done == ["once"] * 2


def test_a_run_that_cannot_be_done_again_says_why_and_the_others_are(shop):
    with shop.stage as stage:
        stage.send("fail"), stage.send("fail")
        shop.broken = False
        stage.engine.app = App("without")
        for one in bulk.failed_runs(stage.store, None, *FOREVER):
            assert not bulk.retry(stage.engine, one) and "fails" in one.why


def test_more_failures_than_a_page_are_told_in_the_order_of_time(monkeypatch):
    monkeypatch.setattr(bulk, "PAGE", 2)
    app = App("many")
    app.workflow(on="go", name="work")(failing(ValueError("no")))
    with Rehearsal(app) as stage:
        runs = []
        for _ in range(20):
            runs.append(stage.send("go")["run_id"])
            stage.pass_time(1)
        assert [one.run for one in bulk.failed_runs(stage.store, None, *FOREVER)] == runs
