"""The app whose runs are kept as golden stores.

Every release must resume the runs that earlier releases left, so what stands here never changes: no workflow, step,
class or result. New kinds of steps get new workflows. The module keeps its name as well, for the logs name its classes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import uuid
from collections import Counter
from functools import partial
from typing import Any

from onward import App, Concurrency, NonRetriable, Retry, RetryAfter, StepError, current_step

STEADY = Retry(max_attempts=4, base=1.0, factor=2.0, cap=60.0, jitter=False)
WIDE = 100  # steps beside each other: more than one item of marks holds
BRANCHES = 12  # more than `FEW`, so that their completions are marked
DAY_S = 24 * 3600
BIG_CHARS = 66_000  # more than stands in a record
HOSTILE = [
    "../../../etc/passwd",
    "L#00000001",
    "S#00000001.00000#0001",
    "run#other",
    "nul \x00 and bell \x07",
    "two\nlines\r\n",
    "\x1b[31mred",
    '"; DROP TABLE items; --',
    "<script>alert(1)</script>",
    "ž€\U0001f600 \u202eturned",
    "a lone surrogate \ud800",
    "$",
    " ",
    "x" * 256,
]


class Killed(BaseException):
    """The process is gone. No `except Exception` and no bookkeeping runs behind it."""


class World:
    """What the steps meet outside: effects that `down` names fail, and those that `deadly` names kill the process.
    `done`: the run and the name of each effect that was begun. `keys`: the idempotency keys that it was handed."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.deadly: set[str] = set()
        self.done: list[tuple[str, str]] = []
        self.keys: dict[tuple[str, str], set[str]] = {}

    def begin(self, name: str) -> None:
        step = current_step()
        self.done.append((step.run_id, name))
        self.keys.setdefault((step.run_id, name), set()).add(step.idempotency_key)

    def forget(self) -> None:
        """Begin with a clean sheet."""
        self.done.clear()
        self.keys.clear()

    def effects(self, run: str) -> Counter[str]:
        """How often each effect of a run was begun."""
        return Counter(name for other, name in self.done if other == run)


world = World()


def effect(name: str, result: Any = None) -> Any:
    world.begin(name)
    if name in world.deadly:
        raise Killed(name)
    if name in world.down:
        raise ConnectionError(f"{name} does not answer")
    return result


async def effect_later(name: str, result: Any = None) -> Any:
    await asyncio.sleep(0)
    return effect(name, result)


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Price:
    sku: str
    amount: decimal.Decimal
    seen: datetime.datetime
    color: Color


def price() -> tuple[Any, ...]:
    seen = datetime.datetime(2025, 3, 30, 2, 30, tzinfo=datetime.UTC)
    return (
        Price("10002", decimal.Decimal("0.85"), seen, Color.RED),
        uuid.UUID(int=7),
        b"\x00\xff",
        {"$": "decimal", "day": datetime.date(2025, 2, 28)},
        float("inf"),
        -0.5,
        10**30,
        "a lone surrogate \ud800",
        [None, True, []],
    )


app = App("golden")


@app.workflow(on="sequence", retries=STEADY)
def sequence(event, step):
    found = [step.run(name, effect, name, number) for number, name in enumerate("abc", 1)]
    return {"client": event.data["client"], "sum": sum(found)}


@app.workflow(on="same", retries=STEADY)
def same(event, step):
    return [step.run("same", effect, f"same{number}", number) for number in range(4)]


@app.workflow(on="charge", retries=STEADY)
def charge(event, step):
    step.run("before", effect, "before")
    try:
        outcome = step.run("charge", effect, "charge", "charged", once=True)
    except StepError as error:
        outcome = error.type
    step.run("after", effect, "after")
    return outcome


@app.workflow(on="charges", retries=STEADY)
def charges(event, step):
    def one(name):
        try:
            return step.run(name, effect, name, "charged", once=True)
        except StepError as error:
            return error.type

    return step.parallel(*(partial(one, f"charge{number}") for number in range(3)))


@app.workflow(on="rest", retries=STEADY)
def rest(event, step):
    step.run("before", effect, "before")
    step.sleep("rest", event.data["seconds"])
    return step.run("after", effect, "after", "rested")


@app.workflow(on="date", retries=STEADY)
def date(event, step):
    step.sleep_until("date", datetime.datetime(2025, 2, 1, tzinfo=datetime.UTC))
    step.sleep_until("past", datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC))
    return step.run("after", effect, "after", "February")


@app.workflow(on="caught", retries=STEADY)
def caught(event, step):
    def refuse():
        effect("refused")
        raise NonRetriable("no such client")

    def later():
        effect("later")
        if current_step().attempt == 1:
            raise RetryAfter(90)
        return "at last"

    try:
        step.run("refused", refuse)
    except StepError as error:
        return [error.type, step.run("later", later)]


@app.workflow(on="lanes", retries=STEADY)
def lanes(event, step):
    def branch(name):
        return [step.run(f"{name}{number}", effect, f"{name}{number}", f"{name}{number}") for number in (1, 2)]

    step.run("before", effect, "before")
    found = step.parallel(*(partial(branch, name) for name in "pqrs"))
    return [*found, step.run("after", effect, "after", "end")]


@app.workflow(on="nested", retries=STEADY)
def nested(event, step):
    def one(number):
        return step.run("one", effect, f"one{number}", number)

    return step.parallel(lambda: step.parallel(partial(one, 1), partial(one, 2)), partial(one, 3))


