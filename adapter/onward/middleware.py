"""What an app does around everything that it does: to log, to measure, to report errors, to keep values encrypted.

    app = App("shop", middleware=[Timing(), Encryption(keys, current="2026-01")])

The hooks, and how often each is called:

    event         at every delivery of an event, before it is kept and its runs are started
    before_run    at every replay of a run, before its workflow function is called
    after_run     at every replay, when the workflow function has been left
    run_ended     once for each run, when it has ended (not at all where the process dies just then)
    before_step   once for each attempt that is performed, before it
    after_step    once for each attempt that succeeded, before its result is kept
    step_failed   once for each attempt that failed; an attempt whose process died calls nothing
    encode        whenever a value is kept
    decode        whenever a kept value is read: at every replay, for every value in the log

A run is replayed in every invocation, so what is to happen once belongs into the hooks of steps, or into a step. On the
way in (`event`, `before_run`, `before_step`, `encode`) the first of the list is asked first, on the way out the last.
Hooks are plain functions, for sync and async workflows alike, outside of a step's `timeout=`. One object serves all
runs, in several threads on a laptop. What a workflow sees comes from the log: `before_run` and `decode` must do the
same at every replay. `onward check` replays as well, and asks `before_run`, `after_run` and `decode`.

Where a hook raises: `event` keeps the event out; `before_step`, `after_step` and `encode` of a result fail the attempt,
which is retried like any other; `before_run`, `decode`, and `encode` elsewhere leave the run as it stands, to go on
when that is mended (see `MiddlewareFailed`); and `after_run`, `run_ended` and `step_failed` come too late to stop
anything, so the log says what they raised and the work goes on.
"""

from __future__ import annotations

from .step import CurrentStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .core.values import Event


class CurrentRun:
    """A run, for the hooks around it. `run_id`; `workflow`: its name; `event_name`, `event_id`: of the event that
    started it; `status`: "completed", "failed" or "cancelled" when it has ended, else None."""

    __slots__ = ("event_id", "event_name", "run_id", "status", "workflow")

    def __init__(self, run_id: str, workflow: str, event_name: str, event_id: str, status: str | None = None) -> None:
        self.run_id = run_id
        self.workflow = workflow
        self.event_name = event_name
        self.event_id = event_id
        self.status = status


class StepCall(CurrentStep):
    """One attempt of a step, for the hooks around it: what `current_step()` says, and `args` and `kwargs`, with which
    its function is called (those of `send_event` are the event's name and data). `kept`: yours, from one hook of an
    attempt to the next."""

    __slots__ = ("args", "kept", "kwargs")

    def __init__(self, current: CurrentStep) -> None:
        super().__init__(current.run_id, current.workflow, current.step, current.attempt, current.idempotency_key)
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.kept: dict[Any, Any] = {}


class Middleware:
    """Derive from it, and write the hooks that you need; the others do nothing."""

    def event(self, event: Event) -> Event:
        """An event has arrived, or was sent by a step: return it, or another of the same id. Not asked about the data
        of `step.invoke` and the event of `on_failure`. To refuse an event, raise; it is delivered again as its source
        does that."""
        return event

    def before_run(self, run: CurrentRun, event: Event) -> None:
        """The workflow function is about to be called with that event, once more."""

    def after_run(self, run: CurrentRun) -> None:
        """The workflow function has returned, raised, or was left at a step."""

    def run_ended(self, run: CurrentRun, error: BaseException | None) -> None:
        """The run has ended as `run.status` says. `error`: why it failed."""

    def before_step(self, call: StepCall) -> None:
        """An attempt of a step is about to be performed: `call.args` and `call.kwargs` may be changed."""

    def after_step(self, call: StepCall, result: Any) -> Any:
        """The attempt has succeeded: return its result, or what is to be kept, and seen by the workflow, instead."""
        return result

    def step_failed(self, call: StepCall, error: BaseException, final: bool) -> None:
        """The attempt has failed. `final`: there will be no other."""

    def encode(self, text: str, context: str) -> str:
        """A value, as JSON text, is about to be kept: return what is kept instead. `context`: what it is the value of
        ("event ...", "step ...", "run ..."), the same when it is read. The first of the list is asked first."""
        return text

    def decode(self, text: str, context: str) -> str:
        """What `encode` was given, from what it returned."""
        return text

    def decode_plain(self, text: str, context: str) -> str:
        """A value that was kept before this app had any middleware that encodes: return it, or refuse it."""
        return text
