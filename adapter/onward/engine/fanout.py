"""Steps in flight beside each other: a lane for each, and one place in the log where their results are observed.

A step that runs beside others does not contend for the end of the log. One record planned it and its siblings. It has
an invocation of its own, which replays the workflow up to that plan, performs the step, and puts the result under the
step's own key, where the first result wins. A failed attempt is put under the attempt's key, and the next attempt has
a wake of its own.

What the workflow then sees, and when, is decided by the log alone: somebody must *collect*, that is replay the
workflow with the new results, and append what they lead to together with the order in which they were observed.
Collecting at every completion
would make n steps cost n * n reads, so:

- while few steps are in flight (`FEW`), whoever completes one collects;
- where more are (the plan is `wide`), each completion is marked, in an item for each `CHUNK` of steps. The step's own
  replay tells whether its result alone lets the workflow go on (a branch with another step behind it, the first of
  several that were raced). If so it collects, unless a sibling in the same chunk is about to: the marks decide
  which one. If not, it only counts: the last of its plan looks whether others are in flight, and collects if not;
- what several results unlock only together, while others are still missing, is found by a timer that collects at
  growing intervals, as long as a wide plan is in flight. Each of its looks has a number, and the run's item `T` says
  which one was begun last: of a wake that is delivered twice one goes on, or timers would multiply.

So a thousand steps that are awaited together cost a thousand results, marks and wakes, and each result is read once.
"""

from __future__ import annotations

from ..core import status
from ..core.errors import Leave, WriteRefused
from ..core.log import (
    HEAD,
    MAX_KEY_DIGITS,
    MAX_SEQ,
    TIMER,
    attempt_key,
    attempt_of,
    fields_of,
    head_of,
    lane_key,
    lane_of,
    marks_key,
    partition_of,
    plan_marks_key,
    run_of,
    step_context,
    unreadable,
)
from ..ports import Drop, Put, Swap
from .advance import Invocation, crashed
from .ledger import Superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ..core.log import Fold, Lane, Move
    from ..core.replay import Wanted
    from ..ports import Item
    from .engine import Engine, Wake
    from .steplimits import Slots

FEW = 8  # steps in flight up to which every completion collects
CHUNK = 64  # steps whose completions are marked in one item
FAN = 16  # wakes that one invocation sends at most
FIRST_LOOK_MS = 2_000  # when the timer first collects; doubled up to
LONGEST_LOOK_MS = 64_000
MAX_ROUNDS = 50  # of collecting in one invocation


# ------------------------------------------------------------------------------------------------ sending wakes
def first_wakes(run: str, move: Move, now_ms: int, timer_runs: bool) -> list[tuple[Wake, int | None]]:
    """The wakes that follow a plan: one for each step, or for a large plan one for each part of it, and the first of
    the timer that collects, where none runs."""
    wakes = _fan_out(run, move.seq, 0, move.count)
    if move.count <= FAN:
        wakes = [(wake, move.sleeps.get(wake["index"])) for wake, _ in wakes]
    if move.wide and not timer_runs:
        wakes.append((_look_wake(run, move.seq, 0), now_ms + _look_after_ms(0)))
    return wakes


