"""What an event comes to in a workflow with options for its starts (see `onward.flow`).

Each option has one item of the table for each of its groups, with the sort key `K`, in a partition that follows from
the option, the workflow and the group. It is read, the event is decided with it, and it is written back in the
transaction that keeps the event, if it is still as it was read; if not, all is decided again. So an event is counted
once, whoever delivers it how often, and a group takes as many events a second as one item takes writes: some hundreds,
and each that comes to nothing is on record with the event. A key spreads this over as many items as it has values.

A debounced event, or one of a batch, starts no run yet: the item remembers it, and carries `due` as a run does, so the
sweep finds it where the wake that fires it was lost.
"""

from __future__ import annotations

from ..core import status
from ..core.codec import encode
from ..core.errors import UnknownPayload, UnknownWorkflow
from ..core.ids import _digest, run_id
from ..core.log import HEAD, event_context, fields_of, head_of, partition_of
from ..core.values import MAX_NAME_CHARS, OWN_EVENTS, Event
from ..core.waits import EVENT, Match, cancel_key, event_digest, event_partition, values_of
from ..ports import Put
from .gate import _item, group, place, put_or_swap
from .ingest import MAX_TRIES, Start, Taken, born, start
from .waiting import CLOCKS_DISAGREE_MS, has_come, item_of, kept_event, unsure_until_ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..app import Workflow
    from ..flow import Batch, CancelOn, Debounce, Flow
    from ..ports import Drop, Item, Swap
    from .engine import Engine, Wake
    from .ledger import Ledger

    Writes = list[Put | Swap | Drop]

SCHEDULED_EVENT = OWN_EVENTS + "scheduled"
"""The name of the event of a run that a time has started."""


def start_of(engine: Engine, taken: Taken, workflow: Workflow, flow: Flow) -> Start:
    """What an event comes to in a workflow."""
    writes: Writes = []
    for guard in (_idempotency, _singleton, _rate_limit):
        why = guard(engine, taken, workflow, flow, writes)
        if why is not None:
            return Start(workflow, why=why)
    if flow.debounce is not None:
        return _debounce(engine, taken, workflow, flow.debounce)
    if flow.batch is not None:
        return _batch(engine, taken, workflow, flow, flow.batch)
    begun = _born(engine, taken, workflow, flow)
    begun.writes += writes
    begun.guarded = True
    return begun


def _born(engine: Engine, taken: Taken, workflow: Workflow, flow: Flow) -> Start:
    """The start of a run, with the times that it is given, and the waits for what cancels it."""
    also, cancels = bounds(engine, flow, taken.event, max(taken.event.at_ms, taken.arrived_ms) + flow.delay_ms)
    begun = born(engine, taken, workflow, flow.delay_ms, also)
    assert begun.run is not None
    begun.writes += places_of_cancels(engine.ledger, begun.run, cancels)
    begun.wakes += [
        ({"do": "expire", "run": begun.run}, also[name] + 1) for name in ("start_by", "finish_by") if name in also
    ]
    return begun


def bounds(engine: Engine, flow: Flow, event: Event, from_ms: int) -> tuple[dict[str, Any], list[Match]]:
    """What the record `started` says of a run that may begin then: by when it must have begun and ended, and what
    cancels it; and that as matches."""
    told: dict[str, Any] = {}
    if flow.start_timeout_ms is not None:
        told["start_by"] = from_ms + flow.start_timeout_ms
    if flow.finish_timeout_ms is not None:
        told["finish_by"] = from_ms + flow.finish_timeout_ms
    cancels = [match for cancel in flow.cancel_on if (match := _cancelling(engine, event, cancel))]
    if cancels:
        told["cancel_on"] = [[match.name, match.paths, match.values] for match in cancels]
    return told, cancels


def places_of_cancels(ledger: Ledger, run: str, cancels: list[Match]) -> list[Put]:
    """The writes of what an event finds that cancels a run."""
    return [Put(item_of(ledger, match.place, cancel_key(run), {"cancels": run})) for match in cancels]


