"""What the tests of the rules share: one way to write a workflow once and try it sync and async."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from onward import App, Retry
from onward.testing import Rehearsal

STEADY = Retry(max_attempts=5, base=1.0, factor=2.0, cap=300.0, jitter=False)


class Awaiting:
    """The steps of a sync workflow behind the awaitable face of the async ones, so that a story is told once."""

    def __init__(self, step: Any) -> None:
        self._step = step

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._step, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call


def as_sync(story: Callable[..., Any]) -> Callable[..., Any]:
    """A story written as `async def work(event, step)`, as a sync workflow function."""

    def work(event: Any, step: Any) -> Any:
        coroutine = story(event, Awaiting(step))
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("a story awaits nothing but steps")

    work.__name__ = story.__name__
    return work


class Kind:
    """Sync or async: how an app is made of a story."""

    def __init__(self, name: str) -> None:
        self.name = name

    def app(self, story: Callable[..., Any], *, into: App | None = None, **options: Any) -> App:
        app = into or App("rules")
        fn = story if self.name == "async" or not inspect.iscoroutinefunction(story) else as_sync(story)
        app.workflow(**{"on": "go", "name": "work", "retries": STEADY, **options})(fn)
        return app

    def go(
        self, story: Callable[..., Any], data: Any = None, *, options: Any = None, **rehearsal: Any
    ) -> dict[str, Any]:
        """Tell the story to its end; the view of its run."""
        with Rehearsal(self.app(story, **(options or {})), **rehearsal) as stage:
            return stage.send("go", data)


SYNC, ASYNC = Kind("sync"), Kind("async")


def records(stage: Rehearsal, run: str) -> list[dict[str, Any]]:
    """The bodies of the run's log."""
    import json

    from onward.core.log import LOG_END, log_key, partition_of

    return [json.loads(item.body) for item in stage.store.read(partition_of(run), log_key(0), LOG_END)]


class Notes:
    """The engine's log lines, kept."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, level: str, message: str, **fields: Any) -> None:
        self.lines.append((level, message, fields))

    def of(self, message: str) -> list[dict[str, Any]]:
        return [fields for _, said, fields in self.lines if said == message]


def failing(error: BaseException | type[BaseException], calls: list[Any] | None = None) -> Callable[..., Any]:
    """A function that raises, whatever it is given."""

    def fail(*args: Any) -> None:
        if calls is not None:
            calls.append(args)
        raise error

    return fail


@contextlib.contextmanager
def failed_with(run: dict[str, Any], type: str) -> Iterator[str]:
    """The message of the error with which the run failed."""
    assert run["status"] == "failed", run
    assert run["error"]["type"] == type, run["error"]
    yield run["error"]["message"]


both = pytest.mark.parametrize("kind", [SYNC, ASYNC], ids=["sync", "async"])
