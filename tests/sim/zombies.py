"""Zombies: an invocation that stands frozen at one of its requests, and comes back when its run went on without it.

Every case of the corpus is told once, calmly, to see which invocations it has and what each of them asks of the world.
Then it is told again for each of those requests: the invocation stands there, just before its request is applied or
just after, until the run went on

    twin       by a second delivery of the same event or wake
    told       by the on-failure record: at its deadline Lambda took it for dead, and said so
    swept      by nothing but the sweep: Lambda took it for dead, and the record was lost
    cancelled  not at all: somebody ended it

as far as to the next step, or to its end and past that. Then it comes back and goes on with whatever it remembers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from onward.core.codec import decode
from onward.core.errors import UnknownRun
from onward.core.ids import run_id
from onward.core.values import Event
from onward.engine import control
from onward.engine.views import run_view
from onward.flow import Flow
from tests.corpus import Case, Effects

from .flows import Options
from .function import SWEEP, Invocation, Sandbox
from .invariants import Invariants, Run
from .stage import HORIZON_MS, SIDES, Place, Stage

TWIN, TOLD, SWEPT, CANCELLED = "twin", "told", "swept", "cancelled"
NEXT_STEP, THE_END = "the next step", "the end"
WAYS = (
    (TWIN, NEXT_STEP), (TWIN, THE_END), (TOLD, NEXT_STEP), (TOLD, THE_END), (SWEPT, NEXT_STEP), (SWEPT, THE_END),
    (CANCELLED, THE_END),
)  # fmt: skip
BOUND_MS = 4 * HORIZON_MS + 4 * 24 * 3600 * 1000  # over the longest sleep of the corpus
MORE = 1  # performances than without the zombie, at most

HINTS = ("M#", "T")
"""What a zombie may still change in a run that has ended: marks, and the number of the timer's look, are hints for
those who collect, and an ended run is not collected."""


class Target(NamedTuple):
    """Which invocation of the calm telling is frozen, by its number there, where, and how the run goes on."""

    invocation: int
    place: Place
    way: str
    until: str

    def __repr__(self) -> str:
        return f"invocation {self.invocation} {self.place!r}, {self.way}, until {self.until}"


class CorpusInvariants(Invariants):
    """The steps of the corpus return what they like, so a result does not say in which performance it was made."""

    def _made(self, run: Run, step: str, body: dict[str, Any], value: str | None) -> None:
        performed = self.witness.by_step.get((run.id, step), [])
        made = any(one.attempt == body["a"] for one in performed)
        self.hold(4, made, f"attempt {body['a']} of {step} of {run.id} is done, and was never performed")


class Stated(Options):
    """What a case states of itself: there is one run, so one group."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def limits(self) -> list[tuple[int, bool]]:
        return [(limit.limit, False) for limit in self.flow.concurrency]

    def step_limits(self) -> list[tuple[int, bool]]:
        return [(limit.limit, False) for limit in self.flow.step_limits]


class SeenEffects(Effects):
    """The effects of a case, which the stage's witness sees as well."""

    def __init__(self, stage: CaseStage, once: set[str]) -> None:
        super().__init__()
        self.stage = stage
        self.once = once

    def do(self, name: str, result: Any = None) -> Any:
        invocation = self.stage.function.invocation()
        began, wake = (invocation.began_tick, invocation.payload) if invocation else (0, {})
        self.stage.witness.see(None, began, wake, once=name in self.once)
        return super().do(name, result)


class CaseStage(Stage):
    """One run of a case of the corpus. `lost`: the number of the wake that is lost, from 1 (0: none)."""

    invariants_class = CorpusInvariants

    def __init__(self, case: Case, lost: int = 0) -> None:
        self.case = case
        self.effects = SeenEffects(self, case.once)
        super().__init__(lambda stage: case.build(self.effects), case.name)
        started = next(workflow for workflow in self.app if workflow.hears(Event("go", None, "event", 0)))
        self.run = run_id(started.name, "event")
        self.invariants.flows = {started.name: Stated(started.flow)} if started.flow is not None else {}
        self.invocations: list[Invocation] = []
        self.function.begins = self.invocations.append
        self.sent: list[dict[str, Any]] = []
        self._lost = lost
        self._invoke = self.cloud.invoke
        self.cloud.invoke = self._is_invoked

    def _is_invoked(self, payload: bytes, trace: str) -> None:
        self.sent.append(json.loads(payload))
        if len(self.sent) != self._lost:
            self._invoke(payload, trace)

    def begin(self) -> None:
        """The event arrives."""
        event = {
            "detail-type": "go", "source": "sim", "id": "event", "time": "2025-12-01T00:00:00Z",
            "detail": self.case.data,
        }  # fmt: skip
        self.function.tick_every_minute()
        self.function.accept(event, "bus")

    def end(self) -> None:
        """Let the run come to its end, and everything arrive that is on its way."""
        assert self.run_until(self.has_ended, BOUND_MS), f"{self.case} does not end"
        self.settle()

    def items(self) -> dict[tuple[str, str], Any]:
        return {key: dict(item) for key, item in self.table.items.items()}

    def records(self) -> int:
        """How many records, results and attempts there are."""
        return sum(sort[:2] in ("L#", "S#") for _, sort in self.table.items)

    def status(self) -> str | None:
        run = self.invariants.runs.get(self.run)
        return run.ended if run is not None else None

    def check_outcome(self) -> None:
        """The run came to what the case says, or was cancelled."""
        case, counts = self.case, self.effects.counts
        assert all(counts[effect] <= 1 for effect in case.once), f"{counts}, and {case.once} may be once"
        reader = Sandbox(self.function, self.app)
        view = run_view(reader.door.engine.ledger, self.run)
        if view["status"] == CANCELLED:
            return
        assert view["status"] == case.status, f"{case} is {view['status']}: {view['error']}"
        assert all(counts[effect] for effect in case.effects), f"of {case.effects} there are only {counts}"
        if case.status == "completed":
            result = decode(view["output"])
            assert result in case.results, f"{case} came to {result}"

    def check_performances(self, before: Counter[str]) -> None:
        """No step was performed again, but for what one zombie does. (A race's losers may not have been before.)"""
        more = {name: count - max(before[name], 1) for name, count in self.effects.counts.items()}
        again = sum(count for count in more.values() if count > 0)
        assert again <= MORE, f"{again} performances more than without the zombie: {self.effects.counts} to {before}"


