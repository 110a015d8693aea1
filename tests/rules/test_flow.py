"""How many runs start, when, and how long they may take: observed over time, with a clock that is set."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from datetime import timedelta

import pytest

from onward import (
    App,
    Batch,
    CancelOn,
    Concurrency,
    Debounce,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    pattern,
)
from onward.core.errors import InvalidOption
from onward.core.values import Event
from onward.engine import control
from onward.engine.ingest import ingest
from onward.engine.sweep import sweep
from onward.local.store import SqliteStore
from onward.testing import Rehearsal

from .acting import both

MINUTE_MS = 60_000


class Seen:
    """What the runs of a workflow did, and when."""

    def __init__(self, stage=None):
        self.stage = stage
        self.began = []  # (epoch milliseconds, event data)
        self.live = Counter()
        self.most = Counter()

    def begin(self, group, data):
        self.began.append((self.stage.clock.now_ms(), data))
        self.live[group] += 1
        self.most[group] = max(self.most[group], self.live[group])

    def end(self, group):
        self.live[group] -= 1


def working(seen, lasts_s=10, group=lambda event: None):
    async def work(event, step):
        await step.run("begin", seen.begin, group(event), event.data)
        await step.sleep("work", lasts_s)
        await step.run("end", seen.end, group(event))
        return event.data

    return work


def rehearsal(kind, work, seen=None, **options):
    stage = Rehearsal(kind.app(work, **options), fresh=kind.name == "sync")  # and kept warm in the other
    if seen is not None:
        seen.stage = stage
    return stage


def counted(stage, prefix="flow#"):
    """The items in which starts are counted, by their sort keys."""
    assert isinstance(stage.store, SqliteStore)
    rows = stage.store.rows("SELECT sort, body FROM items WHERE partition LIKE ?", (f"{prefix}%",))
    return {str(sort): body for sort, body in rows}


def most_in_window(times_ms, window_ms):
    times_ms = sorted(times_ms)
    return max(bisect_left(times_ms, at_ms + window_ms) - n for n, at_ms in enumerate(times_ms))


# ------------------------------------------------------------------------------------------------- what starts none
@both
def test_events_with_one_key_start_one_run_within_the_period(kind):
    seen = Seen()
    options = {"idempotency": Idempotency(lambda event: event.data["order"], period=timedelta(hours=1))}
    with rehearsal(kind, working(seen), seen, **options) as stage:
        assert [len(stage.start("go", {"order": order})) for order in (1, 1, 2, 1)] == [1, 0, 1, 0]
        stage.pass_time(3599)
        assert stage.start("go", {"order": 1}) == []
        stage.pass_time(1)
        assert len(stage.start("go", {"order": 1})) == 1
        stage.drain()
        assert [data["order"] for _, data in seen.began] == [1, 2, 1]


@both
def test_a_function_alone_is_a_key_for_a_day(kind):
    with rehearsal(kind, working(Seen()), idempotency=lambda event: event.data) as stage:
        assert len(stage.start("go", "k")) == 1
        stage.pass_time(24 * 3600 - 1)
        assert stage.start("go", "k") == []
        stage.pass_time(1)
        assert len(stage.start("go", "k")) == 1


@both
def test_what_an_event_came_to_is_on_record_and_a_redelivery_does_not_change_it(kind):
    with rehearsal(kind, working(Seen()), rate_limit=RateLimit(1, period=60)) as stage:
        [run] = stage.start("go", {}, id="one")
        assert stage.start("go", {}, id="two") == []
        stage.pass_time(120)
        assert stage.start("go", {}, id="two") == []  # it was dropped, and stays so
        assert stage.start("go", {}, id="one") == [run]
        assert len(stage.start("go", {}, id="three")) == 1
        [(body,)] = stage.store.rows("SELECT body FROM items WHERE sort = 'E' AND body LIKE '%\"two\"%'", ())
        assert '"not":{"work":"rate_limit: 1 runs were started within 60 s"}' in body


@both
@pytest.mark.parametrize("seed", range(20))
def test_no_window_has_more_starts_than_the_rate_limit(kind, seed):
    chance = random.Random(seed)
    seen = Seen()
    options = {"rate_limit": RateLimit(3, period=60, key=lambda event: event.data["shop"])}
    with rehearsal(kind, working(seen, 1), seen, **options) as stage:
        took = {"a": [], "b": []}
        for _ in range(60):
            shop = chance.choice("ab")
            if stage.start("go", {"shop": shop}):
                took[shop].append(stage.clock.now_ms())
            stage.pass_time(chance.choice((0, 1, 5, 20)))
        for times_ms in took.values():
            assert most_in_window(times_ms, 60_000) == 3  # never over, and as many as there may be


@both
def test_a_singleton_skips_while_its_run_is_unfinished(kind):
    async def work(event, step):
        await step.sleep("nap", 100)

    with rehearsal(kind, work, singleton=Singleton(key=lambda event: event.data)) as stage:
        [first] = stage.start("go", "a")
        assert stage.start("go", "a") == []
        assert len(stage.start("go", "b")) == 1
        stage.pass_time(101)
        assert stage.view(first)["status"] == "completed"
        assert len(stage.start("go", "a")) == 1
        stage.drain()


@both
def test_a_singleton_cancels_the_run_before(kind):
    async def work(event, step):
        await step.sleep("nap", 100)
        return event.data

    with rehearsal(kind, work, singleton=Singleton(mode="cancel")) as stage:
        runs = [run for n in range(5) for run in stage.start("go", n)]
        stage.drain()
        assert [stage.view(run)["status"] for run in runs] == ["cancelled"] * 4 + ["completed"]


# ------------------------------------------------------------------------------------------------- what is held back
@both
def test_the_last_event_by_its_time_starts_the_run_when_no_more_come(kind):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, debounce=Debounce(30, key=lambda event: event.data["doc"])) as stage:
        began_ms = stage.clock.now_ms()
        for n in range(5):
            assert stage.start("go", {"doc": "a", "n": n}) == []
            stage.pass_time(20)
        ingest(stage.engine, Event("go", {"doc": "a", "n": "older"}, "older", began_ms - 1_000))
        stage.drain()
        assert seen.began == [(began_ms + 130_000, {"doc": "a", "n": 4})]
        assert not any('"pending"' in body for body in counted(stage).values())


@both
def test_a_debounced_run_starts_at_the_latest_after_the_maximum(kind):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, debounce=Debounce(30, max_delay=70)) as stage:
        began_ms = stage.clock.now_ms()
        for n in range(6):
            stage.start("go", n)
            stage.pass_time(20)
        stage.drain()
        assert seen.began == [(began_ms + 70_000, 3), (began_ms + 130_000, 5)]


@both
def test_a_batch_starts_when_it_is_full_or_its_time_is_over(kind):
    seen = Seen()
    options = {"batch": Batch(3, timeout=60, key=lambda event: event.data["shop"])}
    with rehearsal(kind, working(seen), seen, **options) as stage:
        began_ms = stage.clock.now_ms()
        runs = [stage.start("go", {"shop": shop, "n": n}, id=f"e{n}") for n, shop in enumerate("aababbb")]
        assert [len(started) for started in runs] == [0, 0, 0, 1, 0, 1, 0]
        stage.start("go", {"shop": "a", "n": 3}, id="e3")  # again: it stands in one batch
        stage.drain()
        came = [(at_ms - began_ms, [one["data"]["n"] for one in data["events"]]) for at_ms, data in seen.began]
        assert came == [(0, [0, 1, 3]), (0, [2, 4, 5]), (60_000, [6])]


@both
def test_a_batch_starts_when_its_data_is_large_enough(kind):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, batch=Batch(100, timeout=60, max_bytes=1_000)) as stage:
        for n in range(7):
            stage.start("go", {"n": n, "much": "x" * 300})
        stage.drain()
        assert [[one["data"]["n"] for one in data["events"]] for _, data in seen.began] == [[0, 1, 2, 3], [4, 5, 6]]


@both
def test_what_is_held_back_is_found_by_the_sweep_where_its_wake_was_lost(kind):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, debounce=Debounce(30)) as stage:
        stage.start("go", 1)
        stage.queue.take()
        stage.pass_time(3600)
        sweep(stage.engine, {"do": "sweep"}, None, None)
        stage.drain()
        assert [data for _, data in seen.began] == [1]


# --------------------------------------------------------------------------------------------------------- later
@both
@pytest.mark.parametrize("burst", [1, 4])
def test_no_window_has_more_starts_than_the_throttle_allows_and_the_first_come_first(kind, burst):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, throttle=Throttle(2, period=10, burst=burst)) as stage:
        for n in range(20):
            assert len(stage.start("go", n)) == 1
        stage.drain()
        times_ms = [at_ms for at_ms, _ in seen.began]
        assert [data for _, data in seen.began] == list(range(20))
        for window_s in (1, 5, 10, 30):
            assert most_in_window(times_ms, window_s * 1000) <= burst + window_s * 2 / 10
        assert max(times_ms) - min(times_ms) == (20 - burst) * 5_000  # and no slower than that


@both
def test_starts_whose_wakes_came_late_do_not_come_in_a_heap(kind):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, throttle=Throttle(1, period=10)) as stage:
        for n in range(6):
            stage.start("go", n)
        while (at_ms := stage.queue.next_ms()) is not None and at_ms <= stage.clock.now_ms():
            stage.step()  # each asks for its turn
        stage.clock.turn(stage.clock.now_ms() + 3600_000)  # nobody was there for an hour
        stage.drain()
        assert most_in_window([at_ms for at_ms, _ in seen.began], 10_000) <= 2
        assert len(seen.began) == 6


@both
def test_an_event_of_the_future_starts_its_run_then(kind):
    seen = Seen()
    with rehearsal(kind, working(seen), seen) as stage:
        for hours in (0.1, 30):
            at_ms = stage.clock.now_ms() + round(hours * 3600_000)
            assert len(ingest(stage.engine, Event("go", hours, f"in {hours}", at_ms))) == 1
        began_ms = stage.clock.now_ms()
        stage.drain()
        assert [data for _, data in seen.began] == [0.1, 30]
        for at_ms, hours in seen.began:
            assert 0 <= at_ms - began_ms - hours * 3600_000 <= 60_000


@both
def test_a_delay_puts_a_start_off(kind):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, delay=timedelta(minutes=5)) as stage:
        began_ms = stage.clock.now_ms()
        stage.start("go", 1)
        stage.drain()
        assert [at_ms - began_ms for at_ms, _ in seen.began] == [300_000]


# ------------------------------------------------------------------------------------------------------- concurrency
@both
@pytest.mark.parametrize("seed", range(10))
def test_never_more_runs_at_a_time_than_the_limit_and_first_come_first_served(kind, seed):
    chance = random.Random(seed)
    seen = Seen()
    work = working(seen, 10, lambda event: event.data["shop"])
    options = {"concurrency": Concurrency(3, key=lambda event: event.data["shop"])}
    with rehearsal(kind, work, seen, **options) as stage:
        sent = {"a": [], "b": []}
        for n in range(40):
            shop = chance.choice("ab")
            sent[shop].append(n)
            stage.start("go", {"shop": shop, "n": n})
            stage.pass_time(chance.choice((0.001, 0.001, 1, 4)))
        stage.drain()
        assert seen.most == {"a": 3, "b": 3}
        for shop, numbers in sent.items():
            assert [data["n"] for _, data in seen.began if data["shop"] == shop] == numbers
        assert_all_free(stage)


def assert_all_free(stage):
    left = counted(stage)
    assert not [sort for sort in left if sort[:2] in ("A#", "F#", "Q#")]
    assert {body for sort, body in left.items() if sort == "C"} <= {'{"count":0}'}


@both
def test_the_more_urgent_come_first_and_among_equals_who_came_first(kind):
    seen = Seen()
    options = {"concurrency": Concurrency(1), "priority": lambda event: event.data["p"]}
    with rehearsal(kind, working(seen), seen, **options) as stage:
        for n, urgency in enumerate((0, 0, 5, -3, 5, 0, "x")):
            stage.start("go", {"n": n, "p": urgency})
            stage.pass_time(0.001)
        stage.drain()
        assert [data["n"] for _, data in seen.began] == [0, 2, 4, 1, 5, 6, 3]
        times_ms = [at_ms for at_ms, _ in seen.began]
        assert max(times_ms) - min(times_ms) < 6 * 10_000 + 1_000  # each began right after the one before


@both
def test_a_run_needs_a_slot_of_each_limit_and_holds_none_while_it_queues(kind):
    seen = Seen()
    work = working(seen, 10, lambda event: event.data["shop"])
    options = {"concurrency": [Concurrency(1, key=lambda event: event.data["shop"]), Concurrency(2)]}
    with rehearsal(kind, work, seen, **options) as stage:
        for n in range(12):
            stage.start("go", {"shop": "aab c"[n % 3], "n": n})
            stage.pass_time(0.001)
        stage.drain()
        assert len(seen.began) == 12 and max(seen.most.values()) == 1
        times_ms = sorted(at_ms for at_ms, _ in seen.began)
        assert all(later - earlier >= 9_000 for earlier, later in zip(times_ms, times_ms[2:], strict=False))
        assert times_ms[1] - times_ms[0] < 1_000  # two at a time
        assert_all_free(stage)


@both
@pytest.mark.parametrize("ends", ["cancel", "fail", "cancel in the queue"])
def test_every_slot_is_free_once_its_holder_has_ended(kind, ends):
    async def work(event, step):
        await step.sleep("nap", 10)
        if ends == "fail":
            raise RuntimeError("no")

    with rehearsal(kind, work, concurrency=Concurrency(1)) as stage:
        runs = [run for n in range(4) for run in stage.start("go", n)]
        stage.pass_time(1)
        if ends == "cancel":
            assert control.cancel(stage.engine, runs[0])
        if ends == "cancel in the queue":
            assert control.cancel(stage.engine, runs[2])
        stage.drain()
        assert all(stage.view(run)["ended_ms"] for run in runs)
        assert_all_free(stage)


@both
def test_a_limit_of_a_name_is_shared_by_workflows(kind):
    seen = Seen()
    app = kind.app(working(seen), name="one", concurrency=Concurrency(2, name="erp"))
    kind.app(working(seen), into=app, name="two", concurrency=Concurrency(2, name="erp"))
    with Rehearsal(app, fresh=True) as stage:
        seen.stage = stage
        for n in range(5):
            assert len(stage.start("go", n)) == 2
        stage.drain()
        assert len(seen.began) == 10 and seen.most[None] == 2


@both
def test_a_limit_that_is_raised_by_a_deploy_holds_for_runs_that_queue(kind):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, concurrency=Concurrency(1)) as stage:
        for n in range(5):
            stage.start("go", n)
        stage.pass_time(1)
        stage.app["work"].flow.concurrency[0].limit = 3
        stage.pass_time(11)
        stage.drain()
        assert seen.most[None] == 3


@both
def test_a_slot_is_handed_on_by_the_sweep_where_who_should_have_died(kind, monkeypatch):
    seen = Seen()
    with rehearsal(kind, working(seen), seen, concurrency=Concurrency(1)) as stage:
        stage.start("go", 1)
        stage.start("go", 2)
        monkeypatch.setattr("onward.engine.engine.Engine.after_end", lambda engine, fold: None)
        stage.pass_time(60)
        assert [data for _, data in seen.began] == [1]
        monkeypatch.undo()
        stage.drain()
        assert [data for _, data in seen.began] == [1, 2]


@both
def test_a_run_that_queues_for_days_is_not_stalled(kind):
    seen = Seen()
    with rehearsal(kind, working(seen, 3 * 24 * 3600), seen, concurrency=Concurrency(1)) as stage:
        runs = [run for n in range(3) for run in stage.start("go", n)]
        stage.drain()
        assert [stage.view(run)["status"] for run in runs] == ["completed"] * 3


# ------------------------------------------------------------------------------------------------------------ ends
@both
def test_an_event_cancels_the_runs_that_it_matches(kind):
    async def work(event, step):
        await step.sleep("nap", 100)

    options = {"cancel_on": CancelOn("order/cancelled", match={"data.order_id": "data.id"})}
    with rehearsal(kind, work, **options) as stage:
        one, two = (stage.start("go", {"id": n})[0] for n in (1, 2))
        stage.pass_time(1)
        stage.start("order/cancelled", {"order_id": 2})
        stage.start("order/cancelled", {"order_id": 3})
        stage.drain()
        assert [stage.view(run)["status"] for run in (one, two)] == ["completed", "cancelled"]
        assert not stage.store.rows("SELECT 1 FROM items WHERE sort LIKE 'W#%'", ())


@both
@pytest.mark.parametrize("minutes", [1, 60])
def test_start_and_finish_have_their_times(kind, minutes):
    async def work(event, step):
        await step.sleep("nap", event.data * 60)
        return "done"

    told = []

    def note(event, step):
        told.append(event.data["error"]["type"])

    options = {"start_timeout": minutes * 60, "finish_timeout": 2 * minutes * 60, "on_failure": note}
    with rehearsal(kind, work, concurrency=Concurrency(1), **options) as stage:
        lasts = (1.5 * minutes, 0.1 * minutes)
        first, second = (stage.start("go", length)[0] for length in lasts)
        stage.drain()
        assert stage.view(first)["status"] == "completed"
        assert stage.view(second)["error"]["type"] == "StartTimeout"
        [third] = stage.start("go", 3 * minutes)
        began_ms = stage.clock.now_ms()
        stage.drain()
        view = stage.view(third)
        assert view["error"]["type"] == "FinishTimeout" and told == ["StartTimeout", "FinishTimeout"]
        assert 0 <= view["ended_ms"] - began_ms - 2 * minutes * MINUTE_MS <= MINUTE_MS


@both
def test_a_run_in_its_first_step_has_begun(kind):
    def first():
        stage.clock.turn(stage.clock.now_ms() + 400_000)
        stage.deliver({"do": "expire", "run": run})  # which comes while the step is being performed
        return "done"

    async def work(event, step):
        return await step.run("first", first)

    with rehearsal(kind, work, start_timeout=300) as stage:
        [run] = stage.start("go")
        stage.drain()
        assert stage.view(run)["result"] == "done"


@both
def test_on_cancel_is_told_of_a_cancelled_run(kind):
    told = []

    async def work(event, step):
        await step.sleep("nap", 100)

    def tell(event, step):
        step.run("tell", told.append, [event.name, event.data["run_id"], event.data["event"]["data"]])

    with rehearsal(kind, work, on_cancel=tell) as stage:
        [run] = stage.start("go", {"n": 1})
        stage.pass_time(1)
        assert control.cancel(stage.engine, run)
        stage.drain()
        assert told == [["onward/run.cancelled", run, {"n": 1}]]


# --------------------------------------------------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: {"concurency": 3}, "takes no concurency="),
        (lambda: {"concurrency": 3}, r"takes a Concurrency\(...\), or a list"),
        (lambda: {"throttle": Concurrency(1)}, r"throttle= takes a Throttle\(...\), not Concurrency"),
        (lambda: {"priority": lambda event: 1}, "priority= makes no sense without concurrency="),
        (lambda: {"batch": Batch(2, 1), "debounce": Debounce(1)}, "make no sense together: both hold events back"),
        (lambda: {"batch": Batch(2, 1), "idempotency": str}, "a batch is of many events"),
        (lambda: {"delay": -1}, "delay= takes seconds or a timedelta"),
        (lambda: {"delay": "1h"}, "delay= takes seconds or a timedelta"),
        (lambda: {"start_timeout": 0}, "start_timeout= takes seconds or a timedelta, from 1 ms"),
        (lambda: {"concurrency": Concurrency(0)}, "limit=.* whole number from 1 to 1,000, not 0"),
        (lambda: {"concurrency": [Concurrency(1)] * 6}, "or a list of up to 5"),
        (lambda: {"throttle": Throttle(5000, 1)}, "at most 1,000 starts per second"),
        (lambda: {"debounce": Debounce(60, max_delay=59)}, "takes no less than its period"),
        (lambda: {"singleton": Singleton(mode="kill")}, 'takes "skip" or "cancel"'),
        (lambda: {"rate_limit": RateLimit(1001, 1)}, "from 1 to 1,000, not 1001"),
        (lambda: {"idempotency": "id"}, "takes a function of the event"),
        (lambda: {"cancel_on": CancelOn("x", match={"order": "data.id"})}, 'paths that begin with "data."'),
        (lambda: {"cancel_on": CancelOn("x", match={"data.id": "id2"})}, "paths of the run's own event"),
        (lambda: {"cancel_on": CancelOn("x", match={"data.id": 1})}, "paths of the run's own event .* not 1"),
        (lambda: {"batch": Batch(1, 1)}, "from 2 to 100, not 1"),
        (lambda: {"on": pattern({"source": "aws.s3"})}, "event pattern, at source"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(options, message):
    with pytest.raises(InvalidOption, match=message):
        App("flow").workflow(**{"on": "go", **options()})(lambda event, step: None)


@both
def test_a_key_that_fails_is_told_and_loses_no_event(kind):
    told = []
    seen = Seen()
    app = kind.app(working(seen), concurrency=Concurrency(1, key=lambda event: event.data["shop"]))
    with Rehearsal(app, note=lambda level, message, **fields: told.append((message, fields.get("reason")))) as stage:
        seen.stage = stage
        stage.start("go", {})
        stage.start("go", {"shop": {}})
        stage.drain()
        assert len(seen.began) == 2
    assert ("the key of concurrency= failed, taken for None", "KeyError: 'shop'") in told
    assert any(reason and reason.startswith("it gave a dict") for _, reason in told)
