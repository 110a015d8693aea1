"""The bill: what a deployed app costs at rest, and for a million steps, from requests and capacity units that are
counted here, on dynoxide, and the price list. What is assumed is printed as assumed.

python -m benchmarks.bill
"""

from __future__ import annotations

from typing import Any, NamedTuple

from onward import App
from onward.engine.engine import Engine
from onward.engine.sweep import sweep
from tests import servers

from . import prices
from .metered import Metered, metered
from .parallel import measure
from .steps import sequence

STEPS = 400
WIDE = 1_000
EVENTS = 50


class Spent(NamedTuple):
    """Of one thing, on the average."""

    invocations: float = 0.0
    write_units: float = 0.0
    read_units: float = 0.0
    sqs_requests: float = 0.0
    custom_events: float = 0.0
    schedules: float = 0.0

    def dollars(self, assumed: prices.Assumed = prices.ASSUMED) -> float:
        """For one."""
        gb_s = assumed.invocation_ms / 1_000 * assumed.memory_mb / 1_024
        return (
            self.invocations * (prices.LAMBDA_REQUEST + gb_s * prices.LAMBDA_GB_S_ARM)
            + self.write_units * prices.WRITE_UNIT
            + self.read_units * prices.READ_UNIT
            + self.sqs_requests * prices.SQS_REQUEST
            + self.custom_events * prices.CUSTOM_EVENT
            + self.schedules * prices.SCHEDULER_INVOCATION
        )


def in_sequence(url: str) -> Spent:
    """A step in a run of 400, warm."""
    with metered(sequence(STEPS), url, fresh=False) as run:
        assert run.rehearsal.send("go")["result"] == STEPS
        return _spent(run, STEPS)


def in_parallel(url: str) -> Spent:
    """A step beside 999 others, warm."""
    found = measure(WIDE, url, False)
    return Spent(found["wakes"] / WIDE, found["WRU"] / WIDE, found["RRU"] / WIDE)


def for_an_event(url: str) -> Spent:
    """An event over the bus, its run of one step, and the end of that."""
    app = App("one")

    @app.workflow(on="go")
    def one(event: Any, step: Any) -> int:
        return int(step.run("one", int, "1"))

    with metered(app, url, fresh=False) as run:
        for _ in range(EVENTS):
            run.rehearsal.send("go")
        spent = _spent(run, EVENTS)
    return spent._replace(invocations=spent.invocations + 1, custom_events=1)  # the rule calls the function


def at_rest(url: str) -> Spent:
    """A month in which nothing happens: a sweep a minute, and a queue that is looked after."""
    with metered(App("idle"), url, fresh=False) as run:
        engine: Engine = run.rehearsal.engine
        before = run.meter.read_units
        sweep(engine, {"do": "sweep"}, None, None)
        read_units = run.meter.read_units - before
    minutes = prices.MONTH_MINUTES
    return Spent(
        invocations=minutes, read_units=minutes * read_units, sqs_requests=prices.ASSUMED.idle_polls, schedules=minutes
    )


def _spent(run: Metered, count: int) -> Spent:
    return Spent(run.wakes / count, run.meter.write_units / count, run.meter.read_units / count)


def main() -> None:
    assumed = prices.ASSUMED
    with servers.dynoxide() as url:
        rows = {
            "a million steps in sequence": in_sequence(url),
            "a million steps in parallel, 1,000 to a run": in_parallel(url),
            "a million events with a run of one step each": for_an_event(url),
        }
        rest = at_rest(url)
    print("the bill, us-east-1, November 2026, without free tiers")
    print(f"{'':46}{'invocations':>13}{'WRU':>8}{'RRU':>8}{'dollars':>10}")
    for name, spent in rows.items():
        million = spent.dollars() * prices.MILLION
        print(f"{name:46}{spent.invocations:>13.2f}{spent.write_units:>8.2f}{spent.read_units:>8.2f}{million:>10.2f}")
    ours = rows["a million steps in sequence"].dollars()
    work = Spent(invocations=1).dollars()
    lambdas = f"{assumed.invocation_ms:g} ms of {assumed.memory_mb} MB, assumed"
    print(f"of a step in sequence, {work / ours:.0%} is Lambda: {lambdas}")
    durable, states = prices.DURABLE_OPERATION + work, prices.STATE_TRANSITION + work
    print(
        f"beside it, with the same Lambda: durable functions {durable / ours:.1f}x, Step Functions {states / ours:.1f}x"
    )
    idle = assumed.idle_polls * prices.SQS_REQUEST
    print(
        f"at rest, a month: ${rest.dollars():.2f}, of which ${idle:.2f} for {assumed.idle_polls:,} idle polls, assumed"
    )


if __name__ == "__main__":
    main()
