"""What a workflow function is handed as `step`.

Each kind of step is one generator: it yields what it wants and is sent the outcome. Two drivers of a few lines feed
it: in a sync workflow the outcome is there or the workflow leaves; in an async one it is awaited. So no rule is
written twice, and both kinds of workflow have the same steps with the same meaning.
"""

from __future__ import annotations

from _contextvars import ContextVar

from .core.errors import HeartbeatLost, InvalidOption, OnwardError, StepError, StepTimeout
from .core.log import Done
from .core.replay import Replay, Wanted
from .core.retry import Retry
from .core.values import display

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping
    from datetime import datetime, timedelta
    from typing import Any, TypeVar, overload

    from .core.replay import Outcome
    from .core.values import Event, Key
    from .loop import Standing

    T = TypeVar("T")
    Effects = Generator[Wanted, Outcome, Any]
else:

    def overload(function):
        return function


MAX_SLEEP_MS = 366 * 24 * 3600 * 1000
MAX_BRANCHES = 10_000
MAX_BACKOFF = 1_000.0
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
    sleep_ms = span_ms(duration)
    if sleep_ms is None:
        raise InvalidOption(f"step {name!r}: a sleep takes 0 seconds to 366 days, not {duration!r:.80}")
    wanted = Wanted(replay.key(name), sleep_ms=sleep_ms)
    return replay.result(wanted, (yield wanted))


def _sleep_until(replay: Replay, name: str, when: datetime) -> Effects:
    until_ms = epoch_ms(when)
    if until_ms is None:
        raise InvalidOption(f"step {name!r}: sleep_until takes a datetime (naive: UTC), not {when!r:.80}")
    wanted = Wanted(replay.key(name), until_ms=until_ms)
    return replay.result(wanted, (yield wanted))


def span_ms(span: float | timedelta) -> int | None:
    """Milliseconds of a span of up to 366 days; None for anything else."""
    seconds: Any = span.total_seconds() if hasattr(span, "total_seconds") else span
    return round(seconds * 1000) if _is_number(seconds) and 0 <= seconds * 1000 <= MAX_SLEEP_MS else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def epoch_ms(when: object) -> int | None:
    """Epoch milliseconds of a datetime (naive: UTC); None for anything else."""
    from datetime import UTC, datetime

    if not isinstance(when, datetime):
        return None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def _wait(
    replay: Replay,
    name: str,
    events: Mapping[str, Mapping[str, Any] | None],
    where: Callable[[Event], Any] | None,
    timeout: float | timedelta | None,
    since: datetime | None,
) -> Effects:
    from .core.values import Event
    from .core.waits import Wait, matches_of

    try:
        matches = matches_of(events)
    except ValueError as error:
        raise InvalidOption(f"step {name!r}: {error}") from None
    timeout_ms = MAX_SLEEP_MS if timeout is None else span_ms(timeout)
    if timeout_ms is None:
        raise InvalidOption(f"step {name!r}: timeout= takes 0 seconds to 366 days, not {timeout!r:.80}")
    since_ms = None if since is None else epoch_ms(since)
    if since is not None and since_ms is None:
        raise InvalidOption(f"step {name!r}: since= takes a datetime (naive: UTC), not {since!r:.80}")
    if where is not None and not callable(where):
        raise InvalidOption(f"step {name!r}: where= takes a function of the event, not {type(where).__name__}")
    wanted = Wanted(replay.key(name), wait=Wait(matches, timeout_ms, since_ms, where))
    found = replay.result(wanted, (yield wanted))
    return found and Event(found["name"], found["data"], found["id"], found["at"])


def _send(replay: Replay, default: Retry, name: str, event: str | None, data: Any) -> Effects:
    wanted = Wanted(
        replay.key(name), _engine_sends, (name if event is None else event, data), retry=default, sends=True
    )
    return replay.result(wanted, (yield wanted))


