"""Events in: each event starts one run of each workflow that it triggers, however often it is delivered.

An event is kept, with the runs that it starts and a word on each workflow in which it starts none, in one transaction
with these runs and with whatever the workflows' options count (see starts.py). So a delivery either finds all of that
or nothing, and what was counted is counted once.
"""

from __future__ import annotations

import json

from ..core.codec import decode, encode
from ..core.errors import InvalidEvent, MiddlewareFailed, Misconfigured, RequestRefused, Unavailable, UnknownWorkflow
from ..core.ids import run_id
from ..core.log import event_context, fields_of, run_of
from ..core.values import MAX_NAME_CHARS, OWN_EVENTS, Event
from ..ports import MAX_WRITES, Item, Put, Swap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..app import Workflow
    from ..core.log import Fold
    from ..core.values import Failure
    from ..ports import Drop
    from .engine import Engine, Wake

RUN_FAILED_EVENT = "onward/run.failed"
RUN_CANCELLED_EVENT = "onward/run.cancelled"
AHEAD_MS = 5_000  # an event is of the future if its time is later than that; else clocks disagree
FURTHEST_MS = 366 * 24 * 60 * 60 * 1000
MAX_TRIES = 30  # of a transaction that others keep refusing


class Taken:
    """An event that is being taken in: when, its data as JSON text (`encoded`), and that as it is kept."""

    __slots__ = ("arrived_ms", "blob", "encoded", "event", "text")

    def __init__(self, event: Event, arrived_ms: int, encoded: str, text: str | None, blob: str | None) -> None:
        self.event = event
        self.arrived_ms = arrived_ms
        self.encoded = encoded
        self.text = text
        self.blob = blob


class Start:
    """What an event comes to in one workflow: the run that it starts and when that may begin, or why it starts none of
    its own; with the writes that make it so, and the wakes that follow."""

    __slots__ = ("at_ms", "guarded", "run", "wakes", "why", "workflow", "writes")

    def __init__(self, workflow: Workflow, run: str | None = None, why: str | None = None) -> None:
        self.workflow = workflow
        self.run = run
        self.why = why
        self.at_ms: int | None = None
        self.writes: list[Put | Swap | Drop] = []
        self.wakes: list[tuple[Wake, int | None]] = []
        self.guarded = False  # whether its writes are to more than the run itself


def ingest(engine: Engine, event: Event) -> list[str]:
    """Keep an event, start its runs and bring it to the waits that it matches; the ids of the runs, [] where no
    workflow is triggered by it.

    When this returns, the event and every run exist in the store, every run has a wake, and every wait has its event.
    Delivering the event again changes nothing.
    """
    event = _checked(engine, event)
    _check_not_ours(event)
    return _take_in(engine, event, [workflow for workflow in engine.app if _triggers(engine, workflow, event)])


def start(engine: Engine, workflow: str, event: Event) -> list[str]:
    """Start the run of one workflow for an event; its id, whether it is new or was there, or [] where the workflow's
    options say that it has none of its own."""
    starts = engine.app[workflow]
    event = _checked(engine, event)
    own = run_id(workflow, event.id)
    return [own] if own in _take_in(engine, event, [starts]) else []


def _checked(engine: Engine, event: Event) -> Event:
    """The event as middleware wants it."""
    check_event(engine, event)
    if engine.hooks is not None:
        event = engine.hooks.event(event)
        check_event(engine, event)
    return event


def check_event(engine: Engine, event: Event) -> None:
    """Raises `InvalidEvent` for an event that cannot be kept."""
    for what, text in (("name", event.name), ("id", event.id)):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME_CHARS:
            raise InvalidEvent(
                f"the {what} of an event is a string of 1 to {MAX_NAME_CHARS} characters, not {text!r:.80}"
            )
    if event.at_ms - engine.clock.now_ms() > FURTHEST_MS:
        raise InvalidEvent(f"an event lies up to 366 days ahead, and {event.name!r:.80} is of {event.at.isoformat()}")


