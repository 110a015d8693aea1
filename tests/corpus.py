"""Small workflows that between them use every kind of step and every rule about errors.

Each case is an app with one workflow (or two) started by the event "go". What its steps do to the world goes through
`Effects`, which counts, outside of the engine. `results`: what the run may come to, one unless the world may decide.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from onward import (
    App,
    CancelOn,
    Concurrency,
    Middleware,
    NonRetriable,
    RateLimit,
    Retry,
    RetryAfter,
    Singleton,
    StepError,
    Throttle,
    current_step,
)

from .sealed import Sealed

QUICK = Retry(max_attempts=5, base=1.0, cap=10.0)


class Effects:
    """What the steps did to the world."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.keys: dict[str, set[str]] = {}

    def do(self, name: str, result: Any = None) -> Any:
        self.counts[name] += 1
        self.keys.setdefault(name, set()).add(current_step().idempotency_key)
        return result


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Price:
    sku: str
    amount: decimal.Decimal
    seen: datetime.datetime
    color: Color = Color.RED


class Case:
    """One workflow. `effects`: every effect it must have at least once. `once`: those it must never have twice."""

    def __init__(
        self, build: Callable[[Effects], App], data: Any, status: str, results: list[Any], effects: str, once: str
    ):
        self.name = build.__name__
        self.build = build
        self.data = data
        self.status = status
        self.results = results
        self.effects = set(effects.split())
        self.once = set(once.split())

    def __repr__(self) -> str:
        return self.name


CASES: list[Case] = []


def case(*results: Any, data: Any = None, status: str = "completed", effects: str = "", once: str = "") -> Any:
    def register(build: Callable[[Effects], App]) -> Callable[[Effects], App]:
        CASES.append(Case(build, data or {}, status, list(results), effects, once))
        return build

    return register


def sync(fn: Callable[..., Any], *, middleware: Sequence[Middleware] = (), **options: Any) -> App:
    app = App("corpus", middleware=middleware)
    app.workflow(on="go", **{"retries": QUICK, **options})(fn)
    return app


@case(None)
def nothing_at_all(effects):
    return sync(lambda event, step: None)


@case(42, effects="a")
def one_step(effects):
    return sync(lambda event, step: step.run("a", effects.do, "a", 42))


@case([1, 2, 3], effects="a b c")
def three_in_sequence(effects):
    return sync(lambda event, step: [step.run(n, effects.do, n, i) for i, n in enumerate("abc", 1)])


@case({"sum": 60}, data={"items": [10, 20, 30]}, effects="fetch add")
def state_is_kept_between_steps(effects):
    def work(event, step):
        items = step.run("fetch", lambda: effects.do("fetch", event.data["items"]))
        total = 0
        for item in items:
            total = step.run("add", lambda a, b: effects.do("add", a + b), total, item)
        return {"sum": total}

    return sync(work)


@case("third", effects="try")
def a_step_that_fails_twice(effects):
    def flaky():
        effects.do("try")
        if current_step().attempt < 3:
            raise ConnectionError("not yet")
        return "third"

    return sync(lambda event, step: step.run("flaky", flaky))


def always_fails(effects, error=ValueError):
    def fail():
        effects.do("fail")
        raise error("bad")

    return fail


@case("ValueError", effects="fail after")
def out_of_attempts_and_caught(effects):
    def work(event, step):
        try:
            step.run("bad", always_fails(effects), retries=2)
        except StepError as error:
            kind = "ValueError" if error.type in ("ValueError", "Crashed") else error.type
            return step.run("after", effects.do, "after", kind)

    return sync(work)


@case(None, status="failed", effects="fail")
def out_of_attempts_and_not_caught(effects):
    return sync(lambda event, step: step.run("bad", always_fails(effects), retries=1))


@case("NonRetriable", effects="fail after")
def non_retriable_is_caught(effects):
    def work(event, step):
        try:
            step.run("bad", always_fails(effects, NonRetriable))
        except StepError as error:
            return step.run("after", effects.do, "after", error.type)

    return sync(work)


@case("ok", effects="try")
def retry_after(effects):
    def later():
        effects.do("try")
        if current_step().attempt == 1:
            raise RetryAfter(90)
        return "ok"

    return sync(lambda event, step: step.run("later", later))


@case("b", effects="a b")
def a_short_sleep(effects):
    def work(event, step):
        step.run("a", effects.do, "a")
        step.sleep("rest", 30)
        return step.run("b", effects.do, "b", "b")

    return sync(work)


@case("done", effects="a")
def a_sleep_of_days(effects):
    def work(event, step):
        step.sleep("rest", datetime.timedelta(days=3))
        step.sleep_until("past", datetime.datetime(2001, 1, 1))
        return step.run("a", effects.do, "a", "done")

    return sync(work)