# ------------------------------------------------------------------------------------- whether it starts anything
def _idempotency(engine: Engine, taken: Taken, workflow: Workflow, flow: Flow, writes: Writes) -> str | None:
    if flow.idempotency is None:
        return None
    key = group(engine, workflow, "idempotency", flow.idempotency.key, taken.event)
    partition, standing, told = _counted(engine, "idempotency", workflow, key)
    if told.get("until", 0) > taken.arrived_ms:
        return f"idempotency: run {told['run']} was started with the key {key:.100}"
    body = {"run": run_id(workflow.name, taken.event.id), "until": taken.arrived_ms + flow.idempotency.period_ms}
    writes.append(put_or_swap(_item(engine, partition, "K", body), standing))
    return None


def _singleton(engine: Engine, taken: Taken, workflow: Workflow, flow: Flow, writes: Writes) -> str | None:
    if flow.singleton is None:
        return None
    key = group(engine, workflow, "singleton", flow.singleton.key, taken.event)
    partition, standing, told = _counted(engine, "singleton", workflow, key)
    if told:
        head = engine.store.get([(partition_of(told["run"]), HEAD)])[0]
        if head is not None and head_of(head)["status"] not in status.ENDED:
            if flow.singleton.mode == "skip":
                return f"singleton: run {told['run']} is unfinished"
            from . import control

            control.cancel(engine, told["run"])
    writes.append(put_or_swap(_item(engine, partition, "K", {"run": run_id(workflow.name, taken.event.id)}), standing))
    return None


def _rate_limit(engine: Engine, taken: Taken, workflow: Workflow, flow: Flow, writes: Writes) -> str | None:
    """The times of the starts within the last period are kept, so no window of that length has more than the limit."""
    limit = flow.rate_limit
    if limit is None:
        return None
    key = group(engine, workflow, "rate_limit", limit.key, taken.event)
    partition, standing, told = _counted(engine, "rate_limit", workflow, key)
    now_ms = max(taken.arrived_ms, *told.get("at", (0,))[-1:])  # clocks disagree, and times stand in order
    recent = [at_ms for at_ms in told.get("at", ()) if at_ms > now_ms - limit.period_ms]
    if len(recent) >= limit.limit:
        return f"rate_limit: {limit.limit:,} runs were started within {limit.period_ms / 1000:g} s"
    writes.append(put_or_swap(_item(engine, partition, "K", {"at": [*recent, now_ms]}), standing))
    return None


def _counted(engine: Engine, what: str, workflow: Workflow, key: str) -> tuple[str, Item | None, dict[str, Any]]:
    """Where something is counted, what stands there, and what it says."""
    partition = place(what, workflow.name, key)
    standing = engine.store.get([(partition, "K")])[0]
    return partition, standing, fields_of(standing) if standing is not None else {}


# --------------------------------------------------------------------------------------------------- held back
def _debounce(engine: Engine, taken: Taken, workflow: Workflow, debounce: Debounce) -> Start:
    event, now_ms = taken.event, taken.arrived_ms
    key = group(engine, workflow, "debounce", debounce.key, event)
    partition, standing, told = _counted(engine, "debounce", workflow, key)
    pending = told.get("pending")
    held = Start(workflow, why="debounce: a run starts when no more events come")
    held.guarded = True
    first_ms = pending["first"] if pending else now_ms
    fire_ms = now_ms + debounce.period_ms
    if debounce.max_delay_ms is not None:
        fire_ms = min(fire_ms, first_ms + debounce.max_delay_ms)
    last = [event.at_ms, event_digest(event.id)]
    if pending and pending["last"][0] > event.at_ms:
        last = pending["last"]  # this one is older
    body = {"of": ["debounce", workflow.name, key], "pending": {"first": first_ms, "fire": fire_ms, "last": last}}
    held.writes.append(put_or_swap(_pending(engine, partition, body, fire_ms), standing))
    if pending is None:
        held.wakes.append(({"do": "fire", "of": body["of"]}, fire_ms))
    return held