def _fan_out(run: str, plan: int, first: int, end: int) -> list[tuple[Wake, int | None]]:
    count = end - first
    if count <= FAN:
        return [(_step_wake(run, (plan, index), 1), None) for index in range(first, end)]
    size = -(-count // FAN)
    return [
        ({"do": "fan", "run": run, "plan": plan, "first": low, "end": min(low + size, end)}, None)
        for low in range(first, end, size)
    ]


def _look_wake(run: str, plan: int, number: int) -> Wake:
    return {"do": "collect", "run": run, "look": [plan, number]}


def _look_after_ms(number: int) -> int:
    """How long after the look before it the timer's look of that number comes."""
    doubled: int = FIRST_LOOK_MS << min(number, 16)
    return min(doubled, LONGEST_LOOK_MS)


def fan(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Send the wakes of a part of a plan. Performs nothing, so it can be repeated."""
    for part, at_ms in _fan_out(wake["run"], wake["plan"], wake["first"], wake["end"]):
        engine.send(part, at_ms)


def _step_wake(run: str, lane: Lane, attempt: int) -> Wake:
    return {"do": "step", "run": run, "plan": lane[0], "index": lane[1], "attempt": attempt}


# ------------------------------------------------------------------------------------------- performing one step
def step(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Perform one attempt of a step in flight, put what came of it in its lane, and see who collects."""
    run, lane, attempt = wake["run"], (wake["plan"], wake["index"]), wake["attempt"]
    fold = engine.ledger.load(run, upto=lane[0])
    if fold is None or lane[0] not in fold.plans or lane[1] >= fold.plans[lane[0]].count:
        engine.note("WARNING", "wake for an unknown run or plan", run_id=run)
        return
    partition = partition_of(run)
    sorts = [
        HEAD,
        lane_key(lane),
        attempt_key(lane, attempt),
        *([attempt_key(lane, attempt - 1)] if attempt > 1 else []),
    ]
    head, result, standing, before = [*engine.store.get([(partition, sort) for sort in sorts]), None][:4]
    fold.head = head
    if head is None or head_of(head)["status"] in status.ENDED:
        engine.note("INFO", "wake for a step of a run that has ended", run_id=run)
        engine.tidy(fold)  # it may have been let in at the same time
        return
    if standing is not None and result is None:
        engine.note("INFO", "stale wake", run_id=run, plan=lane[0], index=lane[1], attempt=attempt)
        engine.ledger.keep(fold)
        return
    if lane[1] not in fold.plans[lane[0]].waits:  # they stand, and the log does not say until when to look after them
        engine.watch(fold)
    last = attempt_of(before) if before is not None else None
    conductor = LaneInvocation(engine, fold, lane, attempt, last, deadline_ms, invocation)
    if result is not None:
        conductor.settled(result)
    conductor.conduct()


class LaneInvocation(Invocation):
    """Conducts a replay that stands at a plan, performs one of its steps there, and then sees where its result alone
    leads (`visible`). It never touches the end of the log."""

    def __init__(
        self,
        engine: Engine,
        fold: Fold,
        lane: Lane,
        attempt: int,
        last: dict[str, Any] | None,
        deadline_ms: int | None,
        invocation: str | None,
    ) -> None:
        super().__init__(engine, fold, deadline_ms, invocation, stop_at=lane[0])
        self.lane = lane
        self.number = attempt
        self.last = last  # the record of the attempt before
        self.move = fold.plans[lane[0]]
        self.done = False
        self.visible = False

    def conduct(self) -> None:
        _, error = self.replayed()
        if not self.replay.left:
            self.visible = True
        if (
            error is not None and not self.done
        ):  # it did not come as far as to the step: the end of the log will say why
            fold = self.ledger.load(self.fold.run)
            if fold is not None and fold.ended is None:
                Invocation(self.engine, fold, self.deadline_ms, self.invocation).conduct()
            return
        for wake, at_ms in self.sends:
            self.engine.send(wake, at_ms)
        self.ledger.keep(self.fold)
        if self.done:
            stood = self.lane[1] in self.move.waits  # meanwhile the timer may sleep, and nobody else would look
            completed(self.engine, self.fold.run, self.move, self.lane[1], self.visible or stood)

    def settled(self, item: Item) -> None:
        """The step has a result."""
        _take(self.fold, item)
        self.replay.observe(self.lane)
        self.done = True

    def blocked(self, fresh: list[Wanted], flight: list[Wanted]) -> None:
        if self.done:
            self.visible = bool(fresh)
            raise Leave
        for wanted in flight:
            if self.replay.lane(wanted) == self.lane:
                self._perform(wanted)
                return
        raise Leave  # not awaited any more, as by a task that was cancelled

    def _perform(self, wanted: Wanted) -> None:
        if wanted.stands_for is not None:
            self._stand(wanted, self.move.waits[self.lane[1]])
            return
        now_ms = self.engine.clock.now_ms()
        until_ms = self.move.sleeps.get(self.lane[1], 0) if wanted.is_sleep else (self.last or {}).get("until", 0)
        if until_ms > now_ms:
            self.sends.append((_step_wake(self.fold.run, self.lane, self.number), until_ms))
            raise Leave
        value = slots = None
        if wanted.is_sleep:
            body = self._outcome(wanted, status.DONE, 0)
        elif (body_or_none := self._worn_out(wanted)) is not None:
            body = body_or_none
            self.tidy()
        else:
            wake = _step_wake(self.fold.run, self.lane, self.number)
            slots = self.slots(wanted, attempt_key(self.lane, self.number), wake)
            if wanted.once and not self._put(
                attempt_key(self.lane, self.number), self._outcome(wanted, status.BEGUN, self.number)
            ):
                raise Leave
            body, value = self.attempt(wanted, self.number)
            if self.writes:
                self._transact(wanted, body, value, slots)
                return
        if body["k"] == status.RETRYING:
            if self._put(attempt_key(self.lane, self.number), body, slots):
                self.sends.append((_step_wake(self.fold.run, self.lane, self.number + 1), body["until"]))
            raise Leave
        self._settle(body, value, slots=slots)

    def _settle(
        self,
        body: dict[str, Any],
        value: str | None,
        also: Sequence[Put | Drop] = (),
        own: Sequence[Any] = (),
        slots: Slots | None = None,
    ) -> Item | None:
        """Put the result where none is, together with writes of the user's `own`; the first one counts. Where none is
        and the first of `also` finds its place taken, nothing is written: then this returns what stands there. Raises
        `WriteRefused`. `slots`: what the attempt holds."""
        item = self.ledger.item(self.fold.run, lane_key(self.lane), body, value)
        refused = (slots or self.ledger.store).write([Put(item), *also], own)
        standing = item if refused is None else refused.standing[0]
        if standing is None:
            assert refused is not None
            if refused.why:
                raise WriteRefused(refused.why)
            return refused.standing[1]
        self.settled(standing)
        return None

    def _stand(self, wanted: Wanted, until_ms: int) -> None:
        """Begin to wait for what something outside brings; or say what came of it."""
        from . import waiting

        if not self._stands():
            if not waiting.begin(self.engine, self.fold, self.lane, self.number, wanted, until_ms):
                raise Leave  # the run has ended meanwhile
            self.number += 1
        found = waiting.look_back(self.engine, self.fold, wanted.key, wanted.wait, until_ms) if wanted.wait else None
        if found is None and self.engine.clock.now_ms() < until_ms:
            self.sends.append((_step_wake(self.fold.run, self.lane, self.number), until_ms))
            raise Leave
        if wanted.wait is None:
            self._settle(self._outcome(wanted, status.BROKEN, 1, e=waiting.too_late(wanted).to_json()), None)
            return
        places = waiting.places_of(self.fold.run, self.lane, wanted.wait)
        told, value = found or ({}, None)
        closing = [waiting.closed(self.ledger, wanted.wait.closes)] if found is None and wanted.wait.closes else []
        came = self._settle(self._outcome(wanted, status.DONE, 1, **told), value, [*closing, *places])
        if came is not None:  # what would have come too late was there before, or is too late for another fork as well
            told, value = ({}, None)
            if not waiting.is_closed(came):
                told, value = waiting.result_of_kept(self.ledger, came, step_context(self.fold.run, wanted.key))
            self._settle(self._outcome(wanted, status.DONE, 1, **told), value, places)

    def _transact(self, wanted: Wanted, body: dict[str, Any], value: str | None, slots: Slots | None) -> None:
        """Put the result together with the user's own writes, or that they were refused."""
        try:
            self._settle(body, value, own=self.writes, slots=slots)
        except WriteRefused as error:
            self._settle(self.refused(wanted, self.number, error), None, slots=slots)

    def _stands(self) -> bool:
        """Whether the wait was written down by an attempt before this one. It is written down once, or what comes late
        would stand when the run has gone on."""
        if self.last is None or self.last["k"] == status.AWAITING:
            return self.last is not None
        first, last = attempt_key(self.lane, 1), attempt_key(self.lane, self.number - 1)
        before = self.ledger.store.read(partition_of(self.fold.run), first, last)
        return any(attempt_of(item)["k"] == status.AWAITING for item in before)

    def _worn_out(self, wanted: Wanted) -> dict[str, Any] | None:
        """The final record of a step whose attempts were used up by dying, or that had begun and may run only once."""
        assert wanted.retry is not None
        begun = self.last is not None and self.last["k"] == status.BEGUN
        if not begun and self.number <= wanted.retry.max_attempts:
            return None
        return self._outcome(wanted, status.BROKEN, self.number - 1, e=crashed(begun).to_json())

    def _put(self, sort: str, body: dict[str, Any], slots: Slots | None = None) -> bool:
        return (slots or self.ledger.store).write([Put(self.ledger.item(self.fold.run, sort, body))]) is None


# ------------------------------------------------------------------------------------------------- who collects
def completed(engine: Engine, run: str, move: Move, index: int, visible: bool) -> None:
    """A step has its result: collect, or leave it to whoever completes later."""
    if move.wide and not _marks_tell(engine, run, move, index, visible):
        return
    collect(engine, {"do": "collect", "run": run}, None, None)


def _marks_tell(engine: Engine, run: str, move: Move, index: int, visible: bool) -> bool:
    """Mark a completion of a wide plan, and tell whether it is this one's turn to collect.

    Sets of a chunk: `done`; `visible`, those whose result alone leads somewhere; `seen`, those that were collected.
    Of the visible ones that were not seen, the first collects, and looks again when it has.
    """
    partition = partition_of(run)
    number = move.first + index
    chunk, member = number // CHUNK, str(number)
    adds = {"done": [member], **({"visible": [member]} if visible else {})}
    sets = engine.store.mark(partition, marks_key(chunk), adds)
    if visible and _uncollected(sets) == {member}:
        return True
    end = move.first + move.count
    own = {str(n) for n in range(max(chunk * CHUNK, move.first), min((chunk + 1) * CHUNK, end))}
    if not own <= sets["done"]:
        return False
    first_chunk, last_chunk = move.first // CHUNK, (end - 1) // CHUNK
    if last_chunk > first_chunk:
        place = chunk - first_chunk
        done = engine.store.mark(partition, plan_marks_key(move.seq), {f"done{place // CHUNK}": [str(place)]})
        if sum(map(len, done.values())) <= last_chunk - first_chunk:
            return False
    return _nothing_else_in_flight(engine, run)


def _nothing_else_in_flight(engine: Engine, run: str) -> bool:
    fold = engine.ledger.load(run)
    if fold is None:
        return False
    few_or_done = fold.in_flight <= FEW or fold.in_flight == len(_done_wide(engine, fold))
    engine.ledger.keep(fold)
    return few_or_done


def _uncollected(sets: dict[str, frozenset[str]]) -> frozenset[str]:
    return sets.get("visible", frozenset()) - sets.get("seen", frozenset())


# --------------------------------------------------------------------------------------------------- collecting
def collect(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Observe the results that the steps in flight have left, as long as that leads anywhere."""
    run = wake["run"]
    fold = None
    for number in range(MAX_ROUNDS):
        fold = engine.ledger.load(run)
        if fold is None or fold.ended is not None or not fold.flight:
            break
        if number == 0 and "look" in wake and not _begins(engine, run, wake["look"]):
            engine.note("INFO", "stale wake", run_id=run, look=wake["look"])
            engine.ledger.keep(fold)
            return
        lanes = _unobserved(engine, fold)
        seq = fold.next_seq
        try:
            if lanes:
                Invocation(engine, fold, deadline_ms, invocation, seen=lanes).conduct()
            else:
                engine.ledger.keep(fold)
        except Superseded:
            continue
        if fold.ended is not None or fold.next_seq == seq or not _more(engine, fold, lanes):
            break
    _look_again(engine, wake, fold)


def _unobserved(engine: Engine, fold: Fold) -> list[Lane]:
    """The lanes of this run that have a result which the log has not observed, in the order of their completion."""
    lanes = _done_wide(engine, fold)
    lanes += [(plan, index) for plan, indexes in fold.flight.items() if not fold.plans[plan].wide for index in indexes]
    found: list[tuple[int, Lane]] = []
    for item in engine.ledger.lanes(fold.run, lanes):
        lane, _ = lane_of(item)
        if lane not in fold.results:
            _take(fold, item)
        found.append((fields_of(item)["at"], lane))
    return [lane for _, lane in sorted(found)]


def _take(fold: Fold, item: Item) -> None:
    """Take in what stands in a lane; raises `Superseded` where a cancel has closed it."""
    if fields_of(item).get("k") == status.CLOSED:
        raise Superseded
    fold.apply_lane(item)


def _done_wide(engine: Engine, fold: Fold) -> list[Lane]:
    """The lanes of wide plans that are in flight as far as the log knows, and marked as done."""
    numbered = {
        fold.plans[plan].first + index: (plan, index)
        for plan, indexes in fold.flight.items()
        if fold.plans[plan].wide
        for index in indexes
    }
    lanes: list[Lane] = []
    for chunk in sorted({number // CHUNK for number in numbered}):
        done = engine.store.marks(partition_of(fold.run), marks_key(chunk)).get("done", ())
        lanes += [numbered[number] for number in sorted(_numbers(done)) if number in numbered]
    return lanes


def _numbers(members: Iterable[str]) -> list[int]:
    """The steps that marks name, but for what somebody else has marked there."""
    return [int(member) for member in members if member.isdecimal() and len(member) <= MAX_KEY_DIGITS]


def _more(engine: Engine, fold: Fold, lanes: Iterable[Lane]) -> bool:
    """Mark what was collected of wide plans; whether more may have completed meanwhile that leads somewhere."""
    chunks: dict[int, list[str]] = {}
    few = False
    for plan, index in lanes:
        move = fold.plans[plan]
        if move.wide:
            number = move.first + index
            chunks.setdefault(number // CHUNK, []).append(str(number))
        else:
            few = True
    more = False
    for chunk, members in chunks.items():
        sets = engine.store.mark(partition_of(fold.run), marks_key(chunk), {"seen": members})
        more = more or bool(_uncollected(sets))
    return more or (few and bool(fold.flight))


def _begins(engine: Engine, run: str, look: list[int]) -> bool:
    """Whether this invocation is the one that begins this look of the timer."""
    standing = engine.store.get([(partition_of(run), TIMER)])[0]
    if standing is not None and _look_of(standing) >= look:
        return False
    item = engine.ledger.item(run, TIMER, {"look": look})
    return engine.store.write([Put(item) if standing is None else Swap(item, standing.token)]) is None


def _look_of(item: Item) -> list[int]:
    """The number of the timer's look that was begun last."""
    look = fields_of(item).get("look")
    if type(look) is not list or [type(number) for number in look] != [int, int]:
        raise unreadable(run_of(item.partition), item.sort, "no look of the timer")
    return look


def _look_again(engine: Engine, wake: Wake, fold: Fold | None) -> None:
    """Keep the timer going while a wide plan is in flight; while all in flight sleep, let it sleep as well."""
    if "look" in wake and fold is not None and fold.ended is None and _wide_in_flight(fold):
        plan, number = wake["look"]
        at_ms = engine.clock.now_ms() + _look_after_ms(number + 1)
        ends = [
            fold.plans[other].sleeps.get(index) or fold.plans[other].waits.get(index, 0)
            for other, indexes in fold.flight.items()
            for index in indexes
            if (other, index) not in fold.results
        ]
        if ends and min(ends) > at_ms:
            at_ms = min(ends) + FIRST_LOOK_MS
        engine.send(_look_wake(fold.run, plan, number + 1), at_ms)


def _wide_in_flight(fold: Fold) -> list[int]:
    return [plan for plan in fold.flight if fold.plans[plan].wide]


def _start_timer(engine: Engine, fold: Fold) -> None:
    """Start the timer again, where its wake may have been lost; where it was not, that wake has the same number."""
    if wide := _wide_in_flight(fold):
        standing = engine.store.get([(partition_of(fold.run), TIMER)])[0]
        plan, number = [min(wide), -1] if standing is None else _look_of(standing)
        engine.send(_look_wake(fold.run, plan, number + 1), engine.clock.now_ms() + FIRST_LOOK_MS)


# ---------------------------------------------------------------------------------------------------- recovering
def recover(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Do whatever a run needs to go on, when all that is known is that nothing happened in time. `upto` in the wake: so
    many records of its log had been written when that was noticed; what came later has invocations of its own, which
    may not be over yet."""
    run, upto = wake["run"], wake.get("upto", MAX_SEQ)
    before = engine.ledger.load(run)
    if before is not None and before.ended is not None:
        engine.tidy(before)
    if before is None or before.ended is not None or engine.expired(before):
        return
    if before.flight and not engine.may_go_on(before):  # a fork has steps in flight before it has begun
        return
    for plan in before.flight:
        if before.plans[plan].wide:
            _mark_results(engine, before, before.plans[plan])
    engine.ledger.keep(before)
    engine.tidy(before)
    collect(engine, {"do": "collect", "run": run}, deadline_ms, invocation)
    fold = engine.ledger.load(run)
    if fold is None or fold.ended is not None:
        return
    plans = [plan for plan in fold.flight if plan < upto]
    if fold.flight:
        _start_timer(engine, fold)
        times = [time_ms for plan in plans for time_ms in _wake_lanes(engine, fold, fold.plans[plan])]
    else:
        times = engine.waits_ms(fold)
    now_ms = engine.clock.now_ms()
    if (
        times and min(times) > now_ms and len(plans) == len(fold.flight)
    ):  # nothing is overdue: it is not stalled, it waits
        fold.head = None  # the sweep has moved it: what is kept warm is older
        engine.ledger.move_head(fold, min([engine.due_for(min(times)), *fold.deadlines]), stalls=0)
    engine.ledger.keep(fold)
    if fold.next_seq <= upto:
        engine.send({"do": "advance", "run": run, "seq": fold.next_seq})  # where it waits for steps in flight, it stops


def _lane_items(engine: Engine, fold: Fold, move: Move) -> dict[int, list[Item]]:
    """What stands in the lanes of a plan: for each index its result, if it has one, and its attempts."""
    lanes: dict[int, list[Item]] = {}
    for item in engine.store.read(partition_of(fold.run), lane_key((move.seq, 0)), lane_key((move.seq, move.count))):
        lanes.setdefault(lane_of(item)[0][1], []).append(item)
    return lanes


def _mark_results(engine: Engine, fold: Fold, move: Move) -> None:
    """Mark the results of a wide plan whose invocations died before they did."""
    for index, items in _lane_items(engine, fold, move).items():
        if index in fold.flight[move.seq] and items[0].sort == lane_key((move.seq, index)):
            number = move.first + index
            engine.store.mark(partition_of(fold.run), marks_key(number // CHUNK), {"done": [str(number)]})


def _wake_lanes(engine: Engine, fold: Fold, move: Move) -> list[int]:
    """Send the wakes of the steps of a plan that have no result, and return their times."""
    found = _lane_items(engine, fold, move)
    times = []
    for index in sorted(fold.flight[move.seq]):
        items = found.get(index, [])
        if items and items[0].sort == lane_key((move.seq, index)):
            continue  # it waits to be observed together with others
        attempt, until_ms, stands = 1, move.sleeps.get(index), False
        if items:
            attempt = (lane_of(items[-1])[1] or 0) + 1
            told = [attempt_of(item) for item in items]
            stands = any(one["k"] == status.AWAITING for one in told)  # it looks back now: it may have died before
            # of a sleep, and of a wait that was written down, it is the plan that tells
            until_ms = until_ms or (move.waits.get(index) if stands else told[-1].get("until"))
        engine.send(_step_wake(fold.run, (move.seq, index), attempt), None if stands else until_ms)
        times.append(until_ms or 0)
    return times
