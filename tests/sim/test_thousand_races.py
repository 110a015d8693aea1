"""Two things that happen at the same time, again and again, each time a little differently: whatever comes first, both
of its outcomes are lawful and both happen, nothing else does, and every invariant holds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from onward import App, Batch, Concurrency, Debounce
from onward.core.codec import decode
from onward.core.ids import run_id
from onward.engine import control
from onward.engine.views import run_view

from .flows import Limited
from .function import Sandbox
from .stage import Stage

TIMES = 1_000
AFTER_MS = 10_000  # when the first of the two happens, more or less
WITHIN_MS = 150  # of each other
END_MS = 90 * 60_000


class Race(Stage):
    """A stage with a seed, on which events arrive and cancels are asked for at their times."""

    def __init__(self, app: App, seed: int, concurrent: bool) -> None:
        super().__init__(lambda stage: app, seed=f"race/{seed}")
        self.draw = random.Random(seed)
        self.invariants.flows = {"work": Limited(1, keyed=False, urgent=False)} if concurrent else {}

    def at_once(self) -> int:
        """When the second of the two happens, milliseconds from now."""
        return AFTER_MS + self.draw.randint(-WITHIN_MS, 2 * WITHIN_MS)

    def send(self, name: str, id: str, data: Any, in_ms: int = 0) -> None:
        payload = {"detail-type": name, "source": "sim", "id": id, "time": "2025-12-01T00:00:00Z", "detail": data}
        self.world.at(self.world.now_ms + in_ms, lambda: self.function.accept(payload, "bus"))

    def cancel(self, run: str, in_ms: int) -> None:
        engine = Sandbox(self.function, self.app).door.engine
        self.world.at(
            self.world.now_ms + in_ms, lambda: self.world.begin("cancel", lambda: control.cancel(engine, run) and None)
        )

    def came_to(self) -> None:
        self.run_until(lambda: False, END_MS)
        self.invariants.at_the_end()

    def results(self, workflow: str) -> list[Any]:
        """What the runs of a workflow came to, in the order of their beginning: results, or how they ended."""
        ledger = Sandbox(self.function, self.app).door.engine.ledger
        views = [run_view(ledger, run) for run, seen in self.invariants.runs.items() if seen.workflow == workflow]
        views.sort(key=lambda view: view["started_ms"])
        return [view["status"] if view["output"] is None else decode(view["output"]) for view in views]


def race(build: Callable[[], App], tell: Callable[[Race], Any], *lawful: Any, concurrent: bool = False) -> None:
    """Race two things; all of `lawful` come of it, and nothing else."""
    found: Counter[str] = Counter()
    for seed in range(TIMES):
        stage = Race(build(), seed, concurrent)
        with stage.open():
            came = tell(stage)
        assert came in lawful, f"seed {seed}: {came}\n" + "\n".join(stage.lines)
        found[repr(came)] += 1
    assert set(found) == set(map(repr, lawful)), f"only {found} in {TIMES} races"


def app_of(work: Callable[..., Any], **options: Any) -> App:
    app = App("races")
    app.workflow(on="go", name="work", **options)(work)
    return app


def started(stage: Race) -> str:
    stage.send("go", "first", {"n": 0})
    return run_id("work", "first")


@pytest.mark.parametrize("parallel", [False, True])
def test_an_event_and_the_end_of_its_wait(parallel: bool) -> None:
    def alone(event: Any, step: Any) -> Any:
        found = step.wait_for_event("paid", match={"data.n": event.data["n"]}, timeout=AFTER_MS / 1000)
        return found and found.data["by"]

    def beside(event: Any, step: Any) -> Any:
        return step.parallel(lambda: alone(event, step), lambda: step.sleep("nap", AFTER_MS / 1000))[0]

    def tell(stage: Race) -> Any:
        started(stage)
        stage.send("paid", "paid", {"n": 0, "by": "card"}, stage.at_once())
        stage.came_to()
        return stage.results("work")

    race(lambda: app_of(beside if parallel else alone), tell, ["card"], [None])


def test_two_events_for_one_wait() -> None:
    def work(event: Any, step: Any) -> Any:
        first = step.wait_for_event("paid", match={"data.n": 0}, timeout=3600)
        again = step.wait_for_event("paid", match={"data.n": 0}, timeout=60)
        return [first.id, again and again.id]

    def tell(stage: Race) -> Any:
        started(stage)
        stage.send("paid", "a", {"n": 0}, AFTER_MS)
        stage.send("paid", "b", {"n": 0}, stage.at_once())
        stage.came_to()
        return stage.results("work")

    race(lambda: app_of(work), tell, [["a", "b"]], [["b", "a"]])


def test_a_cancel_and_the_end_of_a_run() -> None:
    def work(event: Any, step: Any) -> Any:
        step.sleep("nap", AFTER_MS / 1000)
        return "done"

    def tell(stage: Race) -> Any:
        stage.cancel(started(stage), stage.at_once())
        stage.came_to()
        return stage.results("work")

    race(lambda: app_of(work), tell, ["done"], ["cancelled"])


def test_the_end_of_a_child_and_the_cancel_of_its_parent() -> None:
    def build() -> App:
        app = app_of(lambda event, step: step.invoke("child", event.data))
        app.workflow(on="child", name="child")(lambda event, step: step.sleep("nap", AFTER_MS / 1000))
        return app

    def tell(stage: Race) -> Any:
        stage.cancel(started(stage), stage.at_once())
        stage.came_to()
        return [stage.results("work"), stage.results("child")]

    race(build, tell, [[None], [None]], [["cancelled"], [None]])


def test_a_debounced_start_and_a_new_event() -> None:
    def tell(stage: Race) -> Any:
        stage.send("go", "first", {"n": 0})
        stage.send("go", "second", {"n": 1}, stage.at_once())
        stage.came_to()
        return stage.results("work")

    options = {"debounce": Debounce(AFTER_MS / 1000)}
    race(lambda: app_of(lambda event, step: event.data["n"], **options), tell, [1], [0, 1])


def test_a_batch_that_is_full_and_the_end_of_its_time() -> None:
    def tell(stage: Race) -> Any:
        stage.send("go", "first", {"n": 0})
        stage.send("go", "second", {"n": 1}, stage.at_once())
        stage.came_to()
        return stage.results("work")

    def work(event: Any, step: Any) -> Any:
        return [one["data"]["n"] for one in event.data["events"]]

    race(lambda: app_of(work, batch=Batch(2, timeout=AFTER_MS / 1000)), tell, [[0, 1]], [[0], [1]])


def test_the_end_of_a_holder_and_a_start_that_needs_its_slot() -> None:
    def work(event: Any, step: Any) -> Any:
        step.sleep("nap", AFTER_MS / 1000)
        return event.data["n"]

    def tell(stage: Race) -> Any:
        stage.send("go", "first", {"n": 0})
        stage.send("go", "second", {"n": 1}, stage.at_once())
        stage.came_to()
        ended = [stage.invariants.runs[run_id("work", id)].ended for id in ("first", "second")]
        return [stage.results("work"), ended]

    lawful = [[0, 1], ["completed", "completed"]]
    race(lambda: app_of(work, concurrency=Concurrency(1)), tell, lawful, concurrent=True)
