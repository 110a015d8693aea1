"""Waits for events, in the table (see `core/waits.py` for the places where waits and events meet).

A wait has a lane, as a step beside others has. Whoever brings its result puts it there, and the first one counts: an
event that arrives, the wait itself when it looks back at events that came before it, or its own end, which brings
None. So one of them happens, and never two.
"""

from __future__ import annotations

import json

from ..core import status
from ..core.codec import decode, encode
from ..core.errors import StepTimeout, UnknownRun
from ..core.ids import idempotency_key, run_id
from ..core.log import (
    HEAD,
    attempt_key,
    event_context,
    fields_of,
    head_of,
    lane_key,
    partition_of,
    step_context,
    unreadable,
)
from ..core.values import Event, Failure
from ..core.waits import (
    ENDS,
    EVENT,
    SHAPES,
    WAITS,
    Match,
    cancel_key,
    digest_of,
    entry_key,
    event_digest,
    event_partition,
    place_of,
    shape_key,
    values_of,
    wait_key,
)
from ..ports import Drop, Item, Put, Swap
from .ledger import Superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..core.log import Fold, Lane
    from ..core.replay import Wanted
    from ..core.values import Key
    from ..core.waits import Wait
    from .engine import Engine
    from .ledger import Ledger

CATCHING_UP_MS = 10 * 60 * 1000  # for so long after a shape was first written down, an event may not have known it
INVOKED_EVENT = "onward/invoked"
CLOCKS_DISAGREE_MS = 5_000  # or an event that a run has sent might seem to be older than the run
PAGE = 100  # entries that are read at once
MAX_RECEIVED = 100  # events that a wait is told not to bring again
MAX_TRIES = 8


# ------------------------------------------------------------------------------------------------- events, kept
def event_writes(
    ledger: Ledger,
    event: Event,
    arrived_ms: int,
    runs: list[str],
    skipped: dict[str, str],
    text: str | None,
    blob: str | None,
) -> list[Put]:
    """The writes that keep an event, with the runs that it starts, and by workflow why it starts none."""
    digest = event_digest(event.id)
    body: dict[str, Any] = {"name": event.name, "id": event.id, "at": event.at_ms, "arrived": arrived_ms, "runs": runs}
    if skipped:
        body["not"] = skipped
    if blob:
        body["blob"] = blob
    entry = item_of(ledger, place_of(event.name), entry_key(arrived_ms, digest), {})
    return [Put(item_of(ledger, event_partition(digest), EVENT, body, text)), Put(entry)]


def kept_event(ledger: Ledger, item: Item) -> tuple[Event, str, int]:
    """An event as it was kept, its data as JSON text, and when it arrived (epoch milliseconds)."""
    body = fields_of(item)
    if type(body.get("arrived")) is not int:
        raise unreadable(item.partition, item.sort, "no event")
    try:
        text = ledger.text(item.value, body.get("blob"), event_context(body["id"]))
        return Event(body["name"], decode(text), body["id"], body["at"]), text, body["arrived"]
    except KeyError as error:
        raise unreadable(item.partition, item.sort, error) from error


def closed(ledger: Ledger, event_id: str) -> Put:
    """What stands in the place of an event that comes too late: it is neither kept nor brought to anybody."""
    now_ms = ledger.clock.now_ms()
    body = {"name": "", "id": event_id, "at": now_ms, "arrived": now_ms, "runs": [], "closed": True}
    return Put(item_of(ledger, event_partition(event_digest(event_id)), EVENT, body))


def is_closed(item: Item) -> bool:
    return fields_of(item).get("closed") is True


def item_of(ledger: Ledger, partition: str, sort: str, body: dict[str, Any], value: str | None = None) -> Item:
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return Item(partition, sort, ledger.clock.token(), text, value)


# ------------------------------------------------------------------------------------------------ a wait begins
def begin(engine: Engine, fold: Fold, lane: Lane, number: int, wanted: Wanted, until_ms: int) -> bool:
    """Write a wait down, for the events to come. False where its run has ended, `Superseded` where it never stood
    still."""
    name, ordinal = wanted.key
    step: dict[str, Any] = {"s": name, "n": ordinal}
    told = {**step, "k": status.AWAITING, "a": 1, "at": engine.clock.now_ms(), "until": until_ms, "places": []}
    wait = wanted.wait
    if wait is None:
        return _begin_child(engine, fold, lane, number, wanted, told)
    for match in wait.matches:
        if match.paths:
            unsure_until_ms(engine, match)
    places = [match.place for match in wait.matches]
    told.update({"places": places, "for": [match.told(engine.ledger.payloads is None) for match in wait.matches]})
    if wait.asked is not None:
        told["asked"] = wait.asked
    body = {**step, "run": fold.run, "lane": lane, "since": _since_ms(fold, wait), "until": until_ms, "places": places}
    body.update({"asks": wait.where is not None, "not": fold.received[-MAX_RECEIVED:], "next": number + 1})
    entries = [item_of(engine.ledger, place, wait_key(fold.run, lane), body) for place in places]
    record = engine.ledger.item(fold.run, attempt_key(lane, number), told)
    return _write_beside_head(engine, fold, lane, until_ms, [record, *entries])


