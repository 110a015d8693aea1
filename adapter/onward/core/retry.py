"""Retry policies: after which attempt a step is tried again, and how long after.

The wait before attempt n + 1 is drawn evenly from 0 to min(cap, base * factor ** (n - 1)): exponential backoff
with full jitter (Marc Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015). Full jitter spreads
a crowd that failed together better than a fixed wait does, and costs the crowd no more calls.
"""

from __future__ import annotations

from .errors import InvalidOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .values import Failure

MAX_ATTEMPTS = 1_000
MAX_WAIT_S = 366 * 24 * 3600.0


class Retry:
    """When a step that failed is tried again.

    `max_attempts`: how often it is performed at most, the first time included (1 to 1,000). `base`, `cap`: seconds.
    `factor`: how much longer each wait is than the one before. `jitter`: draw the wait evenly from 0 to that time
    (the default), or wait exactly that time.
    """

    __slots__ = ("base", "cap", "factor", "jitter", "max_attempts")

    def __init__(
        self,
        max_attempts: int = 5,
        base: float = 1.0,
        factor: float = 2.0,
        cap: float = 300.0,
        jitter: bool = True,
    ) -> None:
        if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise InvalidOption(f"Retry(max_attempts=...) takes 1 to {MAX_ATTEMPTS}, not {max_attempts!r}")
        for name, number, least in (("base", base, 0.0), ("factor", factor, 1.0), ("cap", cap, 0.0)):
            if not isinstance(number, int | float) or not least <= number <= MAX_WAIT_S:
                raise InvalidOption(
                    f"Retry({name}=...) takes a number from {least:g} to {MAX_WAIT_S:g}, not {number!r}"
                )
        self.max_attempts = max_attempts
        self.base = base
        self.factor = factor
        self.cap = cap
        self.jitter = jitter

    @classmethod
    def of(cls, retries: int | Retry) -> Retry:
        """`retries=4` in short for `Retry(max_attempts=5)`."""
        if isinstance(retries, Retry):
            return retries
        if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries < MAX_ATTEMPTS:
            raise InvalidOption(f"retries= takes 0 to {MAX_ATTEMPTS - 1} or a Retry(...), not {retries!r}")
        return cls(max_attempts=retries + 1)

    def wait_ms(self, attempt: int, chance: float) -> int:
        """Milliseconds to wait after the `attempt`-th attempt (from 1) failed; `chance` in [0, 1)."""
        wait = self.base
        for _ in range(attempt - 1):
            wait *= self.factor
            if wait >= self.cap:
                break
        wait = min(wait, self.cap)
        return round((wait * chance if self.jitter else wait) * 1000)

    def next_ms(self, attempt: int, failure: Failure, now_ms: int, chance: float) -> int | None:
        """When to try again (epoch milliseconds) after that attempt failed so, or None: the step failed for good."""
        if failure.final or attempt >= self.max_attempts:
            return None
        if failure.retry_at_ms is not None:
            return max(failure.retry_at_ms, now_ms)
        return now_ms + self.wait_ms(attempt, chance)
