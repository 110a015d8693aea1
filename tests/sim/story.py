"""One seed, from its events to its end.

Programs are written, events arrive (some of them twice), faults strike. Then faults stop, and everything that was
accepted must come to what the model says, within a bound.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from onward import App, CurrentRun, Event, StepCall
from onward.core.codec import decode
from onward.core.errors import MiddlewareFailed, Unavailable
from onward.core.ids import callback_event, run_id
from onward.core.log import partition_of
from onward.core.waits import EVENT, event_digest, event_partition
from onward.engine import callbacks, control, fanout, forks, pause
from onward.engine.engine import KNOWN_MS, Engine
from onward.engine.ledger import HORIZON_MS, Ledger
from onward.engine.views import run_view
from tests.sealed import Sealed

from .chance import Chance
from .cloud import Cloud
from .flows import STOP, Stopped
from .function import Function, Sandbox, Settings, in_virtual_time
from .invariants import REACH_MS, Broken, Invariants, Run
from .programs import Author, Callback, Program, fits
from .table import Table
from .witness import Witness
from .world import Killed, World

MINUTE_MS = 60_000
FLOW_MS = 2_000_000  # for so long such options may put a start off
MANY_EVENTS = 5  # for a program with options for its starts
CHAOS_MS = 25 * MINUTE_MS  # for so long faults strike
BOUND_HORIZONS = 3  # within so many horizons after that, and after all that they wait for, runs end
QUIET_MS = 45 * MINUTE_MS  # then everything that still lies in a queue is delivered
LINES_KEPT = 60
YEAR_MS = 365 * 24 * 60 * MINUTE_MS
SLACK_MS = 60 * MINUTE_MS  # an event that is taken in so long before the end of a wait comes in time, whatever happens
FAULTS = {
    # of a request on its way
    "kill": 0.004, "not_sent": 0.01, "reply_lost": 0.02, "throttled": 0.01, "server_error": 0.01, "conflict": 0.01,
    "slow": 0.01,
    # of the table's index, and of clocks
    "index_lag": 0.3, "skew": 1.0,
    # of Lambda
    "dropped": 0.02, "twice": 0.06, "late": 0.05, "function_throttled": 0.02, "loop_cut": 0.005, "record_lost": 0.2,
    "sandbox_gone": 0.1, "tick_lost": 0.1,
    # of the queue
    "message_twice": 0.05, "message_late": 0.05,
    # of the app's middleware
    "hook_raises": 0.02,
}  # fmt: skip
BUDGETS = {
    "kill": 6,
    "dropped": 6,
    "loop_cut": 3,
    "record_lost": 6,
    "hook_raises": 6,
}  # fewer than what a run may survive
MOODS = (0.0, 0.3, 1.0, 1.0, 2.5, -1.0)  # a factor of all rates; -1: nothing goes wrong but requests and replies
ONLY_REQUESTS = {"reply_lost": 0.1, "not_sent": 0.03, "conflict": 0.05}


class Setting:
    """What the seed decides before anything happens."""

    def __init__(self, seed: int | str) -> None:
        draw = random.Random(f"{seed}/setting")
        self.mood = draw.choice(MOODS)
        self.programs = draw.choice((1, 1, 2, 3))
        self.events = draw.choice((1, 1, 2, 4))
        self.versions = draw.choice((1, 1, 2))
        self.small_plans = draw.choice((True, False))
        self.horizon_ms = draw.choice((HORIZON_MS, 6 * MINUTE_MS))
        self.settings = Settings(
            timeout_ms=30_000,
            concurrency=draw.choice((1, 3, 10)),
            retries=draw.choice((0, 0, 0, 2)),
            batch_size=draw.choice((1, 3)),
            horizon_ms=self.horizon_ms,
        )
        self.sealed = draw.choice((False, False, True))  # values go through middleware
        self.forks = draw.choice((0, 0, 1, 2))  # of each run, and of forks again
        self.pauses = draw.choice((0, 0, 1))  # of each workflow

    def __repr__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in vars(self).items() if name != "settings")


class Around(Sealed):
    """Seals every value, sees every attempt, and raises now and then."""

    def __init__(self, chance: Chance, witness: Witness) -> None:
        super().__init__()
        self.chance = chance
        self.witness = witness

    def _may_raise(self) -> None:
        if self.chance.strikes("hook_raises"):
            raise OSError("no network")

    def event(self, event: Event) -> Event:
        self._may_raise()
        return event

    def before_run(self, run: CurrentRun, event: Event) -> None:
        self._may_raise()

    def after_run(self, run: CurrentRun) -> None:
        self._may_raise()

    def before_step(self, call: StepCall) -> None:
        self._may_raise()
        self.witness.asked[call.run_id, call.step] += 1

    def after_step(self, call: StepCall, result: Any) -> Any:
        self._may_raise()
        return result

    def encode(self, text: str, context: str) -> str:
        self._may_raise()
        return super().encode(text, context)

    def decode(self, text: str, context: str) -> str:
        self._may_raise()
        return super().decode(text, context)


class Story:
    """`only`: the faults that may strike (None: whatever the seed brings). `keep`: the numbers of the programs that are
    told; `cut`: the numbers of the nodes that are left out. `programs`: these, instead of the seed's own."""

    def __init__(
        self,
        seed: int | str,
        *,
        only: Collection[str] | None = None,
        keep: Collection[int] | None = None,
        cut: Sequence[int] = (),
        programs: Sequence[Program] | None = None,
    ) -> None:
        self.seed = seed
        self.setting = setting = Setting(seed)
        rates = {kind: rate if kind == "skew" else min(rate * setting.mood, 0.9) for kind, rate in FAULTS.items()}
        if setting.mood <= 0:
            rates = ONLY_REQUESTS if setting.mood < 0 else {}
        self.chance = chance = Chance(seed, rates, BUDGETS, only)
        self.world = world = World()
        self.witness = Witness()
        table = Table(
            lambda: world.now_ms,
            lambda: chance.between("lag", 1, 5_000) if chance.strikes("index_lag") else 0,
            lambda delay_ms, happens: world.after(delay_ms, happens),
        )
        self.cloud = Cloud(world, chance, table)
        author = Author(random.Random(f"{seed}/programs").choice, cut)
        written = list(programs) if programs is not None else [author.program() for _ in range(setting.programs)]
        self.nodes = author.written
        self.programs = {
            f"program-{number}": program for number, program in enumerate(written) if keep is None or number in keep
        }
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        apps = [self._app(version) for version in range(1, setting.versions + 1)]
        self.function = Function(world, chance, self.cloud, apps, setting.settings, self._note)
        self.invariants = Invariants(world, self.cloud, self.function, self.witness, setting.horizon_ms)
        self.invariants.flows = {name: program.flow for name, program in self.programs.items() if program.flow}
        self.events: dict[str, str] = {}  # event -> program
        self.sent: dict[str, tuple[str, str]] = {}  # event -> the run and the wait for which it was sent
        self.cancelled: set[str] = set()  # runs of which it was said that they are
        self.pausing: set[str] = set()  # workflows that are to be paused, or are
        self.forking: set[str] = set()  # runs that are to be forked
        self.forked: dict[str, str] = {}  # fork -> parent
        self.invariants.has_ended = self._ended
        self.tokens: dict[str, tuple[str, str]] = {}  # token -> the run and the callback that has handed it out
        self.broken = ""  # what somebody was told that cannot be
        self.accepted: set[str] = set()  # tokens of which somebody was told that the answer counts
        self.witness.handed_out = self._handed_out

    def _app(self, version: int) -> App:
        app = App("simulated", middleware=[Around(self.chance, self.witness)] if self.setting.sealed else ())
        for name, program in self.programs.items():
            program.register(app, name, lambda: self.function, self.witness, version)
        return app

    def _note(self, level: str, message: str, **fields: Any) -> None:
        told = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
        self.lines.append(f"{self.world.now_ms / 1000 % 1_000_000:.3f} {level} {message} {told}"[:400])
        self.witness.counts[message] += 1

    # ---------------------------------------------------------------------------------------------------- telling
    def tell(self) -> Story:
        """Let it all happen; raises `Broken` where an invariant is, or `AssertionError` where the model is."""
        with small_plans() if self.setting.small_plans else contextlib.nullcontext(), in_virtual_time(self.function):
            self._begin()
            self.world.run(lambda: bool(self.events) and self._all_ended(), self.world.now_ms + CHAOS_MS)
            self.chance.calm = True
            self.world.run(self._all_ended, self._bound_ms())
            self.world.run(self._all_quiet, self.world.now_ms + QUIET_MS)
            self.invariants.at_the_end()
            self.invariants.hold(21, not self.broken, self.broken)
            self._outcomes()
            self._unswept()
        return self

    def _begin(self) -> None:
        world, chance = self.world, self.chance
        self.function.tick_every_minute()
        for name in self.programs if self.setting.pauses else ():
            self._pause(name)
        for name, program in self.programs.items():
            many = MANY_EVENTS if program.flow else self.setting.events
            for number in range(many):
                event_id = f"{self.seed}/{name}/{number}"
                payload = {
                    "detail-type": name, "source": "sim", "id": event_id, "time": "2025-12-01T00:00:00Z",
                    "detail": {"n": number},
                }  # fmt: skip
                run = run_id(name, event_id)
                self.events[event_id] = name
                when_ms = world.now_ms + chance.between("arrival", 0, 90_000)
                for _ in range(2 if chance.strikes("twice") else 1):
                    world.at(when_ms, lambda payload=payload: self.function.accept(payload, "bus"))
                for wait in program.waits():
                    if wait.sent_ms is not None:
                        sent_id = f"{event_id}/{wait.name}"
                        self.sent[event_digest(sent_id)] = (run, wait.name)
                        self._send(wait.event(name), sent_id, number, when_ms + wait.sent_ms)
                if isinstance(program.flow, Stopped):
                    self._send(name + STOP, f"{event_id}/stop", number, when_ms + program.flow.sent_ms)
                if program.cancel_ms is not None:
                    world.at(when_ms + program.cancel_ms, lambda run=run: self._cancel(run))

    def _send(self, name: str, id: str, number: int, when_ms: int) -> None:
        """Somebody sends an event, for which a run may be waiting."""
        payload = {
            "detail-type": name, "source": "sim", "id": id, "time": "2025-12-01T00:00:00Z", "detail": {"n": number},
        }  # fmt: skip
        for _ in range(2 if self.chance.strikes("twice") else 1):
            self.world.at(when_ms, lambda: self.function.accept(payload, "bus"))

    def _cancel(self, run: str) -> None:
        """Somebody cancels a run from outside, until it is said to have worked."""
        sandbox = Sandbox(self.function, self.function.apps[0])

        def work() -> None:
            for _ in range(5):
                with contextlib.suppress(Exception):
                    if control.cancel(sandbox.door.engine, run):
                        self.cancelled.add(run)
                    return
                self.world.pause(5_000)

        self.world.begin(f"cancel {run}", work)

    def _pause(self, name: str) -> None:
        """Somebody lets a workflow stand for a while, from outside; pausing and letting go on are tried until they are
        said to have worked, and waking is left to the sweep where it breaks off."""
        draw = random.Random(f"{self.seed}/pause/{name}")
        for_ms = draw.choice((100, 12_000, 60_000, 20 * MINUTE_MS))
        self.pausing.add(name)

        def act(what: str, do: Callable[[Engine], None], then: Callable[[], None], retries: bool = True) -> None:
            def done(error: BaseException | None) -> None:
                assert error is None or isinstance(error, Killed | Unavailable), error
                if error is None or not retries:
                    then()
                else:
                    self.world.after(5_000, lambda: act(what, do, then))

            engine = Sandbox(self.function, self.function.apps[-1]).door.engine
            self.world.begin(f"{what} {name}", lambda: do(engine), done)

        def stand() -> None:
            act("pause", lambda engine: (pause.pause(engine, name), None)[1], stands)

        def stands() -> None:
            self.invariants.paused[name] = None
            self.world.after(KNOWN_MS, known)
            self.world.after(for_ms, go_on)

        def known() -> None:
            if name in self.invariants.paused:
                self.invariants.paused[name] = self.world.ticks

        def go_on() -> None:
            self.invariants.paused.pop(name, None)
            act("unpause", lambda engine: (pause.unpause(engine, name), None)[1], goes_on)

        def goes_on() -> None:
            self.world.after(pause.UNTIL_KNOWN_MS, wake)

        def wake() -> None:
            self.witness.counts["pauses"] += 1
            act("wake", self._wakes_held(name), lambda: self.pausing.discard(name), retries=False)

        self.world.after(draw.randrange(0, 90_000), stand)

    def _wakes_held(self, name: str) -> Callable[[Engine], None]:
        def work(engine: Engine) -> None:
            self.witness.counts["runs held and woken"] += pause.wake_held(engine, name)

        return work

    def _ended(self, run: Run) -> None:
        """A run has ended: perhaps somebody will do it again."""
        line, at = 0, run.id
        while at in self.forked:
            line, at = line + 1, self.forked[at]
        if run.workflow not in self.programs or line >= self.setting.forks:
            return
        draw = random.Random(f"{self.seed}/fork/{run.id}")
        self.forking.add(run.id)
        self.world.after(draw.choice((0, 50, 2_000, 60_000)), lambda: self._fork(run, draw))

    def _fork(self, run: Run, draw: random.Random) -> None:
        """Somebody does a run again from outside, from a step or as a retry, until it is said to have worked; and
        perhaps asks again."""
        step = draw.choice([None, *sorted(run.outcomes)])
        retries = run.ended == "failed" and draw.choice((True, False))
        times = draw.choice((1, 1, 2)) if self.chance.rates else 1  # as an event that is delivered twice

        def work() -> None:
            engine = Sandbox(self.function, self.function.apps[-1]).door.engine
            for _ in range(times):
                before = self._log_of(run.id)
                fork = forks.retry(engine, run.id) if retries else forks.fork(engine, run.id, step)
                assert self._log_of(run.id) == before, f"the fork {fork} has altered {run.id}"
                self.forked[fork] = run.id
                self.forking.discard(run.id)

        def done(error: BaseException | None) -> None:
            if run.id in self.forking:
                self.lines.append(f"{self.world.now_ms / 1000 % 1_000_000:.3f} FORK of {run.id} broke off: {error!r}")
                assert isinstance(error, Killed | Unavailable | MiddlewareFailed), error
                self.world.after(5_000, lambda: self.world.begin(f"fork {run.id}", work, done))

        self.world.begin(f"fork {run.id}", work, done)

    def _log_of(self, run: str) -> dict[Any, Any]:
        """The head and the log of a run, as they stand in the table."""
        return {
            key: dict(item)
            for key, item in self.cloud.table.items.items()
            if key[0] == partition_of(run) and key[1][0] in "HL"
        }

    def _handed_out(self, token: str, node: Callback, run: str) -> None:
        """Somebody has a token, and does with it what the program says."""
        place = (run, node.name)
        if token not in self.tokens:
            assert place not in self.tokens.values(), f"{node} of {run} has two tokens"
            self.tokens[token] = place
            for after_ms, how in node.acts:
                self.world.after(after_ms, lambda how=how: self._answer(token, how))

    def _answer(self, token: str, how: str) -> None:
        """Somebody answers from outside, until they are told what became of it."""
        _, name = self.tokens[token]
        engine = Sandbox(self.function, self.function.apps[0]).door.engine
        acts = {
            "complete": lambda: callbacks.complete(engine, token, [name]),
            "fail": lambda: callbacks.fail(engine, token, "no", "Refused"),
            "beat": lambda: callbacks.beat(engine, token),
        }

        def work() -> None:
            for _ in range(5):
                with contextlib.suppress(Exception):
                    told = acts[how]()
                    self.witness.counts[f"{how}: {told}"] += 1
                    self._told(token, how, told)
                    return
                self.world.pause(5_000)

        self.world.begin(f"{how} {token}", work)

    def _told(self, token: str, how: str, told: str) -> None:
        run, name = self.tokens[token]
        seen = self.invariants.runs[run]
        if how != "beat" and told == callbacks.ACCEPTED:
            self.accepted.add(token)
        if told == callbacks.TOO_LATE and not seen.ended:
            over = any(body["k"] == "done" and "event" not in body for step, body in _waits_of(seen.outcomes, name))
            if not over:
                self.broken = f"{how} for {name} of {run} was told that it came too late, and it had not ended"

    def _answered(self, run: str) -> None:
        """What a run that completed has made of the answers that were accepted."""
        for token, (whose, name) in self.tokens.items():
            if whose == run:
                digest = event_digest(callback_event(token))
                outcomes = _waits_of(self.invariants.runs[run].outcomes, name)
                brought = any(body.get("event") == digest for _, body in outcomes)
                what = f"an answer for {name} of {run} was accepted, and nobody got it"
                self.invariants.hold(21, brought or token not in self.accepted, what)

    def _all_ended(self) -> bool:
        accepted = all(self._came_to(event) for event in self.events)
        forked = not self.forking and all(fork in self.invariants.runs for fork in self.forked)
        return accepted and forked and not self.pausing and self.invariants.all_ended()

    def _came_to(self, event: str) -> dict[str, Any] | None:
        """What is on record with an event, once it was taken in."""
        item = self.cloud.table.items.get((event_partition(event_digest(event)), EVENT))
        found: dict[str, Any] | None = json.loads(item["b"]["S"]) if item else None
        return found

    def _all_quiet(self) -> bool:
        return self._all_ended() and not self.function.open and not self.cloud.in_flight

    def _bound_ms(self) -> int:
        runs = self.invariants.runs.values()
        waits_ms = [run.waits_ms for run in runs if run.waits_ms < self.world.now_ms + YEAR_MS // 2]  # else for a child
        longest = 0
        for program in self.programs.values():
            one = _sleeps(program.nodes) * 1000
            longest += MANY_EVENTS * (one + self.setting.horizon_ms + FLOW_MS) if program.flow else one
        longest *= 1 + self.setting.forks
        latest = max([self.world.now_ms, *waits_ms, *self.invariants.held.values()])
        return latest + longest + BOUND_HORIZONS * self.setting.horizon_ms + MINUTE_MS * 60

    def _outcomes(self) -> None:
        """Every run came to what the model says."""
        reader = Sandbox(self.function, self.function.apps[0])
        ledger: Ledger = reader.door.engine.ledger
        self._each_has_its_run()
        for run, name in self._runs():
            view = run_view(ledger, run)
            states, expected = self.programs[name].expected(self.setting.versions)
            if run in self.forked and not isinstance(self.programs[name].flow, Stopped):
                states = states - {"cancelled"}
            if run in self.cancelled:
                states = {"cancelled"}
            assert view["status"] in states, f"{name} {run} is {view['status']}, not {states}: {view['error']}"
            if view["status"] == "completed":
                result = decode(view["output"])
                assert fits(expected, result), f"{name} {run} came to {result}, not {expected}"
                for do in self.programs[name].steps():
                    shown = do.name if do.ordinal == 1 else f"{do.name} ({do.ordinal})"
                    if shown in self.invariants.runs[run].copied:
                        continue
                    times = len(self.witness.by_step.get((run, shown), []))
                    assert times > (0 if do.once else do.fails) or do.once, (
                        f"{name} {run}: {shown} happened {times} times"
                    )
                if run not in self.forked:
                    self._brought(run, self.programs[name])
                self._answered(run)
            if view["status"] in ("failed", "cancelled"):
                option = "on_failure" if view["status"] == "failed" else "on_cancel"
                after = run_id(f"{name}.{option}", f"{run}.{view['status']}")
                told = self.witness.by_step.get((after, "tell"))
                assert told and told[0].given == run, f"nobody was told that {run} was {view['status']}"

    def _runs(self) -> list[tuple[str, str]]:
        """The runs of programs, and whose they are."""
        return [(run, seen.workflow) for run, seen in self.invariants.runs.items() if seen.workflow in self.programs]

    def _each_has_its_run(self) -> None:
        """Every event has its run, or it is on record why it has none."""
        runs = dict(self._runs())
        in_runs: dict[str, Counter[int]] = {name: Counter() for name in self.programs}
        for run, name in runs.items():
            if run in self.forked:
                continue
            in_runs[name].update(self.invariants.runs[run].numbers)
        for event, name in self.events.items():
            came = self._came_to(event)
            assert came is not None
            own = run_id(name, event)
            flow = self.programs[name].flow
            if flow is None or flow.own_runs:
                assert came["runs"] == [own] and own in runs, f"{event} came to {came}, not to run {own}"
            options = flow.options(name) if flow else {}
            if "batch" in options:
                times = in_runs[name][int(event.rpartition("/")[2])]
                assert times == 1, f"{event} is in {times} batches"
            elif "debounce" not in options:
                assert (own in came["runs"]) != (name in came.get("not", {})), f"{event} came to {came}"

    def _brought(self, run: str, program: Program) -> None:
        """What arrived while its run stood was brought to it, unless the wait may have been over by then."""
        seen = self.invariants.runs[run]
        for wait in program.waits():
            over_ms = seen.started_ms + wait.seconds * 1000 - SLACK_MS
            for arrived_ms in self._arrived(run, wait.name):
                if seen.started_ms <= arrived_ms <= over_ms:
                    assert "event" in seen.outcomes[wait.name], f"{wait} of {run} has missed its event"

    def _arrived(self, run: str, wait: str) -> list[int]:
        """When the event for a wait was taken in, epoch milliseconds."""
        return [
            json.loads(item["b"]["S"])["arrived"]
            for digest, whose in self.sent.items()
            if whose == (run, wait) and (item := self.cloud.table.items.get((event_partition(digest), EVENT)))
        ]

    def _unswept(self) -> None:
        """What is repeated by the store itself, and comes through in the end, leaves no run to the sweep."""
        told = self.witness.counts
        waits = any(_longest(program.nodes) * 1000 >= REACH_MS for program in self.programs.values())
        far = waits or told["step: retry_after"]
        far = far or any(program.flow is not None and not program.flow.prompt for program in self.programs.values())
        gave_up = told["invocation failed"] + told["message failed"]
        if (
            self.setting.mood < 0
            and not self.setting.pauses
            and not far
            and not gave_up
            and not self.setting.settings.retries
        ):
            what = "a run stood until the sweep found it, and nothing was lost but requests and replies"
            assert not told["run woken by the sweep"], what

    # --------------------------------------------------------------------------------------------------- reporting
    def figures(self) -> Counter[str]:
        return Counter(
            {
                "stories": 1,
                "programs": len(self.programs),
                "runs": len(self.invariants.runs),
                "invocations": self.function.invocations,
                "sweeps among them": self.function.sweeps,
                "cold starts": self.function.cold_starts,
                "deaths": self.function.deaths,
                "requests": self.cloud.requests,
                "ticks": self.world.ticks,
                "performances": len(self.witness.performances),
                "forks": len(self.forked),
                "pauses": self.witness.counts["pauses"],
                "runs held and woken": self.witness.counts["runs held and woken"],
                "events brought to waits": sum(len(run.received) for run in self.invariants.runs.values()),
                "invariants checked": self.invariants.checks.total(),
            }
        )


def _waits_of(outcomes: dict[str, dict[str, Any]], name: str) -> list[tuple[str, dict[str, Any]]]:
    """The waits of a callback, one for each heartbeat and the last."""
    return [(step, body) for step, body in outcomes.items() if body["s"] == name]


def _longest(nodes: Sequence[Any]) -> int:
    """The seconds of the longest sleep in these nodes."""
    inside = [_longest(branch) for node in nodes for branch in getattr(node, "branches", ())]
    return max([0, *inside, *(getattr(node, "seconds", 0) for node in nodes)])


def _sleeps(nodes: Sequence[Any]) -> int:
    """The seconds of all sleeps in these nodes."""
    seconds = 0
    for node in nodes:
        seconds += getattr(node, "seconds", 0)
        for branch in getattr(node, "branches", ()):
            seconds += _sleeps(branch)
    return seconds


@contextlib.contextmanager
def small_plans() -> Iterator[None]:
    """What is done for hundreds of steps in flight is done for a few, so that every path of it is taken."""
    kept = fanout.FEW, fanout.FAN, fanout.CHUNK
    fanout.FEW, fanout.FAN, fanout.CHUNK = 2, 2, 2
    try:
        yield
    finally:
        fanout.FEW, fanout.FAN, fanout.CHUNK = kept


def fails(make: Callable[[], Story]) -> tuple[Story, BaseException | None]:
    """Tell a story; how it failed, or None."""
    story = make()
    try:
        story.tell()
    except (Exception, Killed) as error:
        return story, error
    return story, None


__all__ = ["Broken", "Story", "fails", "small_plans"]