@case([1, 2, 3], effects="a b c")
def sync_parallel(effects):
    def work(event, step):
        return step.parallel(*(partial(step.run, n, effects.do, n, i) for i, n in enumerate("abc", 1)))

    return sync(work)


@case([["a1", "a2"], ["b1", "b2"]], effects="a1 a2 b1 b2 before after")
def sync_branches_of_two_steps(effects):
    def work(event, step):
        step.run("before", effects.do, "before")

        def branch(name):
            return [step.run(f"{name}{n}", effects.do, f"{name}{n}", f"{name}{n}") for n in (1, 2)]

        both = step.parallel(partial(branch, "a"), partial(branch, "b"))
        step.run("after", effects.do, "after")
        return both

    return sync(work)


@case([["x", "x"], "x"], effects="x")
def nested_branches_with_one_name(effects):
    def work(event, step):
        def same():
            return step.run("same", effects.do, "x", "x")

        return step.parallel(lambda: step.parallel(same, same), same)

    return sync(work)


@case(["ok", "ValueError"], effects="a fail")
def a_branch_that_fails_does_not_stop_the_other(effects):
    def work(event, step):
        seen = []
        try:
            step.parallel(
                partial(step.run, "bad", always_fails(effects), retries=1),
                lambda: seen.append(step.run("a", effects.do, "a", "ok")),
            )
        except StepError as error:
            seen.append("ValueError" if error.type in ("ValueError", "Crashed") else error.type)
        return seen

    return sync(work)


@case([1, 2], effects="a b")
def async_sequence(effects):
    async def work(event, step):
        async def do(n):
            return effects.do("ab"[n - 1], n)

        return [await step.run("a", do, 1), await step.run("b", effects.do, "b", 2)]

    return sync(work)


@case([0, 1, 2, 3], effects="s0 s1 s2 s3")
def async_gather(effects):
    async def work(event, step):
        return await asyncio.gather(*(step.run(f"s{n}", effects.do, f"s{n}", n) for n in range(4)))

    return sync(work)


@case([0, 10], effects="a0 a1 b0 b1 end")
def async_branches_of_two_steps(effects):
    async def work(event, step):
        async def branch(n):
            found = await step.run(f"a{n}", effects.do, f"a{n}", n)
            return await step.run(f"b{n}", effects.do, f"b{n}", found * 10)

        results = await asyncio.gather(*(branch(n) for n in range(2)))
        await step.run("end", effects.do, "end")
        return results

    return sync(work)


@case(["a", "b"], effects="a b")
def task_group(effects):
    async def work(event, step):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step.run(n, effects.do, n, n)) for n in "ab"]
        return [task.result() for task in tasks]

    return sync(work)


@case(["ValueError"], ["ValueError", "late"], effects="fail")
def task_group_with_a_failure(effects):
    async def work(event, step):
        seen = []

        async def late():
            seen.append(await step.run("late", effects.do, "late", "late"))

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(late())
                group.create_task(step.run("bad", always_fails(effects), retries=1))
        except* StepError as errors:
            seen.insert(0, "ValueError" if errors.exceptions[0].type in ("ValueError", "Crashed") else "?")
        return seen

    return sync(work)


@case("won-a", "won-b", effects="use")
def the_first_of_two(effects):
    async def work(event, step):
        tasks = {asyncio.ensure_future(step.run(n, effects.do, n, n)) for n in "ab"}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = min(task.result() for task in done)
        await step.run("use", effects.do, "use")
        return f"won-{first}"

    return sync(work)


@case(["slow", None], effects="slow")
def a_step_beside_a_sleep(effects):
    async def work(event, step):
        return await asyncio.gather(step.run("slow", effects.do, "slow", "slow"), step.sleep("rest", 3600))

    return sync(work)


