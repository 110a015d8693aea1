"""What the steps did to the world outside, as the world outside saw it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from onward import current_step


class Performance(NamedTuple):
    """One beginning of one attempt. `given`: the value that the step was handed. `key`: its idempotency key. `began`:
    the tick at which its invocation began, for this `wake`."""

    run: str
    step: str
    attempt: int
    key: str
    given: Any
    number: int
    began: int
    wake: Any
    once: bool


class Witness:
    """Sees every performance; nothing that happens to a sandbox makes it forget."""

    def __init__(self) -> None:
        self.performances: list[Performance] = []
        self.by_step: dict[tuple[str, str], list[Performance]] = {}
        self.active: dict[int, Performance] = {}  # those that go on, by their places in `performances`
        self.counts: Counter[str] = Counter()
        self.asked: Counter[tuple[str, str]] = Counter()  # how often middleware was, before an attempt
        self.handed_out: Callable[[str, Any, str], None] = lambda token, node, run: (
            None
        )  # told of each token that is out

    def see(self, given: Any, began: int, wake: Any, once: bool = False) -> Performance:
        """A step has begun to do something to the world."""
        step = current_step()
        place = (step.run_id, step.step)
        before = self.by_step.setdefault(place, [])
        seen = Performance(
            step.run_id, step.step, step.attempt, step.idempotency_key, given, len(before) + 1, began, wake, once
        )
        before.append(seen)
        self.active[len(self.performances)] = seen
        self.performances.append(seen)
        return seen

    def over(self, seen: Performance) -> None:
        """That performance has come to an end, whichever."""
        self.active = {place: other for place, other in self.active.items() if other is not seen}