def _check_not_ours(event: Event) -> None:
    """Nobody outside completes a callback, or reports a failure, by an event that looks like our own."""
    for what, text in (("name", event.name), ("id", event.id)):
        if text.startswith(OWN_EVENTS):
            raise InvalidEvent(
                f"the {what} of an event begins with {OWN_EVENTS!r} ({text!r:.80}): those are Onward's own; "
                f"choose another (a callback is completed by `onward complete TOKEN`)"
            )


def _triggers(engine: Engine, workflow: Workflow, event: Event) -> bool:
    try:
        return workflow.hears(event) and (workflow.where is None or bool(workflow.where(event)))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        what = "the event cannot be matched" if isinstance(error, InvalidEvent) else "where= raised, taken for no"
        engine.note("ERROR", what, workflow=workflow.name, event=event.name, reason=reason)
        return False


def _take_in(engine: Engine, event: Event, workflows: Sequence[Workflow]) -> list[str]:
    from .waiting import bring

    encoded = encode(event.data, f"the data of event {event.name!r}")
    kept = engine.ledger.spill(encoded, event_context(event.id))
    taken = Taken(event, engine.clock.now_ms(), encoded, *kept)
    taken, item, starts = _decide(engine, taken, workflows)
    for run in fields_of(item)["runs"]:
        if not any(start.run == run for start in starts):
            engine.note("INFO", "event seen before", run_id=run, event=event.name)
            engine.send({"do": "advance", "run": run, "seq": 1})  # it may have died between write and wake
    for start in starts:
        named = {"workflow": start.workflow.name, "event": event.name}
        if start.run is None:
            engine.note("INFO", "event starts no run", reason=start.why, **named)
        else:
            engine.note("INFO", "run started", run_id=start.run, **named)
            engine.send({"do": "advance", "run": start.run, "seq": 1}, start.at_ms)
        for wake, at_ms in start.wakes:
            engine.send(wake, at_ms)
    bring(engine, taken.event, taken.arrived_ms, taken.encoded)
    if any(workflow.flow is not None and workflow.flow.cancel_on for workflow in workflows):
        from .starts import look_for_cancels

        look_for_cancels(engine, fields_of(item)["runs"])
    return list(fields_of(item)["runs"])


def _decide(engine: Engine, taken: Taken, workflows: Sequence[Workflow]) -> tuple[Taken, Item, list[Start]]:
    """Keep the event, together with what it comes to: the event as it is kept, its item, and what is new. It is what
    came first, whatever comes again under its id."""
    from .waiting import event_writes, kept_event

    standing: Item | None = None
    there: set[str] = set()  # runs that were started when events were not kept yet
    for _ in range(MAX_TRIES):
        told = {"runs": [], "not": {}} if standing is None else fields_of(standing)
        ours = [workflow for workflow in workflows if not _is_told(told, workflow, taken.event)]
        if standing is not None and not ours:
            return taken, standing, []
        starts = [_start(engine, taken, workflow) for workflow in ours]
        runs = [*told["runs"], *(start.run for start in starts if start.run)]
        skipped = {**told.get("not", {}), **{start.workflow.name: start.why for start in starts if start.why}}
        new = [start for start in starts if start.run not in there]
        writes: list[Put | Swap | Drop] = []
        if standing is None:
            writes += event_writes(engine.ledger, taken.event, taken.arrived_ms, runs, skipped, taken.text, taken.blob)
        else:
            body = json.dumps({**told, "runs": runs, "not": skipped}, ensure_ascii=True, separators=(",", ":"))
            kept = Item(standing.partition, standing.sort, engine.clock.token(), body, standing.value)
            writes.append(Swap(kept, standing.token))
        kept = writes[0].item  # type: ignore[union-attr]
        first = [start for start in new if start.guarded] + [start for start in new if not start.guarded]
        while first and len(writes) + len(first[0].writes) <= MAX_WRITES:
            writes += first.pop(0).writes
        _write_births(engine, first)  # beyond what a transaction holds: first, so that the event speaks of what is
        refused = engine.store.write(writes)
        if refused is None:
            return taken, kept, new
        if refused.standing[0] is not None:
            standing = refused.standing[0]
            event, encoded, arrived_ms = kept_event(engine.ledger, standing)
            taken = Taken(event, arrived_ms, encoded, standing.value, fields_of(standing).get("blob"))
        there |= {run_of(item.partition) for item in refused.standing if item is not None} & set(runs)
    raise Unavailable(f"event {taken.event.name!r:.80} was not taken in: others were faster {MAX_TRIES} times in a row")


