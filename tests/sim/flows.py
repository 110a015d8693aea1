"""Options for the starts of generated programs, and what must be true of them.

Each knows its options, which states a run may come to because of it, and whether every event has a run of its own.
What it promises is held against what the table and the witness saw: when runs were begun and ended, and what is on
record with each event.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from onward import Batch, CancelOn, Concurrency, Debounce, Idempotency, RateLimit, Singleton, Throttle

from .function import SKEW_MS

PERIOD_S = 20
STOP = "/stop"  # ends the name of the event that cancels the runs of a program


def number_of(data: Any) -> int:
    """The number of the event that started a run; of the first, where there were several."""
    number: int = data["events"][0]["data"]["n"] if "events" in data else data["n"]
    return number


def parity(event: Any) -> int:
    return number_of(event.data) % 2


class Options:
    """`own_runs`: each event has a run of its own. `prompt`: no wake may have to wait for the sweep."""

    own_runs = True
    prompt = True

    def options(self, name: str) -> dict[str, Any]:
        return {}

    def limits(self) -> list[tuple[int, bool]]:
        """How many runs may be live at a time, and whether in each group."""
        return []

    def step_limits(self) -> list[tuple[int, bool]]:
        """How many steps may be performed at a time, and whether in each group."""
        return []


class Limited(Options):
    """At most `limit` runs at a time, for each group where it is `keyed`."""

    prompt = False  # who holds a slot may sleep for a day

    def __init__(self, limit: int, keyed: bool, urgent: bool) -> None:
        self.limit = limit
        self.keyed = keyed
        self.urgent = urgent

    def options(self, name: str) -> dict[str, Any]:
        limits = [Concurrency(self.limit, key=parity if self.keyed else None)]
        if self.keyed:
            limits.append(Concurrency(self.limit + 1))
        urgency: dict[str, Any] = {"priority": lambda event: event.data["n"]} if self.urgent else {}
        return {"concurrency": limits, **urgency}

    def limits(self) -> list[tuple[int, bool]]:
        return [(self.limit, self.keyed), *([(self.limit + 1, False)] if self.keyed else [])]

    def __repr__(self) -> str:
        return f"at most {self.limit}{' of a kind' if self.keyed else ''}{', urgent first' if self.urgent else ''}"


class StepLimited(Options):
    """At most `limit` steps at a time, for each group where it is `keyed`; and `runs` runs, if that is a number."""

    prompt = False  # who holds a slot may be dead until the sweep

    def __init__(self, limit: int, keyed: bool, runs: int | None) -> None:
        self.limit = limit
        self.keyed = keyed
        self.runs = runs

    def options(self, name: str) -> dict[str, Any]:
        limits = [Concurrency(self.limit, key=parity if self.keyed else None, of="steps")]
        if self.keyed:
            limits.append(Concurrency(self.limit + 1, of="steps"))
        return {"concurrency": [*limits, *([Concurrency(self.runs)] if self.runs else [])]}

    def limits(self) -> list[tuple[int, bool]]:
        return [] if self.runs is None else [(self.runs, False)]

    def step_limits(self) -> list[tuple[int, bool]]:
        return [(self.limit, self.keyed), *([(self.limit + 1, False)] if self.keyed else [])]

    def __repr__(self) -> str:
        return f"at most {self.limit} steps{' of a kind' if self.keyed else ''}, {self.runs or 'any'} runs"


class Throttled(Options):
    def __init__(self, burst: int, limit: int | None) -> None:
        self.burst = burst
        self.limit = limit
        self.prompt = limit is None

    def options(self, name: str) -> dict[str, Any]:
        also = {} if self.limit is None else {"concurrency": Concurrency(self.limit)}
        return {"throttle": Throttle(1, period=PERIOD_S, burst=self.burst), **also}

    def limits(self) -> list[tuple[int, bool]]:
        return [] if self.limit is None else [(self.limit, False)]

    def most(self, window_ms: int) -> float:
        """How many runs may begin in a window."""
        return self.burst + (window_ms + 2 * SKEW_MS) / (PERIOD_S * 1000)

    def __repr__(self) -> str:
        return f"throttled, burst {self.burst}"


class Plain(Options):
    """Options of which nothing more has to be shown than that runs come to what they should."""

    def __init__(self, told: str, prompt: bool = False, **options: Any) -> None:
        self.told = told
        self.given = options
        self.prompt = prompt

    def options(self, name: str) -> dict[str, Any]:
        return self.given

    def __repr__(self) -> str:
        return self.told


class Stopped(Plain):
    """Runs that an event cancels, which is sent so long after the run's own."""

    def __init__(self, sent_ms: int) -> None:
        super().__init__(f"stopped after {sent_ms} ms", prompt=True)
        self.sent_ms = sent_ms

    def options(self, name: str) -> dict[str, Any]:
        return {"cancel_on": CancelOn(name + STOP, match={"data.n": "data.n"})}


class Dropping(Plain):
    """Not every event has a run of its own."""

    own_runs = False


class RateLimited(Dropping):
    def __init__(self, limit: int) -> None:
        super().__init__(f"at most {limit} starts in {PERIOD_S} s", rate_limit=RateLimit(limit, period=PERIOD_S))
        self.limit = limit


FLOWS: Sequence[Callable[[Callable[[Sequence[Any]], Any]], Any]] = (
    lambda pick: Limited(pick((1, 2)), pick((False, True)), pick((False, True))),
    lambda pick: StepLimited(pick((1, 2, 3)), pick((False, True)), pick((None, 2))),
    lambda pick: Throttled(pick((1, 3)), pick((None, 1))),
    lambda pick: Plain("delayed", delay=pick((2, 400, 2_000))),
    lambda pick: Plain("to end in time", finish_timeout=pick((40, 2_000))),
    lambda pick: Plain("to begin in time", start_timeout=pick((20, 2_000))),
    lambda pick: Stopped(pick((0, 2_000, 40_000))),
    lambda pick: RateLimited(pick((1, 2))),
    lambda pick: Dropping("singleton", singleton=Singleton(key=pick((None, parity)), mode=pick(("skip", "cancel")))),
    lambda pick: Dropping("idempotent", idempotency=Idempotency(parity, period=pick((20, 2_000)))),
    lambda pick: Dropping("debounced", debounce=Debounce(pick((5, 50)), key=parity, max_delay=pick((None, 50)))),
    lambda pick: Dropping("batched", batch=Batch(pick((2, 3)), timeout=pick((5, 2_000)), key=pick((None, parity)))),
)


def most_in_window(times_ms: Sequence[int], window_ms: int) -> int:
    """The most of these times that lie in one window of that length."""
    times_ms = sorted(times_ms)
    return max((bisect_left(times_ms, at_ms + window_ms) - n for n, at_ms in enumerate(times_ms)), default=0)