@case("timed out", effects="tried")
def a_sleep_as_a_time_limit(effects):
    async def work(event, step):
        long = asyncio.ensure_future(step.sleep("long", 7200))
        short = asyncio.ensure_future(step.sleep("short", 60))
        done, pending = await asyncio.wait({long, short}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await step.run("tried", effects.do, "tried")
        return "timed out" if short in done else "?"

    return sync(work)


@case(list(range(5)), effects=" ".join(f"w{n}" for n in range(5)))
def a_wide_gather(effects):
    async def work(event, step):
        return await asyncio.gather(*(step.run(f"w{n}", effects.do, f"w{n}", n) for n in range(5)))

    return sync(work)


@case(sum(range(3)) * 2, effects=" ".join(f"a{n} b{n}" for n in range(3)))
def wide_branches_of_two_steps(effects):
    async def work(event, step):
        async def branch(n):
            found = await step.run(f"a{n}", effects.do, f"a{n}", n)
            return await step.run(f"b{n}", effects.do, f"b{n}", found * 2)

        return sum(await asyncio.gather(*(branch(n) for n in range(3))))

    return sync(work)


@case("two", effects="more")
def two_of_many(effects):
    async def work(event, step):
        futures = asyncio.as_completed([step.run(f"k{n}", effects.do, f"k{n}", n) for n in range(5)])
        for _ in range(2):
            await next(futures)
        await step.run("more", effects.do, "more")
        return "two"

    return sync(work)


@case(6, effects="p0 p1 p2 p3")
def a_semaphore(effects):
    async def work(event, step):
        gate = asyncio.Semaphore(2)

        async def one(n):
            async with gate:
                return await step.run(f"p{n}", effects.do, f"p{n}", n)

        return sum(await asyncio.gather(*(one(n) for n in range(4))))

    return sync(work)


@case([0, 1, 2], effects="same")
def a_repeated_name(effects):
    return sync(lambda event, step: [step.run("same", effects.do, "same", n) for n in range(3)])


@case("charged", "not sure", effects="", once="charge")
def a_step_that_may_run_only_once(effects):
    def work(event, step):
        try:
            return step.run("charge", effects.do, "charge", "charged", once=True)
        except StepError as error:
            assert error.type == "Crashed"
            return "not sure"

    return sync(work)


@case([True, True], [True, False], [False, True], effects="", once="c0 c1")
def only_once_in_parallel(effects):
    async def work(event, step):
        async def charge(n):
            try:
                return await step.run(f"c{n}", effects.do, f"c{n}", True, once=True)
            except StepError:
                return False

        return await asyncio.gather(charge(0), charge(1))

    return sync(work)


@case(None, status="failed", effects="fail told")
def on_failure_is_called(effects):
    def told(event, step):
        assert event.data["workflow"] == "work" and event.data["event"]["name"] == "go"
        return step.run("tell", effects.do, "told", event.data["error"]["type"])

    def work(event, step):
        step.run("bad", always_fails(effects), retries=1)

    return sync(work, on_failure=told)


@case(None, status="failed", effects="a")
def the_workflow_itself_raises(effects):
    def work(event, step):
        step.run("a", effects.do, "a")
        raise RuntimeError("after all")

    return sync(work)


@case(200_000, effects="big small")
def a_value_that_is_spilled(effects):
    def work(event, step):
        big = step.run("big", lambda: effects.do("big", "ž" * 200_000))
        return step.run("small", lambda: effects.do("small", len(big)))

    return sync(work)


_SEEN = datetime.datetime(2026, 3, 29, 2, 30, tzinfo=datetime.UTC)


@case(True, effects="make")
def rich_values(effects):
    def work(event, step):
        ident = uuid.UUID(int=7)
        made = Price("10002", decimal.Decimal("0.85"), _SEEN)
        back = step.run("make", lambda: effects.do("make", (made, ident, b"\x00\xff", {"$": 1}, float("inf"))))
        return back == (made, ident, b"\x00\xff", {"$": 1}, float("inf"))

    return sync(work)


@case(3, effects="a b c", data={"fill": True})
def filled_invocations(effects):
    def work(event, step):
        return sum(step.run(n, effects.do, n, 1) for n in "abc")

    return sync(work, steps_per_invocation="fill")


# ------------------------------------------------------------------------------------------------ waits and events
@case([True, 7], effects="a")
def an_event_that_is_sent_and_waited_for(effects):
    def work(event, step):
        number = step.run("a", effects.do, "a", 7)
        sent = step.send_event("tell-sent", {"n": number, "by": event.id}, event="told")
        found = step.wait_for_event("told", match={"data.by": event.id}, timeout=3600)
        return [found.id == sent, found.data["n"]]

    return sync(work)


@case([None, "after"], effects="a")
def a_wait_for_what_never_comes(effects):
    def work(event, step):
        found = step.wait_for_event("never", match={"data.by": event.id}, timeout=30)
        return [found, step.run("a", effects.do, "a", "after")]

    return sync(work)


@case([["told", 1], 2], effects="b")
def a_wait_beside_a_step(effects):
    async def work(event, step):
        async def waits():
            found = await step.wait_for_any("any", {"told": {"data.by": event.id}, "never": None}, timeout=3600)
            return [found.name, found.data["n"]]

        async def works():
            result = await step.run("b", effects.do, "b", 2)
            await step.send_event("tell-sent", {"n": 1, "by": event.id}, event="told")
            return result

        return await asyncio.gather(waits(), works())

    return sync(work)


@case([10, "ValueError"], effects="child")
def runs_that_are_waited_for(effects):
    app = App("corpus")

    @app.workflow(on="double", name="double", retries=QUICK)
    def double(event, step):
        return step.run("child", effects.do, "child", event.data * 2)

    @app.workflow(on="fails", name="fails", retries=1)
    def fails(event, step):
        raise ValueError("bad")

    @app.workflow(on="go", name="work", retries=QUICK)
    def work(event, step):
        found = step.invoke("double", 5)
        try:
            return step.invoke("fails")
        except StepError as error:
            return [found, error.type]

    return app


# ---------------------------------------------------------------------------------------------- the starts of runs
@case([1, 2], effects="a b")
def a_run_that_needs_slots(effects):
    def work(event, step):
        return [step.run(name, effects.do, name, n) for n, name in enumerate("ab", 1)]

    limits = [Concurrency(1), Concurrency(2, key=lambda event: event.name, name="shared")]
    return sync(work, concurrency=limits, priority=lambda event: 3)


@case([1, [2, 3], 4], [1, [2, 3], "not sure"], effects="a b c", once="d")
def steps_that_need_slots(effects):
    def work(event, step):
        first = step.run("a", effects.do, "a", 1)
        both = step.parallel(*(partial(step.run, name, effects.do, name, n) for n, name in enumerate("bc", 2)))
        try:
            return [first, both, step.run("d", effects.do, "d", 4, once=True)]
        except StepError:
            return [first, both, "not sure"]

    limits = [Concurrency(1, of="steps"), Concurrency(2, of="steps", key=lambda event: event.name, name="shared")]
    return sync(work, concurrency=limits)


@case([1, [2, 3]], effects="a b c")
def async_steps_that_need_slots(effects):
    async def work(event, step):
        first = await step.run("a", effects.do, "a", 1)
        both = [step.run(name, effects.do, name, n) for n, name in enumerate("bc", 2)]
        return [first, await asyncio.gather(*both)]

    app = App("corpus")
    app.workflow(on="go", name="work", retries=QUICK, concurrency=Concurrency(1, of="steps"))(work)
    return app


@case(1, effects="a")
def a_run_that_waits_for_its_turn(effects):
    return sync(lambda event, step: step.run("a", effects.do, "a", 1), throttle=Throttle(1, period=60), delay=90)


@case(1, effects="a")
def a_start_that_is_counted(effects):
    options = {
        "idempotency": lambda event: event.id,
        "singleton": Singleton(key=lambda event: event.id),
        "rate_limit": RateLimit(1000, period=1),
    }
    return sync(lambda event, step: step.run("a", effects.do, "a", 1), **options)


@case(None, status="cancelled", effects="a told")
def a_run_that_an_event_cancels(effects):
    def told(event, step):
        return step.run("tell", effects.do, "told")

    def work(event, step):
        step.run("a", effects.do, "a")
        step.send_event("stop-sent", {"id": event.id}, event="stop")
        step.sleep("nap", 3600)

    return sync(work, cancel_on=CancelOn("stop", match={"data.id": "id"}), on_cancel=told)


@case(None, status="failed", effects="told")
def a_run_that_takes_too_long(effects):
    def told(event, step):
        return step.run("tell", effects.do, "told", event.data["error"]["type"])

    def work(event, step):
        step.run("a", effects.do, "a")
        step.sleep("nap", 7200)

    return sync(work, finish_timeout=3600, start_timeout=1800, on_failure=told)


@case([[2, 4], 70_000, {"n": 1}], data={"n": 1}, effects="first a b large")
def values_that_middleware_changes_and_encodes(effects):
    class Doubles(Middleware):
        def after_step(self, call, result):
            return result * 2 if isinstance(result, int) else result

    def work(event, step):
        step.run("first", effects.do, "first")
        step.sleep("rest", 30)
        found = step.parallel(*(partial(step.run, n, effects.do, n, i) for i, n in enumerate("ab", 1)))
        large = step.run("large", lambda: effects.do("large", "x" * 70_000))
        return [found, len(large), event.data]

    return sync(work, middleware=[Doubles(), Sealed()])


@case("StepTimeout", effects="ask a")
def a_callback_that_nobody_answers(effects):
    def work(event, step):
        try:
            return step.callback("approve", lambda token: effects.do("ask"), timeout=60, heartbeat=100)
        except StepError as error:
            return step.run("a", effects.do, "a", error.type)

    return sync(work)


@case([3, None], effects="look never")
def conditions_that_hold_late_and_never(effects):
    async def work(event, step):
        def look():
            effects.do("look")
            return 3 if current_step().step == "look (3)" else None

        return await asyncio.gather(
            step.wait_until("look", look, every=30, backoff=2),
            step.wait_until("never", effects.do, "never", every=30, timeout=40),
        )

    return sync(work)
