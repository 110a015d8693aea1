"""What may be asked of the starts of a workflow's runs, as options of `@app.workflow`.

An event that triggers a workflow is put to these in this order:

    idempotency    a second event with the same key, within a period, starts nothing
    singleton      while a run with the same key is unfinished: skip the event, or cancel that run
    rate_limit     never more than `limit` starts in any window of `period`; what is over is dropped, on record
    debounce       wait until events with the same key cease; the last one (by its time) starts a run
    batch          gather events with the same key, and start one run for them together
    delay          start so much later
    throttle       start as the rate allows; what is over starts later
    concurrency    of those that may start, so many at a time; the others queue by priority, then by arrival; or, with
                   `of="steps"`, so many steps at a time

A `key` is a function of the event whose result (a string, a number, a boolean or None) names a group; each group has
limits of its own. Where it raises, the log says so, and the event belongs to the group None. Limits are read from the
code that is deployed: a new number holds from the next start or end of a run. A run that another one invokes is held to
`throttle` and `concurrency`, and to nothing else here.

`start_timeout` and `finish_timeout` fail a run that has not begun, or not ended, so long after its event was taken in
(or after the time of an event of the future); the time in which it queues or is put off counts.
"""

from __future__ import annotations

from .core.errors import InvalidOption
from .core.waits import ROOTS, matches_of
from .step import span_ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta
    from typing import Any, TypedDict

    from .core.values import Event

    Key = Callable[[Event], Any]
    Span = float | timedelta

    class FlowOptions(TypedDict, total=False):
        """The options that `@app.workflow` takes besides its own."""

        idempotency: Key | Idempotency
        singleton: Singleton
        rate_limit: RateLimit
        debounce: Debounce
        batch: Batch
        throttle: Throttle
        delay: Span
        concurrency: Concurrency | Sequence[Concurrency]
        priority: Key
        cancel_on: CancelOn | Sequence[CancelOn]
        start_timeout: Span
        finish_timeout: Span


DAY_S = 24 * 60 * 60
MAX_LIMIT = 1_000
MAX_BATCH = 100  # events in one run
MAX_BATCH_BYTES = 4 * 1024 * 1024
MAX_LIMITS = 5  # of one kind, on one workflow
PRIORITIES = 1_000  # from - to +


def _whole(option: str, number: object, highest: int, lowest: int = 1) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not lowest <= number <= highest:
        raise InvalidOption(f"{option} takes a whole number from {lowest} to {highest:,}, not {number!r:.80}")
    return number


def _span(option: str, span: object, lowest_ms: int = 1) -> int:
    found = span_ms(span)  # type: ignore[arg-type]
    if found is None or found < lowest_ms:
        least = f"{lowest_ms / 1000:g} s" if lowest_ms >= 1000 else f"{lowest_ms} ms"
        raise InvalidOption(f"{option} takes seconds or a timedelta, from {least} to 366 days, not {span!r:.80}")
    return found


def _key(option: str, key: object) -> Any:
    if key is not None and not callable(key):
        raise InvalidOption(f"{option} takes a function of the event, not {type(key).__name__}")
    return key


class Idempotency:
    """`key`: events with the same key start one run within `period` (seconds or a timedelta; a day unless given),
    counted from the event that started it."""

    __slots__ = ("key", "period_ms")

    def __init__(self, key: Key, period: Span = DAY_S) -> None:
        if not callable(key):
            raise InvalidOption(f"idempotency takes a function of the event, not {type(key).__name__}")
        self.key = key
        self.period_ms = _span("Idempotency(period=)", period)


class Singleton:
    """One unfinished run for each `key` (one at all without). An event that comes meanwhile is skipped, on record, or
    with `mode="cancel"` cancels the run that is there and starts its own."""

    __slots__ = ("key", "mode")

    def __init__(self, key: Key | None = None, mode: str = "skip") -> None:
        if mode not in ("skip", "cancel"):
            raise InvalidOption(f'Singleton(mode=) takes "skip" or "cancel", not {mode!r:.80}')
        self.key = _key("Singleton(key=)", key)
        self.mode = mode


class RateLimit:
    """Never more than `limit` (up to 1,000) starts in any window of `period`; events over that start nothing, which is
    on record with the event."""

    __slots__ = ("key", "limit", "period_ms")

    def __init__(self, limit: int, period: Span, key: Key | None = None) -> None:
        self.limit = _whole("RateLimit(limit=)", limit, MAX_LIMIT)
        self.period_ms = _span("RateLimit(period=)", period)
        self.key = _key("RateLimit(key=)", key)