def _batch(engine: Engine, taken: Taken, workflow: Workflow, flow: Flow, batch: Batch) -> Start:
    event, now_ms = taken.event, taken.arrived_ms
    key = group(engine, workflow, "batch", batch.key, event)
    partition, standing, told = _counted(engine, "batch", workflow, key)
    pending = told.get("pending") or {"events": [], "bytes": 0, "fire": now_ms + batch.timeout_ms}
    number = told.get("number", 0)
    held = Start(workflow, why="batch: a run starts for this and other events together")
    held.guarded = True
    new = not pending["events"]
    pending["events"].append(event_digest(event.id))
    pending["bytes"] += len(taken.encoded)
    of = ["batch", workflow.name, key]
    if len(pending["events"]) >= batch.size or pending["bytes"] >= batch.max_bytes:
        return _fire_batch(engine, workflow, flow, of, standing, pending, number, taken)
    body = {"of": of, "pending": pending, "number": number}
    held.writes.append(put_or_swap(_pending(engine, partition, body, pending["fire"]), standing))
    if new:
        held.wakes.append(({"do": "fire", "of": of}, pending["fire"]))
    return held


def _pending(engine: Engine, partition: str, body: dict[str, Any], fire_ms: int) -> Item:
    return _item(engine, partition, "K", body, engine.due_for(fire_ms))


def _fire_batch(
    engine: Engine,
    workflow: Workflow,
    flow: Flow,
    of: list[str],
    standing: Item | None,
    pending: dict[str, Any],
    number: int,
    last: Taken | None = None,
) -> Start:
    """Start the run of a batch. `last`: the event that fills it, which is not kept yet."""
    digests = pending["events"][: -1 if last else None]
    events = [
        kept_event(engine.ledger, item)[0]
        for item in engine.store.get([(event_partition(digest), EVENT) for digest in digests])
        if item is not None
    ]
    if last is not None:
        events.append(last.event)
    data = {
        "events": [{"name": one.name, "id": one.id, "at": one.at_ms, "data": one.data} for one in events],
    }
    now_ms = engine.clock.now_ms()
    event = Event(events[0].name, data, f"batch.{_digest(16, *of)}.{number}", now_ms)
    encoded = encode(data, f"a batch for workflow {workflow.name!r}")
    taken = Taken(event, now_ms, encoded, *engine.ledger.spill(encoded, event_context(event.id)))
    begun = _born(engine, taken, workflow, flow)
    begun.guarded = True
    begun.why = f"batch: run {begun.run} was started for it and others" if last else None
    empty = _item(engine, place(of[0], workflow.name, of[2]), "K", {"of": of, "number": number + 1})
    begun.writes.append(put_or_swap(empty, standing))
    return begun


