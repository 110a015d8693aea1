"""How many steps are performed at a time: observed over time, with a clock that is set and steps that take a while.

Each wake has a thread of its own. One of them goes on at a time: until it is done, or until its step works, which ends
when the clock has come to that.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from functools import partial

import pytest

from onward import App, Concurrency, Retry, StepError
from onward.core.errors import InvalidOption
from onward.core.log import run_of
from onward.engine import control, forks, pause
from onward.engine.sweep import MAX_STALLS, sweep
from onward.engine.views import unfinished
from onward.engine.why import why
from onward.local.store import SqliteStore
from onward.loop import close_thread_loop
from onward.testing import Rehearsal
from tests.faults import Killed

from .acting import ASYNC, SYNC, both
from .test_flow import assert_all_free, counted

FIVE = Retry(max_attempts=5, base=1.0, jitter=False)
PATIENCE_S = 30
MOST = 2_000  # wakes and ends of steps
RACERS = (("fast", 10), ("slow", 100))


class Working:
    """One wake in a thread of its own."""

    def __init__(self, bench, wake):
        self.bench, self.wake = bench, wake
        self.ends_ms = None
        self.name = None
        self.killed = self.done = False
        self.error = None
        self.stands, self.goes = threading.Semaphore(0), threading.Semaphore(0)
        bench.going = self
        threading.Thread(target=self._work, daemon=True).start()
        self._until_it_stands()

    def _work(self):
        try:
            self.bench.stage.new_engine().handle(self.wake)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            close_thread_loop()
            self.done = True
            self.stands.release()

    def _until_it_stands(self):
        assert self.stands.acquire(timeout=PATIENCE_S)
        if self.error is not None:
            raise self.error

    def work(self, name, lasts_ms):
        self.name, self.ends_ms = name, self.bench.stage.clock.now_ms() + lasts_ms
        self.stands.release()
        assert self.goes.acquire(timeout=PATIENCE_S)
        self.ends_ms = None
        if self.killed:
            raise Killed

    def go_on(self):
        self.bench.going = self
        self.goes.release()
        self._until_it_stands()


class Bench:
    """A stage whose steps take time, and who was performed when."""

    def __init__(self, app):
        self.stage = Rehearsal(app)
        self.going = None  # the one that does something
        self.workings = []
        self.began = []  # (epoch milliseconds since the start, name)
        self.start_ms = self.stage.clock.now_ms()
        self.most = Counter()

    def now_s(self):
        return (self.stage.clock.now_ms() - self.start_ms) / 1000

    def works(self, name, lasts_s, group=None):
        """What a step does: it takes so long, and counts as one of its group meanwhile."""
        self.began.append((self.now_s(), name))
        working = self.going
        working.group = group
        beside = sum(one.ends_ms is not None and one.group == group for one in self.workings)
        self.most[group] = max(self.most[group], beside + 1)
        working.work(name, round(lasts_s * 1000))
        return name

    def at_work(self):
        return sorted(one.name for one in self.workings if one.ends_ms is not None)

    def go(self, until_s=None):
        """Let everything happen, up to that time."""
        upto_ms = None if until_s is None else self.start_ms + round(until_s * 1000)
        stage = self.stage
        for _ in range(MOST):
            self.workings = [one for one in self.workings if not one.done]
            times = [(one.ends_ms, 0, n) for n, one in enumerate(self.workings)]
            if (next_ms := stage.queue.next_ms()) is not None:
                times.append((next_ms, 1, 0))
            if not times:
                if upto_ms is not None or not stage.sweep():
                    break
                continue
            at_ms, is_wake, n = min(times)
            if upto_ms is not None and at_ms > upto_ms:
                break
            stage.clock.turn(at_ms)
            if is_wake:
                self.workings.append(Working(self, stage.queue.take()[1]))
            else:
                self.workings[n].go_on()
        else:
            raise AssertionError(f"more than {MOST:,} wakes: this goes on for ever")
        if upto_ms is not None:
            stage.clock.turn(upto_ms)

    def kill(self, name, noticed):
        [one] = [one for one in self.workings if one.name == name]
        one.killed = True
        one.go_on()
        self.workings.remove(one)
        if noticed:
            control.died(self.stage.new_engine(), one.wake, "killed")

    def close(self):
        for one in self.workings:
            if not one.done:
                one.killed = True
                one.go_on()
        self.stage.close()


@pytest.fixture
def bench(monkeypatch):
    """A bench for an app of which one workflow, `work`, is made of a story."""
    benches = []

    def make(kind, story, **options):
        app = App("rules")
        made = Bench(app)
        kind.app(story(made), into=app, retries=FIVE, **options)
        benches.append(made)
        return made

    yield make
    for one in benches:
        one.close()


def statuses(bench, runs):
    return [bench.stage.view(run)["status"] for run in runs]


def many(bench, lasts_s=10, steps=3):
    """A workflow of some steps one after the other."""

    async def work(event, step):
        for n in range(steps):
            await step.run(f"s{n}", partial(bench.works, f"{event.data['n']}s{n}", lasts_s, event.data.get("shop")))

    return work


def beside(bench, lasts_s=10, width=4):
    """A workflow of some steps beside each other."""

    def sync_work(event, step):
        one = partial(bench.works, lasts_s=lasts_s)
        step.parallel(*(partial(step.run, f"s{n}", one, f"{event.data['n']}s{n}") for n in range(width)))

    return sync_work


def beside_async(bench, lasts_s=10, width=4):
    async def work(event, step):
        one = partial(bench.works, lasts_s=lasts_s)
        await asyncio.gather(*(step.run(f"s{n}", one, f"{event.data['n']}s{n}") for n in range(width)))

    return work


# ----------------------------------------------------------------------------------------------------- the limit
@both
def test_never_more_steps_at_a_time_than_the_limit_and_always_as_many_as_it_allows(kind, bench):
    made = bench(kind, many, concurrency=Concurrency(2, of="steps"))
    runs = [run for n in range(4) for run in made.stage.start("go", {"n": n})]
    made.go()
    assert statuses(made, runs) == ["completed"] * 4
    assert made.most == {None: 2} and len(made.began) == 12
    assert [at_s for at_s, _ in made.began] == [10 * (n // 2) for n in range(12)]  # no slot stands empty
    assert_all_free(made.stage)


@pytest.mark.parametrize("story", [beside, beside_async])
def test_steps_beside_each_other_in_one_run_are_limited_too(bench, story):
    made = bench(ASYNC if story is beside_async else SYNC, story, concurrency=Concurrency(3, of="steps"))
    runs = [run for n in range(2) for run in made.stage.start("go", {"n": n})]
    made.go()
    assert statuses(made, runs) == ["completed"] * 2
    assert made.most == {None: 3} and [at_s for at_s, _ in made.began] == [0, 0, 0, 10, 10, 10, 20, 20]
    assert_all_free(made.stage)


@both
def test_each_key_has_a_limit_of_its_own_and_all_limits_hold(kind, bench):
    limits = [Concurrency(1, of="steps", key=lambda event: event.data["shop"]), Concurrency(2, of="steps")]
    made = bench(kind, many, concurrency=limits)
    for n in range(6):
        made.stage.start("go", {"n": n, "shop": "abc"[n % 3]})
    total = []
    for at_s in range(0, 200, 5):
        made.go(at_s)
        total.append(len(made.at_work()))
    made.go()
    assert made.most == {"a": 1, "b": 1, "c": 1} and max(total) == 2 and len(made.began) == 18
    assert_all_free(made.stage)


@both
def test_a_limit_on_steps_and_one_on_runs_hold_together(kind, bench):
    made = bench(kind, many, concurrency=[Concurrency(2), Concurrency(1, of="steps")])
    for n in range(4):
        made.stage.start("go", {"n": n})
    made.go(1)
    assert made.at_work() == ["0s0"]
    made.go()
    assert made.most == {None: 1} and [at_s for at_s, _ in made.began] == [10 * n for n in range(12)]
    assert {name[0] for _, name in made.began[:6]} == {"0", "1"}  # two runs at a time
    assert_all_free(made.stage)


@both
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)], ids=["raised", "lowered"])
def test_a_limit_that_a_deploy_changes_holds_for_the_attempts_that_begin_from_then_on(kind, bench, before, after):
    made = bench(kind, many, concurrency=Concurrency(before, of="steps"))
    runs = [run for n in range(4) for run in made.stage.start("go", {"n": n})]
    made.go(until_s=15)  # some are being performed, and the others queue
    assert made.most == {None: before} and len(made.at_work()) == before
    made.stage.app["work"].flow.step_limits[0].limit = after
    made.most.clear()
    made.go(until_s=25)  # who is being performed ends as it began
    made.most.clear()
    made.go()
    assert statuses(made, runs) == ["completed"] * 4 and made.most == {None: after} and len(made.began) == 12
    assert_all_free(made.stage)


@both
def test_a_name_shares_the_limit_between_workflows(kind, bench):
    def story(made):
        kind.app(
            many(made), into=made.stage.app, name="other", on="go", concurrency=Concurrency(1, None, "api", "steps")
        )
        return many(made)

    made = bench(kind, story, concurrency=Concurrency(1, of="steps", name="api"))
    made.stage.start("go", {"n": 0})
    made.go()
    assert made.most == {None: 1} and len(made.began) == 6
    assert_all_free(made.stage)


@both
def test_a_run_that_sleeps_or_waits_for_a_retry_or_between_steps_holds_no_slot(kind, bench):
    def story(made):
        tries = Counter()

        async def work(event, step):
            n = event.data["n"]

            def first():
                tries[n] += 1
                made.works(f"{n}first{tries[n]}", 1)
                if n == 0 and tries[n] == 1:
                    raise ConnectionError("not yet")

            await step.run("first", first, retries=Retry(2, base=100, jitter=False))
            await step.sleep("rest", 1000)
            await step.run("last", made.works, f"{n}last", 1)

        return work

    made = bench(kind, story, concurrency=Concurrency(1, of="steps"))
    runs = [run for n in range(2) for run in made.stage.start("go", {"n": n})]
    made.go()
    assert made.began == [(0, "0first1"), (1, "1first1"), (101, "0first2"), (1002, "1last"), (1102, "0last")]
    assert statuses(made, runs) == ["completed"] * 2
    assert_all_free(made.stage)


# ----------------------------------------------------------------------------------------------------- the queue
@both
def test_the_more_urgent_come_first_and_then_the_older_runs(kind, bench):
    options = {"concurrency": Concurrency(1, of="steps"), "priority": lambda event: event.data.get("p", 0)}
    made = bench(kind, partial(many, steps=2), **options)
    for n, urgency in enumerate((0, 0, 5, -3, 5)):
        made.stage.start("go", {"n": n, "p": urgency})
        made.go((n + 1) / 1000)
    made.go()
    names = [name for _, name in made.began]
    assert names[0] == "0s0" and [name for name in names if name.endswith("s0")] == ["0s0", "2s0", "4s0", "1s0", "3s0"]
    assert_all_free(made.stage)


@both
def test_a_step_that_may_run_only_once_runs_when_it_has_a_slot(kind, bench):
    def story(made):
        async def work(event, step):
            n = event.data["n"]
            return await step.run("pay", made.works, f"{n}", 100, once=True, timeout=200)

        return work

    made = bench(kind, story, concurrency=Concurrency(1, of="steps"))
    runs = []
    for n in range(4):
        runs += made.stage.start("go", {"n": n})
        made.go((n + 1) / 1000)
    made.go()
    assert made.began == [(0, "0"), (100, "1"), (200, "2"), (300, "3")]  # longer in the queue than its timeout=
    assert statuses(made, runs) == ["completed"] * 4


@both
def test_a_step_that_queues_uses_up_no_attempt_and_its_run_is_not_taken_for_stalled(kind, bench):
    def story(made):
        async def work(event, step):
            for n in range(40 if event.data["n"] < 2 else 1):
                await step.run(f"s{n}", made.works, f"{event.data['n']}s{n}", 600, retries=0)

        return work

    made = bench(kind, story, concurrency=Concurrency(1, of="steps"))
    runs = []
    for n in range(3):
        runs += made.stage.start("go", {"n": n})
        made.go((n + 1) / 1000)
    swept = 0
    for at_s in range(600, 80 * 600, 600):
        made.go(at_s)
        swept += made.stage.clock.now_ms() >= made.stage._due_ms()
        sweep(made.stage.new_engine(), {"do": "sweep"}, None, None)
    assert swept > MAX_STALLS  # more often than a run survives that is stalled
    made.go()
    assert statuses(made, runs) == ["completed"] * 3 and made.began[-1] == (80 * 600, "2s0")


@both
def test_a_wake_that_comes_twice_finds_the_slot_of_its_attempt(kind, bench):
    made = bench(kind, partial(many, steps=1), concurrency=Concurrency(1, of="steps"))
    made.stage.start("go", {"n": 0})
    wake = made.stage.queue.take()[1]
    for _ in range(3):
        made.stage.queue.send(wake)
    made.go(1)
    assert len(slots(made.stage)) == 1
    made.go()
    assert_all_free(made.stage)


def slots(stage):
    return [sort for sort in counted(stage) if sort[:2] == "A#" and f"F#{sort[2:]}" not in counted(stage)]


# ---------------------------------------------------------------------------------------------------- ends
@both
@pytest.mark.parametrize("noticed", [True, False])
def test_the_slot_of_a_killed_attempt_is_free_when_the_death_is_noticed(kind, bench, noticed):
    made = bench(kind, partial(many, steps=1), concurrency=Concurrency(1, of="steps"))
    runs = [run for n in range(2) for run in made.stage.start("go", {"n": n})]
    made.go(1)
    made.kill("0s0", noticed)
    made.go()
    assert statuses(made, runs) == ["completed"] * 2 and made.most == {None: 1}
    assert sorted(name for _, name in made.began) == ["0s0", "0s0", "1s0"]
    assert_all_free(made.stage)


@pytest.mark.parametrize("noticed", [True, False])
def test_so_is_that_of_a_killed_attempt_beside_others(bench, noticed):
    made = bench(SYNC, beside, concurrency=Concurrency(2, of="steps"))
    [run] = made.stage.start("go", {"n": 0})
    made.go(1)
    made.kill("0s0", noticed)
    made.go()
    assert statuses(made, [run]) == ["completed"] and made.most == {None: 2} and len(made.began) == 5
    assert_all_free(made.stage)


@pytest.mark.parametrize("story", [many, beside])
def test_a_run_that_is_cancelled_gives_back_its_slots_and_its_places_in_queues(bench, story):
    made = bench(SYNC, story, concurrency=Concurrency(2, of="steps"))
    runs = [run for n in range(2) for run in made.stage.start("go", {"n": n})]
    made.go(1)
    assert control.cancel(made.stage.engine, runs[0])
    assert not [sort for sort in counted(made.stage) if sort[:2] == "Q#" and runs[0] in sort]
    made.go(2)
    assert {name for _, name in made.began if name.startswith("1")} >= {"1s0"}
    assert {sort.split("#")[1] for sort in slots(made.stage)} == {runs[1]}
    made.go()
    assert statuses(made, runs) == ["cancelled", "completed"]
    assert_all_free(made.stage)


def test_a_slot_of_a_run_that_ended_and_told_nobody_is_found_by_who_needs_it(bench):
    """Its end, the notice of that death, and the attempt itself were lost."""
    made = bench(SYNC, partial(many, steps=1), concurrency=Concurrency(1, of="steps"))
    runs = [run for n in range(2) for run in made.stage.start("go", {"n": n})]
    made.go(1)
    made.kill("0s0", noticed=False)
    engine = made.stage.new_engine()
    engine.after_end = lambda fold: None
    control.cancel(engine, runs[0])
    made.go()
    assert statuses(made, runs) == ["cancelled", "completed"]


def test_a_run_that_completes_beside_the_losers_of_a_race_gives_back_their_slots(bench):
    def story(made):
        async def work(event, step):
            n = event.data["n"]
            tasks = [asyncio.ensure_future(step.run(name, made.works, f"{n}{name}", s)) for name, s in RACERS]
            done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                task.cancel()
            return [task.result() for task in done]

        return work

    made = bench(ASYNC, story, concurrency=Concurrency(2, of="steps"))
    runs = []
    for n in range(2):
        runs += made.stage.start("go", {"n": n})
        made.go((n + 1) / 1000)
    made.go()
    assert statuses(made, runs) == ["completed"] * 2
    assert made.began[:4] == [
        (0, "0fast"),
        (0, "0slow"),
        (10, "1fast"),
        (10, "1slow"),
    ]  # a loser goes on, of no account
    assert_all_free(made.stage)


# -------------------------------------------------------------------------------------------------- what is said
@both
def test_why_names_the_limit_its_holders_and_how_many_queue_before(kind, bench):
    made = bench(kind, many, concurrency=[Concurrency(9), Concurrency(1, of="steps")])
    runs = []
    for n in range(3):
        runs += made.stage.start("go", {"n": n})
        made.go((n + 1) / 1000)
    for place, run in enumerate(runs[1:]):
        [reason] = why(made.stage.engine.ledger, run, made.stage.clock.now_ms())["reasons"]
        assert (reason["kind"], reason["step"], reason["limit"], reason["ahead"]) == ("limited", "s0", 0, place)
        assert reason["holders"] == [f"{runs[0]}: s0"] and f"held by {runs[0]}: s0" in reason["text"]
        assert reason["due_ms"] > made.stage.clock.now_ms() >= reason["since_ms"]


def test_why_names_each_step_that_queues_beside_others(bench):
    made = bench(SYNC, beside, concurrency=Concurrency(2, of="steps"))
    [run] = made.stage.start("go", {"n": 0})
    made.go(1)
    reasons = why(made.stage.engine.ledger, run, made.stage.clock.now_ms())["reasons"]
    assert [(one["step"], one["kind"], one.get("ahead")) for one in reasons] == [
        ("s0", "performing", None), ("s1", "performing", None), ("s2", "limited", 0), ("s3", "limited", 1),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- what it costs
class Counting(SqliteStore):
    """Counts what is asked of it."""

    def __init__(self):
        super().__init__(":memory:")
        self.asked = 0

    def read(self, *args, **kwargs):
        self.asked += 1
        return super().read(*args, **kwargs)

    def get(self, keys):
        self.asked += 1
        return super().get(keys)

    def write(self, writes, also=()):
        self.asked += 1
        return super().write(writes, also)


def requests_of(steps, **options):
    """How often the store is asked for a run of so many steps."""

    async def work(event, step):
        for n in range(steps):
            await step.run(f"s{n}", str)

    store = Counting()
    with Rehearsal(SYNC.app(work, **options), store=store) as stage:
        assert stage.send("go")["status"] == "completed"
    store.close()
    return store.asked


def test_an_attempt_takes_four_requests_more_and_none_where_steps_are_not_limited():
    def each(**options):
        return (requests_of(12, **options) - requests_of(2, **options)) / 10

    plain = each()
    assert each(concurrency=Concurrency(1, of="steps")) == plain + 4
    assert each(concurrency=[Concurrency(1, of="steps"), Concurrency(2, of="steps")]) == plain + 7
    assert each(delay=1) == each(concurrency=Concurrency(1)) == plain


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (lambda: {"concurrency": Concurrency(1, of="step")}, 'takes "runs" or "steps", not \'step\''),
        (lambda: {"concurrency": Concurrency(0, of="steps")}, "limit=.* whole number from 1 to 1,000, not 0"),
        (lambda: {"concurrency": [Concurrency(1, of="steps")] * 6}, "or a list of up to 5"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_workflow_is_registered(options, said):
    with pytest.raises(InvalidOption, match=said):
        SYNC.app(lambda event, step: None, **options())


@both
@pytest.mark.parametrize("seed", range(4))
def test_whatever_arrives_the_limit_holds_and_all_is_free_in_the_end(kind, bench, seed):
    chance = random.Random(seed)
    limits = [Concurrency(2, of="steps", key=lambda event: event.data["shop"]), Concurrency(3, of="steps")]
    made = bench(kind, partial(many, lasts_s=chance.choice((1, 7)), steps=2), concurrency=limits)
    at_s = 0.0
    for n in range(12):
        made.stage.start("go", {"n": n, "shop": chance.choice("ab")})
        at_s += chance.choice((0, 0, 1, 5))
        made.go(at_s)
        assert len(made.at_work()) <= 3
    made.go()
    assert set(made.most.values()) <= {1, 2} and len(made.began) == 24
    assert_all_free(made.stage)


# ------------------------------------------------------------------------------------- beside pauses, and transactions
@pytest.mark.parametrize("at_s", [0, 5, 10, 12])
@both
def test_a_paused_workflow_holds_no_slot_that_another_needs(kind, bench, at_s):
    def story(made):
        limit = Concurrency(1, None, "api", "steps")
        kind.app(many(made), into=made.stage.app, name="other", on="go", concurrency=limit)
        return many(made)

    made = bench(kind, story, concurrency=Concurrency(1, of="steps", name="api"))
    for n in range(2):
        made.stage.start("go", {"n": n})
    made.go(at_s)
    pause.pause(made.stage.engine, "work")
    made.go(at_s + 900)
    ended = [made.stage.view(run_of(head.partition))["workflow"] for head in heads(made.stage)]
    assert set(ended) == {"work"}, "all of the other workflow have ended"
    pause.unpause(made.stage.engine, "work")
    made.go(at_s + 920)
    assert pause.wake_held(made.stage.engine, "work") == 2
    made.go()
    assert made.most == {None: 1} and len(made.began) == 12 and not heads(made.stage)
    assert_all_free(made.stage)


def heads(stage):
    return unfinished(stage.engine.ledger, 100)


@both
@pytest.mark.parametrize("refused", [False, True])
def test_the_users_own_writes_and_the_slot_are_one_transaction_whatever_comes_of_them(kind, refused):
    async def work(event, step):
        writes = [("insert into nowhere values (1)" if refused else "create table made (id)", ())]
        try:
            return await step.transact("pay", writes)
        except StepError as error:
            return error.type

    with Rehearsal(kind.app(work, concurrency=Concurrency(1, of="steps"))) as stage:
        assert stage.send("go")["result"] == ("WriteRefused" if refused else 1)
        assert stage.send("go")["status"] == "completed", "the slot is free"
        assert_all_free(stage)


def test_the_users_own_writes_leave_room_for_what_frees_the_slots():
    limits = [Concurrency(1, of="steps"), Concurrency(2, of="steps")]
    app = SYNC.app(lambda event, step: step.transact("pay", [("select 1", ())] * event.data), concurrency=limits)
    with Rehearsal(app) as stage:
        assert "up to 95 writes, not 96" in stage.send("go", 96)["error"]["message"]
        assert_all_free(stage)


def test_a_fork_queues_with_its_own_age(bench):
    made = bench(SYNC, many, concurrency=Concurrency(1, of="steps"))
    [first] = made.stage.start("go", {"n": 0})
    made.go(100)
    made.stage.start("go", {"n": 1})
    made.go(105)
    fork = forks.fork(made.stage.engine, first, "s1")
    made.go()
    assert made.stage.view(fork)["status"] == "completed" and made.most == {None: 1}
    assert_all_free(made.stage)
