"""The log of a run, and what follows from it.

One partition of the table holds a run. Sorted by their keys, its items are:

    H                         the head: status, times, `due`; rewritten rarely, holds nothing that the log does not say
    L#<seq>                   the log: the records 0, 1, 2, ... each put where none was
    M#<chunk>                 marks: which steps in flight are done, where there are many (see engine/fanout.py)
    S#<plan>.<index>          the result of a step that was in flight beside others, put once
    S#<plan>.<index>#<n>      what happened to its attempt n, where that was not the result
    T                         which look of the timer was begun last, where one runs (see engine/fanout.py)

A step that runs alone has its records in the log itself: nobody contends with it. Steps that run beside each
other have a lane each (the S items), and the log holds only what orders them: a record `planned` says which
results were observed since, in which order, and which steps are in flight from then on. A record of a step alone that
has `left` says that those in flight are not awaited any more, as the losers of a race.

`Fold` is what a replay needs to know of all that. Folding is pure, and incremental: a warm sandbox applies only the
records that are new to it.
"""

from __future__ import annotations

import json

from . import status
from .errors import LayoutMismatch
from .values import Event, Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..ports import Item
    from .values import Key

    Lane = tuple[int, int]
    """A step in flight beside others: the seq of the record that planned it, and its index in that plan."""

LAYOUT = 1  # of the items above; a store or a run of a newer one is refused

HEAD = "H"
LOG_END = "L~"
HELD_BACK = "flow#"  # how the partitions begin in which starts are counted and held back (see engine/starts.py)
TIMER = "T"
FAILED_SHARDS = 4  # of the partition in which the runs are listed that failed on one day
MAX_SEQ = 99_999_999
MAX_PLANNED = 1_000_000  # steps in one plan: no run may have more (max_steps=)
MAX_KEY_DIGITS = 8  # of each number in a sort key
MAX_TOLD_CHARS = 200  # of somebody else's text in an error
TIMES = ("from", "start_by", "finish_by")  # that a run may have from its start on, epoch milliseconds
NAMES_IN_PLAN = 24  # names that a plan spells out; a digest stands for all of them


def log_key(seq: int) -> str:
    return f"L#{seq:08d}"


def lane_key(lane: Lane) -> str:
    return f"S#{lane[0]:08d}.{lane[1]:05d}"


def attempt_key(lane: Lane, attempt: int) -> str:
    return f"{lane_key(lane)}#{attempt:04d}"


def marks_key(chunk: int) -> str:
    return f"M#{chunk:08d}"


def plan_marks_key(plan: int) -> str:
    return f"M#plan.{plan:08d}"


def failed_partition(day: int, shard: int) -> str:
    """Where the runs are listed that failed on a day, counted from 1970 on (UTC)."""
    return f"failed#{day:06d}#{shard}"


def failed_key(at_ms: int, run: str) -> str:
    return f"R#{at_ms:014d}#{run}"


def partition_of(run: str) -> str:
    return f"run#{run}"


def run_of(partition: str) -> str:
    return partition.removeprefix("run#")


# --------------------------------------------------------------------------------- what a value is the value of
def event_context(event_id: str) -> str:
    return f"event {event_id}"


def step_context(run: str, key: Key) -> str:
    return f"step {run} {key[1]} {key[0]}"


def run_context(fold: Fold) -> str:
    """Of a run's result. What a run comes to for which a step waits is the result of that step."""
    lane = fold.body.get("lane")
    return step_context(fold.body["parent"], (lane["s"], lane["n"])) if lane else f"run {fold.run}"


# -------------------------------------------------------------------------------- what stands in the table's items
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading an item raises that Onward did not write. Whoever may write to the table can put anything there."""


def unreadable(run: str, sort: str, error: Exception | str) -> status.IllegalRecord:
    told = error if isinstance(error, str) else f"{type(error).__name__}: {str(error)[:MAX_TOLD_CHARS]}"
    return status.IllegalRecord(
        f"the item {sort[:MAX_TOLD_CHARS]!r} of run {run} cannot be read ({told}): it was edited, or Onward has a bug"
    )


def fields_of(item: Item) -> dict[str, Any]:
    """The fields in an item's body. Raises `IllegalRecord` where it is no JSON object."""
    try:
        fields = json.loads(item.body)
    except UNREADABLE as error:
        raise unreadable(run_of(item.partition), item.sort, error) from error
    if type(fields) is not dict:
        raise unreadable(run_of(item.partition), item.sort, "no JSON object")
    return fields


