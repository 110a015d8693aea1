"""Events in: each event starts one run of each workflow that it triggers, however often it is delivered."""

from __future__ import annotations

from ..core.codec import decode, encode
from ..core.errors import InvalidEvent, Misconfigured, RequestRefused, Unavailable, UnknownWorkflow
from ..core.ids import run_id
from ..core.values import MAX_NAME_CHARS, Event
from ..core.waits import RESERVED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..app import Workflow
    from ..core.log import Fold
    from ..core.values import Failure
    from ..ports import Item, Put
    from .engine import Engine

RUN_FAILED_EVENT = "onward/run.failed"
AT_ONCE = 40  # runs that are started in one transaction


def ingest(engine: Engine, event: Event) -> list[str]:
    """Keep an event, start its runs and bring it to the waits that it matches; the ids of the runs, [] where no
    workflow is triggered by it.

    When this returns, the event and every run exist in the store, every run has a wake, and every wait has its event.
    Delivering the event again changes nothing.
    """
    check_event(event)
    return _take_in(engine, event, [w.name for w in engine.app.triggered_by(event.name) if _says_yes(engine, w, event)])


def _says_yes(engine: Engine, workflow: Workflow, event: Event) -> bool:
    try:
        return workflow.where is None or bool(workflow.where(event))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        engine.note("ERROR", "where= raised, taken for no", workflow=workflow.name, event=event.name, reason=reason)
        return False


def start(engine: Engine, workflow: str, event: Event) -> str:
    """Start the run of one workflow for an event; the id of that run, whether it is new or was there."""
    engine.app[workflow]
    check_event(event)
    return _take_in(engine, event, [workflow])[0]


def check_event(event: Event) -> None:
    """Raises `InvalidEvent` for an event whose name or id cannot be kept, or is the engine's own: nobody outside
    completes a callback by an event that looks like the one that completes it."""
    for what, text in (("name", event.name), ("id", event.id)):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME_CHARS:
            raise InvalidEvent(
                f"the {what} of an event is a string of 1 to {MAX_NAME_CHARS} characters, not {text!r:.80}"
            )
        if text.startswith(RESERVED):
            raise InvalidEvent(
                f"the {what} of an event begins with {RESERVED!r} ({text!r:.80}): those are Onward's own; "
                f"choose another (a callback is completed by `onward complete TOKEN`)"
            )


def _take_in(engine: Engine, event: Event, workflows: list[str]) -> list[str]:
    from .waiting import bring, event_writes, kept_at

    ledger = engine.ledger
    arrived_ms = engine.clock.now_ms()
    text, blob = ledger.spill(encode(event.data, f"the data of event {event.name!r}"))
    runs = [run_id(workflow, event.id) for workflow in workflows]
    born = [
        ledger.birth(run, workflow, event, arrived_ms + engine.horizon_ms, text, blob)
        for run, workflow in zip(runs, workflows, strict=True)
    ]
    kept = event_writes(ledger, event, arrived_ms, runs, text, blob)
    first = [kept, *born[:AT_ONCE]]
    standing = _write_new(engine, first)
    for start in range(AT_ONCE, len(born), AT_ONCE):
        standing += _write_new(engine, born[start : start + AT_ONCE])
    if standing[0] is not None:
        arrived_ms = kept_at(standing[0])
    for run, workflow, before in zip(runs, workflows, standing[1:], strict=True):
        engine.note(
            "INFO",
            "run started" if before is None else "event seen before",
            run_id=run,
            workflow=workflow,
            event=event.name,
        )
        engine.send({"do": "advance", "run": run, "seq": 1})  # after a crash between write and wake, this is the wake
    bring(engine, event, arrived_ms, ledger.text(text, blob))
    return runs


def _write_new(engine: Engine, groups: list[list[Put]]) -> list[Item | None]:
    """Write what is new of these groups, each of which is written whole or was before; for each the item that stood
    there first, None for what is new."""
    before: list[Item | None] = [None] * len(groups)
    while new := [place for place, item in enumerate(before) if item is None]:
        refused = engine.store.write([put for place in new for put in groups[place]])
        if refused is None:
            break
        found = iter(refused.standing)
        for place in new:
            stands = [next(found) for _ in groups[place]]
            before[place] = next((item for item in stands if item is not None), None)
    return before


def failure_run(engine: Engine, fold: Fold, failure: Failure) -> tuple[str, list[Put]] | None:
    """The run of `on_failure=` that follows a failed run: its id, and the writes that make it exist."""
    try:
        handler = engine.app[fold.workflow].on_failure
    except UnknownWorkflow:
        return None
    if handler is None:
        return None
    origin: dict[str, Any] = {"name": fold.body["event"]["name"], "id": fold.body["event"]["id"], "data": None}
    data: Any = {"run_id": fold.run, "workflow": fold.workflow, "error": failure.to_json(), "event": origin}
    now_ms = engine.clock.now_ms()
    event = Event(RUN_FAILED_EVENT, data, f"{fold.run}.failed", now_ms)
    run = run_id(handler.name, event.id)
    due_ms = now_ms + engine.horizon_ms
    try:
        origin["data"] = decode(engine.ledger.text(fold.value, fold.body.get("blob")))
        return run, _birth(engine, run, handler.name, event, due_ms, fold.run)
    except (Unavailable, RequestRefused, Misconfigured):
        raise
    except Exception as error:  # unreadable, or too much beside the rest: the run must end all the same
        engine.note(
            "ERROR", "on_failure gets no event data", run_id=fold.run, workflow=fold.workflow, reason=str(error)
        )
        origin["data"] = None
        return run, _birth(engine, run, handler.name, event, due_ms, fold.run)


def _birth(engine: Engine, run: str, workflow: str, event: Event, due_ms: int, parent: str) -> list[Put]:
    text, blob = engine.ledger.spill(encode(event.data, f"the data of event {event.name!r}"))
    return engine.ledger.birth(run, workflow, event, due_ms, text, blob, parent)
