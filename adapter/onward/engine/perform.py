"""Perform one attempt of a step: call the user's function, under its time limit, and say what came of it."""

from __future__ import annotations

import sys
import time

from ..core.errors import (
    MAX_MESSAGE_CHARS,
    MAX_RETRY_AFTER_S,
    MAX_TRACEBACK_CHARS,
    DefinitionError,
    NonRetriable,
    RetryAfter,
    StepFailure,
    StepTimeout,
)
from ..core.values import MAX_NAME_CHARS, Failure
from ..step import _current, epoch_ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..core.replay import Wanted
    from ..step import CurrentStep


_OWN_FILES = __file__.rpartition("engine")[0]


class _Alarm(BaseException):
    """Interrupts a step whose time is up. A BaseException, so that the step's own `except Exception` lets it pass."""


def perform(wanted: Wanted, current: CurrentStep, limit_s: float | None, is_async: bool) -> Any:
    """The result of the step's function; raises what it raises, or `StepTimeout` after `limit_s` seconds."""
    fn = wanted.fn
    assert fn is not None

    def call() -> Any:
        token = _current.set(current)
        try:
            return fn(*wanted.args, **wanted.kwargs)
        finally:
            _current.reset(token)

    started = time.monotonic()
    result = call() if limit_s is None else _limited(call, limit_s)
    if hasattr(result, "__await__"):
        if not is_async:
            getattr(result, "close", lambda: None)()
            raise DefinitionError(
                f"step {current.step!r} performs a coroutine function, but workflow {current.workflow!r} is not async: "
                f"write `async def {current.workflow}(event, step)` and `await step.run(...)`"
            )
        return _awaited(result, current, None if limit_s is None else limit_s - (time.monotonic() - started))
    return result


def _awaited(awaitable: Any, current: CurrentStep, limit_s: float | None) -> Any:
    import asyncio

    from ..loop import thread_loop

    async def main() -> Any:
        _current.set(current)
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await awaitable
        except TimeoutError:
            if limit.expired():
                raise _timeout(limit_s) from None
            raise
        except asyncio.CancelledError as error:  # the step's own doing; as a BaseException it would end the invocation
            raise StepFailure(f"CancelledError: the step cancelled itself {error}".rstrip()) from error

    return thread_loop().run_until_complete(main())


def _limited(call: Callable[[], Any], limit_s: float) -> Any:
    import _signal as signal  # type: ignore[import-not-found]  # built in; `signal` would make enums of its constants

    def ring(signum: int, frame: object) -> None:
        raise _Alarm

    try:
        before = signal.signal(signal.SIGALRM, ring)
    except ValueError:  # this is not the main thread
        return _in_thread(call, limit_s)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(limit_s, 0.001))
        try:
            return call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm may still ring here, and is caught as well
    except _Alarm:
        raise _timeout(limit_s) from None
    finally:
        signal.signal(signal.SIGALRM, before)


def _in_thread(call: Callable[[], Any], limit_s: float) -> Any:
    """Outside the main thread no signal can interrupt a step: it is given up, and what it returns late is dropped."""
    import contextvars
    import threading

    context = contextvars.copy_context()
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(context.run(call))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="onward-step", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise _timeout(limit_s)
    return results[0]


def _timeout(limit_s: float | None) -> StepTimeout:
    return StepTimeout(f"the step was stopped after {limit_s or 0:.3g} s, its time limit or the end of its invocation")


def describe(error: BaseException, now_ms: int) -> Failure:
    """An error as the log keeps it."""
    import traceback

    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in ("builtins", "onward.core.errors")
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        message = str(error)
    except Exception as broken:
        message = f"(its message cannot be shown: {type(broken).__name__})"
    lines = traceback.format_exception(kind, error, _own_frames_off(error))
    retry_at_ms = None
    if isinstance(error, RetryAfter):
        when = epoch_ms(error.when)
        retry_at_ms = when if when is not None else now_ms + round(float(error.when) * 1000)  # type: ignore[arg-type]
        retry_at_ms = min(retry_at_ms, now_ms + MAX_RETRY_AFTER_S * 1000)  # a datetime may come from a foreign header
    return Failure(
        shorten(name, MAX_NAME_CHARS),
        shorten(message, MAX_MESSAGE_CHARS),
        shorten("".join(lines), MAX_TRACEBACK_CHARS),
        final=isinstance(error, NonRetriable | DefinitionError),
        retry_at_ms=retry_at_ms,
    )


def _own_frames_off(error: BaseException) -> Any:
    """The traceback from the first frame that is the user's (all of it, if none is)."""
    trace = error.__traceback__
    loop = sys.modules.get("asyncio")
    ours = (_OWN_FILES, loop.__path__[0]) if loop is not None else _OWN_FILES
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    return trace or error.__traceback__


def shorten(text: str, size: int) -> str:
    """At most `size` characters: the middle is left out, and lone surrogates are made printable."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= size:
        return text
    half = (size - 40) // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
