"""Counts in equal counts out: the whole store, read item by item, against the events and the witness."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onward.clock import SystemClock
from onward.core.codec import decode
from onward.core.ids import run_id
from onward.core.log import log_key, partition_of, run_of
from onward.engine.ledger import Ledger
from onward.engine.views import run_view
from onward.ports import Item

from .app import FAILS, STEPS, output_of, workflow_of

OUTCOMES = ("done", "broken")
MAX_TOLD = 20  # wrongs of one kind that are printed
PER_SWEEP = 2  # performances that a sweep of a living run can repeat: as many as stand beside each other


class Held:
    """Items that were read before, as a store to look at."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.partitions: dict[str, dict[str, Item]] = defaultdict(dict)
        for item in items:
            self.partitions[item.partition][item.sort] = item

    def read(self, partition: str, first: str, last: str, **_: Any) -> list[Item]:
        held = self.partitions.get(partition, {})
        return [held[sort] for sort in sorted(held) if first <= sort <= last]


@dataclass
class Count:
    """The figures, and what is wrong with them."""

    events: int = 0
    runs: int = 0
    completed: int = 0
    left_open: int = 0
    effects: int = 0
    repeated: int = 0
    attempts: int = 0
    results: int = 0
    wrongs: list[str] = field(default_factory=list)

    def wrong(self, text: str) -> None:
        if sum(told.split(":")[0] == text.split(":", maxsplit=1)[0] for told in self.wrongs) < MAX_TOLD:
            self.wrongs.append(text)


def count(accepted: Iterable[int], items: Iterable[Item], performed: Mapping[tuple[str, str], int]) -> Count:
    """Hold every accepted event, by its number, against the items of the store and what the witness saw.

    `repeated`: performances beyond the attempts that the logs have, a step that was interrupted being one of them.
    """
    figures = Count()
    held = Held(items)
    ledger = Ledger(held, None, SystemClock())  # type: ignore[arg-type]
    begun = {run_of(partition) for partition, sorts in held.partitions.items() if log_key(0) in sorts}
    figures.runs = len(begun)
    expected = {}
    for n in accepted:
        figures.events += 1
        run = run_id(workflow_of(n), event_id(n))
        expected[run] = n
        if run not in begun:
            figures.wrong(f"no run: of event {n}")
            continue
        _count_run(figures, ledger, held, run, n, performed)
    for run in begun - set(expected):
        figures.wrong(f"a run of no event: {run}")
    for run, _ in performed:
        if run not in expected:
            figures.wrong(f"an effect of no run: {run}")
    figures.effects = sum(performed.values())
    return figures


def _count_run(
    figures: Count, ledger: Ledger, held: Held, run: str, n: int, performed: Mapping[tuple[str, str], int]
) -> None:
    view = run_view(ledger, run)
    if view["ended_ms"] is None or any(item.due_ms is not None for item in held.read(partition_of(run), "", "~")):
        figures.left_open += 1
        figures.wrong(f"left open: {run} of event {n}")
        return
    if view["status"] != "completed" or decode(view["output"]) != output_of(n):
        figures.wrong(f"wrong end: {run} of event {n}: {view['status']}, {view['output']}, {view['error']}")
        return
    figures.completed += 1
    bodies = [json.loads(item.body) for item in held.read(partition_of(run), "L", "S~")]
    results = Counter(body["s"] for body in bodies if body.get("k") in OUTCOMES)
    figures.results += sum(results.values())
    if results != dict.fromkeys(STEPS, 1):
        figures.wrong(f"results: {run} of event {n} has {dict(results)}")
    for step in view["steps"]:
        times, attempts = performed.get((run, step["name"]), 0), step["attempts"]
        figures.attempts += attempts
        figures.repeated += max(times - attempts, 0)
        least = 2 if step["name"] == "check" and n % FAILS == 0 else 1
        if attempts < least:  # it may have died in its first one, before it had an effect
            figures.wrong(f"attempts: step {step['name']} of {run}, event {n}, has {attempts} of at least {least}")
        if times < 1:
            figures.wrong(f"no effect: of step {step['name']} of {run}, event {n}")


def event_id(n: int) -> str:
    return f"flood-{n}"
