"""What must be true, numbered, written once, and asserted after every tick.

Each is held against what the table and the witness saw, never against what the engine says of itself. What does not
exist yet is named in `OPEN`, with the issue that brings it.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from typing import Any

from onward.core.log import HEAD, TIMER, run_of
from onward.core.values import display
from onward.core.waits import CALLBACK

from .cloud import Cloud
from .function import SKEW_MS, Function, Invocation
from .programs import SENT, WRITES
from .table import COUNTERS, Change
from .witness import Performance, Witness
from .world import World

NAMES = {
    1: "no lost run: each accepted start ends within a bound after faults stop",
    2: "a result never changes after its first commit",
    3: "one winner per run and step, one record per attempt",
    4: "effects at least once, once=True at most once, the idempotency key equal over attempts",
    5: "an event before the deadline is delivered once, and never with its timeout",
    8: "every unfinished run has a wake: a time by which somebody looks after it",
    9: "nothing commits after a run has ended, by a cancel or otherwise",
    11: "cost per step constant in the step's number",
    12: "no orphan (message, event, spilled object) outlives its run",
    13: "the sum of recorded costs equals what the store charged",
    14: "every performance of a step is given the same input",
    15: "a look of a run's timer is begun once, or timers would multiply",
    16: "where nothing goes wrong, nothing is performed twice",
    17: "no attempt begins before the time that the failure before it has set",
    18: "a step's own writes are there once, and exactly when it is done",
    19: "a callback brings the answer that was accepted, and whoever is told «too late» has come when it was over",
}
OPEN = {
    6: "limits never exceeded, every slot free after its holder's end (issue 4: concurrency)",
    7: "no window over its rate (issue 4: throttle, rate_limit)",
    10: "a fork never alters its parent (issue 4: rerun from a step)",
}
ENDS = {"run_completed": "completed", "run_failed": "failed", "run_cancelled": "cancelled"}
OUTCOMES = ("done", "broken")
REACH_MS = 15 * 60 * 1000
TELLING_REQUESTS = 2  # more, where a child ends: look at its parent; and again, where that was changed
SENDING_REQUESTS = 10  # more, where an event is sent: keep it, look for waits, and what each of those takes
ADVANCE_REQUESTS = 5  # to the table: read the log, the lanes it observed, the head; append; move the head


class Broken(AssertionError):
    """An invariant is broken."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"invariant {number} ({NAMES[number]}): {what}")
        self.number = number


