"""Limits on how many steps are performed at a time: `Concurrency(n, of="steps")`.

A limit is a partition as in gate.py, with the same items. What holds a slot, or queues for one, is an attempt:

    <holder>    <run>#<key>, the key under which the record of that attempt is put: `L#<seq>`, `S#<plan>.<index>#<n>`

So a wake that is delivered twice finds the slot of its attempt, and the attempt that follows a failure or a death has
one of its own. A slot is taken in a transaction that is refused where that record stands, and freed in the one that
puts it: its item `A#` is marked as freed, which fails where it was freed before, and `F#` says so to whoever counts.

An attempt is over when its record stands, or its run has ended. What is held by attempts that are over is found by
`tidy`, which looks at what one run holds: when it ends, when an invocation died, when the sweep looks after it, and
before one of its attempts queues. An attempt that the sweep finds in a queue looks at all who hold that limit. So a
slot is lost only as long as nobody needs it.

An attempt that needs slots of several limits takes all of them at once or none, so none waits for another in a circle.
"""

from __future__ import annotations

import json

from ..core import status
from ..core.codec import decode
from ..core.errors import Leave
from ..core.log import HEAD, event_of, fields_of, head_of, log_key, partition_of
from ..core.values import display
from ..ports import Drop, Item, Put, Swap
from .gate import FREED, HELD, MAX_TRIES, QUEUE, _capacity, _item, _rank, _State, hand_out, needs_of
from .ledger import Superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ..app import Workflow
    from ..core.log import Fold
    from ..core.values import Key
    from ..ports import Clock, Refused
    from .engine import Engine, Wake
    from .gate import Need
    from .ledger import Ledger

    Writes = list[Put | Swap | Drop]

LIMITS = "limits"  # in a run's head: which limits its steps need slots of, and its rank in their queues
AT_THE_END = 5  # slots of each limit that are freed in the transaction that ends a run
AT_ONCE = 25  # holders that are looked at together
MAX_HEAD_TRIES = 20


class Slots:
    """What one attempt holds: an item in each of its limits."""

    def __init__(self, engine: Engine, run: str, items: Sequence[Item]) -> None:
        self.engine = engine
        self.run = run
        self.items = items

    def write(self, writes: Sequence[Put | Swap | Drop], also: Sequence[Any] = ()) -> Refused | None:
        """Write what came of the attempt, with writes of the user's own, free its slots with it, and give them to who
        queues. Where the user's own were refused, it holds them still."""
        store = self.engine.store
        frees = [write for item in self.items for write in _frees(self.engine.clock, item)]
        refused = store.write([*writes, *frees], also)
        if refused is not None:
            if not any(refused.standing[: len(writes)]):
                if refused.why:
                    return refused
                return store.write(writes, also)  # they were freed before: its death was noticed, or its run has ended
            tidy(self.engine, self.run)
            return refused
        for item in self.items:
            hand_out(self.engine, item.partition)
        return None


def take(engine: Engine, fold: Fold, workflow: Workflow, key: Key, place: str, wake: Wake) -> Slots:
    """Take a slot of each limit for the attempt whose record will stand at `place`, or find those that it has. Raises
    `Leave` where it queues, to be woken by `wake`, and `Superseded` where it is over."""
    rank, needs = _limits(engine, fold, workflow)
    holder = f"{fold.run}#{place}"
    for _ in range(MAX_TRIES):
        states = [_State(engine, partition) for partition, _ in needs]
        if any(drop.sort == HELD + holder for state in states for drop in state.free):
            raise Superseded  # its slot was freed, and is not counted as such yet
        rooms = [
            not state.queue and state.room(_capacity(engine, workflow.name, index, of_steps=True)) > 0
            for state, (_, index) in zip(states, needs, strict=True)
        ]
        if all(rooms):
            items, writes = _given(engine, states, holder, display(key))
            if engine.store.write(writes) is None:
                return Slots(engine, fold.run, items)
        if found := _own(engine, holder, needs):
            if (begun := _begins(engine, found)) is not None:
                return Slots(engine, fold.run, begun)
            continue  # it was given back just now
        if not all(rooms):
            break
    told = {
        "run": fold.run,
        "workflow": workflow.name,
        "holder": holder,
        "step": display(key),
        "since": engine.clock.now_ms(),
        "needs": needs,
        "wake": wake,
    }
    _queue(engine, fold, f"{QUEUE}{rank}#{holder}", told)
    raise Leave


def give_back(engine: Engine, run: str, place: str) -> None:
    """Give back what an attempt was given that has not begun, and does not for now, since its workflow is paused."""
    head = engine.store.get([(partition_of(run), HEAD)])[0]
    for partition, _ in limits_of(head_of(head))[1] if head is not None else ():
        for _ in range(MAX_TRIES):
            state = _State(engine, partition)
            item = engine.store.get([(partition, f"{HELD}{run}#{place}")])[0]
            if item is None or "waits" not in fields_of(item) or "freed" in fields_of(item):
                break
            if engine.store.write([*state.writes(engine, -1), Drop(partition, item.sort, item.token)]) is None:
                hand_out(engine, partition)
                break


