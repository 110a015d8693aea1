"""Replay: run a workflow function again, and hand it what its log says.

The workflow is called from its start at every advance. Each step that it calls is looked up by its key: the name,
and which one of that name it is. A step with an outcome in the log returns it (or raises it); the function does not
notice that it was away. Sooner or later it stands: every branch of it waits for a step without an outcome. Then one
of four things is true, and they are tried in this order:

1. The log has outcomes of steps in sequence for which the workflow waits: it gets them.
2. The log has a record `planned` that was not replayed yet. Its first half says which results were observed: the
   workflow gets these, in that order, and runs until it stands again. Its second half says how many steps went in
   flight then. Those must be the steps for which the workflow waits now and that were not in flight before; a digest
   over their sorted keys tells. So the order in which results came is the same at every replay, whatever the clocks
   say.
3. The workflow waits for steps of which the log knows nothing, while finished steps of the log have not been asked
   for: a step was renamed, removed, or another one put in front of it. That is `Drift`, and nothing is performed.
4. The log is used up. The conductor is told what is wanted. It performs or plans, appends to the log and returns,
   or it raises `Leave`, because this invocation has done its part.

Finished steps are found by name, so steps that are all finished may change places. A failed attempt is not a
finished step: a step that only failed so far may be renamed or removed, since that is how one mends it.
"""

from __future__ import annotations

from .errors import DefinitionError, Drift, InvalidName, Leave, LeaveSwallowed, NestedStep, StepError
from .ids import callback_token, plan_digest
from .log import Broken, Done
from .values import MAX_NAME_CHARS, display

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Protocol

    from .log import Fold, Lane, Move
    from .retry import Retry
    from .values import Key
    from .waits import Child, Wait

    class Conductor(Protocol):
        def blocked(self, fresh: list[Wanted], flight: list[Wanted]) -> None: ...
        def value(self, wanted: Wanted, outcome: Done) -> Any: ...
        def elapsed(self, until_ms: int) -> bool: ...


MAX_LISTED = 40  # steps of each list that the report of a drift shows


class Wanted:
    """A step that the workflow called: what to perform if the log does not have it."""

    __slots__ = (
        "args",
        "child",
        "fn",
        "key",
        "kwargs",
        "once",
        "output_type",
        "retry",
        "returns",
        "sends",
        "sleep_ms",
        "timeout_s",
        "transacts",
        "until_ms",
        "wait",
    )

    def __init__(
        self,
        key: Key,
        fn: Callable[..., Any] | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        once: bool = False,
        output_type: Any = None,
        sleep_ms: int | None = None,
        until_ms: int | None = None,
        wait: Wait | None = None,
        child: Child | None = None,
        sends: bool = False,
        transacts: bool = False,
        returns: Any = None,
    ) -> None:
        self.key = key
        self.fn = fn
        self.args = args
        self.kwargs = kwargs or {}
        self.retry = retry
        self.timeout_s = timeout_s
        self.once = once
        self.output_type = output_type
        self.sleep_ms = sleep_ms  # a sleep of that long,
        self.until_ms = until_ms  # or until then
        self.wait = wait  # a wait for events
        self.child = child  # another run, whose result it brings
        self.sends = sends  # an event, named by its arguments: the engine performs it
        self.returns = returns  # what is recorded in place of what its function returns (None: just that)
        self.transacts = transacts  # the writes that its function returns, together with its record

    @property
    def is_sleep(self) -> bool:
        return self.fn is None and self.stands_for is None

    @property
    def stands_for(self) -> Wait | Child | None:
        """What outside brings its result; None where it is performed, or sleeps."""
        return self.wait or self.child

    def ends_ms(self, now_ms: int) -> int:
        """When a sleep that begins now is over."""
        return self.until_ms if self.until_ms is not None else now_ms + (self.sleep_ms or 0)


class Slept:
    """The outcome of a sleep that is over."""

    __slots__ = ()


SLEPT = Slept()

if TYPE_CHECKING:
    Outcome = Done | Broken | Slept


class Branch:
    """One branch of `step.parallel` in a sync workflow: the keys that it was given, and the branches of the groups
    inside it, so that calling it again gives its steps the same keys again; and the steps at which it stands."""

    __slots__ = ("groups", "groups_used", "keys", "stands", "used")

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.used = 0
        self.groups: list[list[Branch]] = []
        self.groups_used = 0
        self.stands: list[Wanted] = []

    def group(self, size: int) -> list[Branch]:
        """The branches of its next group."""
        place = self.groups_used
        self.groups_used += 1
        if place == len(self.groups) or len(self.groups[place]) != size:
            self.groups[place:] = [[Branch() for _ in range(size)]]
        return self.groups[place]

    def stand(self, wanted: list[Wanted]) -> BranchStands:
        """The signal that leaves this branch, at these steps."""
        self.stands = wanted
        return BranchStands()