def head_of(item: Item) -> dict[str, Any]:
    """The fields of a run's head, `workflow` and `status` among them. Raises `IllegalRecord`."""
    fields = fields_of(item)
    if type(fields.get("workflow")) is not str or type(fields.get("status")) is not str:
        raise unreadable(run_of(item.partition), item.sort, "no head of a run")
    return fields


def attempt_of(item: Item) -> dict[str, Any]:
    """The fields of an item that says what happened to an attempt in a lane. Raises `IllegalRecord`."""
    fields = fields_of(item)
    kinds = (status.BEGUN, status.RETRYING, status.DIED, status.AWAITING)
    if fields.get("k") not in kinds or type(fields.get("until", 0)) is not int:
        raise unreadable(run_of(item.partition), item.sort, "no record of an attempt")
    return fields


def lane_of(item: Item) -> tuple[Lane, int | None]:
    """The lane in which an item stands, and the number of the attempt it speaks of (None: it is the result). Raises
    `IllegalRecord`."""
    lane, _, attempt = item.sort.removeprefix("S#").partition("#")
    plan, _, index = lane.partition(".")
    if not all(text.isdecimal() and len(text) <= MAX_KEY_DIGITS for text in (plan, index, attempt or "0")):
        raise unreadable(run_of(item.partition), item.sort, "no key of a lane")
    return (int(plan), int(index)), int(attempt) if attempt else None


def _whole(number: Any) -> int:
    if type(number) is not int:
        raise TypeError(f"{number!r:.40} is no whole number")
    return number


# ------------------------------------------------------------------------------------------ what a step came to
class Done:
    """A step that succeeded, at that time. Its value is JSON text, or where that was too large the reference of a
    blob."""

    __slots__ = ("at_ms", "attempts", "blob", "text")

    def __init__(self, text: str | None, blob: str | None, attempts: int, at_ms: int) -> None:
        self.text = text
        self.blob = blob
        self.attempts = attempts
        self.at_ms = at_ms


class Broken:
    """A step that failed for good."""

    __slots__ = ("attempts", "failure")

    def __init__(self, failure: Failure, attempts: int) -> None:
        self.failure = failure
        self.attempts = attempts


def outcome_of(body: dict[str, Any], value: str | None) -> Done | Broken:
    """The outcome that a record `done` or `broken` holds, in the log or in a lane."""
    if body["k"] == status.DONE:
        return Done(value, body.get("blob"), _whole(body["a"]), _whole(body["at"]))
    return Broken(Failure.from_json(body["e"]), _whole(body["a"]))


class Trouble:
    """A step alone at the end of the log that has no outcome yet: how many attempts it has used, when the next may
    begin, and whether one that may run only once has begun."""

    __slots__ = ("attempts", "begun", "until_ms")

    def __init__(self, attempts: int = 0, until_ms: int = 0, begun: bool = False) -> None:
        self.attempts = attempts
        self.until_ms = until_ms
        self.begun = begun


class Move:
    """One record `planned`: first the lanes whose results were observed, in that order, then what went in flight.

    `first`: how many steps of the run went in flight before these, so that each has a number in the run. `wide`: so
    many are in flight that their completions are marked. `sleeps`, `waits`: when they end, by index.
    """

    __slots__ = ("count", "digest", "first", "names", "seen", "seq", "sleeps", "waits", "wide")

    def __init__(self, seq: int, first: int, body: dict[str, Any]) -> None:
        self.seq = seq
        self.first = first
        self.wide: bool = body.get("wide", False)
        self.seen: list[Lane] = [(plan, index) for plan, index in body["seen"]]
        self.count = _whole(body["count"])
        if not 0 <= self.count <= MAX_PLANNED:
            raise ValueError(f"{self.count} steps in one plan")
        self.digest: str = body["digest"]
        self.names: list[Key] = [(name, ordinal) for name, ordinal in body["names"]]
        self.sleeps = _ends(body.get("sleeps", {}))
        self.waits = _ends(body.get("waits", {}))


def _ends(told: dict[str, Any]) -> dict[int, int]:
    return {int(index): _whole(end_ms) for index, end_ms in told.items()}