class Debounce:
    """Start when no event with the same key has come for `period`, with the last event by its time; at the latest
    `max_delay` after the first of them (None: no end)."""

    __slots__ = ("key", "max_delay_ms", "period_ms")

    def __init__(self, period: Span, key: Key | None = None, max_delay: Span | None = None) -> None:
        self.period_ms = _span("Debounce(period=)", period)
        self.key = _key("Debounce(key=)", key)
        self.max_delay_ms = None if max_delay is None else _span("Debounce(max_delay=)", max_delay)
        if self.max_delay_ms is not None and self.max_delay_ms < self.period_ms:
            raise InvalidOption("Debounce(max_delay=) takes no less than its period")


class Batch:
    """Start one run for up to `size` (2 to 100) events with the same key: when there are so many, when their data has
    `max_bytes` together, or `timeout` after the first. The run's event is named as the first of them; its data is
    {"events": [{"name", "id", "at", "data"}, ...]}, in the order of their arrival."""

    __slots__ = ("key", "max_bytes", "size", "timeout_ms")

    def __init__(self, size: int, timeout: Span, key: Key | None = None, max_bytes: int = MAX_BATCH_BYTES) -> None:
        self.size = _whole("Batch(size=)", size, MAX_BATCH, 2)
        self.timeout_ms = _span("Batch(timeout=)", timeout)
        self.key = _key("Batch(key=)", key)
        self.max_bytes = _whole("Batch(max_bytes=)", max_bytes, MAX_BATCH_BYTES)


class Throttle:
    """Start `limit` runs per `period`, evenly, and `burst` at once after a pause (GCRA): in any window of w seconds
    begin at most burst + w * limit / period. What is over begins later, in the order in which runs first asked."""

    __slots__ = ("burst", "key", "limit", "period_ms")

    def __init__(self, limit: int, period: Span, burst: int = 1, key: Key | None = None) -> None:
        self.limit = _whole("Throttle(limit=)", limit, 1_000_000)
        self.period_ms = _span("Throttle(period=)", period)
        self.burst = _whole("Throttle(burst=)", burst, 1_000_000)
        self.key = _key("Throttle(key=)", key)
        if self.period_ms < self.limit:
            raise InvalidOption("Throttle takes at most 1,000 starts per second: beyond that it limits nothing")

    @property
    def apart_ms(self) -> float:
        """How far apart starts are, once the burst is used up."""
        return self.period_ms / self.limit


class Concurrency:
    """At most `limit` (up to 1,000) of the workflow's runs at a time, from the first step of each to its end, sleeps
    and waits included. `name`: limits of that name count together, and each workflow is held to its own number. A run
    that invokes another under a name that both use would wait for itself.

    `of="steps"`: at most so many steps (`step.run`) are performed at a time, over all runs, and beside each other in
    one. A slot belongs to an attempt while it is performed: a run between two steps, a sleep, a wait and a backoff hold
    none. Who finds none queues, by the run's priority, then its age; that uses up neither an attempt nor its `timeout`.
    An attempt needs a slot of each such limit of its workflow, and takes all or none. When a run ends, its slots are
    free, although what a sandbox still performs of it may take longer.

    With one such limit an attempt that finds room takes four requests more (read the limit, take a slot, look who
    queues, count the slot as free), and three for each further limit; what came of it is written together with what
    frees the slot. That is 21 capacity units more, 14 of them writes to the one partition of the limit and its key,
    which takes 1,000 a second: about 70 attempts a second, and less the more of them come at once."""

    __slots__ = ("key", "limit", "name", "of")

    def __init__(self, limit: int, key: Key | None = None, name: str | None = None, of: str = "runs") -> None:
        if name is not None and (not isinstance(name, str) or not name):
            raise InvalidOption(f"Concurrency(name=) takes a string that is not empty, not {name!r:.80}")
        if of not in ("runs", "steps"):
            raise InvalidOption(f'Concurrency(of=) takes "runs" or "steps", not {of!r:.80}')
        self.limit = _whole("Concurrency(limit=)", limit, MAX_LIMIT)
        self.key = _key("Concurrency(key=)", key)
        self.name = name
        self.of = of


