"""The middleware of an app, as the engine calls it. Imported for apps that have some."""

from __future__ import annotations

from ..core.errors import InvalidEvent, MiddlewareFailed, PayloadCorrupt
from ..core.values import Event
from ..middleware import CurrentRun, Middleware, StepCall
from .ledger import ENCODED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ..core.log import Fold
    from ..core.replay import Wanted
    from ..step import CurrentStep
    from .notes import Note

_MEANT = (MiddlewareFailed, PayloadCorrupt, InvalidEvent)  # by a hook that raises it


class Hooks:
    """All middleware of an app, in order. `payloads`: what the ledger gives values to, None where nothing encodes."""

    def __init__(self, middleware: Sequence[Middleware], note: Note) -> None:
        self.inwards = tuple(middleware)
        self.outwards = self.inwards[::-1]
        self._note = note
        codecs = [one for one in self.inwards if type(one).encode is not Middleware.encode]
        self.payloads = Payloads(codecs) if codecs else None

    # -------------------------------------------------------------------------------------------------------- events
    def event(self, event: Event) -> Event:
        """The event as it is to be kept."""
        for one in self.inwards:
            seen = _ask(one, "event", event)
            if not isinstance(seen, Event) or seen.id != event.id:
                raise InvalidEvent(f"event() of middleware {_name(one)} must return an event with the id {event.id!r}")
            event = seen
        return event

    # ---------------------------------------------------------------------------------------------------------- runs
    def replay(self, fold: Fold, event: Event, call: Callable[[Event], Any]) -> Any:
        """What the workflow function returns; raises what it raises, or `MiddlewareFailed` before it is called."""
        run = _run(fold)
        for one in self.inwards:
            _ask(one, "before_run", run, event)
        try:
            return call(event)
        finally:
            self.tell("after_run", run)

    def run_ended(self, fold: Fold, error: BaseException | None = None) -> None:
        self.tell("run_ended", _run(fold, fold.status), error)

    def around(self, current: CurrentStep) -> Around:
        return Around(self, current)

    def tell(self, hook: str, about: CurrentRun | StepCall, *args: Any) -> None:
        """Call a hook that comes too late to stop anything."""
        for one in self.outwards:
            try:
                getattr(one, hook)(about, *args)
            except Exception as error:
                self._note(
                    "ERROR",
                    "middleware raised, passed over",
                    middleware=_name(one),
                    hook=hook,
                    run_id=about.run_id,
                    workflow=about.workflow,
                    error=type(error).__name__,
                    reason=str(error),
                )


class Around:
    """The hooks around one attempt of a step. `before` and `after` raise what a hook raises: it fails the attempt."""

    def __init__(self, hooks: Hooks, current: CurrentStep) -> None:
        self._hooks = hooks
        self._call = StepCall(current)

    def before(self, wanted: Wanted) -> None:
        call = self._call
        call.args, call.kwargs = wanted.args, wanted.kwargs
        for one in self._hooks.inwards:
            one.before_step(call)
        wanted.args, wanted.kwargs = call.args, call.kwargs

    def after(self, result: Any) -> Any:
        for one in self._hooks.outwards:
            result = one.after_step(self._call, result)
        return result

    def failed(self, error: BaseException, final: bool) -> None:
        self._hooks.tell("step_failed", self._call, error, final)


class Payloads:
    """Encodes the values that the ledger keeps, and decodes them."""

    def __init__(self, codecs: Sequence[Middleware]) -> None:
        self._codecs = codecs

    def encode(self, text: str, context: str) -> str:
        made = text
        for one in self._codecs:
            made = _text(one, "encode", made, context)
        return text if made == text else ENCODED + made

    def decode(self, text: str, context: str) -> str:
        hook = "decode" if text.startswith(ENCODED) else "decode_plain"
        text = text.removeprefix(ENCODED)
        for one in reversed(self._codecs):
            text = _text(one, hook, text, context)
        return text


def _ask(one: Middleware, hook: str, *args: Any) -> Any:
    """Call a hook. What it raises is the deployment's fault, and no run's."""
    try:
        return getattr(one, hook)(*args)
    except _MEANT:
        raise
    except Exception as error:
        raise MiddlewareFailed(f"{hook}() of middleware {_name(one)} raised {type(error).__name__}: {error}") from error


def _text(one: Middleware, hook: str, text: str, context: str) -> str:
    made = _ask(one, hook, text, context)
    if type(made) is not str:
        raise MiddlewareFailed(f"{hook}() of middleware {_name(one)} must return a string, not {type(made).__name__}")
    return made


def _run(fold: Fold, status: str | None = None) -> CurrentRun:
    event = fold.body["event"]
    return CurrentRun(fold.run, fold.workflow, event["name"], event["id"], status)


def _name(one: Middleware) -> str:
    return type(one).__name__
