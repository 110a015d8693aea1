"""Chaos that users can switch on: what may befall an app on purpose, so that its owner sees it recover.

    ONWARD_CHAOS="duplicate=0.1 delay=0.2 drop=0.05 kill=0.02 lose=0.02 throttle=0.05 seed=7" onward run ...

It acts at the ports, where a network would act, and only inside an invocation:

    what        befalls                       and then
    duplicate   a wake                        it is sent twice
    delay       a wake                        it comes late, by up to `delay_s`; so wakes overtake each other
    drop        a wake                        it is never sent: the sweep finds its run after the `horizon`
    throttle    a call of a port              `Unavailable`, and nothing was done
    lose        a call of a port              `Unavailable`, and it was done: its reply is lost
    kill        an invocation                 its process dies: before or after one of its calls, at its end, or,
                                              where a process has one invocation at a time, at any moment of its
                                              first `kill_s` seconds

Where a process has several invocations at a time, as the workers of `onward run` are, one that is killed is abandoned:
from that moment on no call of it reaches a port, so it leaves nothing that a real death would not leave. Only
what the user's own `finally` blocks do in the workflow function is done, which a real death would skip; and no step is
cut in its middle, for a thread cannot be: it dies before its step begins, or after it and before its result is kept.

Nothing here is imported where ONWARD_CHAOS is not set.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from .core.errors import InvalidOption, Unavailable
from .core.log import run_of
from .ports import key_of

if TYPE_CHECKING:
    from .ports import Blobs, Clock, Item, Refused, Store, Wakes, Write

VARIABLE = "ONWARD_CHAOS"
DEFAULT = "duplicate=0.1 delay=0.1 drop=0.03 kill=0.03 lose=0.02 throttle=0.02"
ON = ("1", "on")
OFF = ("", "0", "off")
MAX_TEXT_CHARS = 1_000
MAX_SEED_DIGITS = 18
SECONDS = {"delay_s": (0.0, 600.0), "kill_s": (0.001, 900.0), "horizon": (1.0, 2_400.0)}  # the rest: probabilities
CALLS = 6  # a killed invocation dies at one of its first so many calls, or at its end
HORIZON_PER_INVOCATION = 2  # a shorter horizon would take a step that is being performed for one that was lost
REACH_PER_HORIZON = 0.5  # what lies further ahead is the sweep's: a wait within reach must end within the horizon
EXIT_STATUS = 70  # of a process that chaos has ended

T = TypeVar("T")
Chance = Callable[[], float]


# ---------------------------------------------------------------------------------------------------- what may befall
@dataclass
class Chances:
    """What may befall a message or an invocation: probabilities in [0, 1], and seconds. All probabilities are 0 at
    first. Raises `InvalidOption` for what is none."""

    duplicate: float = 0.0
    delay: float = 0.0
    delay_s: float = 0.5
    drop: float = 0.0
    kill: float = 0.0
    kill_s: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "seed":
                _check(field.name, getattr(self, field.name))

    def fate(self, chance: Chance) -> list[float]:
        """The delays, in seconds, of each delivery of one message: [0.0] where nothing goes wrong, [] where it is
        lost."""
        if not (self.duplicate or self.delay or self.drop):
            return [0.0]
        if chance() < self.drop:
            return []
        copies = 2 if chance() < self.duplicate else 1
        return [chance() * self.delay_s if chance() < self.delay else 0.0 for _ in range(copies)]


def _check(name: str, value: object) -> None:
    low, high = SECONDS.get(name, (0.0, 1.0))
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # NaN is not
        what = "seconds" if name in SECONDS else "a probability"
        raise InvalidOption(f"chaos: {name}= takes {what} from {low:g} to {high:g}, not {value!r:.40}")


@dataclass
class Mixture(Chances):
    """What ONWARD_CHAOS asks for. `lose`, `throttle`: for each call of the store, the wakes and the blobs. `horizon`:
    seconds after which the sweep looks after a run to which nothing happened, instead of 40 minutes. `seed`: of
    chance."""

    delay_s: float = 2.0
    kill_s: float = 1.0
    lose: float = 0.0
    throttle: float = 0.0
    horizon: float = 10.0
    seed: int | None = None

    def __str__(self) -> str:
        """The text that asks for this mixture."""
        standing = [(field, getattr(self, field.name)) for field in fields(self)]
        return " ".join(f"{field.name}={value}" for field, value in standing if value != field.default)


def parse(text: str) -> Mixture | None:
    """The mixture that a text asks for; None where it says that there is to be none.

    `1` or `on` is the default mixture; `name=value` pairs after it, or alone, are put over it. Raises `InvalidOption`.
    """
    words = text.replace(",", " ").split()
    if not words or (len(words) == 1 and words[0].lower() in OFF):
        return None
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidOption(f"{VARIABLE} takes at most {MAX_TEXT_CHARS:,} characters, not {len(text):,}")
    given: dict[str, Any] = {}
    if words[0].lower() in ON:
        given = _pairs(DEFAULT.split())
        words = words[1:]
    return Mixture(**{**given, **_pairs(words)})


def _pairs(words: Sequence[str]) -> dict[str, Any]:
    known = [field.name for field in fields(Mixture)]
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise InvalidOption(
                f"{VARIABLE} does not know {word!r:.60}: it takes 1, on, off, or name=value, where name is one of "
                f"{', '.join(known)}"
            )
        if name in found:
            raise InvalidOption(f"{VARIABLE} names {name}= twice")
        found[name] = _number(name, value)
    return found


def _number(name: str, text: str) -> float | int:
    try:
        if name == "seed":
            if not (text.isascii() and text.isdecimal() and len(text) <= MAX_SEED_DIGITS):
                raise ValueError
            return int(text)
        return float(text)
    except ValueError:
        kind = f"a whole number of at most {MAX_SEED_DIGITS} digits" if name == "seed" else "a number"
        raise InvalidOption(f"{VARIABLE}: {name}= takes {kind}, not {text!r:.40}") from None


# ----------------------------------------------------------------------------------------------------- what befalls
class Killed(BaseException):
    """The process of this invocation is gone. No `except Exception` and no bookkeeping runs behind it."""


class _Invocation:
    """One invocation: how many calls it has made, and at which it dies (0: at none)."""

    __slots__ = ("after", "at", "calls", "dead", "run")

    def __init__(self, run: str | None, at: int, after: bool) -> None:
        self.run = run
        self.at = at
        self.after = after
        self.calls = 0
        self.dead = False


class Mischief:
    """Draws what befalls, does it, tells it (`note`) and counts it.

    `process`: who draws; with the same seed two processes draw differently, else all of them would die at the same
    call, for ever. `alone`: this process has one invocation at a time, so killing it ends the process itself.
    """

    def __init__(
        self, mixture: Mixture, clock: Clock, note: Callable[..., None], *, process: str = "", alone: bool = False
    ) -> None:
        self.mixture = mixture
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._note = note
        self._alone = alone
        self._lock = threading.Lock()
        self._horizon_ms = self.horizon_ms(0)
        self._here = threading.local()  # the invocation that this thread performs
        # Without a seed chance comes from the clock, whose source copies of one snapshot do not share.
        self._chance: Chance = clock.random if mixture.seed is None else Random(f"{mixture.seed} {process}").random
        note("WARNING", "chaos is on", chaos=str(mixture))

    def survives(self, run: str | None, work: Callable[[], None]) -> bool:
        """Perform one invocation, in which things may happen; False when it was killed. Raises what `work` raises."""
        doomed = self._chance() < self.mixture.kill
        number, after = int(self._chance() * CALLS) + 1, self._chance() < 0.5
        timer = None
        if doomed and self._alone and self._chance() < 0.5:
            doomed = False
            timer = threading.Timer(self._chance() * self.mixture.kill_s, self._end_process, (run, "at any moment"))
            timer.daemon = True
            timer.start()
        invocation = self._here.invocation = _Invocation(run, number if doomed else 0, after)
        try:
            work()
            if invocation.at > invocation.calls:
                self._kill(invocation, "at its end")
        except (Exception, Killed, BaseExceptionGroup):
            if not invocation.dead:
                raise
        finally:
            self._here.invocation = None
            if timer is not None:
                timer.cancel()
        return not invocation.dead

    def call(self, name: str, run: str | None, method: Callable[[], T]) -> T:
        """Make one call of a port, as chance wills."""
        invocation = getattr(self._here, "invocation", None)
        if invocation is None:
            return method()
        if invocation.dead:
            raise Killed
        invocation.calls += 1
        doomed = invocation.calls == invocation.at
        if doomed and not invocation.after:
            self._kill(invocation, f"before {name}")
        draw = self._chance()
        mixture = self.mixture
        if draw < mixture.throttle:
            self.tell("call throttled", run or invocation.run, call=name)
            raise Unavailable(f"chaos: {name} was throttled")
        result = method()
        if doomed:
            self._kill(invocation, f"after {name}")
        if mixture.throttle <= draw < mixture.throttle + mixture.lose:
            self.tell("reply lost", run or invocation.run, call=name)
            raise Unavailable(f"chaos: the reply of {name} was lost")
        return result

    def fate(self, run: str | None) -> list[float]:
        """The delays, in seconds, of each delivery of one wake. Outside of an invocation nothing happens to it."""
        if getattr(self._here, "invocation", None) is None:
            return [0.0]
        fate = self.mixture.fate(self._chance)
        if not fate:
            self.tell("wake dropped", run)
        if len(fate) > 1:
            self.tell("wake duplicated", run)
        if any(fate):
            self.tell("wake delayed", run, delay_s=round(max(fate), 3))
        return fate

    def tell(self, what: str, run: str | None, **fields: object) -> None:
        """Count an act, and write its line."""
        with self._lock:
            self.counts[what] += 1
        self._note("WARNING", f"chaos: {what}", run_id=run, **fields)

    def _kill(self, invocation: _Invocation, when: str) -> None:
        if self._alone:
            self._end_process(invocation.run, when)
        invocation.dead = True
        self.tell("invocation killed", invocation.run, when=when)
        raise Killed

    def _end_process(self, run: str | None, when: str) -> None:
        self.tell("invocation killed", run, when=when)
        os._exit(EXIT_STATUS)

    def around(self, wakes: Wakes) -> Wakes:
        """These wakes, with what befalls them."""
        return ChaoticWakes(wakes, self, self._clock)

    def horizon_ms(self, invocation_ms: int) -> int:
        """The horizon where an invocation lasts so long at most (0: where living processes vouch for what they do)."""
        self._horizon_ms = max(round(self.mixture.horizon * 1000), invocation_ms * HORIZON_PER_INVOCATION)
        return self._horizon_ms

    def reach_ms(self, reach_ms: int) -> int:
        """How far ahead a wake may lie, where without chaos it may lie so far: never further than half of the
        horizon. What waits for longer than chaos lets a run stand goes the way of what waits longer than a queue
        can hold it, or the sweep would take it for stalled."""
        return min(reach_ms, round(self._horizon_ms * REACH_PER_HORIZON))

    def summary(self) -> str:
        """One line about all that was done: `chaos: 12 wakes dropped, 1 invocation killed`."""
        with self._lock:
            parts = [f"{number:,} {_plural(what, number)}" for what, number in sorted(self.counts.items())]
        return f"chaos: {', '.join(parts) or 'nothing befell'}"


def _plural(what: str, number: int) -> str:
    noun, _, verb = what.partition(" ")
    return what if number == 1 else f"{'replies' if noun == 'reply' else noun + 's'} {verb}"


# ---------------------------------------------------------------------------------------------------- at the ports
class ChaoticStore:
    """A store to whose calls things happen."""

    def __init__(self, store: Store, mischief: Mischief) -> None:
        self._store = store
        self._mischief = mischief

    def read(
        self, partition: str, first: str, last: str, *, limit: int | None = None, newest_first: bool = False
    ) -> list[Item]:
        store = self._store
        return self._mischief.call(
            "store.read",
            _run_of(partition),
            lambda: store.read(partition, first, last, limit=limit, newest_first=newest_first),
        )

    def get(self, keys: Sequence[tuple[str, str]]) -> list[Item | None]:
        run = _run_of(keys[0][0]) if keys else None
        return self._mischief.call("store.get", run, lambda: self._store.get(keys))

    def write(self, writes: Sequence[Write], also: Sequence[Any] = ()) -> Refused | None:
        run = _run_of(key_of(writes[0])[0])
        return self._mischief.call("store.write", run, lambda: self._store.write(writes, also))

    def mark(self, partition: str, sort: str, adds: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
        return self._mischief.call("store.mark", _run_of(partition), lambda: self._store.mark(partition, sort, adds))

    def marks(self, partition: str, sort: str) -> dict[str, frozenset[str]]:
        return self._mischief.call("store.marks", _run_of(partition), lambda: self._store.marks(partition, sort))

    def due(self, before_ms: int, limit: int) -> list[tuple[str, str, int]]:
        return self._mischief.call("store.due", None, lambda: self._store.due(before_ms, limit))


class ChaoticWakes:
    """Wakes that are lost, doubled and late."""

    def __init__(self, wakes: Wakes, mischief: Mischief, clock: Clock) -> None:
        self._wakes = wakes
        self._mischief = mischief
        self._clock = clock

    @property
    def reach_ms(self) -> int:
        """It follows the horizon, which follows the invocation."""
        return self._mischief.reach_ms(self._wakes.reach_ms)

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        run = wake.get("run")
        for late_s in self._mischief.fate(run):
            send = partial(self._wakes.send, wake, self._late(at_ms, late_s))
            self._mischief.call("wakes.send", run, send)

    def _late(self, at_ms: int | None, late_s: float) -> int | None:
        now_ms = self._clock.now_ms()
        wanted_ms = (at_ms or now_ms) + round(late_s * 1000)
        return min(wanted_ms, now_ms + self._wakes.reach_ms) if late_s else at_ms


class ChaoticBlobs:
    """Blobs to whose calls things happen."""

    def __init__(self, blobs: Blobs, mischief: Mischief) -> None:
        self._blobs = blobs
        self._mischief = mischief

    def put(self, content: bytes) -> str:
        return self._mischief.call("blobs.put", None, lambda: self._blobs.put(content))

    def get(self, reference: str) -> bytes:
        return self._mischief.call("blobs.get", None, lambda: self._blobs.get(reference))


def surround(
    mixture: Mixture,
    ports: tuple[Store, Wakes, Blobs | None],
    clock: Clock,
    note: Callable[..., None],
    *,
    process: str = "",
    alone: bool = False,
) -> tuple[Mischief, tuple[Store, Wakes, Blobs | None]]:
    """What befalls these ports, and the ports with it (see `Mischief`)."""
    mischief = Mischief(mixture, clock, note, process=process, alone=alone)
    store, wakes, blobs = ports
    chaotic = None if blobs is None else ChaoticBlobs(blobs, mischief)
    return mischief, (ChaoticStore(store, mischief), mischief.around(wakes), chaotic)


def _run_of(partition: str) -> str | None:
    """The run whose partition this is, for a log line."""
    return run_of(partition) if partition.startswith("run#") else None
