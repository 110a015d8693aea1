"""The gate before a run's first step: the time from which it may begin, the rate of its workflow, and a slot of each
limit on how many may run at a time.

A limit is a partition of the table:

    A#<holder>                      a slot that is held
    C                               how many are held: the one item that every change of the limit goes through
    F#<holder>                      a holder that has ended: put in the transaction that ends it, and not counted yet
    Q#<priority>#<arrived>#<run>    a run that queues, with all the limits that it needs

A run that finds room takes it. One that does not puts itself into the queue, and only then looks whether there is room
after all; one that ends frees its slot, and only then looks who queues. So whichever is second sees the first, and
each change goes through `C`, so that a slot is given once. A run that needs slots of several limits takes all of them
at once or none: while one is full it queues there, and holds nothing.

Every change of a limit is one transaction with that one item, which a partition of DynamoDB takes some hundreds of
times a second; a `key=` spreads it over as many items as there are keys. Those who lose such a race queue, and the
winner takes them along. Where the one who hands on dies before it did, the notice of its death does it, or the next
start or end of a run of that limit, or at the latest the sweep that looks after each run that queues.

The rate (`throttle=`) is one item as well. It says from when the next run may begin that asks (`tat`, the theoretical
arrival time of GCRA), and from when one may begin that has waited for its turn (`took`, the same of those that really
began). Wakes come late, and runs whose turns were spread do not begin in one heap for that.
"""

from __future__ import annotations

import json
import math

from ..core import status
from ..core.codec import decode
from ..core.errors import UnknownWorkflow
from ..core.ids import _digest
from ..core.log import HELD_BACK, event_of, fields_of, head_of, partition_of
from ..core.values import Failure
from ..core.waits import canonical
from ..flow import PRIORITIES
from ..ports import Drop, Item, Put, Swap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..app import Workflow
    from ..core.log import Fold
    from ..core.values import Event
    from ..flow import Concurrency, Flow, Throttle
    from .engine import Engine, Wake
    from .ledger import Ledger

    Need = list[Any]
    """A limit that a run needs a slot of: its partition, and its index among those of the workflow."""

HELD, COUNT, FREED, QUEUE, ENDS = "A#", "C", "F#", "Q#", "R"
PAGE = 25  # of those that were freed, or queue, that are read at once: each may take two writes
MAX_TRIES = 5  # to take a slot directly, or hand on, while others are faster
MAX_HEAD_TRIES = 20


def passes(engine: Engine, fold: Fold, workflow: Workflow) -> bool:
    """Whether the run may go on; if not, it was seen to that it will be woken when it may."""
    first = fold.next_seq - fold.deaths == 1
    if first and not _may_begin(engine, fold):
        return False
    flow = workflow.flow
    if (flow is None or not (flow.throttle or flow.concurrency)) and not (first and "start_by" in fold.body):
        return True
    for attempt in range(MAX_HEAD_TRIES):
        head = fields_of(engine.ledger.head(fold))
        if head.get("status") in status.ENDED:
            return False
        if _has_begun(fold, flow, head):
            return True
        if attempt == 0 and (not first or "queue" in head):
            fold.head = None  # it may have been kept warm since before another run has let this one in
            continue
        event = event_of(fold, decode(engine.ledger.event_text(fold)))
        passed = _pass(engine, fold, workflow, flow, event, head)
        if passed is not None:
            return passed
        fold.head = None
    _wait(engine, fold, None)
    return False


def _has_begun(fold: Fold, flow: Flow | None, head: dict[str, Any]) -> bool:
    if flow is None:
        return "begun" in head
    begins = flow.throttle is not None or "start_by" in fold.body
    return ("begun" in head or not begins) and ("slots" in head or not flow.concurrency)


def expired(engine: Engine, fold: Fold) -> bool:
    """Fail the run if it should have ended by now, or begun."""
    now_ms = engine.clock.now_ms()
    late = fold.next_seq - fold.deaths == 1 and fold.body.get("start_by", now_ms) < now_ms
    if late:
        fold.head = None  # it says whether the first step is being performed
        late = "begun" not in fields_of(engine.ledger.head(fold))
    if late:
        failure = Failure("StartTimeout", "the run did not begin within the start_timeout= of its workflow")
    elif fold.body.get("finish_by", now_ms) < now_ms:
        failure = Failure("FinishTimeout", "the run did not end within the finish_timeout= of its workflow")
    else:
        return False
    engine.fail(fold, failure)
    return True