def _write_beside_head(engine: Engine, fold: Fold, lane: Lane, until_ms: int, items: list[Item]) -> bool:
    """Write what a run has that has not ended, the record of the attempt first, and where it stands for nothing else,
    how long it stands: False where it has ended."""
    alone = fold.flight == {lane[0]: {lane[1]}}
    for _ in range(MAX_TRIES):
        head = engine.ledger.head(fold)
        if head_of(head)["status"] in status.ENDED:
            return False
        due_ms = head.due_ms
        if alone and engine.far(until_ms):
            due_ms = min([engine.due_for(until_ms), *fold.deadlines])
        same = Item(head.partition, head.sort, engine.clock.token(), head.body, head.value, due_ms)
        # With the head, so that a run that ends either has no wait or knows of it.
        refused = engine.store.write([*map(Put, items), Swap(same, head.token)])
        if refused is None:
            fold.head = same
            return True
        record = refused.standing[0]
        if record is not None and fields_of(record).get("k") != status.AWAITING:
            raise Superseded  # this attempt was noted as dead, and the next one has its wake
        if any(refused.standing[:-1]):  # it was written down before, by an attempt that died then
            engine.store.write([Put(items[0])])
            return True
        fold.head = refused.standing[-1]
    raise Superseded


def _begin_child(engine: Engine, fold: Fold, lane: Lane, number: int, wanted: Wanted, told: dict[str, Any]) -> bool:
    """Start the run for which a step waits."""
    child = wanted.child
    assert child is not None
    now_ms = engine.clock.now_ms()
    event = Event(INVOKED_EVENT, child.data, idempotency_key(fold.run, wanted.key), now_ms)
    run = run_id(child.workflow, event.id)
    encoded = encode(child.data, f"the data for workflow {child.workflow!r}")
    text, blob = engine.ledger.spill(encoded, event_context(event.id))
    place = {"at": lane, "s": told["s"], "n": told["n"], "next": number + 1}
    born = engine.ledger.birth(run, child.workflow, event, now_ms + engine.horizon_ms, text, blob, fold.run, place)
    told.update({"for": [f"run {run} of {child.workflow!r}"], "child": run})
    record = engine.ledger.item(fold.run, attempt_key(lane, number), told)
    if not _write_beside_head(engine, fold, lane, told["until"], [record, *(put.item for put in born)]):
        return False
    engine.note("INFO", "run started", run_id=run, workflow=child.workflow, parent=fold.run)
    engine.send({"do": "advance", "run": run, "seq": 1})
    return True


def for_parent(ledger: Ledger, fold: Fold, last: dict[str, Any], value: str | None) -> list[Put | Swap]:
    """What tells the run that waits for this one how it ended: `last` is its last record. Nothing, where that run has
    ended, or does not wait any more."""
    parent, lane = fold.body["parent"], fold.body["lane"]
    sort = lane_key(tuple(lane["at"]))
    head, standing = ledger.store.get([(partition_of(parent), HEAD), (partition_of(parent), sort)])
    if head is None or standing is not None or head_of(head)["status"] in status.ENDED:
        return []
    body: dict[str, Any] = {"k": status.DONE, "s": lane["s"], "n": lane["n"], "a": 1, "at": last["at"]}
    if last["k"] != status.RUN_COMPLETED:
        cancelled = Failure("Cancelled", f"run {fold.run} of workflow {fold.workflow!r} was cancelled")
        body.update({"k": status.BROKEN, "e": last.get("e") or cancelled.to_json()})
    elif "blob" in last:
        body["blob"] = last["blob"]
    soon_ms = ledger.clock.now_ms() + ledger.horizon_ms
    writes: list[Put | Swap] = [Put(ledger.item(parent, sort, body, value))]
    if head.due_ms is None or head.due_ms > soon_ms:
        moved = Item(head.partition, head.sort, ledger.clock.token(), head.body, head.value, soon_ms)
        writes.append(Swap(moved, head.token))
    return writes


