"""Why a run stands: what it waits for, as far as its log, its lanes and its head tell. Writes nothing.

Each reason is a small dict: `kind`, `step` (None where it is no step's), `until_ms` (None where no time is known) and
`text`, as people read it. The kinds are

    ended     it has ended, and how
    delayed   it begins later            queue   it queues for a limit, held by others
    turn      it waits for its turn      begins  its first step is being performed, or a wake for that is on its way
    timer     a sleep                    event   an event
    child     another run                retry   a step that failed is tried again
    step      a step is being performed, or a wake for it is on its way
    observed  all steps in flight are done, and the workflow is about to go on with their results

Where nothing happens to a run by `due_ms`, the sweep looks after it.
"""

from __future__ import annotations

from ..core import status
from ..core.errors import UnknownRun
from ..core.ids import is_run_id
from ..core.log import (
    HEAD,
    LOG_END,
    UNREADABLE,
    Fold,
    attempt_of,
    fields_of,
    head_of,
    lane_key,
    lane_of,
    partition_of,
    unreadable,
)
from ..core.values import display

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..core.log import Move
    from ..ports import Item
    from .ledger import Ledger

    Reason = dict[str, Any]

MAX_REASONS = 50  # that are spelled out; the others are counted
MAX_HOLDERS = 10
MAX_CHILDREN = 5  # how far down other runs are looked at


def why(ledger: Ledger, run: str, now_ms: int, depth: int = 0) -> dict[str, Any]:
    """What a run waits for: `run_id`, `workflow`, `status`, `due_ms`, `reasons` (one at least) and `more`, how many
    there are beyond these. Raises `UnknownRun`, and `IllegalRecord` where its items were edited."""
    if not is_run_id(run):
        raise UnknownRun(f"there is no run {run!r:.80} in this store")
    partition = partition_of(run)
    items = ledger.store.read(partition, HEAD, LOG_END)
    head = items.pop(0) if items and items[0].sort == HEAD else None
    if head is None or not items:
        raise UnknownRun(f"there is no run {run!r} in this store")
    fold = Fold(run)
    for item in items:
        fold.apply(item)
    fold.head = head
    try:
        reasons = _reasons(ledger, fold, now_ms, depth)
    except UNREADABLE as error:
        raise unreadable(run, "S#", error) from error
    return {
        "run_id": run,
        "workflow": fold.workflow,
        "status": fold.status,
        "due_ms": None if fold.ended else head.due_ms,
        "reasons": reasons[:MAX_REASONS],
        "more": max(len(reasons) - MAX_REASONS, 0),
    }


def _reason(kind: str, text: str, step: str | None = None, until_ms: int | None = None, **more: Any) -> Reason:
    return {"kind": kind, "step": step, "until_ms": until_ms, "text": text, **more}


def _reasons(ledger: Ledger, fold: Fold, now_ms: int, depth: int) -> list[Reason]:
    if fold.ended is not None:
        return [_ended(fold)]
    if fold.next_seq - fold.deaths == 1:
        return [_first(ledger, fold, now_ms)]
    if fold.flight:
        lanes = _lanes(ledger, fold)
        found = [
            _lane(ledger, fold.plans[plan], index, lanes.get((plan, index), []), now_ms, depth)
            for plan, indexes in sorted(fold.flight.items())
            for index in sorted(indexes)
        ]
        return [reason for reason in found if reason["kind"] != "observed"] or found
    if fold.resting is not None:
        return [_timer(display(fold.resting), fold.slept[fold.resting], now_ms)]
    for key, trouble in fold.trouble.items():
        if trouble.begun:
            text = "it was begun under once=True: it is being performed, or its process died"
            return [_reason("step", text, display(key), attempts=trouble.attempts)]
        return [_retry(ledger, fold, display(key), trouble.until_ms, trouble.attempts, now_ms)]
    text = "its next step is being performed, or a wake for it is on its way"
    if fold.deaths:
        text = f"its next step is being performed again: {_times(fold.deaths)} its process died in it"
    return [_reason("step", text)]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _ended(fold: Fold) -> Reason:
    last, _ = fold.ended or ({}, None)
    error = last.get("e")
    told = f": {error['type']}: {_line(error['message'])}" if error else ""
    return _reason("ended", f"it has ended: {fold.status}{told}", until_ms=last["at"])


def _line(text: str) -> str:
    """The first line of a text."""
    return (text.splitlines() or [""])[0][:300]


