"""Events in: each event starts one run of each workflow that it triggers, however often it is delivered."""

from __future__ import annotations

from ..core.codec import decode
from ..core.errors import InvalidEvent, Misconfigured, RequestRefused, Unavailable, UnknownWorkflow
from ..core.ids import run_id
from ..core.values import MAX_NAME_CHARS, Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..core.log import Fold
    from ..core.values import Failure
    from ..ports import Put
    from .engine import Engine

RUN_FAILED_EVENT = "onward/run.failed"


def ingest(engine: Engine, event: Event) -> list[str]:
    """Start the runs of an event, and return their ids; [] where no workflow is triggered by it.

    When this returns, every run exists in the store and has a wake. Delivering the event again starts nothing.
    """
    return [start(engine, workflow.name, event) for workflow in engine.app.triggered_by(event.name)]


def start(engine: Engine, workflow: str, event: Event) -> str:
    """Start the run of one workflow for an event; the id of that run, whether it is new or was there."""
    engine.app[workflow]
    if not isinstance(event.name, str) or not 1 <= len(event.name) <= MAX_NAME_CHARS:
        raise InvalidEvent(
            f"the name of an event is a string of 1 to {MAX_NAME_CHARS} characters, not {event.name!r:.80}"
        )
    if not isinstance(event.id, str) or not 1 <= len(event.id) <= MAX_NAME_CHARS:
        raise InvalidEvent(f"the id of an event is a string of 1 to {MAX_NAME_CHARS} characters, not {event.id!r:.80}")
    run = run_id(workflow, event.id)
    due_ms = engine.clock.now_ms() + engine.horizon_ms
    refused = engine.store.write(engine.ledger.birth(run, workflow, event, due_ms))
    engine.note(
        "INFO",
        "run started" if refused is None else "event seen before",
        run_id=run,
        workflow=workflow,
        event=event.name,
    )
    engine.send({"do": "advance", "run": run, "seq": 1})  # after a crash between write and wake, this is the wake
    return run


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
        return run, engine.ledger.birth(run, handler.name, event, due_ms, parent=fold.run)
    except (Unavailable, RequestRefused, Misconfigured):
        raise
    except Exception as error:  # unreadable, or too much beside the rest: the run must end all the same
        engine.note(
            "ERROR", "on_failure gets no event data", run_id=fold.run, workflow=fold.workflow, reason=str(error)
        )
        origin["data"] = None
        return run, engine.ledger.birth(run, handler.name, event, due_ms, parent=fold.run)