def _is_told(told: dict[str, Any], workflow: Workflow, event: Event) -> bool:
    """Whether it is on record what the event came to in a workflow."""
    return workflow.name in told.get("not", {}) or run_id(workflow.name, event.id) in told["runs"]


def _start(engine: Engine, taken: Taken, workflow: Workflow) -> Start:
    if workflow.flow is not None:
        from .starts import start_of

        return start_of(engine, taken, workflow, workflow.flow)
    return born(engine, taken, workflow)


def born(
    engine: Engine, taken: Taken, workflow: Workflow, delay_ms: int = 0, also: dict[str, Any] | None = None
) -> Start:
    """The start of a run for an event. `also`: more for its record `started`."""
    event = taken.event
    start = Start(workflow, run_id(workflow.name, event.id))
    assert start.run is not None
    also = also or {}
    ahead = event.at_ms > taken.arrived_ms + AHEAD_MS
    from_ms = max(taken.arrived_ms, event.at_ms if ahead else 0) + delay_ms
    if from_ms > taken.arrived_ms:
        start.at_ms = also["from"] = from_ms
    due_ms = engine.due_for(from_ms)
    due_ms = min(due_ms, also.get("finish_by", due_ms) + 1)
    start.writes += engine.ledger.birth(start.run, workflow.name, event, due_ms, taken.text, taken.blob, also=also)
    return start


def _write_births(engine: Engine, starts: Sequence[Start]) -> None:
    """Write the runs of these starts, each unless it was written before."""
    for start in starts:
        engine.store.write(start.writes)


def failure_run(engine: Engine, fold: Fold, failure: Failure) -> tuple[str, list[Put]] | None:
    """The run of `on_failure=` that follows a failed run: its id, and the writes that make it exist."""
    return _after_run(engine, fold, "on_failure", RUN_FAILED_EVENT, {"error": failure.to_json()})


def cancel_run(engine: Engine, fold: Fold) -> tuple[str, list[Put]] | None:
    """The run of `on_cancel=` that follows a cancelled run: its id, and the writes that make it exist."""
    return _after_run(engine, fold, "on_cancel", RUN_CANCELLED_EVENT, {})


def _after_run(
    engine: Engine, fold: Fold, option: str, name: str, told: dict[str, Any]
) -> tuple[str, list[Put]] | None:
    try:
        handler = getattr(engine.app[fold.workflow], option)
    except UnknownWorkflow:
        return None
    if handler is None:
        return None
    origin: dict[str, Any] = {"name": fold.body["event"]["name"], "id": fold.body["event"]["id"], "data": None}
    data: Any = {"run_id": fold.run, "workflow": fold.workflow, **told, "event": origin}
    now_ms = engine.clock.now_ms()
    event = Event(name, data, f"{fold.run}.{name.rpartition('.')[2]}", now_ms)
    run = run_id(handler.name, event.id)
    due_ms = now_ms + engine.horizon_ms
    try:
        origin["data"] = decode(engine.ledger.event_text(fold))
        return run, _birth(engine, run, handler.name, event, due_ms, fold.run)
    except (Unavailable, RequestRefused, Misconfigured, MiddlewareFailed):
        raise
    except Exception as error:  # unreadable, or too much beside the rest: the run must end all the same
        engine.note("ERROR", f"{option} gets no event data", run_id=fold.run, workflow=fold.workflow, reason=str(error))
        origin["data"] = None
        return run, _birth(engine, run, handler.name, event, due_ms, fold.run)


def _birth(engine: Engine, run: str, workflow: str, event: Event, due_ms: int, parent: str) -> list[Put]:
    text, blob = engine.ledger.spill(encode(event.data, f"the data of event {event.name!r}"), event_context(event.id))
    return engine.ledger.birth(run, workflow, event, due_ms, text, blob, parent)