def _engine_sends(name: str, data: Any) -> str:
    raise OnwardError("an event was to be sent outside of an engine")


def _invoke(replay: Replay, workflow: Any, data: Any, timeout: float | timedelta | None, name: str | None) -> Effects:
    from .core.waits import Child

    named = getattr(workflow, "name", workflow)
    if not isinstance(named, str):
        raise InvalidOption(f"step.invoke takes a workflow or its name, not {type(workflow).__name__}")
    timeout_ms = MAX_SLEEP_MS if timeout is None else span_ms(timeout)
    if timeout_ms is None:
        raise InvalidOption(f"step {name or named!r}: timeout= takes 0 seconds to 366 days, not {timeout!r:.80}")
    wanted = Wanted(replay.key(name or named), child=Child(named, data, timeout_ms))
    return replay.result(wanted, (yield wanted))


def _callback(
    replay: Replay,
    default: Retry,
    name: str,
    notify: Callable[..., Any],
    args: tuple[Any, ...],
    timeout: float | timedelta | None,
    heartbeat: float | timedelta | None,
) -> Effects:
    from .core.ids import callback_event
    from .core.waits import BEAT, CALLBACK, Match, Wait

    if not callable(notify):
        raise InvalidOption(
            f"step {name!r}: the second argument is the function that hands the token out, not {type(notify).__name__}"
        )
    timeout_ms = MAX_SLEEP_MS if timeout is None else span_ms(timeout)
    if timeout_ms is None:
        raise InvalidOption(f"step {name!r}: timeout= takes 0 seconds to 366 days, not {timeout!r:.80}")
    heartbeat_ms = None if heartbeat is None else span_ms(heartbeat)
    if heartbeat is not None and not heartbeat_ms:
        raise InvalidOption(
            f"step {name!r}: heartbeat= takes seconds, over 0 and up to 366 days, not {heartbeat!r:.80}"
        )
    key = first = replay.key(name)
    own = replay.token(key)
    told = Wanted(replay.key(f"{name}.notify"), notify, (own, *args), retry=default, returns=replay.run)
    token = replay.token(key, replay.result(told, (yield told)))  # of the run that this one is a fork of, if that told
    by = {"data.token": token}
    matches = [Match(CALLBACK, by)]
    if heartbeat_ms is not None:
        matches.append(Match(BEAT, by))
    stands_ms = timeout_ms if heartbeat_ms is None else min(heartbeat_ms, timeout_ms)
    until_ms = None
    while True:
        wanted = Wanted(key, wait=Wait(matches, stands_ms, None, None, until_ms, callback_event(token), told.key))
        found = replay.result(wanted, (yield wanted))
        ends_ms = replay.stood_until_ms(wanted)
        if until_ms is None:
            until_ms = ends_ms - stands_ms + timeout_ms
        if found is None and ends_ms < until_ms:
            lost = f"no heartbeat came for {stands_ms / 1000:g} s"
            raise _not_answered(first, wanted, HeartbeatLost.__name__, lost)
        if found is None:
            late = f"nobody has completed it within {timeout_ms / 1000:g} s"
            raise _not_answered(first, wanted, StepTimeout.__name__, late)
        if found["name"] == CALLBACK:
            break
        matches[1] = Match(BEAT, by, since_ms=found["at"])
        key = replay.key(name)
    if error := found["data"].get("error"):
        raise _not_answered(first, wanted, error["type"], error["message"])
    return found["data"]["data"]


def _not_answered(step: Key, wanted: Wanted, type: str, message: str) -> StepError:
    error = StepError(display(step), 1, type, message)
    error._key = wanted.key
    return error