def limits_of(head: dict[str, Any]) -> tuple[str, list[Need]]:
    """The rank of a run's steps in the queues of its limits, and those limits, as its head has them."""
    told = head.get(LIMITS, {})
    return told.get("rank", ""), told.get("needs", [])


def over_keys(holder: str) -> list[tuple[str, str]]:
    """Where the record of an attempt stands: the first of these that is no `begun`."""
    run, place = holder.split("#", 1)
    then = log_key(int(place[2:]) + 1) if place.startswith("L#") else place.rpartition("#")[0]
    return [(partition_of(run), place), (partition_of(run), then)]


def tidy(engine: Engine, run: str) -> None:
    """Free what the attempts of a run hold that are over, and look who queues."""
    head = engine.store.get([(partition_of(run), HEAD)])[0]
    if head is None:
        return
    fields = head_of(head)
    rank, needs = limits_of(fields)
    for partition, _ in needs:
        if fields["status"] in status.ENDED:
            _leave(engine, partition, f"{QUEUE}{rank}#{run}#")
        _free_over(engine, partition, f"{HELD}{run}#")
        hand_out(engine, partition)


def freed_at_end(ledger: Ledger, head: dict[str, Any], run: str, most: int) -> list[Put | Swap]:
    """At most so many writes by which the end of a run frees what it holds; `tidy` frees the rest, and what is taken at
    the same time."""
    found: list[Put | Swap] = []
    for partition, _ in limits_of(head)[1]:
        items = ledger.store.read(partition, f"{HELD}{run}#", f"{HELD}{run}#~", limit=AT_THE_END)
        found += [write for item in items if "freed" not in fields_of(item) for write in _frees(ledger.clock, item)]
    return found[: most // 2 * 2]


def hand_to(engine: Engine, state: _State, entry: Item, told: dict[str, Any]) -> bool | None:
    """Give its slots to the attempt that is the first of a queue: whether that was written; None where there is no
    room."""
    holder, needs = told["holder"], told["needs"]
    own = (state.partition, HELD + holder)
    head, slot, *records = engine.store.get([(partition_of(told["run"]), HEAD), own, *over_keys(holder)])
    dropped = Drop(entry.partition, entry.sort, entry.token)
    if head is None or head_of(head)["status"] in status.ENDED or slot is not None or _is_over(records):
        return engine.store.write([dropped]) is None
    if told["workflow"] in engine.paused():  # its wake is held, and it queues again when its workflow goes on
        dropped_it = engine.store.write([dropped]) is None
        engine.send(told["wake"])
        return dropped_it
    states = [state if partition == state.partition else _State(engine, partition) for partition, _ in needs]
    for other, (_, index) in zip(states, needs, strict=True):
        if other.room(_capacity(engine, told["workflow"], index, of_steps=True)) > 0:
            continue
        if other is state:
            return engine.store.write(state.writes(engine, 0)) is None if state.free else None
        return _moves_on(engine, entry, dropped, other.partition)
    _, writes = _given(engine, states, holder, told["step"], waits=True)
    given = engine.store.write([*writes, dropped]) is None
    if given:
        engine.note("INFO", "step leaves the queue", run_id=told["run"], step=told["step"])
        engine.send(told["wake"])
    return given


# ------------------------------------------------------------------------------------------------- what is written
def _limits(engine: Engine, fold: Fold, workflow: Workflow) -> tuple[str, list[Need]]:
    """Which limits the steps of a run need slots of. Its first attempt writes that into its head, for its end to find
    what it holds."""
    assert workflow.flow is not None
    for _ in range(MAX_HEAD_TRIES):
        head = engine.ledger.head(fold)
        fields = head_of(head)
        if fields["status"] in status.ENDED:
            break
        if LIMITS in fields:
            return limits_of(fields)
        event = event_of(fold, decode(engine.ledger.event_text(fold)))
        rank = f"{_rank(engine, workflow, event):04d}#{fold.born_ms:014d}"
        needs = needs_of(engine, workflow, workflow.flow.step_limits, "steps", event)
        fields[LIMITS] = {"rank": rank, "needs": needs}
        item = _item(engine, head.partition, head.sort, fields, head.due_ms)
        refused = engine.store.write([Swap(item, head.token)])
        fold.head = item if refused is None else refused.standing[0]
    raise Superseded


def _given(
    engine: Engine, states: Iterable[_State], holder: str, step: str, waits: bool = False
) -> tuple[list[Item], Writes]:
    """The slots of an attempt, and what gives it these, where it is not over. `waits`: for its wake, to begin."""
    items: list[Item] = []
    writes: Writes = []
    body = {"step": step, "waits": True} if waits else {"step": step}
    for state in states:
        items.append(_item(engine, state.partition, HELD + holder, body))
        writes += [*state.writes(engine, 1), Put(items[-1])]
    return items, [*writes, *_unless_over(engine, holder)]


def _begins(engine: Engine, items: list[Item]) -> list[Item] | None:
    """The slots of an attempt that begins now, where it has them still: from here on nobody gives them back for it."""
    begun = [
        _item(engine, item.partition, item.sort, {"step": fields_of(item)["step"]})
        if "waits" in fields_of(item)
        else item
        for item in items
    ]
    writes = [Swap(new, item.token) for new, item in zip(begun, items, strict=True) if new is not item]
    return begun if not writes or engine.store.write(writes) is None else None


def _unless_over(engine: Engine, holder: str) -> list[Drop]:
    """Writes that remove nothing, and are refused where the record of the attempt stands: nobody has such a token."""
    nobody = engine.clock.token()
    return [Drop(partition, sort, nobody) for partition, sort in over_keys(holder)]


def _frees(clock: Clock, item: Item) -> list[Put | Swap]:
    """What frees a slot, once."""
    body = json.dumps({**fields_of(item), "freed": True}, separators=(",", ":"))
    return [
        Swap(Item(item.partition, item.sort, clock.token(), body), item.token),
        Put(Item(item.partition, FREED + item.sort[len(HELD) :], clock.token(), "{}")),
    ]


def _is_over(records: Iterable[Item | None]) -> bool:
    return any(record is not None and fields_of(record).get("k") != status.BEGUN for record in records)


def _own(engine: Engine, holder: str, needs: list[Need]) -> list[Item]:
    """The slots that an attempt has, or none. Raises `Superseded` where it is over."""
    keys = [(partition, HELD + holder) for partition, _ in needs]
    found = engine.store.get([*keys, *over_keys(holder)])
    items = [item for item in found[: len(keys)] if item is not None]
    if _is_over(found[len(keys) :]) or any("freed" in fields_of(item) for item in items):
        raise Superseded
    return items


# ----------------------------------------------------------------------------------------------------- the queue
def _queue(engine: Engine, fold: Fold, sort: str, told: dict[str, Any]) -> None:
    """Put an attempt into the queue of its first limit, unless it stands there; then look whether there is room."""
    partition = told["needs"][0][0]
    entry = Put(_item(engine, partition, sort, told))
    refused = engine.store.write([entry, *_unless_over(engine, told["holder"])])
    if refused is None:
        engine.note("INFO", "step queues", run_id=fold.run, workflow=fold.workflow, step=told["step"])
    elif any(refused.standing[1:]):
        raise Superseded
    for other, _ in told["needs"]:
        _free_over(engine, other, f"{HELD}{fold.run}#" if refused is None else HELD)
    hand_out(engine, partition)
    fold.head = None
    if head_of(engine.ledger.head(fold)).get("stalls"):  # it stands there, and is not stalled
        engine.ledger.move_head(fold, engine.due_ms(fold), stalls=0)


def _moves_on(engine: Engine, entry: Item, dropped: Drop, partition: str) -> bool:
    """Let an attempt queue at another of its limits, which is the one that is full."""
    there = Item(partition, entry.sort, engine.clock.token(), entry.body)
    refused = engine.store.write([dropped, Put(there)])
    if refused is not None and refused.standing[1] is not None:  # it queues there already
        refused = engine.store.write([dropped])
    if refused is None:
        hand_out(engine, partition)  # it may have been freed in between
    return refused is None


def _leave(engine: Engine, partition: str, places: str) -> None:
    """Take the attempts of a run that has ended out of a queue."""
    while items := engine.store.read(partition, places, f"{places}~", limit=AT_ONCE):
        engine.store.write([Drop(item.partition, item.sort) for item in items])


# ------------------------------------------------------------------------------------------------ who is over
def _free_over(engine: Engine, partition: str, holders: str) -> None:
    """Free the slots of attempts that are over, of those whose items begin so."""
    first, lost = holders, 0
    while lost < MAX_TRIES:
        items = engine.store.read(partition, first, f"{holders}~", limit=AT_ONCE)
        over = _over(engine, [item for item in items if "freed" not in fields_of(item)])
        if over and engine.store.write([write for item in over for write in _frees(engine.clock, item)]) is not None:
            lost += 1  # one of them has freed its own
            continue
        if len(items) < AT_ONCE:
            return
        first = f"{items[-1].sort}\0"


def _over(engine: Engine, items: list[Item]) -> list[Item]:
    """Those of these slots whose attempts are over."""
    wanted: dict[tuple[str, str], None] = {}
    for item in items:
        holder = item.sort[len(HELD) :]
        wanted.update(dict.fromkeys([(partition_of(holder.split("#", 1)[0]), HEAD), *over_keys(holder)]))
    found = dict(zip(wanted, engine.store.get(list(wanted)), strict=True))
    return [item for item in items if _ended(found, item.sort[len(HELD) :])]


def _ended(found: dict[tuple[str, str], Item | None], holder: str) -> bool:
    head = found[partition_of(holder.split("#", 1)[0]), HEAD]
    ended = head is None or head_of(head)["status"] in status.ENDED
    return ended or _is_over(found[key] for key in over_keys(holder))