# ------------------------------------------------------------------------------------------------- the calm telling
class Calm(NamedTuple):
    """What a case does when nobody is frozen: the requests of each invocation, its payload, and the effects."""

    requests: list[list[str]]
    payloads: list[Any]
    effects: Counter[str]
    sent: int


def calm(case: Case, lost: int = 0) -> Calm:
    """Tell a case from its beginning to its end."""
    stage = CaseStage(case, lost)
    requests: list[list[str]] = []

    def before(call: Any) -> None:
        while len(requests) < len(stage.invocations):
            requests.append([])
        asking = stage.function.invocation()
        if asking is not None:
            requests[stage.invocations.index(asking)].append(call.operation)

    stage.cloud.before = before
    with stage.open():
        stage.begin()
        stage.end()
        stage.invariants.at_the_end()
        stage.check_outcome()
    return Calm(requests, [one.payload for one in stage.invocations], stage.effects.counts, len(stage.sent))


def targets(
    found: Calm, every: bool, is_meant: Callable[[Any], bool] = lambda payload: True, turn: int = 0
) -> Iterator[Target]:
    """Each request of the invocations that are meant, on both sides. With `every` each way of going on, or else they
    take turns, from that one."""
    for number, (requests, payload) in enumerate(zip(found.requests, found.payloads, strict=False), 1):
        for request in range(1, len(requests) + 1 if is_meant(payload) else 0):
            for side in SIDES:
                for way, until in WAYS if every else [WAYS[turn % len(WAYS)]]:
                    yield Target(number, Place(request, side), way, until)
                turn += 1


def is_sweep(payload: Any) -> bool:
    """Whether an invocation is part of a sweep."""
    return bool(payload == SWEEP) or payload.get("do") == "recover"


# ------------------------------------------------------------------------------------------------------ the zombies
def haunt(case: Case, target: Target, before: Calm, lost: int = 0) -> CaseStage:
    """Tell the case with that invocation frozen; raises what is broken."""
    stage = CaseStage(case, lost)
    stage.function.tells = target.way != SWEPT

    def begins(invocation: Invocation) -> None:
        stage.invocations.append(invocation)
        if len(stage.invocations) == target.invocation:
            stage.watch(invocation.task, target.place)

    stage.function.begins = begins
    with stage.open():
        stage.begin()
        assert stage.run_until(lambda: stage.is_held, BOUND_MS), "the place is never reached"
        zombie = stage.invocations[target.invocation - 1]
        if target.way == TWIN:
            stage.function.accept(zombie.payload, "bus")
        if target.way == CANCELLED:
            cancel(stage)
        stood = stage.records()
        went_on: Callable[[], bool] = (
            stage.has_ended if target.until == THE_END else lambda: stage.records() > stood or stage.has_ended()
        )
        stage.run_until(went_on, BOUND_MS)
        come_back(stage)
        assert zombie.task is not None and zombie.task.is_over, "the zombie still stands"
        stage.check_performances(before.effects)
    return stage


def come_back(stage: CaseStage) -> None:
    """Let the frozen one go on, to the very end. Of a run that had ended nothing may change, and nothing may follow."""
    had_ended = stage.has_ended()
    if had_ended:
        stage.settle()
    items, invocations = stage.items(), len(stage.invocations)
    performed = stage.effects.counts.total()
    stage.let_go()
    stage.end()
    stage.invariants.at_the_end()
    stage.check_outcome()
    if had_ended:
        check_untouched(items, stage.items(), stage.status() == CANCELLED)
        assert stage.effects.counts.total() - performed <= MORE, "what had ended was gone on with"
        followed = stage.invocations[invocations:]
        assert all(one.task is not None and one.task.is_over for one in followed)