def too_late(wanted: Wanted) -> Failure:
    assert wanted.child is not None
    seconds = wanted.child.timeout_ms / 1000
    return Failure(StepTimeout.__name__, f"the run of {wanted.child.workflow!r} did not end within {seconds:g} s")


def sender(engine: Engine, key: str) -> Callable[[str, Any], str]:
    """What a step performs that sends an event: the event's id follows from the step's key, so that it is one event
    however often the step is performed."""

    def send(name: str, data: Any) -> str:
        from .ingest import ingest

        ingest(engine, Event(name, data, key, engine.clock.now_ms()))
        return key

    return send


def places_of(run: str, lane: Lane, wait: Wait) -> list[Drop]:
    """What removes a wait from where events find it."""
    return [Drop(match.place, wait_key(run, lane)) for match in wait.matches]


def look_back(
    engine: Engine, fold: Fold, key: Key, wait: Wait, until_ms: int
) -> tuple[dict[str, Any], str | None] | None:
    """The first event for the wait of that step that came before it, or that nobody brought: what the record of it
    says, and its value."""
    found: list[tuple[int, str, Event, str]] = []
    for match in wait.matches:
        since_ms = max(_since_ms(fold, wait), match.since_ms - CLOCKS_DISAGREE_MS)
        for place, upto_ms in _places(engine, match, since_ms, until_ms):
            for event, text, arrived_ms in _arrived(engine, place, since_ms, upto_ms):
                digest = event_digest(event.id)
                if digest not in fold.received and match.fits(event) and _says_yes(engine, wait, event):
                    found.append((arrived_ms, digest, event, text))
                    break
    if not found:
        return None
    _, _, event, text = min(found, key=lambda entry: entry[:2])
    return result_of(engine.ledger, event, text, step_context(fold.run, key))


def _places(engine: Engine, match: Match, since_ms: int, until_ms: int) -> list[tuple[str, int]]:
    """Where the events are that match, and up to which time of arrival they are to be looked for there."""
    places = [(match.place, until_ms)]
    if match.paths and (unsure_ms := unsure_until_ms(engine, match)) > since_ms:
        places.append((place_of(match.name), min(unsure_ms, until_ms)))
    return places


def has_come(engine: Engine, match: Match, since_ms: int, except_for: str) -> bool:
    """Whether an event that matches has arrived since then, other than the one of that digest."""
    return any(
        match.fits(event) and event_digest(event.id) != except_for
        for place, upto_ms in _places(engine, match, since_ms, engine.clock.now_ms() + CLOCKS_DISAGREE_MS)
        for event, _, _ in _arrived(engine, place, since_ms, upto_ms)
    )


def result_of(ledger: Ledger, event: Event, text: str, context: str) -> tuple[dict[str, Any], str | None]:
    """What the record says that brings an event to a wait, and its value. `text`: the event's data, encoded."""
    named = json.dumps({"name": event.name, "id": event.id, "at": event.at_ms}, separators=(",", ":"))
    value, blob = ledger.spill(f'{named[:-1]},"data":{text}}}', context)
    told: dict[str, Any] = {"event": event_digest(event.id), **({"blob": blob} if blob else {})}
    return told, value


def result_of_kept(ledger: Ledger, item: Item, context: str) -> tuple[dict[str, Any], str | None]:
    event, text, _ = kept_event(ledger, item)
    return result_of(ledger, event, text, context)


def _since_ms(fold: Fold, wait: Wait) -> int:
    since_ms: int = fold.body["at"] - CLOCKS_DISAGREE_MS if wait.since_ms is None else wait.since_ms
    return since_ms


def _says_yes(engine: Engine, wait: Wait, event: Event) -> bool:
    try:
        return wait.where is None or bool(wait.where(event))
    except Exception as error:
        engine.note(
            "ERROR", "where= raised, taken for no", event=event.name, error=type(error).__name__, reason=str(error)
        )
        return False


def _arrived(engine: Engine, place: str, since_ms: int, upto_ms: int) -> Iterator[tuple[Event, str, int]]:
    """The events of a place that arrived in that time, in the order of their arrival."""
    first = entry_key(since_ms)
    while True:
        entries = engine.store.read(place, first, entry_key(upto_ms, "~"), limit=PAGE)
        for item in engine.store.get([(event_partition(digest_of(entry.sort)), EVENT) for entry in entries]):
            if item is not None:
                yield kept_event(engine.ledger, item)
        if len(entries) < PAGE:
            return
        first = entries[-1].sort + "\0"


