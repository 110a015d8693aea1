"""What a run looks like from outside: the one view that the command line, the pages and the API show."""

from __future__ import annotations

from ..core import status
from ..core.errors import MiddlewareFailed, PayloadCorrupt, UnknownRun
from ..core.ids import is_run_id
from ..core.log import (
    HEAD,
    HELD_BACK,
    LOG_END,
    UNREADABLE,
    Fold,
    fields_of,
    head_of,
    lane_key,
    log_key,
    partition_of,
    run_context,
    run_of,
    unreadable,
)
from ..core.values import display

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..core.values import Key
    from ..ports import Item
    from .ledger import Ledger


def run_view(ledger: Ledger, run: str) -> dict[str, Any]:
    """A run and its steps, read from the store: `run_id`, `workflow`, `status`, `event`, `started_ms`, `ended_ms`,
    `due_ms` (by when the sweep looks after it), `steps` (in the order in which they appeared), `steps_done`,
    `attempts`, `retries`, `error`, and `output`, the JSON text of the result (None until it completed), or
    `unreadable`: why the result cannot be read here. Raises `UnknownRun`, and `IllegalRecord` where its items were
    edited."""
    if not is_run_id(run):
        raise UnknownRun(f"there is no run {run!r:.80} in this store")
    partition = partition_of(run)
    items = ledger.store.read(partition, HEAD, LOG_END)
    head = items.pop(0) if items and items[0].sort == HEAD else None
    if head is not None:
        head_of(head)  # or it was edited
    if not items or (head is None and items[0].sort != log_key(0)):
        raise UnknownRun(f"there is no run {run!r} in this store")
    fold = Fold(run)
    steps: dict[Key, dict[str, Any]] = {}
    resting = None
    for item in items:
        resting = fold.resting  # before the last record
        fold.apply(item)
        _take(steps, item)
    for key, step in steps.items():
        if step["status"] == "sleeping" and key != fold.resting:
            woken_by_cancel = key == resting and fold.status == status.CANCELLED
            step["status"] = status.CANCELLED if woken_by_cancel else "completed"  # whatever else followed, it was over
    if fold.moves:
        for item in ledger.store.read(partition, lane_key((0, 0)), "S~"):
            _take(steps, item)
    for move in fold.moves:
        for index, key in enumerate(move.names):
            if index in fold.flight.get(move.seq, ()) and key not in steps:
                kind = "sleeping" if index in move.sleeps else "waiting" if index in move.waits else "running"
                if fold.status == status.CANCELLED:
                    kind = status.CANCELLED
                steps[key] = {**_EMPTY, "name": display(key), "status": kind}
    last = fold.ended[0] if fold.ended else {}
    output, hidden = _output(ledger, fold)
    return {
        "run_id": run,
        "workflow": fold.workflow,
        "status": fold.status,
        "event": fold.body["event"],
        "parent": fold.body.get("parent"),
        "fork": fold.body.get("fork"),
        "started_ms": fold.born_ms,
        "ended_ms": last.get("at"),
        "due_ms": None if fold.ended or head is None else head.due_ms,
        "deaths": fold.deaths,
        "steps": list(steps.values()),
        "steps_done": sum(step["status"] == "completed" for step in steps.values()),
        "attempts": sum(step["attempts"] for step in steps.values()),
        "retries": sum(max(step["attempts"] - 1, 0) for step in steps.values()),
        "error": last.get("e"),
        "output": output,
        "unreadable": hidden,
    }


_EMPTY: dict[str, Any] = {"attempts": 0, "duration_ms": None, "ended_ms": None, "error": None, "retry_at_ms": None}
_EMPTY["waits_for"] = None  # of a wait: the events, as people read them
_STATUS = {
    status.BEGUN: "running",
    status.RETRYING: "retrying",
    status.DONE: "completed",
    status.BROKEN: "failed",
    status.SLEPT: "sleeping",
    status.AWAITING: "waiting",
}


def _output(ledger: Ledger, fold: Fold) -> tuple[str | None, str | None]:
    """The JSON text of the result of a run that completed, or why it cannot be read here."""
    last, text = fold.ended or ({}, None)
    if last.get("k") != status.RUN_COMPLETED:
        return None, None
    try:
        return ledger.text(text, last.get("blob"), run_context(fold)), None
    except (MiddlewareFailed, PayloadCorrupt) as error:
        return None, str(error)


def _take(steps: dict[Key, dict[str, Any]], item: Item) -> None:
    body = fields_of(item)
    try:
        _add(steps, body)
    except UNREADABLE as error:
        raise unreadable(run_of(item.partition), item.sort, error) from error


def _add(steps: dict[Key, dict[str, Any]], body: dict[str, Any]) -> None:
    """Take a record of a step into the view of that step."""
    if "s" not in body:
        return
    key = (body["s"], body["n"])
    step = steps.setdefault(key, {**_EMPTY, "name": display(key), "status": "running"})
    if step["status"] in ("completed", "failed") and body["k"] not in (status.DONE, status.BROKEN):
        return  # an older record of the same lane, which sorts behind its result
    is_sleep = body["k"] == status.SLEPT
    step.update(
        status=_STATUS[body["k"]],
        attempts=max(step["attempts"], 0 if is_sleep else body["a"]),
        duration_ms=body.get("ms"),
        ended_ms=body["at"],
        error=body.get("e"),
        retry_at_ms=body.get("until"),
        waits_for=body.get("for"),
    )


def unfinished(ledger: Ledger, limit: int) -> list[Item]:
    """The heads of at most `limit` runs that have not ended."""
    return [item for item in due_items(ledger, limit) if not item.partition.startswith(HELD_BACK)]


def due_items(ledger: Ledger, limit: int) -> list[Item]:
    """At most `limit` items after which somebody looks: the heads of unfinished runs, and what holds events back."""
    keys = [(partition, sort) for partition, sort, _ in ledger.store.due(1 << 60, limit)]
    return [item for item in ledger.store.get(keys) if item is not None and item.due_ms is not None]