def _first(ledger: Ledger, fold: Fold, now_ms: int) -> Reason:
    """Why a run has not finished anything yet."""
    assert fold.head is not None
    head = head_of(fold.head)
    from_ms = fold.body.get("from", 0)
    if from_ms > now_ms:
        return _reason("delayed", "it begins later", until_ms=from_ms)
    if "queue" in head:
        partition = head["queue"][0]
        held = ledger.store.read(partition, "A#", "A#~", limit=MAX_HOLDERS + 1)
        holders = [item.sort[2:] for item in held[:MAX_HOLDERS]]
        others = " and others" if len(held) > MAX_HOLDERS else ""
        text = f"it queues for a limit on how many run at a time, held by {', '.join(holders) or 'nobody'}{others}"
        return _reason("queue", text, holders=holders)
    if "begun" not in head and head.get("turn", 0) > now_ms:
        return _reason("turn", "it waits for its turn, by the rate of its workflow", until_ms=head["turn"])
    return _reason("begins", "its first step is being performed, or a wake for that is on its way")


def _timer(step: str, until_ms: int, now_ms: int) -> Reason:
    text = "it sleeps" if until_ms > now_ms else "its sleep is over, and a wake is on its way"
    return _reason("timer", text, step, until_ms)


def _retry(ledger: Ledger, fold: Fold, step: str, until_ms: int, attempts: int, now_ms: int) -> Reason:
    """A step alone at the end of the log, which has failed."""
    error = None
    for item in ledger.store.read(partition_of(fold.run), "L#", LOG_END, limit=fold.deaths + 1, newest_first=True):
        error = error or fields_of(item).get("e")
    return _failed(step, until_ms, attempts, error, now_ms)


def _failed(step: str, until_ms: int, attempts: int, error: dict[str, Any] | None, now_ms: int) -> Reason:
    told = f"; the last error: {error['type']}: {_line(error['message'])}" if error else ""
    again = "it is tried again" if until_ms > now_ms else "it is being tried again, or a wake for that is on its way"
    return _reason("retry", f"it failed {_times(attempts)}, and {again}{told}", step, until_ms, attempts=attempts)


def _lanes(ledger: Ledger, fold: Fold) -> dict[tuple[int, int], list[Item]]:
    """What stands in the lanes of a run that are in flight."""
    found: dict[tuple[int, int], list[Item]] = {}
    for plan in fold.flight:
        first, last = lane_key((plan, 0)), lane_key((plan, fold.plans[plan].count))
        for item in ledger.store.read(partition_of(fold.run), first, last):
            found.setdefault(lane_of(item)[0], []).append(item)
    return found


def _lane(ledger: Ledger, move: Move, index: int, items: list[Item], now_ms: int, depth: int) -> Reason:
    """Why a step that is in flight beside others has not been observed."""
    step = display(move.names[index]) if index < len(move.names) else None
    if items and items[0].sort == lane_key((move.seq, index)):
        return _reason("observed", "it is done, and the workflow is about to go on with it", step or _named(items[0]))
    told = [attempt_of(item) for item in items]
    if step is None and items:
        step = _named(items[-1])
    step = step or f"step {index + 1} of those that record {move.seq} planned"
    if index in move.sleeps:
        return _timer(step, move.sleeps[index], now_ms)
    standing = next((one for one in told if one["k"] == status.AWAITING), None)
    if standing is not None:
        return _awaits(ledger, standing, step, now_ms, depth)
    last = told[-1] if told else None
    if last is not None and last["k"] == status.RETRYING:
        return _failed(step, last["until"], last["a"], last.get("e"), now_ms)
    if last is not None and last["k"] == status.BEGUN:
        return _reason("step", "it was begun under once=True: it is being performed, or its process died", step)
    text = "it is being performed, or a wake for it is on its way"
    if last is not None:
        text = f"it is being performed again: {_times(len(told))} its process died in it"
    return _reason("step", text, step)


def _named(item: Item) -> str | None:
    fields = fields_of(item)
    return display((fields["s"], fields["n"])) if "s" in fields and "n" in fields else None


def _awaits(ledger: Ledger, standing: dict[str, Any], step: str, now_ms: int, depth: int) -> Reason:
    until_ms, what = standing["until"], " or ".join(standing.get("for", ()))
    child = standing.get("child")
    if child is None:
        return _reason("event", f"it waits for event {what}", step, until_ms)
    inner = None
    if depth < MAX_CHILDREN:
        try:
            inner = why(ledger, child, now_ms, depth + 1)
        except UnknownRun:
            pass
    return _reason("child", f"it waits for {what}", step, until_ms, run_id=child, why=inner)
