"""What a run is said to wait for, held against what the table and the witness saw.

The answer is asked of a store that can be read and nothing else, so that it can write nothing, and in no time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from onward.core.log import partition_of
from onward.core.values import display
from onward.engine.ledger import Ledger
from onward.engine.pause import paused
from onward.engine.why import why
from onward.ports import Item

from .table import Attributes, Table

if TYPE_CHECKING:
    from onward.ports import Store

    from .invariants import Run

EVERY = 20  # ticks: then those are asked about whose items have changed, and one of all in turn
TIMED = {"delayed", "throttled", "sleeping", "event", "callback", "child", "retry"}


class Shown:
    """`ports.Store` over the simulated table, as far as it reads items. Costs nothing and lets no time pass."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def read(self, partition: str, first: str, last: str, *, limit: int | None = None) -> list[Item]:
        found = [_item(fields) for fields in self.table.partition(partition) if first <= fields["sk"]["S"] <= last]
        return found[:limit]

    def get(self, keys: Sequence[tuple[str, str]]) -> list[Item | None]:
        return [_item(fields) if (fields := self.table.items.get(key)) else None for key in keys]


def _item(fields: Attributes) -> Item:
    due = fields["due"]["N"] if "due" in fields else None
    texts = [fields[name]["S"] for name in ("pk", "sk", "t", "b")]
    return Item(*texts, fields.get("v", {}).get("S"), None if due is None else int(due))


def answer(store: Store, run: str, now_ms: int) -> dict[str, Any]:
    """What `why` says of a run."""
    return why(Ledger(store, None, None), run, now_ms)  # type: ignore[arg-type]


def faults(view: dict[str, Any], run: Run, store: Store, now_ms: int, latest_ms: int) -> Iterator[str]:
    """What is wrong with an answer. `latest_ms`: the time by the clock that is furthest ahead."""
    reasons = view["reasons"]
    if json.loads(json.dumps(view)) != view:
        yield f"JSON cannot say {view}"
    if run.ended is not None:
        if [reason["kind"] for reason in reasons] != ["ended"] or view["status"] != run.ended:
            yield f"{run.id} has {run.ended}, and is said to be {view['status']}: {reasons}"
        return
    if not reasons or view["due_ms"] != run.due_ms:
        yield f"{run.id} is said to be due {view['due_ms']}, not {run.due_ms}, and to wait for {reasons}"
    bodies = _bodies(store, partition_of(run.id))
    last = max(key for key, body in bodies.items() if key.startswith("L#") and body["k"] != "died")
    if missed := _missed(bodies, last, reasons) if not view["more"] else None:
        yield f"{run.id} is said to wait for {reasons}, and nothing is said of {missed}"
    named = [reason for reason in reasons if reason["step"] is not None and reason["kind"] != "limited"]
    if bodies[last].get("count") == 0 and named:
        yield f"{run.id} stands at a step that the log does not name, and is said to wait for {reasons}"
    for reason in reasons:
        step, kind, until_ms = reason["step"], reason["kind"], reason["until_ms"]
        what = f"{run.id} is said to wait for {reason}"
        if not reason["text"] or kind == "ended" or step in run.outcomes:
            yield f"{what}, which is over"
        if (kind in TIMED) != (until_ms is not None) or (until_ms is not None and until_ms <= now_ms):
            yield f"{what}: no time ahead"
        if kind == "performing" and run.places.get(step, ([], 0))[1] > now_ms:
            yield f"{what}: the wait was written down"
        if (reason["since_ms"] or 0) > latest_ms:
            yield f"{what}: it has not come to that yet"
        if (found := _FOUND[kind](run, reason, bodies, store) if kind in _FOUND else None) is not None:
            yield f"{what}: the table has {found}"


# ---------------------------------------------------------------- what the table has instead, where it is not the same
def _bodies(store: Store, partition: str) -> dict[str, dict[str, Any]]:
    """What stands in a partition but for marks, by the sort keys."""
    items = [*store.read(partition, "", "L~"), *store.read(partition, "Q", "S~")]
    return {item.sort: json.loads(item.body) for item in items}


