"""Waits: what an event costs that matches one of n outstanding waits on its name, the same for each n; and what a step
costs that brings something from outside, beside one that is performed.

python -m benchmarks.waits
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onward import App
from onward.core.waits import WAITS, Match, wait_key
from onward.ports import MAX_WRITES, Item, Put
from onward.testing import Rehearsal
from tests import servers

from .metered import Metered, metered

SIZES = (1, 100, 10_000, 100_000)
EVENT, PATH = "order/paid", "data.order_id"


def waiting() -> App:
    """A workflow that waits for the event of its own order."""
    app = App("waits")

    @app.workflow(on="go")
    def wait(event: Any, step: Any) -> Any:
        return step.wait_for_event("paid", event=EVENT, match={PATH: event.data}).data["order_id"]

    return app


def put_waits(stage: Rehearsal, like: Item, orders: range) -> None:
    """Put waits of other runs straight into the store, each as `wait_for_event` writes it."""
    told = json.loads(like.body)
    puts = []
    for order in orders:
        run, place = f"run.{order}", Match(EVENT, {PATH: order}).place
        body = json.dumps({**told, "run": run, "places": [place]}, separators=(",", ":"))
        puts.append(Put(Item(place, wait_key(run, tuple(told["lane"])), stage.clock.token(), body)))
    for first in range(0, len(puts), MAX_WRITES):
        assert stage.store.write(puts[first : first + MAX_WRITES]) is None


def measure(run: Metered, sizes: Sequence[int]) -> Iterator[dict[str, float]]:
    """For each size, what an event costs that matches one of so many waits, from its arrival until its run has it."""
    stage, others = run.rehearsal, 0
    for size in sizes:
        order = -size
        [waits] = stage.start("go", order)
        run.deliver(stage.clock.now_ms())
        place = Match(EVENT, {PATH: order}).place
        [wait] = stage.store.read(place, WAITS, WAITS + "~")
        put_waits(stage, wait, range(others, size - 1))
        others = size - 1
        before = run.meter.spent()
        stage.start(EVENT, {"order_id": order}, id=f"paid-{size:06d}")
        yield {what: value - before[what] for what, value in run.meter.spent().items()}
        run.deliver(stage.clock.now_ms())
        assert stage.view(waits)["result"] == order


STEPS: dict[str, Callable[[Any, Any], Any]] = {
    "run": lambda event, step: step.run("work", int, "1"),
    "sleep": lambda event, step: step.sleep("rest", 60),
    "wait_for_event, it comes later": lambda event, step: bool(step.wait_for_event("late", timeout=60)),
    "wait_for_event, it came before": lambda event, step: bool(step.wait_for_event("early", timeout=60)),
    "wait_for_event, nothing comes": lambda event, step: bool(step.wait_for_event("never", timeout=60)),
    "send_event": lambda event, step: step.send_event("sent"),
    "invoke a workflow without steps": lambda event, step: step.invoke("child"),
}
"""Workflows of one step."""


def measure_step(story: Callable[[Any, Any], Any], url: str) -> dict[str, float]:
    """What a run and the events "early", right before it, and "late", while it stands, cost together."""
    app = App("steps")
    app.workflow(on="go", name="work")(story)
    app.workflow(on="child/go", name="child")(lambda event, step: None)
    with metered(app, url, fresh=False) as run:
        stage = run.rehearsal
        stage.start("early")
        [started] = stage.start("go")
        run.deliver(stage.clock.now_ms())
        stage.start("late")
        run.deliver()
        figures = {"wakes": run.wakes, **run.meter.spent()}
        assert stage.view(started)["status"] == "completed"
        return figures


def main() -> None:
    with servers.dynoxide() as url:
        print("an event that matches one of n outstanding waits on its name")
        print(f"{'n':>10} {'requests':>12}{'WRU':>12}{'RRU':>12}")
        with metered(waiting(), url, fresh=False) as run:
            for size, figures in zip(SIZES, measure(run, SIZES), strict=True):
                print(f"{size:>10,} " + "".join(f"{value:>12.1f}" for value in figures.values()))
        print("\na step, beyond a run without steps")
        width = max(map(len, STEPS))
        print(f"{'':>{width}} " + "".join(f"{name:>12}" for name in ("wakes", "requests", "WRU", "RRU")))
        plain = measure_step(lambda event, step: None, url)
        for name, story in STEPS.items():
            figures = measure_step(story, url)
            print(f"{name:>{width}} " + "".join(f"{value - plain[what]:>12.1f}" for what, value in figures.items()))


if __name__ == "__main__":
    main()