def expire(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """A time has come by which a run was to have begun, or ended."""
    fold = engine.ledger.load(wake["run"])
    if fold is not None and fold.ended is None:
        expired(engine, fold)
        engine.ledger.keep(fold)


def _may_begin(engine: Engine, fold: Fold) -> bool:
    now_ms = engine.clock.now_ms()
    if fold.body.get("from", now_ms) > now_ms:
        _wait(engine, fold, fold.body["from"])
        return False
    return True


def _wait(engine: Engine, fold: Fold, until_ms: int | None) -> None:
    """Leave the run as it is, to be woken then."""
    engine.ledger.keep(fold)
    engine.send({"do": _verb(fold), "run": fold.run, "seq": fold.next_seq}, until_ms)


def _verb(fold: Fold) -> str:
    """What lets a run begin: a fork may have steps in flight."""
    return "fork" if fold.flight and fold.stands_at_fork else "advance"


def _pass(
    engine: Engine, fold: Fold, workflow: Workflow, flow: Flow | None, event: Event, head: dict[str, Any]
) -> bool | None:
    """Take what the run still needs; None where something was written, or refused: look again."""
    rate = None
    if flow is not None and flow.throttle is not None and "begun" not in head:
        rate = _Rate(engine, workflow, flow.throttle, event)
        if (turn_ms := rate.turn_ms(head)) > engine.clock.now_ms():
            if "turn" in head or rate.reserves(fold, head, turn_ms):
                _wait(engine, fold, turn_ms)
                return False
            return None
    needs = needs_of(engine, workflow, flow.concurrency, "concurrency", event) if flow is not None else []
    if needs and "slots" not in head:
        if "queue" not in head:
            if _takes(engine, fold, workflow, needs, head):
                return None
            if not _queues(engine, fold, workflow, event, needs, head):
                return None
        queue = fields_of(engine.ledger.head(fold))["queue"][0]
        hand_out(engine, queue)
        fold.head = None
        if "queue" in fields_of(engine.ledger.head(fold)):  # it stands there, and is not stalled
            engine.ledger.move_head(fold, _due_ms(engine, fold), stalls=0)
        engine.ledger.keep(fold)
        return False  # who lets it in sends a wake, be it this one: to go on here as well would perform its step twice
    if rate is not None:
        rate.begins(fold, head)
    elif "start_by" in fold.body and "begun" not in head:
        standing = engine.ledger.head(fold)
        item = _item(
            engine, standing.partition, standing.sort, {**head, "begun": engine.clock.now_ms()}, standing.due_ms
        )
        if engine.store.write([Swap(item, standing.token)]) is None:
            fold.head = item
    return None


def _due_ms(engine: Engine, fold: Fold) -> int:
    """By when somebody looks after a run that queues."""
    times = [fold.body[name] + 1 for name in ("start_by", "finish_by") if name in fold.body]
    due_ms: int = min([engine.clock.now_ms() + engine.horizon_ms, *times])
    return due_ms


def group(engine: Engine, workflow: Workflow, what: str, key: Any, event: Event) -> str:
    """The text of the group to which an event belongs by a `key=`."""
    if key is None:
        return ""
    try:
        found = key(event)
        if found is None or isinstance(found, str | int | float | bool):
            return canonical(found)
        reason = f"it gave a {type(found).__name__}; a key is a string, a number, a boolean or None"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    engine.note("ERROR", f"the key of {what}= failed, taken for None", workflow=workflow.name, reason=reason)
    return canonical(None)


def place(what: str, *names: str) -> str:
    """The partition in which something is counted for a workflow, or a name, and a group."""
    return f"{HELD_BACK}{_digest(24, 'flow', what, *names)}"


def _item(engine: Engine, partition: str, sort: str, body: dict[str, Any], due_ms: int | None = None) -> Item:
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return Item(partition, sort, engine.clock.token(), text, None, due_ms)


def put_or_swap(item: Item, standing: Item | None) -> Put | Swap:
    return Put(item) if standing is None else Swap(item, standing.token)


# ------------------------------------------------------------------------------------------------------ the rate
class _Rate:
    """The item of a throttle, as it was read for one look at it."""

    def __init__(self, engine: Engine, workflow: Workflow, throttle: Throttle, event: Event) -> None:
        self.engine = engine
        self.apart_ms = throttle.apart_ms
        self.ahead_ms = throttle.apart_ms * (throttle.burst - 1)
        self.partition = place("throttle", workflow.name, group(engine, workflow, "throttle", throttle.key, event))
        self.standing = engine.store.get([(self.partition, "K")])[0]
        told = fields_of(self.standing) if self.standing else {}
        self.tat_ms: float = told.get("tat", 0)
        self.took_ms: float = told.get("took", 0)

    def turn_ms(self, head: dict[str, Any]) -> int:
        """From when a run may begin: its turn, if it has one, but not before those that came late have made room."""
        floor_ms: float = head["turn"] if "turn" in head else self.tat_ms - self.ahead_ms
        return math.ceil(max(floor_ms, self.took_ms - self.ahead_ms))

    def reserves(self, fold: Fold, head: dict[str, Any], turn_ms: int) -> bool:
        """Give the run this turn, unless another was faster."""
        body = {"tat": max(self.tat_ms, turn_ms) + self.apart_ms, "took": self.took_ms}
        return self._writes(fold, {**head, "turn": turn_ms, "stalls": 0}, body, self.engine.due_for(turn_ms))

    def begins(self, fold: Fold, head: dict[str, Any]) -> bool:
        """Count that the run begins now, unless another was faster."""
        now_ms = self.engine.clock.now_ms()
        tat_ms = self.tat_ms if "turn" in head else max(self.tat_ms, now_ms) + self.apart_ms
        body = {"tat": tat_ms, "took": max(self.took_ms, now_ms) + self.apart_ms}
        return self._writes(fold, {**head, "begun": now_ms}, body, self.engine.ledger.head(fold).due_ms)

    def _writes(self, fold: Fold, head: dict[str, Any], body: dict[str, Any], due_ms: int | None) -> bool:
        standing = self.engine.ledger.head(fold)
        if due_ms is not None:
            due_ms = min([due_ms, *fold.deadlines])
        item = _item(self.engine, standing.partition, standing.sort, head, due_ms)
        rate = _item(self.engine, self.partition, "K", body)
        refused = self.engine.store.write([put_or_swap(rate, self.standing), Swap(item, standing.token)])
        if refused is None:
            fold.head = item
        return refused is None


# ------------------------------------------------------------------------------------------------------- a limit
def needs_of(
    engine: Engine, workflow: Workflow, limits: tuple[Concurrency, ...], what: str, event: Event
) -> list[Need]:
    """The limits of which a run, or each of its steps, needs a slot, each once."""
    needs: dict[str, int] = {}
    for index, limit in enumerate(limits):
        owner = ["name", limit.name] if limit.name is not None else ["workflow", workflow.name, str(index)]
        partition = place(what, *owner, group(engine, workflow, "concurrency", limit.key, event))
        needs.setdefault(partition, index)
    return [[partition, index] for partition, index in needs.items()]


def _takes(engine: Engine, fold: Fold, workflow: Workflow, needs: list[Need], head: dict[str, Any]) -> bool:
    """Take a slot of each limit, where all have room and nobody queues."""
    for _ in range(MAX_TRIES):
        states = [_State(engine, need[0]) for need in needs]
        for state, (_, index) in zip(states, needs, strict=True):
            if state.queue or state.room(_capacity(engine, workflow.name, index)) < 1:
                return False
        fold.head = _gives(engine, states, fold.run, engine.ledger.head(fold), [])
        if fold.head is not None or fields_of(engine.ledger.head(fold)) != head:
            return True  # let in, by this one or by another, or ended: look again
    return False


def _queues(
    engine: Engine,
    fold: Fold,
    workflow: Workflow,
    event: Event,
    needs: list[Need],
    head: dict[str, Any],
) -> bool:
    """Put the run into the queue of its first limit, unless its head has changed."""
    sort = f"{QUEUE}{_rank(engine, workflow, event):04d}#{fold.born_ms:014d}#{fold.run}"
    told = {"do": _verb(fold), "run": fold.run, "workflow": workflow.name, "seq": fold.next_seq, "needs": needs}
    standing = engine.ledger.head(fold)
    waiting = {**head, "queue": [needs[0][0], sort], "stalls": 0}
    moved = _item(engine, standing.partition, standing.sort, waiting, _due_ms(engine, fold))
    refused = engine.store.write([Put(_item(engine, needs[0][0], sort, told)), Swap(moved, standing.token)])
    if refused is None:
        fold.head = moved
        engine.note("INFO", "run queues", run_id=fold.run, workflow=workflow.name)
    return refused is None


def _rank(engine: Engine, workflow: Workflow, event: Event) -> int:
    """Where a run stands in a queue: the smaller, the sooner."""
    urgency = workflow.flow and workflow.flow.priority
    if not urgency:
        return PRIORITIES
    try:
        return PRIORITIES - max(-PRIORITIES, min(PRIORITIES, int(urgency(event))))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        engine.note("ERROR", "priority= failed, taken for 0", workflow=workflow.name, reason=reason)
        return PRIORITIES


class _State:
    """A limit as it was read: how many slots are held, who was freed, and who queues first."""

    def __init__(self, engine: Engine, partition: str) -> None:
        self.partition = partition
        items = engine.store.read(partition, COUNT, ENDS, limit=PAGE)
        self.is_all = len(items) < PAGE
        self.count = items.pop(0) if items and items[0].sort == COUNT else None
        self.held: int = fields_of(self.count)["count"] if self.count else 0
        holders = [item.sort[len(FREED) :] for item in items if item.sort.startswith(FREED)]
        self.queue = [item for item in items if item.sort.startswith(QUEUE)]
        self.free = [Drop(partition, kind + holder) for holder in holders for kind in (FREED, HELD)]
        self.freed = len(holders)

    def room(self, capacity: int) -> int:
        return capacity - self.held + self.freed

    def writes(self, engine: Engine, more: int) -> list[Put | Swap | Drop]:
        """What makes the count true, with so many slots more."""
        count = _item(engine, self.partition, COUNT, {"count": self.held - self.freed + more})
        return [put_or_swap(count, self.count), *self.free]


def _gives(engine: Engine, states: list[_State], run: str, head: Item, drops: list[Drop]) -> Item | None:
    """Give a run a slot of each of these limits, in one transaction; its head then, or None where that was refused."""
    fields = head_of(head)
    fields.update(slots=[state.partition for state in states], stalls=0)
    fields.pop("queue", None)
    due_ms = engine.clock.now_ms() + engine.horizon_ms  # a new one: the one before may be about to pass
    given = _item(engine, head.partition, head.sort, fields, due_ms)
    writes: list[Put | Swap | Drop] = [Swap(given, head.token)]
    for state in states:
        writes += state.writes(engine, 1)
        writes.append(Put(_item(engine, state.partition, HELD + run, {})))
    return given if engine.store.write([*writes, *drops]) is None else None


def _capacity(engine: Engine, workflow: str, index: int, of_steps: bool = False) -> int:
    """How many slots a limit has, by the code that runs now; a limit that was taken away holds nobody back."""
    try:
        flow = engine.app[workflow].flow
    except UnknownWorkflow:
        flow = None
    limits = () if flow is None else flow.step_limits if of_steps else flow.concurrency
    return limits[index].limit if index < len(limits) else 1 << 30


def hand_out(engine: Engine, partition: str) -> None:
    """Count who was freed, and give the room that there is to those who queue first. Whoever loses a race here may
    stop: the one who won looks again."""
    lost = 0
    while lost <= MAX_TRIES:
        state = _State(engine, partition)
        if not state.queue:
            written = not state.free or engine.store.write(state.writes(engine, 0)) is None
            if written and state.is_all:
                return  # who has put itself into the queue meanwhile looks for itself
            lost += not written
            continue
        done = _hand_to(engine, state, state.queue[0])
        if done is None:
            return
        lost += not done


def _hand_to(engine: Engine, state: _State, entry: Item) -> bool | None:
    """Give a slot to the first of a queue: whether that was written; None where there is no room."""
    told = fields_of(entry)
    if "holder" in told:
        from .steplimits import hand_to

        return hand_to(engine, state, entry, told)
    head = engine.store.get([(partition_of(told["run"]), "H")])[0]
    if head is None or head_of(head)["status"] in status.ENDED or "slots" in head_of(head):
        return engine.store.write([Drop(entry.partition, entry.sort, entry.token)]) is None
    states = [state if need[0] == state.partition else _State(engine, need[0]) for need in told["needs"]]
    for other, (_, index) in zip(states, told["needs"], strict=True):
        if other.room(_capacity(engine, told["workflow"], index)) > 0:
            continue
        if other is state:
            if not state.free:
                return None
            return engine.store.write(state.writes(engine, 0)) is None
        return _moves_on(engine, entry, head, other.partition)
    given = _gives(engine, states, told["run"], head, [Drop(entry.partition, entry.sort, entry.token)]) is not None
    if given:
        engine.note("INFO", "run leaves the queue", run_id=told["run"], workflow=told["workflow"])
        engine.send({"do": told["do"], "run": told["run"], "seq": told["seq"]})
    return given


def _moves_on(engine: Engine, entry: Item, head: Item, partition: str) -> bool:
    """Let a run queue at another of its limits, which is the one that is full."""
    fields = head_of(head)
    fields["queue"] = [partition, entry.sort]
    moved = _item(engine, head.partition, head.sort, fields, head.due_ms)
    there = Item(partition, entry.sort, engine.clock.token(), entry.body)
    refused = engine.store.write([Drop(entry.partition, entry.sort, entry.token), Put(there), Swap(moved, head.token)])
    if refused is None:
        hand_out(engine, partition)  # it may have been freed in between
    return refused is None


def freed(ledger: Ledger, head: dict[str, Any], run: str) -> list[Put | Drop]:
    """What a run that ends gives back: its slots, and its place in a queue."""
    writes: list[Put | Drop] = [
        Put(Item(partition, FREED + run, ledger.clock.token(), "{}")) for partition in head.get("slots", ())
    ]
    if "queue" in head:
        writes.append(Drop(*head["queue"]))
    return writes


def hand_on(engine: Engine, fold: Fold) -> None:
    """Look who queues for the slots that a run had which has ended."""
    head = engine.ledger.head(fold)
    for partition in fields_of(head).get("slots", ()):
        hand_out(engine, partition)