class Fold:
    """A run as its log has it, up to the record before `next_seq`."""

    __slots__ = (
        "body",
        "deaths",
        "ended",
        "flight",
        "head",
        "last_invocation",
        "memo",
        "moves",
        "next_seq",
        "plans",
        "received",
        "resting",
        "results",
        "run",
        "salts",
        "size_bytes",
        "slept",
        "status",
        "trouble",
        "unread",
        "value",
    )

    def __init__(self, run: str) -> None:
        self.run = run
        self.status: str | None = None
        self.next_seq = 0
        self.head: Item | None = None  # as last read; the log is the truth
        self.body: dict[str, Any] = {}  # the record `started`
        self.value: str | None = None  # its event's data
        # the write token of that record, and of the runs that it is a fork of: chance that nobody outside can know
        self.salts: dict[str, str] = {}
        self.memo: dict[Key, Done | Broken] = {}  # of steps in sequence
        self.trouble: dict[Key, Trouble] = {}
        self.slept: dict[Key, int] = {}  # sleeps in sequence, with the time when they end
        self.resting: Key | None = None  # the sleep at which the log ends
        self.moves: list[Move] = []
        self.plans: dict[int, Move] = {}  # the moves that put steps in flight, by their seq
        self.flight: dict[int, set[int]] = {}  # plan -> indexes whose results were not observed yet
        self.unread: list[Lane] = []  # observed, but their results were not read yet
        self.results: dict[Lane, tuple[Key, Done | Broken]] = {}  # read
        self.received: list[str] = []  # the events that its waits have brought, by their digests
        self.deaths = 0  # of invocations, since the log last grew otherwise
        self.ended: tuple[dict[str, Any], str | None] | None = None  # the last record, when the run has ended
        self.last_invocation: str | None = None  # which wrote the last record, where it said so
        self.size_bytes = 0

    def apply(self, item: Item) -> None:
        """Take in the next record of the log. Raises `IllegalRecord`; the fold is of no use after that."""
        try:
            self._apply(item)
        except UNREADABLE as error:
            raise unreadable(self.run, item.sort, error) from error

    def _apply(self, item: Item) -> None:
        body = fields_of(item)
        kind = body["k"]
        try:
            self.status = status.after(self.status, kind)
        except status.IllegalRecord as error:
            raise status.IllegalRecord(
                f"{error} (run {self.run}, item {item.sort[:MAX_TOLD_CHARS]}): it was edited, or Onward has a bug"
            ) from None
        seq = self.next_seq
        if item.sort != log_key(seq):
            raise status.IllegalRecord(f"the log of run {self.run} has {item.sort} where record {seq} belongs")
        self.next_seq = seq + 1
        self.size_bytes += len(item.body) + len(item.value or "")
        if kind != status.DIED:
            self.deaths = 0
            self.resting = None
        self.last_invocation = body.get("i")
        if seq == 0:
            self.salts = {self.run: item.token, **body.get("salts", {})}
        _APPLY[kind](self, body, item.value)
        if body.get("left"):
            self.flight.clear()

    def apply_lane(self, item: Item) -> None:
        """Take in the result of a lane. Raises `IllegalRecord`."""
        body = fields_of(item)
        lane, _ = lane_of(item)
        try:
            _whole(body["at"])
            self.results[lane] = ((body["s"], _whole(body["n"])), self._of_line(outcome_of(body, item.value)))
            if "event" in body:
                self.received.append(body["event"])
        except UNREADABLE as error:
            raise unreadable(self.run, item.sort, error) from error
        self.size_bytes += len(item.body) + len(item.value or "")

    def attempts(self, key: Key) -> int:
        """How many attempts a step that stands alone at the end of the log has used; a death there is one."""
        trouble = self.trouble.get(key)
        return (trouble.attempts if trouble else 0) + self.deaths

    @property
    def workflow(self) -> str:
        workflow: str = self.body["workflow"]
        return workflow

    def _of_line(self, outcome: Done | Broken) -> Done | Broken:
        """An outcome, later by what passed between the end of a copied log and its fork, where it was copied: so what
        counts from it has the time that it had left."""
        if type(outcome) is Done and "fork" in self.body:
            forks = [*self.body.get("forks", ()), self.body["fork"]]
            outcome.at_ms += sum(fork["late"] for fork in forks if outcome.at_ms < fork["at"])
        return outcome

    @property
    def born_ms(self) -> int:
        """When the run was made, epoch milliseconds. `at` of a fork is when the first run of its line was."""
        born_ms: int = self.body.get("fork", self.body)["at"]
        return born_ms

    @property
    def stands_at_fork(self) -> bool:
        """Whether this is a fork to which nothing has happened yet."""
        return "fork" in self.body and self.next_seq - self.deaths == self.body["fork"]["seq"]

    @property
    def steps(self) -> int:
        """How many steps the log has planned or finished: what the bound on steps counts."""
        return len(self.memo) + len(self.slept) + sum(move.count for move in self.plans.values())

    @property
    def deadlines(self) -> list[int]:
        """When it is too late for the run to end, epoch milliseconds, if there is such a time."""
        return [self.body["finish_by"] + 1] if "finish_by" in self.body else []

    def open_lanes(self, waits_only: bool = False) -> list[Lane]:
        """The lanes whose results were not observed, those included that nobody awaits any more."""
        return [
            (plan, index)
            for plan, move in self.plans.items()
            for index in (move.waits if waits_only else range(move.count))
            if (plan, index) not in self.results
        ]

    @property
    def in_flight(self) -> int:
        return sum(map(len, self.flight.values()))

    # -- one method for each kind of record
    def _started(self, body: dict[str, Any], value: str | None) -> None:
        if body["layout"] > LAYOUT:
            raise LayoutMismatch(
                f"run {self.run} was written in layout {body['layout']} by a newer Onward; "
                f"this one knows layout {LAYOUT}: upgrade onward"
            )
        event = body["event"]
        if not all(type(text) is str for text in (body["workflow"], event["name"], event["id"])):
            raise TypeError("a name is no string")
        for time_ms in (body["at"], event["at"], *(body[name] for name in TIMES if name in body)):
            _whole(time_ms)
        self.body, self.value = body, value

    def _begun(self, body: dict[str, Any], value: str | None) -> None:
        self.trouble[body["s"], _whole(body["n"])] = Trouble(_whole(body["a"]), 0, True)

    def _retrying(self, body: dict[str, Any], value: str | None) -> None:
        self.trouble[body["s"], _whole(body["n"])] = Trouble(_whole(body["a"]), _whole(body["until"]))

    def _outcome(self, body: dict[str, Any], value: str | None) -> None:
        key = (body["s"], _whole(body["n"]))
        self.trouble.pop(key, None)
        self.memo[key] = self._of_line(outcome_of(body, value))

    def _slept(self, body: dict[str, Any], value: str | None) -> None:
        self.resting = (body["s"], _whole(body["n"]))
        self.slept[self.resting] = _whole(body["until"])

    def _planned(self, body: dict[str, Any], value: str | None) -> None:
        before = self.moves[-1] if self.moves else None
        move = Move(self.next_seq - 1, before.first + before.count if before else 0, body)
        self.moves.append(move)
        for plan, index in move.seen:
            self.flight[plan].discard(index)
            if not self.flight[plan]:
                del self.flight[plan]
            if (plan, index) not in self.results:
                self.unread.append((plan, index))
        if move.count:
            self.flight[move.seq] = set(range(move.count))
            self.plans[move.seq] = move

    def _died(self, body: dict[str, Any], value: str | None) -> None:
        self.deaths += 1

    def _ended(self, body: dict[str, Any], value: str | None) -> None:
        self.ended = (body, value)


_APPLY = {
    status.STARTED: Fold._started,
    status.BEGUN: Fold._begun,
    status.RETRYING: Fold._retrying,
    status.DONE: Fold._outcome,
    status.BROKEN: Fold._outcome,
    status.SLEPT: Fold._slept,
    status.PLANNED: Fold._planned,
    status.STANDING: Fold._planned,
    status.DIED: Fold._died,
    status.RUN_COMPLETED: Fold._ended,
    status.RUN_FAILED: Fold._ended,
    status.RUN_CANCELLED: Fold._ended,
}


def event_of(fold: Fold, data: Any) -> Event:
    """The event that started the run; `data` is its decoded data."""
    event = fold.body["event"]
    return Event(event["name"], data, event["id"], event["at"])