class CancelOn:
    """Cancel the run when an event of that name arrives after its own (or up to five seconds before, as clocks
    disagree). `match`: what must stand at which paths of that event; each value is a path of the run's own event, as in
    {"data.order_id": "data.order_id"}."""

    __slots__ = ("event", "match")

    def __init__(self, event: str, match: Mapping[str, str] | None = None) -> None:
        try:
            matches_of({event: match})
        except ValueError as error:
            raise InvalidOption(f"CancelOn: {error}") from None
        for path in (match or {}).values():
            if not isinstance(path, str) or path.split(".")[0] not in ROOTS:
                raise InvalidOption(
                    f'CancelOn(match=) has as values paths of the run\'s own event ("data.order_id"), not {path!r:.80}'
                )
        self.event = event
        self.match = dict(match or {})


class Flow:
    """The options of one workflow, checked together."""

    __slots__ = (
        "batch",
        "cancel_on",
        "concurrency",
        "debounce",
        "delay_ms",
        "finish_timeout_ms",
        "idempotency",
        "priority",
        "rate_limit",
        "singleton",
        "start_timeout_ms",
        "step_limits",
        "throttle",
    )

    def __init__(self, options: Mapping[str, Any]) -> None:
        given = {name: option for name, option in options.items() if option is not None}
        if unknown := sorted(set(given) - set(_KINDS)):
            raise InvalidOption(f"@app.workflow takes no {', '.join(f'{name}=' for name in unknown)}")
        for name, kind in _KINDS.items():
            if kind is not None and name in given and not isinstance(given[name], kind):
                raise InvalidOption(f"{name}= takes a {kind.__name__}(...), not {type(given[name]).__name__}")
        once = given.get("idempotency")
        self.idempotency: Idempotency | None = (
            once if once is None or isinstance(once, Idempotency) else Idempotency(once)
        )
        self.singleton: Singleton | None = given.get("singleton")
        self.rate_limit: RateLimit | None = given.get("rate_limit")
        self.debounce: Debounce | None = given.get("debounce")
        self.batch: Batch | None = given.get("batch")
        self.throttle: Throttle | None = given.get("throttle")
        limits: tuple[Concurrency, ...] = _several("concurrency", given.get("concurrency", ()), Concurrency)
        self.concurrency = tuple(limit for limit in limits if limit.of == "runs")
        self.step_limits = tuple(limit for limit in limits if limit.of == "steps")
        self.cancel_on: tuple[CancelOn, ...] = _several("cancel_on", given.get("cancel_on", ()), CancelOn)
        self.priority: Key | None = _key("priority=", given.get("priority"))
        self.delay_ms = _span("delay=", given.get("delay", 0), 0)
        self.start_timeout_ms = _timeout("start_timeout", given)
        self.finish_timeout_ms = _timeout("finish_timeout", given)
        for one, other, why in _SENSELESS:
            if one in given and other in given:
                raise InvalidOption(f"{one}= and {other}= make no sense together: {why}")
        if self.priority is not None and not limits:
            raise InvalidOption("priority= makes no sense without concurrency=: nothing queues that it could order")


def _timeout(name: str, given: Mapping[str, Any]) -> int | None:
    return _span(f"{name}=", given[name]) if name in given else None


def _several(name: str, given: Any, kind: type[Any]) -> tuple[Any, ...]:
    found = tuple(given) if isinstance(given, list | tuple) else (given,)
    if len(found) > MAX_LIMITS or not all(isinstance(one, kind) for one in found):
        raise InvalidOption(f"{name}= takes a {kind.__name__}(...), or a list of up to {MAX_LIMITS}, not {given!r:.80}")
    return found


_KINDS: dict[str, type[Any] | None] = {
    "idempotency": None,
    "singleton": Singleton,
    "rate_limit": RateLimit,
    "debounce": Debounce,
    "batch": Batch,
    "throttle": Throttle,
    "delay": None,
    "concurrency": None,
    "priority": None,
    "cancel_on": None,
    "start_timeout": None,
    "finish_timeout": None,
}
_MANY_EVENTS = "a batch is of many events, and this looks at one"
_SENSELESS = (
    ("batch", "idempotency", _MANY_EVENTS),
    ("batch", "singleton", _MANY_EVENTS),
    ("batch", "rate_limit", "a batch starts one run for many events: limit its runs with throttle="),
    ("batch", "cancel_on", _MANY_EVENTS),
    ("batch", "priority", _MANY_EVENTS),
    ("batch", "debounce", "both hold events back, and start one run for several"),
    ("debounce", "idempotency", "a debounced event replaces the one before, and a key that was seen drops it"),
    ("debounce", "singleton", "a debounced event starts its run later, when another may be unfinished"),
    ("debounce", "rate_limit", "a debounced event may start nothing: limit its runs with throttle="),
)