def _wait_until(
    replay: Replay,
    default: Retry,
    name: str,
    condition: Callable[..., Any],
    args: tuple[Any, ...],
    every: float | timedelta,
    backoff: float,
    max_every: float | timedelta | None,
    timeout: float | timedelta | None,
) -> Effects:
    if not callable(condition):
        raise InvalidOption(f"step {name!r}: the second argument is the condition, not {type(condition).__name__}")
    pause_ms = span_ms(every)
    most_ms = MAX_SLEEP_MS if max_every is None else span_ms(max_every)
    timeout_ms = MAX_SLEEP_MS if timeout is None else span_ms(timeout)
    for option, given, given_ms in (("every", every, pause_ms), ("max_every", max_every, most_ms)):
        if not given_ms:
            raise InvalidOption(f"step {name!r}: {option}= takes seconds, over 0 and up to 366 days, not {given!r:.80}")
    if timeout_ms is None:
        raise InvalidOption(f"step {name!r}: timeout= takes 0 seconds to 366 days, not {timeout!r:.80}")
    if not (_is_number(backoff) and 1 <= backoff <= MAX_BACKOFF):
        raise InvalidOption(f"step {name!r}: backoff= takes a factor of 1 to {MAX_BACKOFF:,.0f}, not {backoff!r:.80}")
    assert pause_ms is not None and most_ms is not None
    until_ms = None
    is_last = False
    while True:
        wanted = Wanted(replay.key(name), condition, args, retry=default)
        outcome = yield wanted
        answer = replay.result(wanted, outcome)
        if answer:
            return answer
        assert isinstance(outcome, Done)
        if until_ms is None:
            until_ms = outcome.at_ms + timeout_ms
        left_ms = until_ms - outcome.at_ms
        if is_last or left_ms <= 0:
            return None
        pause_ms = min(pause_ms, most_ms)
        is_last = pause_ms >= left_ms  # whatever the clock of who asks then says
        rest = Wanted(replay.key(f"{name}.pause"), sleep_ms=min(pause_ms, left_ms))
        replay.result(rest, (yield rest))
        pause_ms = round(pause_ms * backoff)


def _transact(
    replay: Replay, default: Retry, name: str, writes: Any, args: tuple[Any, ...], retries: int | Retry | None
) -> Effects:
    if not callable(writes) and (args or not isinstance(writes, list | tuple)):
        raise InvalidOption(
            f"step {name!r}: transact takes a list of writes, or a function (and its arguments) that returns one"
        )
    fn = writes if callable(writes) else lambda: writes
    retry = default if retries is None else Retry.of(retries)
    wanted = Wanted(replay.key(name), fn, args, retry=retry, transacts=True)
    return replay.result(wanted, (yield wanted))


