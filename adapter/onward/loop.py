"""The driver of async workflows: an asyncio event loop that notices when the workflow stands.

A workflow stands when nothing is ready, no timer runs, no other thread works for the loop, and nothing but steps is
awaited. The loop sees that moment from its selector, which it only enters to wait without a timeout when it has
nothing else to do. Only then are steps planned, performed or answered, so what the workflow called up to that moment is
a set, whatever the order in which its tasks ran. Imported only when an async workflow is first advanced.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from typing import TYPE_CHECKING, Any

from .core.errors import Leave, LeaveSwallowed
from .core.replay import limits_what_is_left, stands_for_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .core.replay import Outcome, Replay, Wanted
    from .core.values import Key

_LIMITS = ("Timeout._on_timeout", "_release_waiter")  # what the timers of asyncio.timeout, wait_for and wait call
MAX_UNWIND_S = 1.0  # for the `finally` blocks of a workflow that leaves


class _IdleSelector(selectors.DefaultSelector):
    """Calls `idle` instead of waiting for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: Callable[[], bool] | None = None
        self.limited: Callable[[], bool] = bool

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.idle is not None and (timeout is None or (timeout > 0 and self.limited())):
            ready = super().select(0)
            if ready or self.idle():
                return ready
        return super().select(timeout)

    def watches(self) -> bool:
        """Whether anything but the loop's own wake-up pipe is registered."""
        return len(self.get_map()) > 1


class Loop(asyncio.SelectorEventLoop):
    """An event loop that can run until it is idle."""

    def __init__(self) -> None:
        self._idle_selector = _IdleSelector()
        self._threads = 0
        self._timers: list[tuple[asyncio.TimerHandle, bool]] = []
        super().__init__(self._idle_selector)
        self._idle_selector.limited = self.limited

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        timer = super().call_at(when, callback, *args, context=context)
        self._timers = [kept for kept in self._timers if not kept[0].cancelled() and kept[0].when() > self.time()]
        self._timers.append((timer, getattr(callback, "__qualname__", "") in _LIMITS))
        return timer

    def limited(self) -> bool:
        """Whether nothing is waited for but the end of a time limit around something else."""
        running = [limit for timer, limit in self._timers if not timer.cancelled() and timer.when() > self.time()]
        return bool(running) and all(running) and not self._idle_selector.watches()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._threads -= 1

    def run_until_idle(self, steps_awaited: Callable[[], bool]) -> None:
        """Run until nothing can go on by itself. Sockets alone do not keep it from being idle while steps are
        awaited: a client that a step left open has one registered for ever."""

        def on_idle() -> bool:
            if self._threads or (self.limited() and not steps_awaited()):
                return False
            if self._idle_selector.watches() and not steps_awaited():
                return False
            self.call_soon(self.stop)
            return True

        self._idle_selector.idle = on_idle
        try:
            self.run_forever()
        finally:
            self._idle_selector.idle = None


class Standing:
    """The steps at which the tasks of an async workflow stand."""

    def __init__(self, loop: Loop, replay: Replay) -> None:
        self._loop = loop
        self._replay = replay
        self._waiting: dict[Key, Wanted] = {}
        self._futures: dict[Key, asyncio.Future[Outcome]] = {}
        self._new: list[Wanted] = []

    async def outcome(self, wanted: Wanted) -> Outcome:
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting[wanted.key] = wanted
        self._futures[wanted.key] = future
        self._new.append(wanted)
        try:
            return await future
        finally:
            self._waiting.pop(wanted.key, None)
            self._futures.pop(wanted.key, None)

    def awaited(self) -> bool:
        """Whether any task stands at a step."""
        return bool(self._waiting)

    def go_on(self) -> None:
        """Answer those steps that have an outcome now, first conducting what is next."""
        new, self._new = self._new, []
        for wanted in self._replay.block(self._waiting, new):
            outcome = self._replay.outcome(wanted)
            assert outcome is not None
            self._futures[wanted.key].set_result(outcome)


_threads = threading.local()


def thread_loop() -> Loop:
    """The one loop of this thread; kept open, so that clients which hold on to it stay usable."""
    loop: Loop | None = getattr(_threads, "loop", None)
    if loop is None or loop.is_closed():
        loop = _threads.loop = Loop()
    return loop


def close_thread_loop() -> None:
    """Close the loop of this thread, when the thread has no more to do."""
    loop: Loop | None = getattr(_threads, "loop", None)
    if loop is not None and not loop.is_closed():
        loop.close()


def run(workflow: str, start: Callable[[Standing], Coroutine[Any, Any, Any]], replay: Replay, loop: Loop) -> Any:
    """Run an async workflow function to its end, and return its result; raises what it raises, or `Leave`."""
    standing = Standing(loop, replay)
    task = loop.create_task(start(standing))
    try:
        while True:
            loop.run_until_idle(standing.awaited)
            if task.done():
                if replay.left and not task.cancelled() and _has_signal(task.exception()):
                    raise Leave  # out of a task group, which collects it from its tasks
                return task.result()
            if loop.limited():
                raise limits_what_is_left(workflow)
            if not standing.awaited():
                raise stands_for_nothing(workflow)
            standing.go_on()
    except BaseException as signal:
        _unwind(loop, task, signal)
        raise
    finally:
        _cancel_rest(loop)


def _unwind(loop: Loop, task: asyncio.Task[Any], signal: BaseException) -> None:
    """Let the workflow's `finally` blocks run, and see that it really leaves."""
    if task.done():
        return
    task.cancel()
    loop.run_until_complete(asyncio.wait([task], timeout=MAX_UNWIND_S))
    if isinstance(signal, Leave) and task.done() and not task.cancelled() and not _is_signal(task.exception()):
        raise LeaveSwallowed from task.exception()


def _is_signal(error: BaseException | None) -> bool:
    """Whether a task ended with nothing but the signal to leave: a step that is called in a `finally` block raises it
    again, and a task group collects it from its tasks."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_signal, error.exceptions))
    return isinstance(error, Leave | asyncio.CancelledError)


def _has_signal(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_has_signal, error.exceptions))
    return isinstance(error, Leave)


def _cancel_rest(loop: Loop) -> None:
    rest = [task for task in asyncio.all_tasks(loop) if not task.done()]
    for task in rest:
        task.cancel()
    if rest:
        loop.run_until_complete(asyncio.wait(rest, timeout=MAX_UNWIND_S))
    for task in rest:
        if task.done() and not task.cancelled():
            task.exception()  # it was told to leave: what it raised meanwhile is of no interest