def fire(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Start the run for what was held back, if its time has come."""
    of = wake["of"]
    try:
        workflow = engine.app[of[1]]
    except UnknownWorkflow as error:
        engine.note("ERROR", "the workflow of held events is gone", workflow=of[1], reason=str(error))
        return
    for _ in range(MAX_TRIES):
        standing = engine.store.get([(place(*of), "K")])[0]
        told = fields_of(standing) if standing is not None else {}
        pending = told.get("pending")
        if standing is None or not pending:
            return
        if pending["fire"] > engine.clock.now_ms():
            engine.send({"do": "fire", "of": of}, pending["fire"])
            return
        flow = workflow.flow
        if flow is None:
            from ..flow import Flow

            flow = Flow({})
        if of[0] == "batch":
            begun = _fire_batch(engine, workflow, flow, of, standing, pending, told["number"])
        else:
            begun = _fire_last(engine, workflow, flow, of, standing, pending["last"][1])
        if engine.store.write(begun.writes) is None:
            engine.note("INFO", "run started", run_id=begun.run, workflow=workflow.name)
            engine.send({"do": "advance", "run": begun.run, "seq": 1}, begun.at_ms)
            for other, at_ms in begun.wakes:
                engine.send(other, at_ms)
            assert begun.run is not None
            look_for_cancels(engine, [begun.run])
            return


def _fire_last(engine: Engine, workflow: Workflow, flow: Flow, of: list[str], standing: Item, digest: str) -> Start:
    """Start the run of the last of some events that were debounced."""
    item = engine.store.get([(event_partition(digest), EVENT)])[0]
    assert item is not None  # it was kept with what points to it
    event, encoded, _ = kept_event(engine.ledger, item)
    taken = Taken(event, engine.clock.now_ms(), encoded, item.value, fields_of(item).get("blob"))
    begun = _born(engine, taken, workflow, flow)
    begun.writes.append(put_or_swap(_item(engine, standing.partition, "K", {"of": of}), standing))
    return begun


# ---------------------------------------------------------------------------------------------- what cancels a run
def _cancelling(engine: Engine, event: Event, cancel: CancelOn) -> Match | None:
    """The event that cancels the run of this one; None where this one lacks what that must match."""
    paths = sorted(cancel.match)
    values = values_of(event, [cancel.match[path] for path in paths])
    if values is None:
        return None
    match = Match.of(cancel.event, paths, values)
    if paths:
        unsure_until_ms(engine, match)
    return match


def look_for_cancels(engine: Engine, runs: list[str]) -> None:
    """An event that cancels these runs may have come while they were being started."""
    for run in runs:
        fold = engine.ledger.load(run)
        if fold is None:
            continue
        engine.ledger.keep(fold)
        own = event_digest(fold.body["event"]["id"])
        since_ms = fold.born_ms - CLOCKS_DISAGREE_MS
        matches = [Match.of(*told) for told in fold.body.get("cancel_on", ())]
        if fold.ended is None and any(has_come(engine, match, since_ms, own) for match in matches):
            from . import control

            control.cancel(engine, run)


# ---------------------------------------------------------------------------------------------------------- times
def cron(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Start a workflow for a time of its schedule."""
    from datetime import datetime

    begin_at(engine, wake["workflow"], round(datetime.fromisoformat(wake["at"]).timestamp() * 1000))


def begin_at(engine: Engine, name: str, scheduled_ms: int) -> None:
    """Start the run of a workflow for a time of its schedule, unless that was done before."""
    from datetime import UTC, datetime

    try:
        schedules = engine.app[name].schedules
    except UnknownWorkflow:
        schedules = []
    if not schedules:
        engine.note("WARNING", "a schedule of a workflow that has none (any more)", workflow=name)
        return
    text = datetime.fromtimestamp(scheduled_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
    jitter_ms = max(schedule.jitter_ms for schedule in schedules)
    later_ms = int(_digest(10, "jitter", name, text), 36) % (jitter_ms + 1)
    event = Event(
        SCHEDULED_EVENT, {"scheduled": text}, f"{name[: MAX_NAME_CHARS - 40]}@{text}", scheduled_ms + later_ms
    )
    start(engine, name, event)


def begin_between(engine: Engine, after_ms: int, upto_ms: int) -> None:
    """Start what schedules say for the times after the one and up to the other, where nobody else tells them."""
    for workflow in engine.app:
        for schedule in workflow.schedules:
            time_ms = schedule.cron.next_ms(after_ms)
            while time_ms is not None and time_ms <= upto_ms:
                begin_at(engine, workflow.name, time_ms)
                time_ms = schedule.cron.next_ms(time_ms)


def check_start(wake: Wake) -> None:
    """Refuse what no engine of ours, and no schedule, has sent; raises `UnknownPayload`."""
    from datetime import datetime

    if wake["do"] == "fire":
        of = wake.get("of")
        if (
            isinstance(of, list)
            and len(of) == 3
            and of[0] in ("debounce", "batch")
            and all(isinstance(text, str) for text in of)
        ):
            return
    elif isinstance(wake.get("workflow"), str) and isinstance(wake.get("at"), str):
        try:
            if datetime.fromisoformat(wake["at"]).tzinfo is not None:
                return
        except ValueError:
            pass
    raise UnknownPayload(f"this is no wake of Onward's: {wake!r:.200}")