class BranchStands(Leave):
    """Leaves one branch of `step.parallel`, to see how far the others come."""


class Replay:
    """One replay of a run. `seen`: results to hand out when the log is used up, although no record says so yet.
    `stop_at`: the seq of the plan at which to stand as if the log ended there."""

    __slots__ = (
        "_asked",
        "_branch",
        "_cursor",
        "_fold",
        "_fresh",
        "_given",
        "_lanes",
        "_ordinals",
        "_seen_given",
        "conductor",
        "fault",
        "left",
        "performing",
        "stop_at",
        "unwritten",
    )

    def __init__(self, fold: Fold, conductor: Conductor, seen: Sequence[Lane] = (), stop_at: int | None = None) -> None:
        self.conductor = conductor
        self.stop_at = stop_at
        self.left = False  # the workflow was told to leave
        self.fault: Exception | None = None  # because of this
        self.performing: str | None = None  # the step whose function runs now
        self._fold = fold
        self._ordinals: dict[str, int] = {}
        self._asked: dict[Key, None] = {}  # every step that the workflow called, in order
        self._lanes: dict[Key, Lane] = {}  # of the steps that went in flight
        self._given: set[Lane] = set()  # results that this replay has handed out
        self.unwritten = list(seen)  # not handed out yet, since nobody waits for any of them
        self._fresh: dict[Key, Wanted] = {}  # called, but neither answered nor in flight
        self._cursor = 0  # in fold.moves
        self._seen_given = False  # the first half of that move is replayed
        self._branch: Branch | None = None

    # ---------------------------------------------------------------------------------------- called by step.py
    def key(self, name: str) -> Key:
        """The key of the next step called `name`."""
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
            raise InvalidName(f"a step name is a string of 1 to {MAX_NAME_CHARS} characters, not {name!r:.80}")
        if self.performing is not None:
            raise NestedStep(
                f"step {name!r} was called inside step {self.performing!r}: a step cannot hold another; "
                f"return from {self.performing!r} first and call {name!r} in the workflow function"
            )
        if self.left:
            raise Leave
        branch = self._branch
        if branch is not None and branch.stands:  # called in a `finally` block, while the branch is being left
            raise BranchStands
        if branch is not None and branch.used < len(branch.keys) and branch.keys[branch.used][0] == name:
            key = branch.keys[branch.used]
        else:
            ordinal = self._ordinals.get(name, 0) + 1
            self._ordinals[name] = ordinal
            key = (name, ordinal)
            if branch is not None:
                del branch.keys[branch.used :]
                branch.keys.append(key)
        if branch is not None:
            branch.used += 1
        self._asked[key] = None
        return key

    @property
    def run(self) -> str:
        return self._fold.run

    def token(self, key: Key, run: str | None = None) -> str:
        """The token by which somebody outside completes the callback of this step; `run`: who has handed it out, this
        run or one that it is a fork of."""
        return callback_token(run or self._fold.run, self._fold.salts[run or self._fold.run], key)

    def stood_until_ms(self, wanted: Wanted) -> int:
        """Until when a wait that is over was to stand, as the record has it that put it in flight."""
        plan, index = self._lanes[wanted.key]
        return self._fold.plans[plan].waits[index]

    def outcome(self, wanted: Wanted) -> Outcome | None:
        """The outcome that the workflow may see by now."""
        key = wanted.key
        lane = self._lanes.get(key)
        if lane is not None:
            if lane not in self._given:
                return None
            outcome: Outcome = self._fold.results[lane][1]
            return SLEPT if wanted.is_sleep else outcome
        until_ms = self._fold.slept.get(key)
        if until_ms is not None:
            return SLEPT if key != self._fold.resting or self.conductor.elapsed(until_ms) else None
        return self._fold.memo.get(key)

    def result(self, wanted: Wanted, outcome: Outcome) -> Any:
        """What the call of the step returns, or raises."""
        if isinstance(outcome, Broken):
            failure = outcome.failure
            error = StepError(display(wanted.key), outcome.attempts, failure.type, failure.message, failure.traceback)
            error._key = wanted.key
            raise error
        slept = not isinstance(outcome, Done) or outcome.attempts == 0
        if slept and not wanted.is_sleep:
            raise self._leave_for(self._was_a_sleep(wanted))
        if not isinstance(outcome, Done):
            return None
        try:
            return self.conductor.value(wanted, outcome)
        except Exception as fault:
            raise self._leave_for(fault) from None

    def settle(self, wanted: Wanted) -> Outcome:
        """Sync: the outcome of one step; leaves the workflow, or the branch, when there is none yet."""
        outcome = self.outcome(wanted)
        while outcome is None:
            if self._branch is not None:
                raise self._branch.stand([wanted])
            self.block({wanted.key: wanted}, [wanted])
            outcome = self.outcome(wanted)
        return outcome

    def settle_all(self, branches: Sequence[Callable[[], Any]]) -> list[Any]:
        """Sync: run every branch until all are settled, and return their results in order. A branch that raised
        does not stop the others; when all are settled, the first error in their order is raised."""
        outer = self._branch
        states = outer.group(len(branches)) if outer else [Branch() for _ in branches]
        results: dict[int, Any] = {}
        errors: dict[int, Exception] = {}
        waiting = list(range(len(branches)))
        pending: dict[Key, tuple[int, Wanted]] = {}
        while True:
            for place in waiting:
                state = self._branch = states[place]
                state.used = state.groups_used = 0
                state.stands = []
                try:
                    results[place] = branches[place]()
                except BranchStands:
                    pass
                except Exception as error:
                    errors[place] = error
                finally:
                    self._branch = outer
                if state.stands and (place in results or place in errors):
                    self.left = True
                    raise LeaveSwallowed
                pending.update((wanted.key, (place, wanted)) for wanted in state.stands)
            if not pending:
                break
            if outer is not None:
                raise outer.stand([wanted for state in states for wanted in state.stands])
            new = [wanted for place in waiting for wanted in states[place].stands]
            ready = self.block({key: wanted for key, (_, wanted) in pending.items()}, new)
            waiting = sorted({pending[wanted.key][0] for wanted in ready})
            for place in waiting:
                for wanted in states[place].stands:
                    del pending[wanted.key]
        if errors:
            raise errors[min(errors)]
        return [results[place] for place in range(len(branches))]

    # ------------------------------------------------------------------------------ called when the workflow stands
    def block(self, pending: Mapping[Key, Wanted], new: Iterable[Wanted]) -> list[Wanted]:
        """The workflow stands at these steps; `new` are those that it called since it stood last, in their order.
        Returns the steps that have an outcome now (at least one), or raises `Leave`. Whatever else went wrong is kept
        in `fault`: the workflow's own `except Exception` is for the errors of its steps, and must not see it."""
        if self.left:
            raise Leave  # one of its tasks was told so, and nobody awaits that task
        try:
            return self._go_on(pending, new)
        except Leave:
            self.left = True
            raise
        except Exception as fault:
            raise self._leave_for(fault) from None

    def _leave_for(self, fault: Exception) -> Leave:
        self.left = True
        self.fault = self.fault or fault
        return Leave()

    def _go_on(self, pending: Mapping[Key, Wanted], new: Iterable[Wanted]) -> list[Wanted]:
        ready = []
        for wanted in new:
            if self.outcome(wanted) is not None:
                ready.append(wanted)
            elif wanted.key not in self._lanes:
                self._fresh[wanted.key] = wanted
        while not ready:
            if self._cursor < len(self._fold.moves) and not self._stopped():
                ready = self._follow(self._fold.moves[self._cursor], pending)
            elif self.unwritten and any(key in self._lanes for key in pending):
                ready = self._give(self.unwritten, pending)
                self.unwritten = []
            else:
                fresh = self._take_fresh(pending)
                if fresh:
                    self._check_nothing_unasked(fresh)
                self.conductor.blocked(fresh, [wanted for key, wanted in pending.items() if key in self._lanes])
                ready = [wanted for wanted in pending.values() if self.outcome(wanted) is not None]
                self._fresh.update((w.key, w) for w in fresh if w.key not in self._lanes and w not in ready)
        return ready

    def _stopped(self) -> bool:
        return self.stop_at is not None and self._cursor > 0 and self._fold.moves[self._cursor - 1].seq >= self.stop_at

    def _follow(self, move: Move, pending: Mapping[Key, Wanted]) -> list[Wanted]:
        """Replay the next half of a move; the steps that it answers."""
        if not self._seen_given:
            self._seen_given = True
            return self._give(move.seen, pending)
        if move.count:
            self.went_in_flight(move, self._take_fresh(pending))
        self._cursor += 1
        self._seen_given = False
        return []

    def _give(self, lanes: Sequence[Lane], pending: Mapping[Key, Wanted]) -> list[Wanted]:
        """Hand out these results; the steps among the pending that they answer."""
        self._given.update(lanes)
        keys = [self._fold.results[lane][0] for lane in lanes]
        return [pending[key] for key in keys if key in pending]

    def _take_fresh(self, pending: Mapping[Key, Wanted]) -> list[Wanted]:
        """The steps that were never in flight and are still awaited, by their keys: the order in which asyncio runs
        tasks is not the same in every process (`asyncio.as_completed` goes through a set)."""
        fresh = [self._fresh[key] for key in sorted(self._fresh) if key in pending]
        self._fresh = {}
        return fresh

    def went_in_flight(self, move: Move, fresh: list[Wanted]) -> None:
        if len(fresh) != move.count or plan_digest(w.key for w in fresh) != move.digest:
            raise self._drift(f"record {move.seq} put {move.count} steps in flight here", fresh, move.names)
        self._lanes.update((wanted.key, (move.seq, index)) for index, wanted in enumerate(fresh))

    # ---------------------------------------------------------------------------------- called by the conductor
    def lane(self, wanted: Wanted) -> Lane:
        return self._lanes[wanted.key]

    def observe(self, lane: Lane) -> None:
        """Hand out this result from now on, although no record says so yet."""
        self._given.add(lane)

    def caught_up(self, move: Move, fresh: list[Wanted]) -> None:
        """The conductor appended that move itself, and this replay stands right behind it."""
        if move.count:
            self.went_in_flight(move, fresh)
        self._cursor = len(self._fold.moves)

    def unasked(self) -> list[Key]:
        """Finished steps that the workflow has not called (so far)."""
        fold = self._fold
        finished = [*fold.memo, *(k for k in fold.slept), *(k for k, trouble in fold.trouble.items() if trouble.begun)]
        finished.extend(fold.results[lane][0] for move in fold.moves for lane in move.seen if lane in fold.results)
        return [key for key in finished if key not in self._asked]

    # --------------------------------------------------------------------------------------------------- drift
    def _check_nothing_unasked(self, fresh: list[Wanted]) -> None:
        if self.stop_at is not None:
            return  # stands in the middle of the log on purpose; it was checked when that plan was made
        for wanted in fresh:
            if wanted.key in self._fold.slept and not wanted.is_sleep:
                raise self._was_a_sleep(wanted)
        if unasked := self.unasked():
            raise self._drift(
                f"the log has finished step {display(unasked[0])!r}, which the code does not call", fresh, []
            )

    def _was_a_sleep(self, wanted: Wanted) -> Drift:
        """The log's sleep of that name must not pass for a step: its function would never be performed."""
        what = f"the log has slept in step {display(wanted.key)!r}, where the code performs a function"
        return self._drift(what, [wanted], [])

    def _drift(self, what: str, fresh: list[Wanted], named: list[Key]) -> Drift:
        fold = self._fold
        logged = [
            *fold.memo,
            *fold.slept,
            *(fold.results[x][0] for move in fold.moves for x in move.seen if x in fold.results),
        ]
        logged.extend(key for key in named if key not in logged)
        called = list(self._asked)
        new = {wanted.key for wanted in fresh}
        return Drift(
            f"the code of workflow {fold.workflow!r} does not fit the log of run {fold.run}: {what}, "
            f"but calls {', '.join(repr(display(w.key)) for w in fresh[:3]) or 'nothing else'}. Nothing was performed. "
            f"Deploy code that still has the finished steps under their names, or start a new run.\n"
            + _side_by_side(logged, called, new)
        )