def unsure_until_ms(engine: Engine, match: Match) -> int:
    """Write down the shape of a wait, unless it was known; until when events may have arrived that did not know it."""
    key = (match.name, shape_key(match.paths))
    if key not in engine.shapes:
        item = item_of(engine.ledger, place_of(match.name), key[1], {"paths": match.paths, "at": engine.clock.now_ms()})
        refused = engine.store.write([Put(item)])
        standing = item if refused is None else refused.standing[0]
        assert standing is not None
        engine.shapes[key] = fields_of(standing)["at"] + CATCHING_UP_MS
    return engine.shapes[key]


# ---------------------------------------------------------------------------------------------- an event arrives
def bring(engine: Engine, event: Event, arrived_ms: int, text: str) -> None:
    """Bring an event that was kept to the waits that it matches. `text`: its data, encoded."""
    digest = event_digest(event.id)
    waits = []
    for item in engine.store.read(place_of(event.name), SHAPES, ENDS):
        if item.sort >= WAITS:
            waits.append(item)
            continue
        paths = fields_of(item)["paths"]
        values = values_of(event, paths)
        if values is not None:
            place = place_of(event.name, paths, values)
            engine.store.write([Put(item_of(engine.ledger, place, entry_key(arrived_ms, digest), {}))])
            waits += engine.store.read(place, WAITS, ENDS)
    for item in waits:
        _bring_to(engine, item, event, arrived_ms, text)


def _bring_to(engine: Engine, item: Item, event: Event, arrived_ms: int, text: str) -> None:
    wait = fields_of(item)
    if "cancels" in wait:
        _cancel(engine, item, wait["cancels"], event)
        return
    digest = event_digest(event.id)
    if digest in wait["not"] or not wait["since"] <= arrived_ms <= wait["until"]:
        return
    run, lane = wait["run"], (wait["lane"][0], wait["lane"][1])
    wake = {"do": "step", "run": run, "plan": lane[0], "index": lane[1], "attempt": wait["next"]}
    places = [Drop(place, wait_key(run, lane)) for place in wait["places"]]
    told, value = result_of(engine.ledger, event, text, step_context(run, (wait["s"], wait["n"])))
    for _ in range(MAX_TRIES):
        head = engine.store.get([(partition_of(run), HEAD)])[0]
        if head is None or head_of(head)["status"] in status.ENDED:
            engine.store.write(places)
            return
        writes: list[Put | Swap | Drop] = []
        soon_ms = engine.clock.now_ms() + engine.horizon_ms
        if head.due_ms is None or head.due_ms > soon_ms:  # the wake that follows may be lost
            moved = Item(head.partition, head.sort, engine.clock.token(), head.body, head.value, soon_ms)
            writes.append(Swap(moved, head.token))
        if not wait["asks"]:
            body = {"k": status.DONE, "s": wait["s"], "n": wait["n"], "a": 1, "at": engine.clock.now_ms(), **told}
            writes = [Put(engine.ledger.item(run, lane_key(lane), body, value)), *writes, *places]
        refused = engine.store.write(writes) if writes else None
        if refused is None:
            engine.note("INFO", "event for a wait", run_id=run, step=wait["s"], event=event.name)
            break
        if not wait["asks"] and refused.standing[0] is not None:  # it has its result
            engine.store.write(places)
            break
    engine.send(wake)


def _cancel(engine: Engine, item: Item, run: str, event: Event) -> None:
    """An event has come that cancels a run."""
    from . import control

    engine.note("INFO", "event cancels a run", run_id=run, event=event.name)
    try:
        control.cancel(engine, run)
    except UnknownRun:
        engine.store.write([Drop(item.partition, item.sort)])


def open_places(ledger: Ledger, fold: Fold) -> list[Drop]:
    """What removes the waits that a run leaves behind when it ends, and those for what would have cancelled it."""
    drops = [Drop(Match.of(*told).place, cancel_key(fold.run)) for told in fold.body.get("cancel_on", ())]
    for lane in fold.open_lanes(waits_only=True):
        for item in ledger.store.read(partition_of(fold.run), attempt_key(lane, 1), attempt_key(lane, 9999)):
            fields = fields_of(item)
            if fields.get("k") == status.AWAITING:
                drops += [Drop(place, wait_key(fold.run, lane)) for place in fields["places"]]
    return drops
