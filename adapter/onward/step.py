"""What a workflow function is handed as `step`.

Each kind of step is one generator: it yields what it wants and is sent the outcome. Two drivers of a few lines feed
it: in a sync workflow the outcome is there or the workflow leaves; in an async one it is awaited. So no rule is
written twice, and both kinds of workflow have the same steps with the same meaning.
"""

from __future__ import annotations

from _contextvars import ContextVar

from .core.errors import InvalidOption, OnwardError
from .core.replay import Replay, Wanted
from .core.retry import Retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from datetime import datetime, timedelta
    from typing import Any, TypeVar, overload

    from .core.replay import Outcome
    from .loop import Standing

    T = TypeVar("T")
    Effects = Generator[Wanted, Outcome, Any]
else:

    def overload(function):
        return function


MAX_SLEEP_MS = 366 * 24 * 3600 * 1000
MAX_BRANCHES = 10_000
_OPTIONS_HINT = "an argument of your function that has the name of an option goes through functools.partial"


class CurrentStep:
    """What a step may know about itself while it is performed.

    `run_id`; `workflow`, `step`: names; `attempt`: from 1; `idempotency_key`: the same over all attempts of this
    step, and no other step's, to be handed to the services that it calls.
    """

    __slots__ = ("attempt", "idempotency_key", "run_id", "step", "workflow")

    def __init__(self, run_id: str, workflow: str, step: str, attempt: int, idempotency_key: str) -> None:
        self.run_id = run_id
        self.workflow = workflow
        self.step = step
        self.attempt = attempt
        self.idempotency_key = idempotency_key


_current: ContextVar[CurrentStep | None] = ContextVar("onward_current_step", default=None)


def current_step() -> CurrentStep:
    """The step that is being performed; raises `OnwardError` outside a step."""
    current = _current.get()
    if current is None:
        raise OnwardError("current_step() was called outside a step: call it in the function that a step performs")
    return current


def _run(
    replay: Replay,
    default: Retry,
    name: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    retries: int | Retry | None,
    timeout: float | None,
    once: bool,
    output_type: Any,
) -> Effects:
    if not callable(fn):
        raise InvalidOption(
            f"step {name!r}: the second argument is the function to perform, not {type(fn).__name__}; {_OPTIONS_HINT}"
        )
    if timeout is not None and not (_is_number(timeout) and 0 < timeout <= MAX_SLEEP_MS / 1000):
        raise InvalidOption(
            f"step {name!r}: timeout= takes seconds, over 0 and up to 366 days, not {timeout!r:.80}; {_OPTIONS_HINT}"
        )
    if once and retries is not None:
        raise InvalidOption(f"step {name!r}: once=True means one attempt, so retries= has no meaning beside it")
    retry = Retry(max_attempts=1) if once else default if retries is None else Retry.of(retries)
    wanted = Wanted(
        replay.key(name), fn, args, kwargs, retry=retry, timeout_s=timeout, once=once, output_type=output_type
    )
    outcome = yield wanted
    return replay.result(wanted, outcome)


def _sleep(replay: Replay, name: str, duration: float | timedelta) -> Effects:
    seconds: Any = duration.total_seconds() if hasattr(duration, "total_seconds") else duration
    if not _is_number(seconds) or not 0 <= seconds * 1000 <= MAX_SLEEP_MS:
        raise InvalidOption(f"step {name!r}: a sleep takes 0 seconds to 366 days, not {duration!r:.80}")
    wanted = Wanted(replay.key(name), sleep_ms=round(seconds * 1000))
    return replay.result(wanted, (yield wanted))


def _sleep_until(replay: Replay, name: str, when: datetime) -> Effects:
    until_ms = epoch_ms(when)
    if until_ms is None:
        raise InvalidOption(f"step {name!r}: sleep_until takes a datetime (naive: UTC), not {when!r:.80}")
    wanted = Wanted(replay.key(name), until_ms=until_ms)
    return replay.result(wanted, (yield wanted))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def epoch_ms(when: object) -> int | None:
    """Epoch milliseconds of a datetime (naive: UTC); None for anything else."""
    from datetime import UTC, datetime

    if not isinstance(when, datetime):
        return None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


