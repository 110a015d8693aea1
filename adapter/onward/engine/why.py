"""Why a run stands: what an unfinished run waits for, as the table has it. Reads, and writes nothing.

The answer is a list of reasons, small dicts that JSON can say. Each has

    kind        one of those below
    step        the step as people read it, or None: of the run itself, or of a step that the log does not name yet
    since_ms    when that began, where the table tells
    until_ms    when it ends by itself (a sleep, a backoff) or at the latest (a wait): always ahead, or None
    due_ms      by when the sweep looks after the run, where nothing but a wake brings it on
    text        the same in words, without the times

    kind        the run                                                        and the reason has
    ended       has ended                                                      error
    paused      is of a workflow that is paused
    gone        is of a workflow that the app does not have
    queued      has not begun, although nothing holds it back
    delayed     does not begin before a time (`delay=`, an event with a later time)
    throttled   waits for its turn (`throttle=`)
    limited     queues for a slot of a limit (`concurrency=`), as a run or,    limit, holders, ahead
                where it names a step, with an attempt of that
    sleeping    sleeps
    event       waits for an event                                             events
    callback    waits for somebody outside to complete a step (`callback`)
    child       waits for another run                                          run: the same answer about that one
    retry       has a step that failed, and the time of the next attempt       attempt, error
    performing  has a step that is performed now, or whose wake was lost       attempt and error, where they are known
    observing   has results that it goes on with now, unless that wake was lost

The table cannot tell a step that is performed from one whose wake was lost: an attempt leaves no trace until it ends,
but for one under `once=True`. So both are one reason, which says since when and by when the sweep looks.

The losers of a race are left out once the workflow has come to a step behind it alone. Where it went on beside a loser
whose task was not cancelled, the workflow may still come back to that, and the log cannot tell: it is named.

`events` are texts (`'paid' with data.order = 7`), `holders` the ids of runs, or with their steps (`RUN: step`) where
those are limited, `limit` is the place of the limit among those of its kind in `concurrency=` (from 0), and `error` has
the `type` and the `message` of the last one.
"""

from __future__ import annotations

from collections import Counter

from ..core import status
from ..core.errors import LayoutMismatch, UnknownRun
from ..core.ids import is_run_id
from ..core.log import (
    HEAD,
    LOG_END,
    UNREADABLE,
    Fold,
    _whole,
    attempt_key,
    attempt_of,
    fields_of,
    head_of,
    lane_key,
    lane_of,
    log_key,
    partition_of,
    unreadable,
)
from ..core.values import Failure, display
from .gate import FREED, HELD, QUEUE
from .pause import paused
from .steplimits import LIMITS, limits_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    from ..core.log import Move
    from ..ports import Item
    from .ledger import Ledger

    Reason = dict[str, Any]

MAX_OF_A_KIND = 10  # reasons that are told; the others are counted, so that one wait among thousands of steps is seen
MAX_DEPTH = 8  # children of children
MAX_RUNS = 50  # that one answer looks into
MAX_HOLDERS = 10  # of a limit that are named
MAX_AHEAD = 100  # runs before this one in a queue that are counted
MAX_TEXT_CHARS = 300  # of somebody else's text in a reason
PAGE = 250  # items of lanes that are held at a time: a result may have 64 KiB


def why(ledger: Ledger, run: str, now_ms: int, workflows: Collection[str] | None = None) -> dict[str, Any]:
    """What a run waits for, or how it ended: `run_id`, `workflow`, `status`, `due_ms`, `reasons`, and `more`, how many
    reasons of each kind are not told. `workflows`: the names that the app has (None: no app is at hand, and none is
    taken for gone). Raises `UnknownRun`, and `IllegalRecord` where its items were edited."""
    return _Asking(ledger, now_ms, workflows).about(run, 0)


