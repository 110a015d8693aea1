"""What must be true, numbered, written once, and asserted after every tick.

Each is held against what the table and the witness saw, never against what the engine says of itself.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any

from onward.core.log import HEAD, TIMER, partition_of, run_of
from onward.core.values import display
from onward.core.waits import CALLBACK
from onward.engine.engine import PAUSED_KEY
from tests.sealed import KEPT, Sealed, unsealed

from . import whys
from .cloud import Cloud
from .flows import Throttled, most_in_window
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
    6: "never more runs at a time than a limit allows, and every slot is free after its holder's end",
    7: "no window has more starts than a rate allows",
    8: "every unfinished run has a wake: a time by which somebody looks after it",
    9: "nothing commits after a run has ended, by a cancel or otherwise",
    10: "a fork never alters its parent, and holds of it what it was copied from",
    11: "cost per step constant in the step's number",
    12: "no orphan (message, event, spilled object) outlives its run",
    13: "the sum of recorded costs equals what the store charged",
    14: "every performance of a step is given the same input",
    15: "a look of a run's timer is begun once, or timers would multiply",
    16: "where nothing goes wrong, nothing is performed twice",
    17: "no attempt begins before the time that the failure before it has set",
    18: "middleware is asked once for each performed attempt, and every value is kept as it says",
    19: "what a run is said to wait for is so, at any time, and how it ended",
    20: "a step's own writes are there once, and exactly when it is done",
    21: "a callback brings the answer that was accepted, and whoever is told «too late» has come when it was over",
    22: "the runs that failed are listed by when they did, and no others are",
    23: "no step of a paused workflow begins, once every process knows of the pause",
}
ENDS = {"run_completed": "completed", "run_failed": "failed", "run_cancelled": "cancelled"}
OUTCOMES = ("done", "broken")
REACH_MS = 15 * 60 * 1000
TELLING_REQUESTS = 2  # more, where a child ends: look at its parent; and again, where that was changed
SENDING_REQUESTS = 10  # more, where an event is sent: keep it, look for waits, and what each of those takes
GATE_REQUESTS = 16  # more, where a run passes the gate or ends, and looks who queues
HOLDING_REQUESTS = 3  # more, where something is paused or was: read the log for its workflow's name; the head; move it
SLOT_REQUESTS = 30  # more, where a step needs slots: take them, queue, free them, and see who queues
# to the table: what is paused; read the log, the lanes it observed, the head; append; move the head
ADVANCE_REQUESTS = 6


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
        self.fork: dict[str, Any] | None = None  # of which run it is one, and from where
        self.copied: set[str] = set()  # the steps whose outcomes it has from its parent
        self.received: set[str] = set()
        self.first_at: int | None = None  # the tick of the first record that is not of a start or a death
        self.numbers: list[int] = []  # of the events that started it
        self.performs = False  # it has begun its first step
        self.waits_ms = 0  # the latest time for which it waits or has waited


class Invariants:
    """Watches a table, a witness and a function."""

    def __init__(self, world: World, cloud: Cloud, function: Function, witness: Witness, horizon_ms: int) -> None:
        self.world = world
        self.cloud = cloud
        self.function = function
        self.witness = witness
        self.store: Any = whys.Shown(cloud.table)  # that is asked why a run stands
        self.horizon_ms = horizon_ms
        self.sealed = any(isinstance(one, Sealed) for app in function.apps for one in app.middleware)
        self.runs: dict[str, Run] = {}
        self.entries: dict[str, list[tuple[int, int]]] = {}  # events by their place: when they arrived, and the tick
        self.checks: Counter[int] = Counter()
        self.flows: dict[str, Any] = {}  # the options for the starts of workflows
        self.live: dict[tuple[str, int | None], set[str]] = {}  # runs that perform and have not ended, by group
        self.begun: dict[str, list[int]] = {}  # when runs of a throttled workflow were begun
        self.slots: dict[str, set[str]] = {}  # that are held, by the partition of their limit
        self.held: dict[str, int] = {}  # events that are held back, by where that is, and until when
        self.counts: dict[str, int] = {}  # of slots, as the limit has it
        self.copies: dict[str, list[tuple[str, Any]]] = {}  # what is written of forks that are no runs yet
        self.has_ended: Callable[[Run], None] = lambda run: None  # told of every end
        self.paused: dict[str, int | None] = {}  # workflows, and the tick from which on every process knows of it
        self.given: set[tuple[str, str]] = set()  # a run and its step that were given a slot, ever
        self.limited: dict[str, set[str]] = {}  # slots on steps that are held and were not freed, by their partition
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
        if pk.startswith("flow#"):
            self._limit(pk, sk, change)
        value = (change.after or {}).get("v", {}).get("S")
        if value is not None:
            self.hold(18, value.startswith(KEPT) == self.sealed, f"{pk} {sk} has {value[:40]!r}")
        if not pk.startswith("run#"):
            return
        self._altered(run_of(pk), sk)
        if run_of(pk) not in self.runs and sk != HEAD:
            self.hold(2, change.before is None, f"{sk} of the fork {pk} was written over")
            self.copies.setdefault(run_of(pk), []).append((sk, change.after))
            return
        run = self.runs.setdefault(run_of(pk), Run(run_of(pk)))
        if change.after is None:
            self.hold(2, change.before is None, f"{sk} of run {run.id} was removed")
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
            if "begun" in body and "begun" not in (run.head or {}):
                self._begins(run.head["workflow"] if run.head else "")
            run.waits_ms = max(run.waits_ms, body.get("turn", 0))
            run.head = body
            run.due_ms = int(change.after["due"]["N"]) if "due" in change.after else None
        else:
            self.hold(2, change.before is None, f"{sk} of run {run.id} was written over")
            if sk.startswith("L#"):
                self._record(run, sk, body, value)
            else:
                self._lane(run, sk, body, value)
        self._changed.append(run)

    def _altered(self, run: str, sk: str) -> None:
        """An item of a run was written: by whoever forks it, it must not be."""
        task = self.world.current()
        self.hold(10, task is None or task.name != f"fork {run}", f"who forks {run} has written its {sk}")

    def _is_copy(self, run: Run, sk: str, item: Any) -> bool:
        """Whether an item of a fork is its parent's: the same but for its token, and for when what was open in its
        plans ends."""
        parent = self.cloud.table.items.get((partition_of(run.fork["run"]), sk)) if run.fork else None
        if parent is None or self._value(parent) != self._value(item):
            return False
        own, theirs = json.loads(item["b"]["S"]), json.loads(parent["b"]["S"])
        if self.sealed:
            own.pop("blob", None), theirs.pop("blob", None)
        if own["k"] in ("planned", "standing"):
            for record in (own, theirs):
                record.pop("waits", None)
                record.pop("sleeps", None)
        return bool(own == theirs)

    def _forked(self, run: Run, body: dict[str, Any]) -> None:
        """A fork has become a run: what was copied is its parent's, and as if it had always been the fork's."""
        run.fork = body["fork"]
        seq = 1
        for sk, item in self.copies.pop(run.id, []):
            self.hold(10, self._is_copy(run, sk, item), f"{sk} of {run.id} is not what it was copied from")
            copied = json.loads(item["b"]["S"])
            run.waits_ms = max(run.waits_ms, copied.get("until", 0), *copied.get("sleeps", {"0": 0}).values())
            run.waits_ms = max(run.waits_ms, *copied.get("waits", {"0": 0}).values(), 0)
            if sk.startswith("L#"):
                self.hold(10, sk == f"L#{seq:08d}", f"the fork {run.id} has {sk} where {seq} belongs")
                run.written_at.append(self.world.ticks)
                seq += 1
            if copied["k"] == "retrying":
                run.until_ms[display((copied["s"], copied["n"]))] = (copied["a"], copied["until"])
            if copied["k"] in OUTCOMES:
                self._copied(run, copied)
        self.hold(10, seq == run.fork["seq"], f"the fork {run.id} has {seq} records and not {run.fork['seq']}")
        run.next_seq = seq

    def _value(self, item: Any) -> str | None:
        """The value in an item, or that of its blob, as it was before middleware encoded it."""
        blob = json.loads(item["b"]["S"]).get("blob")
        value = self._object(blob) if blob else item.get("v", {}).get("S")
        return None if value is None else unsealed(value)

    def _object(self, blob: str) -> str | None:
        """What the bucket has under the reference of a blob."""
        found = (kept for path, kept in self.cloud.objects.items() if path.endswith(blob[7:]))
        content = next(found, None)
        return None if content is None else content.decode()

    def _copied(self, run: Run, body: dict[str, Any]) -> None:
        step = display((body["s"], body["n"]))
        run.outcomes[step] = body
        run.kept_at[step] = self.world.ticks
        run.copied.add(step)
        if "event" in body:
            run.received.add(body["event"])

    def _record(self, run: Run, sk: str, body: dict[str, Any], value: str | None) -> None:
        self.hold(9, run.ended is None, f"{body['k']} stands behind {run.ended} in the log of {run.id}")
        self.hold(2, sk == f"L#{run.next_seq:08d}", f"the log of {run.id} has {sk} where {run.next_seq} belongs")
        run.next_seq += 1
        run.written_at.append(self.world.ticks)
        kind = body["k"]
        if run.first_at is None and kind not in ("started", "died"):
            run.first_at = self.world.ticks
        run.workflow = body.get("workflow", run.workflow)
        run.waits_ms = max(run.waits_ms, body.get("until", 0), *body.get("sleeps", {"0": 0}).values())
        run.waits_ms = max(run.waits_ms, *body.get("waits", {"0": 0}).values(), 0)
        if kind == "started":
            run.started_ms = body["at"]
            run.waits_ms = max(run.waits_ms, body.get("from", 0))
            data = json.loads(unsealed(value or "null"))
            if isinstance(data, dict) and ("n" in data or "events" in data):
                run.numbers = [one["data"]["n"] for one in data["events"]] if "events" in data else [data["n"]]
            run.is_child = "lane" in body
            if "fork" in body:
                self._forked(run, body)
        if kind in ENDS:
            run.ended, run.ended_at = ENDS[kind], self.world.ticks
            for live in self.live.values():
                live.discard(run.id)
            self.has_ended(run)
        elif "s" in body:
            self._step(run, body, value)

    def _limit(self, pk: str, sk: str, change: Change) -> None:
        """Something changed of what is counted for the starts of a workflow."""
        if sk == "C":
            assert change.after is not None
            self.counts[pk] = json.loads(change.after["b"]["S"])["count"]
        elif sk.startswith("A#"):
            held = self.slots.setdefault(pk, set())
            if change.after is None:
                held.discard(sk)
                self.limited.get(pk, set()).discard(sk)
            else:
                body = json.loads(change.after["b"]["S"])
                begins = change.before is not None and "waits" in json.loads(change.before["b"]["S"])
                self.hold(6, change.before is None or "freed" in body or begins, f"slot {sk} is given twice")
                held.add(sk)
                if "step" in body:
                    self._slot(pk, sk, body)
        elif sk == "K" and change.after is not None:
            pending = json.loads(change.after["b"]["S"]).get("pending")
            due_ms = int(change.after["due"]["N"]) if "due" in change.after else None
            self.held.pop(pk, None)
            if pending:
                self.held[pk] = pending["fire"]
                latest_ms = max(pending["fire"], self.world.now_ms) + self.horizon_ms + 2 * SKEW_MS
                self.hold(8, due_ms is not None and due_ms <= latest_ms, f"{pending} is held back, due {due_ms}")

    def _slot(self, pk: str, sk: str, body: dict[str, Any]) -> None:
        """A slot of a limit on steps was given, or freed."""
        run = self.runs[sk.split("#")[1]]
        held = self.limited.setdefault(pk, set())
        if "freed" in body:
            self.hold(6, sk in held, f"slot {sk} is freed twice")
            held.discard(sk)
            return
        assert run.head is not None
        held.add(sk)
        self.given.add((run.id, body["step"]))
        index = dict(run.head["limits"]["needs"])[pk]
        limit, _ = self.flows[run.workflow].step_limits()[index]
        self.hold(6, len(held) <= limit, f"{held} are held, and {limit} may be")

    def _begins(self, workflow: str) -> None:
        """A run was begun, of a workflow that says when that may be."""
        if not isinstance(self.flows.get(workflow), Throttled):
            return
        begun = self.begun.setdefault(workflow, [])
        begun.append(self.world.now_ms)
        flow = self.flows[workflow]
        for window_ms in (1_000, 20_000, 100_000):
            most = most_in_window(begun, window_ms)
            self.hold(7, most <= flow.most(window_ms), f"{most} runs of {workflow} were begun in {window_ms} ms")

    def _lane(self, run: Run, sk: str, body: dict[str, Any], value: str | None) -> None:
        if run.fork and self.function.invocation() is None and body["k"] in OUTCOMES:
            self._copied(run, body)  # the same fork, asked for twice at once
            return
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
            value = self._object(body["blob"])
            self.hold(12, value is not None, f"the value of {step} of {run.id} is not in the bucket")
        made = json.loads(unsealed(value or "null"))
        if made is None:
            return  # a condition that did not hold
        if step.endswith(".notify"):
            self.hold(4, made == run.id, f"{step} of {run.id} has handed out the token of {made}")
            return
        by: Performance = performed[made["by"] - 1]
        self.hold(4, by.attempt == body["a"], f"{step} of {run.id}: attempt {body['a']} has the value of {by.attempt}")

    # ----------------------------------------------------------------------------------------------- every tick
    def after_tick(self) -> None:
        for run in self._changed:
            self._head_fits(run)
        if self.world.ticks % whys.EVERY == 0:
            for run in [*self._changed, *self._one_of_all()]:
                self._says_why(run)
        self._changed.clear()
        for id in self._counted:
            run_id, _, step = id.partition("/")
            kind = self.runs[run_id].outcomes.get(step, {"k": None})["k"]
            count = int(self.cloud.table.items.get((COUNTERS, id), {"n": {"N": "0"}})["n"]["N"])
            self.hold(20, count == (kind == "done"), f"{step} of {run_id} is {kind}, and was counted {count} times")
        self._counted.clear()
        performances = self.witness.performances
        while self._seen < len(performances):
            self._performed(performances[self._seen])
            self._seen += 1
        for pk, held in self.slots.items():
            self.hold(6, self.counts[pk] == len(held), f"{pk} counts {self.counts[pk]} slots, and {held} are held")
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

    def _one_of_all(self) -> list[Run]:
        """A run in its turn, whose answer may be another by now although nothing of it has changed."""
        runs = list(self.runs.values())
        return runs[self.world.ticks // whys.EVERY % len(runs) :][:1] if runs else []

    def _says_why(self, run: Run) -> None:
        now_ms = self.world.now_ms
        view = whys.answer(self.store, run.id, now_ms)
        wrong = list(whys.faults(view, run, self.store, now_ms, now_ms + SKEW_MS))
        self.hold(19, not wrong, "; ".join(wrong))

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
            if not run.performs:
                run.performs = True
                self._lives(run)
            known = self.paused.get(run.workflow)
            what = f"{place} begins in an invocation of tick {one.began}, and was paused at {known}"
            self.hold(23, known is None or one.began <= known, what)
            self._beside(run, one)
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

    def _lives(self, run: Run) -> None:
        """A run has begun its first step; it may have ended meanwhile."""
        flow = self.flows.get(run.workflow)
        if flow is None or run.ended is not None:
            return
        for limit, keyed in flow.limits():
            live = self.live.setdefault((run.workflow, run.numbers[0] % 2 if keyed else None), set())
            live.add(run.id)
            self.hold(6, len(live) <= limit, f"{len(live)} runs of {run.workflow} are live, and {limit} may be")

    def _beside(self, run: Run, one: Performance) -> None:
        """What is performed at once, as the witness sees it, keeps to the limits on steps. Left out are zombies: what
        goes on of a run that has ended, or of an attempt whose record stands. Where something has gone wrong, there are
        those as well that are only thought dead, and what is held by the table's account is all that can be asked."""
        flow = self.flows.get(run.workflow)
        for limit, keyed in flow.step_limits() if flow is not None else ():
            self.hold(6, (run.id, one.step) in self.given, f"{one.step} of {run.id} is performed without a slot")
            group = run.numbers[0] % 2 if keyed else None
            beside = {
                (other.run, other.step)
                for other in self.witness.active.values()
                if (its := self.runs[other.run]).workflow == run.workflow
                and (not keyed or its.numbers[0] % 2 == group)
                and its.ended is None
                and self._holds(other)
            }
            self.hold(6, len(beside) <= limit, f"{beside} are performed at once, and {limit} may be")

    def _holds(self, one: Performance) -> bool:
        """Whether an attempt may still hold a slot: nothing is on record that says how it, or a later one, came out."""
        over = {"done", "broken", "retrying"}
        known = self.runs[one.run].attempts
        told = any(step == one.step and attempt >= one.attempt and kind in over for step, attempt, kind in known)
        return not told and not self.function.chance.struck

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
                if run.workflow in self.flows:
                    most += 1  # its head, where what is kept warm is older than its admission
                    most += SLOT_REQUESTS * len(self.flows[run.workflow].step_limits())
                at_first = run.first_at is None or run.first_at >= invocation.began_tick
                if run.workflow in self.flows and (run.ended is not None or at_first):
                    most += GATE_REQUESTS
                most += HOLDING_REQUESTS if PAUSED_KEY in self.cloud.table.items else 0
                overtaken = run.ended == "cancelled" and (run.ended_at or 0) >= invocation.began_tick  # as it sent
                most += SENDING_REQUESTS if run.sent_at >= invocation.began_tick or overtaken else 0
                most += run.refused_at >= invocation.began_tick  # once more, to say that they were
                what = f"advancing run {wake['run']} at {wake['seq']} took {task.requests} requests"
                self.hold(11, task.requests <= most, what)

    # ---------------------------------------------------------------------------------------------- in the end
    def all_ended(self) -> bool:
        return not self.held and all(run.ended is not None for run in self.runs.values())

    def at_the_end(self) -> None:
        """Faults have stopped, and everything had its time."""
        for run in self.runs.values():
            self._says_why(run)
            self.hold(1, run.ended is not None, f"run {run.id} of {run.workflow} has not ended: {run.head}")
        self.hold(1, not self.held, f"{self.held} are held back")
        table, usage = self.cloud.table, self.cloud.usage
        failed = {run.id for run in self.runs.values() if run.ended == "failed"}
        listed = [sk.split("#")[2] for pk, sk in table.items if pk.startswith("failed#")]
        self.hold(22, sorted(listed) == sorted(failed), f"{listed} are listed, and {failed} have failed")
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
        for content in self.cloud.objects.values():
            self.hold(18, content.startswith(KEPT.encode()) == self.sealed, f"an object begins with {content[:40]!r}")
        if self.witness.asked:
            for place, performed in self.witness.by_step.items():
                asked, calm = self.witness.asked[place], not self.function.chance.rates
                what = f"{place} was performed {len(performed)} times, and middleware was asked {asked} times"
                self.hold(18, asked == len(performed) if calm else asked >= len(performed), what)
        # the end of a sleep or of a wait is no performance
        won = sum(
            body["k"] == "done"
            and body["a"] > 0
            and step not in (*run.places, *run.copied)
            and not step.endswith((SENT, WRITES))
            for run in self.runs.values()
            for step, body in run.outcomes.items()
        )
        for pk, sk in table.items:
            if pk.startswith("flow#"):  # whoever died before it counted a slot as free has left word that it is
                free = sk[:2] != "A#" or (pk, f"F#{sk[2:]}") in table.items
                self.hold(6, free and sk[:2] != "Q#", f"{sk} of {pk} is left")
        left = [key for key in table.items if key[0].startswith("wait#") and key[1].startswith("W#")]
        self.hold(12, not left, f"{left} wait for nobody")
        lost = len(self.witness.performances) - won
        what = f"{len(orphans)} objects belong to nobody, and only {lost} performances have lost"
        self.hold(12, len(orphans) <= max(lost, 0), what)


__all__ = ["NAMES", "Broken", "Invariants", "Run"]