def _side_by_side(logged: list[Key], called: list[Key], new: set[Key]) -> str:
    """Both lists of steps, the log's and the code's, with a mark at each line on which only one side stands."""
    rows = [("log", "code", " ")]
    in_log, in_code = set(logged), set(called)
    for place in range(min(max(len(logged), len(called)), MAX_LISTED)):
        left = logged[place] if place < len(logged) else None
        right = called[place] if place < len(called) else None
        odd = (left is not None and left not in in_code) or (
            right is not None and (right not in in_log or right in new)
        )
        rows.append((display(left)[:60] if left else "", display(right)[:60] if right else "", "!" if odd else " "))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {mark} {left.ljust(width)} | {right}".rstrip() for left, right, mark in rows)


def stands_for_nothing(workflow: str) -> DefinitionError:
    return DefinitionError(
        f"workflow {workflow!r} waits for something that no step will bring: await only steps (and what is made of "
        f"them) in a workflow function, and do everything else inside a step"
    )


def limits_what_is_left(workflow: str) -> DefinitionError:
    return DefinitionError(
        f"workflow {workflow!r} puts a time limit of asyncio (timeout, wait_for, or wait with timeout=) around a step: "
        f"it would end with this invocation, not with the time. Give the step timeout=, or race it with step.sleep(...)"
    )