class _Asking:
    """One question, about a run and those that it waits for."""

    def __init__(self, ledger: Ledger, now_ms: int, workflows: Collection[str] | None) -> None:
        self.ledger = ledger
        self.now_ms = now_ms
        self.workflows = workflows
        self.asked = 0

    def about(self, run: str, depth: int) -> dict[str, Any]:
        self.asked += 1
        stand = _Stand(self.ledger, run)
        reasons: list[Reason] = []
        counts: Counter[str] = Counter()
        for reason in _reasons(stand, self.now_ms, self.workflows):
            counts[reason["kind"]] += 1
            if counts[reason["kind"]] > MAX_OF_A_KIND:
                continue
            reasons.append(reason)
            if reason["kind"] == "child":
                reason["run"] = self._child(reason["run_id"], depth + 1)
        return {
            "run_id": run,
            "workflow": stand.fold.workflow,
            "status": stand.fold.status,
            "due_ms": stand.due_ms,
            "reasons": reasons,
            "more": {kind: count - MAX_OF_A_KIND for kind, count in counts.items() if count > MAX_OF_A_KIND},
        }

    def _child(self, run: str, depth: int) -> dict[str, Any] | None:
        """The answer about a run that another waits for; None where it cannot be had."""
        if depth > MAX_DEPTH or self.asked >= MAX_RUNS:
            return None
        try:
            return self.about(run, depth)
        except (UnknownRun, status.IllegalRecord, LayoutMismatch):
            return None  # asked about by itself, that run says what is wrong with it