def check_untouched(before: dict[tuple[str, str], Any], after: dict[tuple[str, str], Any], is_cancelled: bool) -> None:
    """A run that had ended is byte for byte what it was, but for what nobody reads any more: hints; and what becomes of
    a step in flight that the run has left behind, as a race's loser. Its lane is its own, and gets its first result as
    it would have while the run went on. A cancel closes the lanes, so there not even that."""
    assert {key for key in before if key[0].startswith("run#")} <= after.keys()
    for key, item in after.items():
        if before.get(key) == item or not key[0].startswith("run#"):  # what it sent is no longer its own
            continue
        sort = key[1]
        is_new = key not in before
        is_result, is_attempt = sort.startswith("S#") and sort.count("#") == 1, sort.count("#") == 2
        may_be = sort.startswith(HINTS) or (is_new and (is_attempt or (is_result and not is_cancelled)))
        assert may_be, f"{sort} of a run that had ended was written: {before.get(key)} -> {item}"


def cancel(stage: CaseStage) -> None:
    """Somebody cancels the run, while the zombie stands."""
    operator = Sandbox(stage.function, stage.app)
    over: list[bool] = []

    def work() -> None:
        try:
            control.cancel(operator.door.engine, stage.run)
        except UnknownRun:
            pass  # the event's own invocation is frozen, before the run was born
        over.append(True)

    stage.world.begin("cancel", work)
    assert stage.run_until(lambda: bool(over), BOUND_MS)


def haunt_cancel(case: Case, before: Calm, moment: int, place: Place) -> bool:
    """Somebody cancels the run when that invocation of it begins, and is frozen until it has ended. False where the
    place is never reached."""
    stage = CaseStage(case)
    answers: list[bool] = []

    def work() -> None:
        answers.append(control.cancel(operator.door.engine, stage.run))

    def begins(invocation: Invocation) -> None:
        stage.invocations.append(invocation)
        if len(stage.invocations) == moment:
            stage.watch(stage.world.begin("cancel", work), place)

    stage.function.begins = begins
    with stage.open():
        operator = Sandbox(stage.function, stage.app)
        stage.begin()
        stage.run_until(lambda: stage.is_held or bool(answers), BOUND_MS)
        if not stage.is_held:
            return False
        stage.run_until(stage.has_ended, BOUND_MS)
        ended = stage.status()
        come_back(stage)
        told = answers == [ended == CANCELLED] or stage.case.status == CANCELLED  # by an event of its own, then
        assert told, f"the cancel said {answers}, and the run is {ended}"
        stage.check_performances(before.effects)
    return True


def remember(case: Case, before: Calm, number: int, until: str) -> None:
    """The sandbox of that invocation keeps what it has folded and gets nothing to do, until the run went on. Then it is
    the only one that is warm, and gets its own wake once more, and all that come after; and when the run has ended,
    every wake that there ever was."""
    stage = CaseStage(case)
    aside: list[Sandbox] = []
    finished = stage.invariants.finished

    def put_aside(invocation: Invocation, outcome: str) -> None:
        finished(invocation, outcome)
        if len(stage.invocations) >= number and invocation is stage.invocations[number - 1]:
            aside.append(invocation.sandbox)

    stage.function.finished = put_aside
    with stage.open():
        stage.begin()
        assert stage.run_until(lambda: bool(aside), BOUND_MS)
        [old] = aside
        stage.function.idle.remove(old)
        stood = stage.records()
        went_on: Callable[[], bool] = (
            stage.has_ended if until == THE_END else lambda: stage.records() > stood or stage.has_ended()
        )
        stage.run_until(went_on, BOUND_MS)
        stage.function.idle.append(old)
        stage.function.favourite = old
        stage.function.accept(stage.invocations[number - 1].payload, "bus")
        stage.end()
        stage.check_performances(before.effects)
        items, performed = stage.items(), stage.effects.counts.total()
        for wake in list(stage.sent):
            stage.function.accept(wake, "bus")
        stage.settle()
        stage.invariants.at_the_end()
        stage.check_outcome()
        check_untouched(items, stage.items(), is_cancelled=True)
        assert stage.effects.counts.total() == performed, "a run that had ended was gone on with"


def belated(case: Case, before: Calm, number: int) -> None:
    """That wake is on its way until the run has ended without it, and then it arrives."""
    stage = CaseStage(case, lost=number)
    with stage.open():
        stage.begin()
        stage.end()
        items, performed = stage.items(), stage.effects.counts.total()
        stage.function.accept(stage.sent[number - 1], "own")
        stage.settle()
        stage.invariants.at_the_end()
        stage.check_outcome()
        stage.check_performances(before.effects)
        check_untouched(items, stage.items(), is_cancelled=True)
        assert stage.effects.counts.total() == performed, "a run that had ended was gone on with"