def _missed(bodies: dict[str, Any], last: str, reasons: list[dict[str, Any]]) -> list[str]:
    """The steps of a plan, if the last record is one, that have no result and are not told."""
    names = [display((name, ordinal)) for name, ordinal in bodies[last].get("names", ())]
    open_steps = [name for index, name in enumerate(names) if f"S#{last[2:]}.{index:05d}" not in bodies]
    told = {reason["step"] for reason in reasons}
    return [name for name in open_steps if name not in told]


def _slept(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    ends = [body["until"] for body in bodies.values() if body.get("k") == "slept"]
    ends += [end_ms for body in bodies.values() for end_ms in body.get("sleeps", {}).values()]
    return None if reason["until_ms"] in ends else ends


def _awaited(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    for body in bodies.values():
        if body.get("k") == "awaiting" and display((body["s"], body["n"])) == reason["step"]:
            same = body["until"] == reason["until_ms"] and body.get("child") == reason.get("run_id")
            same = same and reason.get("events", body["for"]) == body["for"]
            told = "run" not in reason or (reason["run"] is not None and reason["run"]["reasons"])
            return None if same and told else body
    return "no such wait"


def _asked(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    wrong = _awaited(run, reason, bodies, store)
    asked = [body["asked"][0] for body in bodies.values() if "asked" in body]
    return wrong or (None if any(step in reason["text"] for step in asked) else asked)


def _failed(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    last = run.until_ms.get(reason["step"])
    errors = [
        body["e"]["type"]
        for body in bodies.values()
        if body.get("k") == "retrying"
        and (display((body["s"], body["n"])), body["a"]) == (reason["step"], last and last[0])
    ]
    same = last == (reason["attempt"], reason["until_ms"]) and errors == [reason["error"]["type"]]
    return None if same else (last, errors)


def _held(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    if reason["step"] is not None:
        return _step_held(run, reason, bodies, store)
    partition, sort = bodies["H"].get("queue", ("", ""))
    limit = _bodies(store, partition)
    holders = [key[2:] for key in limit if key[:2] == "A#" and f"F#{key[2:]}" not in limit]
    ahead = sum(key[:2] == "Q#" and key < sort for key in limit)
    return None if (reason["holders"], reason["ahead"]) == (holders, ahead) and sort in limit else limit


def _step_held(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    """The same of an attempt that queues: one of those that stand in a queue must be the one that is told."""
    found = []
    for partition, index in bodies["H"]["limits"]["needs"]:
        limit = _bodies(store, partition)
        held = [(key[2:], body) for key, body in limit.items() if key[:2] == "A#" and f"F#{key[2:]}" not in limit]
        holders = [f"{holder.split('#')[0]}: {body['step']}" for holder, body in held]
        queue = [key for key in limit if key[:2] == "Q#"]
        for ahead, key in enumerate(queue):
            if limit[key]["run"] == run.id and limit[key]["step"] == reason["step"]:
                found.append((index, holders, ahead))
    return None if (reason["limit"], reason["holders"], reason["ahead"]) in found else found


def _turn(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    head = bodies["H"]
    return None if head.get("turn") == reason["until_ms"] and "begun" not in head else head


def _delayed(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    return None if bodies["L#00000000"].get("from") == reason["until_ms"] else bodies["L#00000000"]


def _paused(run: Run, reason: dict[str, Any], bodies: dict[str, Any], store: Store) -> Any:
    names = paused(store)
    return None if names.get(run.workflow) == reason["since_ms"] else names


_FOUND = {
    "paused": _paused,
    "sleeping": _slept, "event": _awaited, "callback": _asked, "child": _awaited, "retry": _failed,
    "limited": _held, "throttled": _turn, "delayed": _delayed,
}  # fmt: skip