class _Stand:
    """Where a run stands: its fold, its head, and what the fold does not keep of its records."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        if not is_run_id(run):
            raise UnknownRun(f"there is no run {run!r:.80} in this store")
        items = ledger.store.read(partition_of(run), HEAD, LOG_END)
        head = items.pop(0) if items and items[0].sort == HEAD else None
        if not items:
            raise UnknownRun(f"there is no run {run!r} in this store")
        self.ledger = ledger
        self.run = run
        self.head = head_of(head) if head is not None else {}
        self.fold = Fold(run)
        self.planned_ms: dict[int, int] = {}  # when the plans were made
        self.last: dict[str, Any] = {}  # the last record that is no death
        self.since_ms = 0  # when the last record was written, a death or not
        self.died = ""  # why the last invocation died, if one did here
        for item in items:
            self.fold.apply(item)
            self._take(item)
        self.due_ms = head.due_ms if head is not None and not self.fold.ended else None
        self.paused_ms = paused(ledger.store).get(self.fold.workflow)  # since when its workflow is

    def _take(self, item: Item) -> None:
        body = fields_of(item)
        try:
            self.since_ms = _whole(body["at"])
            if body["k"] == status.DIED:
                self.died = _short(body["why"])
                return
            self.last = body
            if body["k"] in (status.PLANNED, status.STANDING):
                self.planned_ms[self.fold.next_seq - 1] = self.since_ms
        except UNREADABLE as error:
            raise unreadable(self.run, item.sort, error) from error

    @property
    def begun(self) -> bool:
        return self.fold.next_seq - self.fold.deaths > 1

    @property
    def alone(self) -> bool:
        """Whether it stands at one step at the end of its log. A plan of nothing is written in front of such a step,
        and what is in flight then has lost a race."""
        planned = self.last["k"] in (status.PLANNED, status.STANDING)
        return not self.fold.flight or (planned and self.fold.moves[-1].count == 0)

    @property
    def setbacks(self) -> str:
        """What has gone wrong at this place of the run, in words."""
        told = ""
        if deaths := self.fold.deaths:
            told += f"; {deaths} invocation{'s have' if deaths > 1 else ' has'} died here ({self.died})"
        stalls = self.head.get("stalls")
        if type(stalls) is int and stalls > 0 and self.head.get("stall_seq") == self.fold.next_seq - 1:
            told += f"; the sweep has woken it {stalls} time{'s' if stalls > 1 else ''} since it last went on"
        return told

    def performing(self, text: str, since_ms: int, step: str | None = None, **more: Any) -> Reason:
        told = f"{text}, or its wake was {'lost' if self.paused_ms is None else 'held'}{self.setbacks}"
        return _reason("performing", told, step, since_ms=since_ms, due_ms=self.due_ms, **more)


def _reason(
    kind: str,
    text: str,
    step: str | None = None,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    due_ms: int | None = None,
    **more: Any,
) -> Reason:
    times = {"since_ms": since_ms, "until_ms": until_ms, "due_ms": due_ms}
    return {"kind": kind, "step": step, **times, "text": text, **more}


def _reasons(stand: _Stand, now_ms: int, workflows: Collection[str] | None) -> Iterator[Reason]:
    """Every reason, in the order of the steps."""
    try:
        if stand.fold.ended is not None:
            yield _ended(stand, *stand.fold.ended)
            return
        if workflows is not None and stand.fold.workflow not in workflows:
            text = f"the app has no workflow {_short(stand.fold.workflow)!r}: deploy it again, or cancel the run"
            yield _reason("gone", text, due_ms=stand.due_ms)
        if stand.paused_ms is not None:
            text = f"workflow {_short(stand.fold.workflow)!r} is paused: onward unpause lets it go on"
            yield _reason("paused", text, since_ms=stand.paused_ms)
        if "queue" in stand.head:
            partition, sort = map(_short, stand.head["queue"])
            yield _limited(stand, partition, sort)
        elif queued := _queued(stand).get(log_key(stand.fold.next_seq)):
            yield queued
        elif not stand.begun:
            yield _unbegun(stand, now_ms)
        elif stand.alone:
            yield _at_one_step(stand, now_ms)
    except UNREADABLE as error:
        raise unreadable(stand.run, log_key(stand.fold.next_seq - 1), error) from error
    if stand.begun and not stand.alone:
        yield from _in_flight(stand, now_ms)


def _ended(stand: _Stand, last: dict[str, Any], value: str | None) -> Reason:
    error, text = None, f"the run was {stand.fold.status}"
    if stand.fold.status == status.COMPLETED:
        text = "the run has completed"
    elif "e" in last:
        error = _error(last["e"])
        text = f"the run has failed: {_line(error)}"
    return _reason("ended", text, since_ms=_whole(last["at"]), error=error)


# ---------------------------------------------------------------------------------------------- before it begins
def _unbegun(stand: _Stand, now_ms: int) -> Reason:
    from_ms, turn_ms = stand.fold.body.get("from", 0), stand.head.get("turn", 0)
    if from_ms > now_ms:
        return _reason("delayed", "the run does not begin before that time", until_ms=from_ms)
    if "begun" not in stand.head and _whole(turn_ms) > now_ms:
        text = "the run waits for its turn: its workflow has a throttle="
        return _reason("throttled", text, until_ms=turn_ms)
    since_ms = max(stand.since_ms, from_ms, turn_ms)
    text = f"the run has not begun: its first step is performed now, or its wake is under way or lost{stand.setbacks}"
    return _reason("queued", text, since_ms=since_ms, due_ms=stand.due_ms)


def _limited(stand: _Stand, partition: str, sort: str, step: str | None = None) -> Reason:
    """For which limit a run queues, or an attempt of a step; who holds its slots, and how many queue before it."""
    store = stand.ledger.store
    slots = store.read(partition, HELD, f"{HELD}~", limit=MAX_HOLDERS + 1)
    entry, *ended = store.get([(partition, sort), *((partition, FREED + item.sort[len(HELD) :]) for item in slots)])
    holders = [_holder(item) for item, freed in zip(slots, ended, strict=True) if freed is None]
    ahead = sum(item.sort < sort for item in store.read(partition, QUEUE, sort, limit=MAX_AHEAD))
    queued = fields_of(entry) if entry is not None else {}  # it may have been let in just now
    limit = _whole(dict(queued["needs"])[partition]) if queued else None
    others = " and others" if len(slots) > MAX_HOLDERS else ""
    held = f", held by {', '.join(holders[:MAX_HOLDERS])}{others}" if holders else ""
    many = f"{ahead} or more" if ahead == MAX_AHEAD else ahead or "no"
    who, what = ("the run", "run") if step is None else ("an attempt", "attempt")
    text = f"{who} queues for a slot of a limit{held}; {many} other {what}{'' if ahead == 1 else 's'} before it"
    since_ms = stand.since_ms if step is None or not queued else _whole(queued["since"])
    told = {"limit": limit, "holders": holders[:MAX_HOLDERS], "ahead": ahead}
    return {**_reason("limited", text, step, since_ms=since_ms, due_ms=stand.due_ms), **told}


def _holder(slot: Item) -> str:
    """Who holds a slot: a run, or one with its step."""
    holder, fields = slot.sort[len(HELD) :], fields_of(slot)
    return f"{holder.partition('#')[0]}: {_short(fields['step'])}" if "step" in fields else holder


def _queued(stand: _Stand) -> dict[str, Reason]:
    """Why attempts of its steps queue, by the keys under which their records will stand."""
    if LIMITS not in stand.head:
        return {}
    found = {}
    rank, needs = limits_of(stand.head)
    places = f"{QUEUE}{_short(rank)}#{stand.run}#"
    for partition, _ in needs:
        for entry in stand.ledger.store.read(_short(partition), places, f"{places}~", limit=MAX_AHEAD):
            step = _short(fields_of(entry)["step"])
            found[entry.sort[len(places) :]] = _limited(stand, entry.partition, entry.sort, step)
    return found


# ------------------------------------------------------------------------------------------------ one step alone
def _at_one_step(stand: _Stand, now_ms: int) -> Reason:
    fold, last = stand.fold, stand.last
    if fold.resting is not None:
        until_ms = fold.slept[fold.resting]
        name = _named(fold.resting)
        if until_ms > now_ms:
            return _reason("sleeping", "sleeps", name, since_ms=_whole(last["at"]), until_ms=until_ms)
        return stand.performing(f"the step behind the sleep {name!r} is performed", max(until_ms, stand.since_ms))
    if last["k"] not in (status.RETRYING, status.BEGUN):
        behind = f"the step behind {_named((last['s'], last['n']))!r}" if "s" in last else "the next step"
        return stand.performing(f"{behind} is performed", stand.since_ms)
    return _tried(stand, last, fold.deaths, _named((last["s"], last["n"])), now_ms)


def _tried(stand: _Stand, last: dict[str, Any], deaths: int, name: str, now_ms: int) -> Reason:
    """Of a step whose last record says that an attempt has failed, or has begun. `deaths`: attempts since then."""
    attempt = _whole(last["a"])
    if last["k"] == status.BEGUN:
        text = "has begun under once=True: it is performed now, or died, and is not performed again"
        return stand.performing(text, _whole(last["at"]), name, attempt=attempt)
    until_ms, error = _whole(last["until"]), _error(last["e"])
    if until_ms > now_ms:
        text = f"attempt {attempt} failed ({_line(error)}), and another follows"
        times = {"since_ms": _whole(last["at"]), "until_ms": until_ms}
        return _reason("retry", text, name, **times, attempt=attempt, error=error)
    number = attempt + deaths + 1
    text = f"attempt {number} is performed, after attempt {attempt} failed ({_line(error)})"
    return stand.performing(text, max(until_ms, stand.since_ms if deaths else 0), name, attempt=number, error=error)


# --------------------------------------------------------------------------------------------- several in flight
class _Lane:
    """What stands in the lane of a step in flight."""

    __slots__ = ("awaiting", "done", "failed", "last", "number", "sort")

    def __init__(self) -> None:
        self.done = False
        self.sort = ""
        self.number = 0  # of the last attempt
        self.last: dict[str, Any] | None = None  # what happened to it
        self.failed: dict[str, Any] | None = None  # the last attempt that failed and did not die
        self.awaiting: dict[str, Any] | None = None  # the record of a wait that was written down


def _in_flight(stand: _Stand, now_ms: int) -> Iterator[Reason]:
    """The steps in flight that have no result; where each has one, that nobody has gone on with them."""
    waits = done = 0
    queued = _queued(stand)
    for plan in sorted(stand.fold.flight):
        move = stand.fold.plans[plan]
        lanes = _lanes(stand, move)
        for index in sorted(stand.fold.flight[plan]):
            lane = lanes.get(index) or _Lane()
            if lane.done:
                done += 1
                continue
            waits += 1
            try:
                own = queued.get(attempt_key((plan, index), lane.number + 1))
                yield own or _beside(stand, move, index, lane, now_ms)
            except UNREADABLE as error:
                raise unreadable(stand.run, lane.sort or log_key(plan), error) from error
    if not waits:
        told = "the result that it waited for is" if done == 1 else f"the {done:,} results that it waited for are"
        text = f"{told} there: it goes on now, or the wake for that was lost{stand.setbacks}"
        yield _reason("observing", text, since_ms=stand.since_ms, due_ms=stand.due_ms)


def _lanes(stand: _Stand, move: Move) -> dict[int, _Lane]:
    """What stands in the lanes of a plan, by index, without the results."""
    lanes: dict[int, _Lane] = {}
    first, last = lane_key((move.seq, 0)), lane_key((move.seq, move.count))
    while True:
        items = stand.ledger.store.read(partition_of(stand.run), first, last, limit=PAGE)
        for item in items:
            (_, index), attempt = lane_of(item)
            lane = lanes.setdefault(index, _Lane())
            if attempt is None:
                lane.done = True
                continue
            lane.sort, lane.number, lane.last = item.sort, attempt, attempt_of(item)
            if lane.last["k"] == status.AWAITING:
                lane.awaiting = lane.last
            elif lane.last["k"] == status.RETRYING:
                lane.failed = lane.last
        if len(items) < PAGE:
            return lanes
        first = f"{items[-1].sort}\0"


def _beside(stand: _Stand, move: Move, index: int, lane: _Lane, now_ms: int) -> Reason:
    """Why a step in flight has no result."""
    name = (
        _named(move.names[index]) if index < len(move.names) else f"step {index + 1} of {move.count} beside each other"
    )
    told = lane.awaiting or lane.last or {}
    if "s" in told:
        name = _named((told["s"], told["n"]))
    planned_ms = stand.planned_ms[move.seq]
    until_ms = move.sleeps.get(index) or move.waits.get(index)
    if until_ms is not None and until_ms <= now_ms:
        what = "sleep" if index in move.sleeps else "wait"
        return stand.performing(f"the time of the {what} is over, and the run goes on with that", until_ms, name)
    if index in move.sleeps:
        return _reason("sleeping", "sleeps", name, since_ms=planned_ms, until_ms=until_ms)
    if lane.awaiting is not None:
        return _waiting(lane.awaiting, name)
    if index in move.waits:
        return stand.performing("the wait is written down", planned_ms, name, attempt=lane.number + 1)
    if lane.last is None:
        return stand.performing("attempt 1 is performed", planned_ms, name, attempt=1)
    if lane.last["k"] != status.DIED:
        return _tried(stand, lane.last, 0, name, now_ms)
    text = f"attempt {lane.number + 1} is performed, after an invocation died in it ({_short(lane.last['why'])})"
    error = _error(lane.failed["e"]) if lane.failed else None
    if error is not None:
        text += f"; the last error was {_line(error)}"
    return stand.performing(text, _whole(lane.last["at"]), name, attempt=lane.number + 1, error=error)


def _waiting(awaiting: dict[str, Any], name: str) -> Reason:
    times = {"since_ms": _whole(awaiting["at"]), "until_ms": _whole(awaiting["until"])}
    told = [_short(text) for text in awaiting["for"]]
    if "child" in awaiting:
        return _reason("child", f"waits for {told[0]}", name, **times, run_id=_short(awaiting["child"]), run=None)
    if "asked" in awaiting:
        asked = _named(awaiting["asked"])
        text = f"waits for somebody to complete it: {asked} has handed out its token (onward complete TOKEN)"
        return _reason("callback", text, name, **times)
    return _reason("event", f"waits for an event {' or '.join(told)}", name, **times, events=told)


# -------------------------------------------------------------------------------------- what others wrote, in words
def _short(text: Any) -> str:
    if type(text) is not str:
        raise TypeError(f"{text!r:.40} is no text")
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}..."


def _named(key: Any) -> str:
    name, ordinal = key
    return display((_short(name), _whole(ordinal)))


def _error(told: dict[str, str]) -> dict[str, str]:
    failure = Failure.from_json(told)
    return {"type": _short(failure.type), "message": _short(failure.message)}


def _line(error: dict[str, str]) -> str:
    """The type of an error and the first line of its message."""
    first = next(iter(error["message"].splitlines()), "")
    return f"{error['type']}: {first}" if first else error["type"]