class Run:
    """What the table has shown of one run."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.workflow = ""
        self.next_seq = 0
        self.written_at: list[int] = []  # the ticks at which its records were
        self.ended: str | None = None
        self.ended_at: int | None = None  # the tick
        self.head: dict[str, Any] | None = None
        self.due_ms: int | None = None
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.until_ms: dict[str, tuple[int, int]] = {}  # of a failed step: its attempt, and when the next may begin
        self.kept_at: dict[str, int] = {}  # the tick at which the outcome of a step was written
        self.attempts: set[tuple[str, int, str]] = set()
        self.started_ms = 0
        self.is_child = False
        self.sent_at = -1  # the tick at which the record of the last event that it sent was written
        self.refused_at = -1  # the tick at which writes of the user's were said to be refused
        # of waits: where events find them, until when, and whether where= decides
        self.places: dict[str, tuple[list[str], int, bool]] = {}
        self.received: set[str] = set()
        self.waits_ms = 0  # the latest time for which it waits or has waited


class Invariants:
    """Watches a table, a witness and a function."""

    def __init__(self, world: World, cloud: Cloud, function: Function, witness: Witness, horizon_ms: int) -> None:
        self.world = world
        self.cloud = cloud
        self.function = function
        self.witness = witness
        self.horizon_ms = horizon_ms
        self.runs: dict[str, Run] = {}
        self.entries: dict[str, list[tuple[int, int]]] = {}  # events by their place: when they arrived, and the tick
        self.checks: Counter[int] = Counter()
        self._changed: list[Run] = []
        self._counted: set[str] = set()  # what the user's own table has counted, or ought to have
        self._seen = 0
        self._keys: dict[str, tuple[str, str]] = {}
        cloud.table.changed = self.saw
        function.finished = self.finished
        world.after_tick = self.after_tick

    def hold(self, number: int, is_true: object, what: str) -> None:
        self.checks[number] += 1
        if not is_true:
            raise Broken(number, what)

    # ------------------------------------------------------------------------------------------ what is written
    def saw(self, change: Change) -> None:
        """One item was written."""
        pk, sk = change.key
        if pk == COUNTERS:
            self._counted.add(sk)
            return
        if pk.startswith("wait#") and sk.startswith("E#") and change.before is None:
            self.entries.setdefault(pk, []).append((int(sk.split("#")[1]), self.world.ticks))
        if not pk.startswith("run#"):
            return
        run = self.runs.setdefault(run_of(pk), Run(run_of(pk)))
        if change.after is None:
            self.hold(2, False, f"{sk} of run {run.id} was removed")
            return
        if sk.startswith("M#"):
            for name, typed in (change.before or {}).items():
                if "SS" in typed:
                    self.hold(2, set(typed["SS"]) <= set(change.after[name]["SS"]), f"marks {sk} of {run.id} were lost")
            return
        body = json.loads(change.after["b"]["S"])
        if sk == TIMER:
            before = json.loads(change.before["b"]["S"])["look"] if change.before else [-1]
            self.hold(15, body["look"] > before, f"the timer of {run.id} went from {before} to {body['look']}")
            return
        if sk == HEAD:
            run.head = body
            run.due_ms = int(change.after["due"]["N"]) if "due" in change.after else None
        else:
            self.hold(2, change.before is None, f"{sk} of run {run.id} was written over")
            value = change.after.get("v", {}).get("S")
            if sk.startswith("L#"):
                self._record(run, sk, body, value)
            else:
                self._lane(run, sk, body, value)
        self._changed.append(run)

    def _record(self, run: Run, sk: str, body: dict[str, Any], value: str | None) -> None:
        self.hold(9, run.ended is None, f"{body['k']} stands behind {run.ended} in the log of {run.id}")
        self.hold(2, sk == f"L#{run.next_seq:08d}", f"the log of {run.id} has {sk} where {run.next_seq} belongs")
        run.next_seq += 1
        run.written_at.append(self.world.ticks)
        kind = body["k"]
        run.workflow = body.get("workflow", run.workflow)
        run.waits_ms = max(run.waits_ms, body.get("until", 0), *body.get("sleeps", {"0": 0}).values())
        run.waits_ms = max(run.waits_ms, *body.get("waits", {"0": 0}).values(), 0)
        if kind == "started":
            run.started_ms = body["at"]
            run.is_child = "lane" in body
        if kind in ENDS:
            run.ended, run.ended_at = ENDS[kind], self.world.ticks
        elif "s" in body:
            self._step(run, body, value)

    def _lane(self, run: Run, sk: str, body: dict[str, Any], value: str | None) -> None:
        if "#" not in sk[2:]:  # a result; what is kept of an attempt that failed is only its trace
            late = run.ended == "cancelled" and body["k"] != "closed"
            self.hold(9, not late, f"{sk} was put after {run.id} was cancelled")
        run.waits_ms = max(run.waits_ms, body.get("until", 0))
        if "s" in body:
            self._step(run, body, value)

    def _step(self, run: Run, body: dict[str, Any], value: str | None) -> None:
        step, kind, attempt = display((body["s"], body["n"])), body["k"], body["a"]
        if kind == "awaiting":
            plain = " with " in body["for"][0] or body["for"] == [repr(CALLBACK)]
            run.places[step] = (body["places"], body["until"], not plain)
        elif "until" in body:
            run.until_ms[step] = (attempt, body["until"])
        if kind in OUTCOMES:
            self.hold(3, step not in run.outcomes, f"step {step} of {run.id} has two outcomes")
            run.outcomes[step] = body
            run.kept_at[step] = self.world.ticks
            if kind == "done" and step in run.places:
                self._waited(run, step, body)
            elif step.endswith(SENT):
                run.sent_at = self.world.ticks
            elif step.endswith(WRITES):
                self._counted.add(f"{run.id}/{step}")
                run.refused_at = self.world.ticks if kind == "broken" else run.refused_at
            elif kind == "done" and attempt:
                self._made(run, step, body, value)
        if attempt and kind != "awaiting":  # which is said again behind a death
            self.hold(3, (step, attempt, kind) not in run.attempts, f"attempt {attempt} of {step} is {kind} twice")
            run.attempts.add((step, attempt, kind))

    def _waited(self, run: Run, step: str, body: dict[str, Any]) -> None:
        """A wait is over: with an event that it had not received, or with nothing, and then no event was there for
        whoever says so to see."""
        if "event" in body:
            self.hold(5, body["event"] not in run.received, f"{step} of {run.id} received {body['event']} again")
            run.received.add(body["event"])
            return
        places, until_ms, asks = run.places[step]
        invocation = self.function.invocation()
        began = invocation.began_tick if invocation is not None else self.world.ticks
        missed = [
            arrived_ms
            for place in places
            for arrived_ms, tick in self.entries.get(place, ())
            if run.started_ms <= arrived_ms <= until_ms and tick < began
        ]
        self.hold(5, asks or not missed, f"{step} of {run.id} timed out, and {missed} had arrived")

    def _made(self, run: Run, step: str, body: dict[str, Any], value: str | None) -> None:
        """A result was recorded: somebody must have made just this, in just this attempt."""
        performed = self.witness.by_step.get((run.id, step), [])
        self.hold(4, performed, f"step {step} of {run.id} is done, and was never performed")
        if "blob" in body:
            digest = body["blob"][7:]
            content = next((kept for path, kept in self.cloud.objects.items() if path.endswith(digest)), None)
            self.hold(12, content is not None, f"the value of {step} of {run.id} is not in the bucket")
            value = (content or b"null").decode()
        made = json.loads(value or "null")
        if made is None:
            return  # a condition that did not hold
        by: Performance = performed[made["by"] - 1]
        self.hold(4, by.attempt == body["a"], f"{step} of {run.id}: attempt {body['a']} has the value of {by.attempt}")

    # ----------------------------------------------------------------------------------------------- every tick
    def after_tick(self) -> None:
        for run in self._changed:
            self._head_fits(run)
        self._changed.clear()
        for id in self._counted:
            run_id, _, step = id.partition("/")
            kind = self.runs[run_id].outcomes.get(step, {"k": None})["k"]
            count = int(self.cloud.table.items.get((COUNTERS, id), {"n": {"N": "0"}})["n"]["N"])
            self.hold(18, count == (kind == "done"), f"{step} of {run_id} is {kind}, and was counted {count} times")
        self._counted.clear()
        performances = self.witness.performances
        while self._seen < len(performances):
            self._performed(performances[self._seen])
            self._seen += 1
        usage = self.cloud.usage
        self.hold(13, usage.heard + usage.unheard <= self.cloud.table.charged + 1e-6, "more is recorded than charged")

    def _head_fits(self, run: Run) -> None:
        self.hold(8, run.head is not None, f"run {run.id} has no head")
        assert run.head is not None
        self.hold(
            9, (run.head["status"] in ENDS.values()) == (run.ended is not None), f"head and log of {run.id} differ"
        )
        if run.ended is not None:
            self.hold(8, run.due_ms is None, f"run {run.id} has ended and is still due")
            return
        self.hold(8, run.due_ms is not None, f"run {run.id} is {run.head['status']} and nobody looks after it")
        latest_ms = max(self.world.now_ms, run.waits_ms) + self.horizon_ms + 2 * SKEW_MS
        self.hold(8, (run.due_ms or 0) <= latest_ms, f"run {run.id} is looked after too late")

    def _performed(self, one: Performance) -> None:
        place = (one.run, one.step)
        before = self.witness.by_step[place]
        self.hold(4, self._keys.setdefault(one.key, place) == place, f"{place} has the key of {self._keys[one.key]}")
        self.hold(4, before[0].key == one.key, f"the key of {place} changed")
        self.hold(14, before[0].given == one.given, f"{place} was given {before[0].given}, then {one.given}")
        if one.once:
            self.hold(4, one.number == 1, f"{place} is once=True and was performed again")
        run = self.runs.get(one.run)
        if run is not None:
            failed, until_ms = run.until_ms.get(one.step, (one.attempt, 0))
            early_ms = until_ms - 2 * SKEW_MS - self.world.now_ms if failed < one.attempt else 0
            self.hold(17, early_ms <= 0, f"attempt {one.attempt} of {place} begins {early_ms} ms too early")
            kept = run.kept_at.get(one.step)
            self.hold(3, kept is None or one.began <= kept, f"{place} is performed by who could have seen its outcome")
            if one.wake.get("do") == "advance":
                stood = bisect_left(run.written_at, one.began)
                what = f"{place} is performed for a wake of record {one.wake['seq']}, when there were {stood}"
                self.hold(3, stood <= one.wake["seq"], what)
            self.hold(9, one.began <= (run.ended_at or one.began), f"{place} is performed in a run that had ended")

    def finished(self, invocation: Invocation, outcome: str) -> None:
        """An invocation has ended."""
        task, wake = invocation.task, invocation.payload
        calm = len(self.function.chance.struck) == invocation.began_faults
        if calm and outcome == "answered" and wake.get("do") == "advance" and task is not None:
            door = invocation.sandbox.door
            if not door.engine.fills(door.app[self.runs[wake["run"]].workflow]):
                run = self.runs[wake["run"]]
                most = ADVANCE_REQUESTS
                most += TELLING_REQUESTS if run.is_child and run.ended is not None else 0
                if run.ended is not None:  # it looks for what its waits have left behind
                    most += sum(step not in run.outcomes for step in run.places)
                overtaken = run.ended == "cancelled" and (run.ended_at or 0) >= invocation.began_tick  # as it sent
                most += SENDING_REQUESTS if run.sent_at >= invocation.began_tick or overtaken else 0
                most += run.refused_at >= invocation.began_tick  # once more, to say that they were
                what = f"advancing run {wake['run']} at {wake['seq']} took {task.requests} requests"
                self.hold(11, task.requests <= most, what)

    # ---------------------------------------------------------------------------------------------- in the end
    def all_ended(self) -> bool:
        return all(run.ended is not None for run in self.runs.values())

    def at_the_end(self) -> None:
        """Faults have stopped, and everything had its time."""
        for run in self.runs.values():
            self.hold(1, run.ended is not None, f"run {run.id} of {run.workflow} has not ended: {run.head}")
        table, usage = self.cloud.table, self.cloud.usage
        same = abs(usage.heard + usage.unheard - table.charged) < 1e-6
        self.hold(13, same, f"{usage.heard} + {usage.unheard} units were recorded, {table.charged} charged")
        self.hold(12, not self.function.open, f"{self.function.open} events and messages are left")
        kept = {body["blob"][7:] for run in self.runs.values() for body in run.outcomes.values() if "blob" in body}
        orphans = [path for path in self.cloud.objects if path.rpartition("/")[2] not in kept]
        if not self.function.chance.rates and not self.function.settings.retries:
            for (run_id, step), performed in self.witness.by_step.items():
                outcome = self.runs[run_id].outcomes.get(step)
                what = f"{step} of {run_id} was performed {len(performed)} times, and has {outcome}"
                self.hold(16, outcome is None or len(performed) <= outcome["a"], what)
        # the end of a sleep or of a wait is no performance
        won = sum(
            body["k"] == "done" and body["a"] > 0 and step not in run.places and not step.endswith((SENT, WRITES))
            for run in self.runs.values()
            for step, body in run.outcomes.items()
        )
        left = [key for key in table.items if key[0].startswith("wait#") and key[1].startswith("W#")]
        self.hold(12, not left, f"{left} wait for nobody")
        lost = len(self.witness.performances) - won
        what = f"{len(orphans)} objects belong to nobody, and only {lost} performances have lost"
        self.hold(12, len(orphans) <= max(lost, 0), what)


__all__ = ["NAMES", "OPEN", "Broken", "Invariants", "Run"]