class Step:
    """The steps of a sync workflow."""

    __slots__ = ("_replay", "_retry")

    def __init__(self, replay: Replay, retry: Retry) -> None:
        self._replay = replay
        self._retry = retry

    def _settle(self, effects: Effects) -> Any:
        wanted = next(effects)
        try:
            while True:
                wanted = effects.send(self._replay.settle(wanted))
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

    def wait_for_event(
        self,
        name: str,
        *,
        event: str | None = None,
        match: Mapping[str, Any] | None = None,
        where: Callable[[Event], Any] | None = None,
        timeout: float | timedelta | None = None,
        since: datetime | None = None,
    ) -> Event | None:
        """Stand until an event of that name arrives, and return it; None when `timeout` (seconds or a timedelta; 366
        days unless given) is over. One of the two, never both.

            paid = step.wait_for_event("order/paid", match={"data.order_id": order_id}, timeout=timedelta(days=3))

        `name`: of the step, and of the event unless `event` names another. `match`: what must stand at which paths of
        the event ("data....", "id"), at most 5, of JSON's plain values. `where`: a function of the event that must say
        yes as well; it costs an invocation for each event that has the name and what `match` asks for, so let `match`
        do what it can. Events count that arrived since the run was started (and five seconds before, for clocks
        disagree), or since `since`, so one that is sent a moment too early is not missed; but none that this run has
        received before.
        """
        found: Event | None = self._settle(
            _wait(self._replay, name, {name if event is None else event: match}, where, timeout, since)
        )
        return found

    def wait_for_any(
        self,
        name: str,
        events: Mapping[str, Mapping[str, Any] | None],
        *,
        where: Callable[[Event], Any] | None = None,
        timeout: float | timedelta | None = None,
        since: datetime | None = None,
    ) -> Event | None:
        """As `wait_for_event`, for the first of several: `events` has what to match by the events' names.

        step.wait_for_any("answer", {"order/paid": {"data.order_id": 7}, "order/cancelled": {"data.order_id": 7}})
        """
        found: Event | None = self._settle(_wait(self._replay, name, events, where, timeout, since))
        return found

    def send_event(self, name: str, data: Any = None, *, event: str | None = None) -> str:
        """Send an event, which starts the workflows that it triggers and is brought to the waits that it matches;
        returns its id. It is one event, however often the step is performed. `name`: of the step, and of the event
        unless `event` names another."""
        sent: str = self._settle(_send(self._replay, self._retry, name, event, data))
        return sent

    def invoke(
        self, workflow: Any, data: Any = None, *, timeout: float | timedelta | None = None, name: str | None = None
    ) -> Any:
        """Start a run of another workflow (or of this one), stand until it has ended, and return its result.

        `workflow`: the decorated function, or its name. `data`: what it gets as `event.data`. `timeout`: seconds or a
        timedelta (366 days unless given); the other run goes on behind it. `name`: of the step, the workflow's unless
        given. Raises `StepError` when that run failed (with its error), was cancelled, or did not end in time. A run
        that is cancelled leaves those that it has started as they are.
        """
        return self._settle(_invoke(self._replay, workflow, data, timeout, name))

    def callback(
        self,
        name: str,
        notify: Callable[..., Any],
        *args: Any,
        timeout: float | timedelta | None = None,
        heartbeat: float | timedelta | None = None,
    ) -> Any:
        """Stand until somebody outside completes this step, and return the data that they gave.

            approved = step.callback("approve", ask_by_mail, order_id, timeout=timedelta(days=3))

        First `notify(token, *args)` is performed, a step of its own (`approve.notify`): it hands the token to whoever
        is to answer, with `onward complete TOKEN` or `onward fail TOKEN`. The first answer counts, also one that came
        before `notify` had returned. Whoever has the token can answer, and nobody can guess it.

        Raises `StepError`: with the error that they gave; of type `StepTimeout` when `timeout` (seconds or a timedelta;
        366 days unless given) is over; of type `HeartbeatLost` when `heartbeat` has passed without `onward beat TOKEN`.
        A heartbeat is an event, and ends a wait of this step and begins the next (`approve (2)`), a step that
        `max_steps` counts: about ten writes and three invocations, so let it come in minutes.
        """
        return self._settle(_callback(self._replay, self._retry, name, notify, args, timeout, heartbeat))

    def wait_until(
        self,
        name: str,
        condition: Callable[..., T],
        *args: Any,
        every: float | timedelta,
        backoff: float = 1.0,
        max_every: float | timedelta | None = None,
        timeout: float | timedelta | None = None,
    ) -> T | None:
        """Perform `condition(*args)` as a step again and again, until it returns something truthy, and return that;
        None when `timeout` is over (seconds or a timedelta; 366 days unless given).

            export = step.wait_until("export", find_export, job_id, every=30, backoff=2, max_every=600, timeout=7200)

        Between two performances it sleeps: `every`, then `backoff` times as long as before, up to `max_every`. The
        timeout counts from the first answer; the last performance is at its end. An error in the condition is retried
        as any step's. The performances are the steps `export`, `export (2)`, ..., the sleeps `export.pause` ...: two
        records and two invocations for each, and two steps of what `max_steps` allows.
        """
        effects = _wait_until(self._replay, self._retry, name, condition, args, every, backoff, max_every, timeout)
        answer: T | None = self._settle(effects)
        return answer

    def transact(self, name: str, writes: Any, *args: Any, retries: int | Retry | None = None) -> int:
        """Write to tables of your own in the same transaction as this step's record, so that it happens exactly once,
        whatever dies or is delivered twice. Returns the number of writes.

            step.transact("pay", [{"Update": {"TableName": "accounts", "Key": {"id": {"S": "ada"}},
                "UpdateExpression": "ADD balance :b", "ExpressionAttributeValues": {":b": {"N": "-5"}}}}])

        `writes`: up to 99 entries of DynamoDB's TransactWriteItems (`Put`, `Update`, `Delete`, `ConditionCheck`), in a
        table of the same account and region that the function may write to; on SQLite `(sql, parameters)` statements,
        on tables of your own in the same file. Or a function that returns them, performed with `args` in each attempt.

        A write that is refused, as for its condition (on SQLite a constraint), fails the step at once: `StepError` of
        type `WriteRefused`, which names it, and nothing is written.
        """
        count: int = self._settle(_transact(self._replay, self._retry, name, writes, args, retries))
        return count

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
            while True:
                wanted = effects.send(await self._standing.outcome(wanted))
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

    async def wait_for_event(
        self,
        name: str,
        *,
        event: str | None = None,
        match: Mapping[str, Any] | None = None,
        where: Callable[[Event], Any] | None = None,
        timeout: float | timedelta | None = None,
        since: datetime | None = None,
    ) -> Event | None:
        """As `Step.wait_for_event`."""
        found: Event | None = await self._settle(
            _wait(self._replay, name, {name if event is None else event: match}, where, timeout, since)
        )
        return found

    async def wait_for_any(
        self,
        name: str,
        events: Mapping[str, Mapping[str, Any] | None],
        *,
        where: Callable[[Event], Any] | None = None,
        timeout: float | timedelta | None = None,
        since: datetime | None = None,
    ) -> Event | None:
        """As `Step.wait_for_any`."""
        found: Event | None = await self._settle(_wait(self._replay, name, events, where, timeout, since))
        return found

    async def send_event(self, name: str, data: Any = None, *, event: str | None = None) -> str:
        """As `Step.send_event`."""
        sent: str = await self._settle(_send(self._replay, self._retry, name, event, data))
        return sent

    async def invoke(
        self, workflow: Any, data: Any = None, *, timeout: float | timedelta | None = None, name: str | None = None
    ) -> Any:
        """As `Step.invoke`."""
        return await self._settle(_invoke(self._replay, workflow, data, timeout, name))

    async def callback(
        self,
        name: str,
        notify: Callable[..., Any],
        *args: Any,
        timeout: float | timedelta | None = None,
        heartbeat: float | timedelta | None = None,
    ) -> Any:
        """As `Step.callback`; `notify` may be a coroutine function."""
        return await self._settle(_callback(self._replay, self._retry, name, notify, args, timeout, heartbeat))

    @overload
    async def wait_until(
        self, name: str, condition: Callable[..., Awaitable[T]], *args: Any, **options: Any
    ) -> T | None: ...
    @overload
    async def wait_until(  # noqa: F811
        self, name: str, condition: Callable[..., T], *args: Any, **options: Any
    ) -> T | None: ...
    async def wait_until(  # noqa: F811
        self,
        name: str,
        condition: Callable[..., Any],
        *args: Any,
        every: float | timedelta,
        backoff: float = 1.0,
        max_every: float | timedelta | None = None,
        timeout: float | timedelta | None = None,
    ) -> Any:
        """As `Step.wait_until`; `condition` may be a coroutine function."""
        effects = _wait_until(self._replay, self._retry, name, condition, args, every, backoff, max_every, timeout)
        return await self._settle(effects)

    async def transact(self, name: str, writes: Any, *args: Any, retries: int | Retry | None = None) -> int:
        """As `Step.transact`; the function that returns the writes may be a coroutine function."""
        count: int = await self._settle(_transact(self._replay, self._retry, name, writes, args, retries))
        return count