class Step:
    """The steps of a sync workflow."""

    __slots__ = ("_replay", "_retry")

    def __init__(self, replay: Replay, retry: Retry) -> None:
        self._replay = replay
        self._retry = retry

    def _settle(self, effects: Effects) -> Any:
        wanted = next(effects)
        try:
            effects.send(self._replay.settle(wanted))
        except StopIteration as stop:
            return stop.value

    def run(
        self,
        name: str,
        fn: Callable[..., T],
        *args: Any,
        retries: int | Retry | None = None,
        timeout: float | None = None,
        once: bool = False,
        output_type: Any = None,
        **kwargs: Any,
    ) -> T:
        """Perform `fn(*args, **kwargs)` until it succeeds, then never again; return its result, encoded and decoded.

        `name`: 1 to 256 characters; a repeated name is the second step of that name. `retries`: a number or a
        `Retry`, instead of the workflow's. `timeout`: seconds that one attempt may take. `once`: perform it at most
        once, whatever happens. `output_type`: the type of the result, for pydantic models, dataclasses and enums.

        Raises `StepError` when it failed for good.
        """
        effects = _run(self._replay, self._retry, name, fn, args, kwargs, retries, timeout, once, output_type)
        result: T = self._settle(effects)
        return result

    def sleep(self, name: str, duration: float | timedelta) -> None:
        """Stand for that long: seconds or a timedelta, up to 366 days. Meanwhile nothing runs and nothing is billed."""
        self._settle(_sleep(self._replay, name, duration))

    def sleep_until(self, name: str, when: datetime) -> None:
        """Stand until then (a naive datetime is UTC). A time that has passed is no sleep."""
        self._settle(_sleep_until(self._replay, name, when))

    def parallel(self, *branches: Callable[[], Any]) -> list[Any]:
        """Call each branch, a function without arguments that calls steps, and run the steps of different branches
        in parallel invocations. Returns their results in the order of the branches.

            a, b = step.parallel(partial(step.run, "a", fetch_a), partial(step.run, "b", fetch_b))

        A branch that raises does not stop the others; when all are settled the first error, in the order of the
        branches, is raised.
        """
        if len(branches) > MAX_BRANCHES or not all(map(callable, branches)):
            raise InvalidOption(
                f"step.parallel takes up to {MAX_BRANCHES} functions without arguments, as in "
                f'step.parallel(partial(step.run, "a", fetch_a), partial(step.run, "b", fetch_b))'
            )
        return self._replay.settle_all(branches)


class AsyncStep:
    """The steps of an async workflow: those of `Step`, to be awaited. `asyncio.gather` and `asyncio.TaskGroup` over
    them run them in parallel invocations."""

    __slots__ = ("_replay", "_retry", "_standing")

    def __init__(self, replay: Replay, retry: Retry, standing: Standing) -> None:
        self._replay = replay
        self._retry = retry
        self._standing = standing

    async def _settle(self, effects: Effects) -> Any:
        wanted = next(effects)
        try:
            effects.send(await self._standing.outcome(wanted))
        except StopIteration as stop:
            return stop.value

    @overload
    async def run(self, name: str, fn: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T: ...
    @overload
    async def run(self, name: str, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T: ...  # noqa: F811
    async def run(  # noqa: F811
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        retries: int | Retry | None = None,
        timeout: float | None = None,
        once: bool = False,
        output_type: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As `Step.run`; `fn` may be a coroutine function."""
        effects = _run(self._replay, self._retry, name, fn, args, kwargs, retries, timeout, once, output_type)
        return await self._settle(effects)

    async def sleep(self, name: str, duration: float | timedelta) -> None:
        """As `Step.sleep`."""
        await self._settle(_sleep(self._replay, name, duration))

    async def sleep_until(self, name: str, when: datetime) -> None:
        """As `Step.sleep_until`."""
        await self._settle(_sleep_until(self._replay, name, when))