@app.workflow(on="wide", retries=STEADY)
def wide(event, step):
    found = step.parallel(*(partial(step.run, f"w{number}", effect, f"w{number}", number) for number in range(WIDE)))
    return step.run("sum", effect, "sum", sum(found))


@app.workflow(on="wide-branches", retries=STEADY)
async def wide_branches(event, step):
    async def branch(number):
        first = await step.run(f"u{number}", effect, f"u{number}", number)
        return await step.run(f"v{number}", effect_later, f"v{number}", first * 2)

    return sum(await asyncio.gather(*(branch(number) for number in range(BRANCHES))))


@app.workflow(on="spilled", retries=STEADY)
def spilled(event, step):
    big = step.run("big", effect, "big", "ž" * BIG_CHARS)
    return {
        "event": len(event.data["text"]),
        "step": step.run("small", lambda: effect("small", len(big))),
        "text": big[:1] + event.data["text"][:1],
    }


@app.workflow(on="values", retries=STEADY)
def values(event, step):
    made = step.run("make", lambda: effect("make", price()))
    typed = step.run("typed", lambda: effect("typed", price()[0]), output_type=Price)
    assert made == price() and typed == price()[0] and event.data == {"price": price()[0]}
    return step.run("keep", lambda: effect("keep", made))


@app.workflow(on="filled", retries=STEADY, steps_per_invocation="fill")
def filled(event, step):
    return sum(step.run(name, effect, name, number) for number, name in enumerate("abcd", 1))


def told(event, step):
    failed = event.data
    step.run("tell", effect, "tell")
    kind = step.run("note", lambda: effect("note", failed["error"]["type"]))
    return {"workflow": failed["workflow"], "kind": kind, "data": failed["event"]["data"]}


@app.workflow(on="doomed", retries=Retry(max_attempts=2, base=1.0, jitter=False), on_failure=told)
def doomed(event, step):
    def fail():
        effect("bad")
        raise ValueError("bad data")

    step.run("good", effect, "good")
    step.run("bad", fail)


@app.workflow(on="gathered", retries=STEADY)
async def gathered(event, step):
    found = await asyncio.gather(
        *(step.run(f"g{number}", effect_later, f"g{number}", number) for number in range(3)), step.sleep("nap", 30)
    )
    return [*found, await step.run("after", effect, "after", "end")]


@app.workflow(on="grouped", retries=STEADY)
async def grouped(event, step):
    async def branch(name):
        first = await step.run(f"{name}1", effect, f"{name}1", 1)
        return await step.run(f"{name}2", effect_later, f"{name}2", first + 1)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(branch(name)) for name in "xyz"]
    return [task.result() for task in tasks]


@app.workflow(on="raced", retries=STEADY)
async def raced(event, step):
    tasks = {name: asyncio.ensure_future(step.run(name, effect, name, name)) for name in ("hare", "tortoise")}
    await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    first = next(name for name, task in tasks.items() if task.done())
    await step.run("told", effect, "told")
    return [first, *(await asyncio.gather(*tasks.values()))]


@app.workflow(on="limited", retries=STEADY)
async def limited(event, step):
    work = asyncio.ensure_future(step.run("work", effect, "work", "worked"))
    limit = asyncio.ensure_future(step.sleep("limit", 10 * 24 * 3600))
    done, pending = await asyncio.wait({work, limit}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return await step.run("after", effect, "after", "in time" if work in done else "too late")


@app.workflow(on="hostile/<event> 'name'\n", name="hostile \u202e#1 <b>/../", retries=STEADY)
def hostile(event, step):
    for name in HOSTILE:
        step.run(name, effect, name)
    step.parallel(*(partial(step.run, name, effect, f"{name} again") for name in HOSTILE))
    return event.data


def sample_data(event: str) -> Any:
    """Nothing here is started by hand."""
    return {"client": "none"}


# --------------------------------------------------------------------- waits, other runs, people, conditions, limits
@app.workflow(on="waits", retries=STEADY)
def waits(event, step):
    paid = step.wait_for_event("paid", match={"data.client": event.data["client"]}, timeout=DAY_S)
    return [paid and paid.data["n"], step.run("after", effect, "after", "end")]


@app.workflow(on="invokes", retries=STEADY)
def invokes(event, step):
    found = step.invoke("sequence", {"client": "child"}, timeout=DAY_S)
    return [found["sum"], step.run("after", effect, "after", "end")]


@app.workflow(on="asks", retries=STEADY)
def asks(event, step):
    try:
        return step.callback("approve", lambda token: effect("ask"), timeout=DAY_S)
    except StepError as error:
        return step.run("after", effect, "after", error.type)


async def look():
    return await effect_later(current_step().step)


@app.workflow(on="polls", retries=STEADY)
async def polls(event, step):
    return [await step.wait_until("look", look, every=60, timeout=60)]


@app.workflow(on="slots", retries=STEADY, concurrency=Concurrency(1))
def slots(event, step):
    step.run("first", effect, "first")
    step.sleep_until("rest", datetime.datetime(2025, 2, 1, tzinfo=datetime.UTC))
    return step.run("last", effect, "last", "end")


@app.workflow(on="few", retries=STEADY, concurrency=Concurrency(1, of="steps"))
def few(event, step):
    return [step.run(name, effect, name, name) for name in "ab"]


@app.workflow(on="calm", retries=STEADY)
def calm(event, step):
    return step.parallel(*(partial(step.run, name, effect, name, name) for name in "kl"))
