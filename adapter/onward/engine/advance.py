"""Advance a run: replay its workflow against its log, perform or plan what is next, append, send the next wake.

`Invocation` conducts one replay. It is told where the workflow stands, and decides:

- one step wanted, nothing in flight: the step is performed here and its outcome goes to the end of the log;
- several wanted, or others in flight: one record plans them all, and each gets a wake (see fanout.py);
- nothing new wanted, steps in flight: nothing to do here; whoever finishes one goes on.

After one performed step it leaves the workflow, or with "fill" stays as long as the time that is left allows.
"""

from __future__ import annotations

from ..core import status
from ..core.codec import decode, encode
from ..core.errors import (
    Crashed,
    Drift,
    InvalidOption,
    ItemTooLarge,
    Leave,
    LeaveSwallowed,
    MiddlewareFailed,
    Misconfigured,
    NotEncodable,
    OnwardError,
    RequestRefused,
    StepError,
    Unavailable,
    WriteRefused,
)
from ..core.ids import idempotency_key, plan_digest
from ..core.log import NAMES_IN_PLAN, event_of, log_key, run_context, step_context
from ..core.replay import Replay
from ..core.values import Failure, display
from ..ports import MAX_WRITES
from ..step import MAX_SLEEP_MS, CurrentStep, Step
from .perform import describe, perform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..app import Workflow
    from ..core.log import Done, Fold, Lane
    from ..core.replay import Wanted
    from ..core.values import Event, Key
    from .engine import Engine, Wake
    from .middleware import Around
    from .steplimits import Slots

_NOT_THE_RUNS = (Unavailable, RequestRefused, Misconfigured, MiddlewareFailed)
MAX_RESERVE_MS = 2_000  # kept free at the end of an invocation, to record what happened
MAX_IN_FLIGHT = 10_000  # steps beside each other: the record that observes all of them must fit an item
WRITES_OF_A_SLOT = 2  # that free it
MAX_IDLE_DEATHS = 10  # invocations that died before they reached a step


def advance(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Go on with a run whose log has `seq` records, as the wake expects; a longer log is somebody else's."""
    fold = engine.ledger.load(wake["run"])
    if fold is None:
        engine.note("WARNING", "wake for an unknown run", run_id=wake["run"])
    elif fold.ended is not None or fold.next_seq > wake["seq"]:
        engine.note("INFO", "stale wake", run_id=wake["run"], seq=wake["seq"])
        engine.ledger.keep(fold)
        if fold.ended is not None:
            engine.tidy(fold)
    elif engine.may_go_on(fold):
        Invocation(engine, fold, deadline_ms, invocation, performs=True).conduct()


class Invocation:
    """Conducts one replay at the end of a run's log. `seen`: lanes whose results it observes, not yet in the log.
    `performs`: whether a step that stands there alone is performed here. Only an invocation whose wake names this place
    may do that: if the step kills it, the notice of its death brings that wake, and tells which step to blame."""

    def __init__(
        self,
        engine: Engine,
        fold: Fold,
        deadline_ms: int | None = None,
        invocation: str | None = None,
        seen: Sequence[Lane] = (),
        stop_at: int | None = None,
        performs: bool = False,
    ) -> None:
        self.engine = engine
        self.performs = performs
        self.ledger = engine.ledger
        self.fold = fold
        self.workflow: Workflow = engine.workflow_of(fold)
        self.deadline_ms = deadline_ms
        self.began_ms = engine.clock.now_ms()
        self.invocation = invocation
        self.seen = list(seen)
        self.replay = Replay(fold, self, seen, stop_at)
        self.alone = False  # one step is wanted, and nothing of what is in flight
        self.performed = 0
        self.slowest_ms = 0
        self.sends: list[tuple[Wake, int | None]] = []
        # of the attempt that was made last: the user's own writes, which belong to its record, and the middleware
        self.writes: Sequence[Any] = ()
        self.around: Around | None = None

    # -------------------------------------------------------------------------------------------------- conduct
    def conduct(self) -> None:
        """Replay, do what is next, and send the wakes that follow from it."""
        if self.engine.expired(self.fold):
            return
        seq = self.fold.next_seq
        result, error = self.replayed()
        if error is not None:
            self.fail(error)
        elif not self.replay.left:
            self.complete(result)
        if self.fold.ended is None and self.fold.next_seq > seq:  # what does not grow is left for the sweep to see
            self.engine.watch(self.fold)
        for wake, at_ms in self.sends:
            self.engine.send(wake, at_ms)
        self.ledger.keep(self.fold)

    def replayed(self) -> tuple[Any, BaseException | None]:
        """Call the workflow: its result, or the error with which the run fails. Raises what is no fault of the run's,
        such as a store that does not answer."""
        result, error = None, None
        swallowed = False
        try:
            event = self.event()
        except _NOT_THE_RUNS:
            raise
        except Exception as unreadable:
            return None, unreadable
        try:
            hooks = self.engine.hooks
            result = self.call_workflow(event) if hooks is None else hooks.replay(self.fold, event, self.call_workflow)
            swallowed = self.replay.left
        except Leave:
            pass
        except MiddlewareFailed:
            raise
        except Exception as raised:
            error = raised
            swallowed = self.replay.left or isinstance(raised, LeaveSwallowed)
        fault = self.replay.fault
        if fault is not None:
            if isinstance(fault, OnwardError) and not isinstance(fault, _NOT_THE_RUNS):
                return None, fault
            raise fault
        return result, swallowed_leave(self.workflow.name, self.fold, error) if swallowed else error

    def event(self) -> Event:
        fold = self.fold
        if fold.deaths >= MAX_IDLE_DEATHS:
            raise Crashed(
                f"{fold.deaths} invocations in a row died at this place of the run, where no step is performed"
            )
        return event_of(fold, decode(self.ledger.event_text(fold)))

    def call_workflow(self, event: Event) -> Any:
        workflow = self.workflow
        if not workflow.is_async:
            return workflow.fn(event, Step(self.replay, workflow.retry))
        from .. import loop
        from ..step import AsyncStep

        return loop.run(
            workflow.name,
            lambda standing: workflow.fn(event, AsyncStep(self.replay, workflow.retry, standing)),
            self.replay,
            loop.thread_loop(),
        )

    # ------------------------------------------------------------------------------------------ asked by replay
    def blocked(self, fresh: list[Wanted], flight: list[Wanted]) -> None:
        new = sum(wanted.key not in self.fold.slept for wanted in fresh)  # a sleep that goes on was counted before
        if self.fold.steps + new > self.workflow.max_steps:
            raise OnwardError(
                f"workflow {self.workflow.name!r} called more than {self.workflow.max_steps:,} steps in one run: "
                f"raise max_steps=, or give each step more to do"
            )
        if len(fresh) == 1 and not flight and fresh[0].stands_for is None:
            self._alone(fresh[0])
            return
        if self.fold.in_flight - len(self.seen) + len(fresh) > MAX_IN_FLIGHT:
            raise OnwardError(
                f"workflow {self.workflow.name!r} has more than {MAX_IN_FLIGHT:,} steps in flight at once: await "
                f"them in batches, or give each step more to do"
            )
        if fresh:
            self._plan(fresh)
        raise Leave

    def value(self, wanted: Wanted, outcome: Done) -> Any:
        try:
            return self.ledger.value(outcome, step_context(self.fold.run, wanted.key), wanted.output_type)
        except OnwardError:
            raise
        except Exception as error:  # a type that was changed since: the run must fail and say so, not stand
            raise NotEncodable(
                f"the result of step {display(wanted.key)!r} in the log does not fit its output_type=: {error}"
            ) from error

    def elapsed(self, until_ms: int) -> bool:
        return until_ms <= self.engine.clock.now_ms()

    # --------------------------------------------------------------------------------------- one step by itself
    def _alone(self, wanted: Wanted) -> None:
        """Do the one step at the end of the log; return when it has an outcome and this invocation may go on."""
        fold = self.fold
        now_ms = self.engine.clock.now_ms()
        if self.replay.unwritten:
            raise Leave  # they are awaited by nobody, and to write that down would supersede who is at this step now
        if unwritten := self._unwritten():
            self._append(*unwritten)
            self.seen = []
            self.replay.caught_up(fold.moves[-1], [])
        self.alone = True
        if wanted.is_sleep:
            self._rest(wanted, now_ms)
            return
        if not self.performs:
            self._leave_until(None)
        trouble = fold.trouble.get(wanted.key)
        if trouble is not None and trouble.until_ms > now_ms:
            self._leave_until(trouble.until_ms)
        if self._out_of_time(now_ms):
            self._leave_until(None)
        attempts = fold.attempts(wanted.key)
        assert wanted.retry is not None
        begun = trouble is not None and trouble.begun
        if begun or (fold.deaths and attempts >= wanted.retry.max_attempts):
            self._append(self._outcome(wanted, status.BROKEN, max(attempts, 1), e=crashed(begun).to_json()))
            self.tidy()
        else:
            wake = {"do": "advance", "run": fold.run, "seq": fold.next_seq}
            slots = self.slots(wanted, log_key(fold.next_seq), wake)
            self.performed += 1
            if wanted.once:
                self._append(self._outcome(wanted, status.BEGUN, attempts + 1))
            body, text = self.attempt(wanted, attempts + 1)
            try:
                self._append(body, text, self.writes, slots)
            except WriteRefused as error:
                body = self.refused(wanted, attempts + 1, error)
                self._append(body, slots=slots)
            if body["k"] == status.RETRYING:
                self._leave_until(body["until"])
        if not self.engine.fills(self.workflow) or self.fold.workflow in self.engine.paused():
            self._leave_until(None)

    def _rest(self, wanted: Wanted, now_ms: int) -> None:
        until_ms = self.fold.slept.get(wanted.key)
        if until_ms is None:
            until_ms = ends_ms(wanted, now_ms)
            over = self.elapsed(until_ms)  # then this invocation goes on to the next step, and may die in it
            named = {"i": self.invocation} if over and self.invocation else {}
            self._append(self._outcome(wanted, status.SLEPT, 1, until=until_ms, **named))
        if not self.elapsed(until_ms):
            self._leave_until(until_ms)

    def slots(self, wanted: Wanted, place: str, wake: Wake) -> Slots | None:
        """The slots that an attempt needs whose record will stand at `place`; raises `Leave` where it queues."""
        flow = self.workflow.flow
        if flow is None or not flow.step_limits or wanted.sends:
            return None
        from .steplimits import take

        return take(self.engine, self.fold, self.workflow, wanted.key, place, wake)

    def tidy(self) -> None:
        """Free the slots of attempts that have died."""
        if self.workflow.flow is not None and self.workflow.flow.step_limits:
            from .steplimits import tidy

            tidy(self.engine, self.fold.run)

    def attempt(self, wanted: Wanted, attempt: int) -> tuple[dict[str, Any], str | None]:
        """Perform one attempt; the record of what came of it, and its value. Appends nothing."""
        clock, fold = self.engine.clock, self.fold
        current = CurrentStep(
            fold.run, fold.workflow, display(wanted.key), attempt, idempotency_key(fold.run, wanted.key)
        )
        started_ms = clock.now_ms()
        self.writes = ()
        if wanted.sends:
            from .waiting import sender

            wanted.fn = sender(self.engine, current.idempotency_key)
        if "inputs" in fold.body:
            from .forks import hand_over

            hand_over(self.ledger, fold, wanted)
        hooks = self.around = None if self.engine.hooks is None else self.engine.hooks.around(current)
        self.replay.performing = wanted.key[0]
        try:
            if hooks is not None:
                hooks.before(wanted)
            result = perform(wanted, current, self._limit_s(wanted, started_ms), self.workflow.is_async)
            if wanted.returns is not None:
                result = wanted.returns
            if wanted.transacts:
                limits = len(self.workflow.flow.step_limits) if self.workflow.flow is not None else 0
                self.writes = checked_writes(result, wanted, MAX_WRITES - 1 - WRITES_OF_A_SLOT * limits)
                result = len(self.writes)
            if hooks is not None:
                result = hooks.after(result)
            text = encode(result, f"the result of step {display(wanted.key)!r}", wanted.output_type)
            if wanted.output_type is not None:
                self._check_fits(wanted, text)
            value, blob = self.ledger.spill(text, step_context(fold.run, wanted.key))
        except (Exception, SystemExit) as error:
            self.writes = ()
            failure = describe(error, clock.now_ms())
            failure.final = failure.final or isinstance(error, ItemTooLarge)
            body = self._failed(wanted, attempt, failure, started_ms)
            if hooks is not None:
                hooks.failed(error, body["k"] == status.BROKEN)
            return body, None
        finally:
            self.replay.performing = None
        spent_ms = clock.now_ms() - started_ms
        self.slowest_ms = max(self.slowest_ms, spent_ms)
        self.engine.note("INFO", "step done", **self._ids(wanted, attempt), duration_ms=spent_ms)
        return self._outcome(wanted, status.DONE, attempt, ms=spent_ms, **({"blob": blob} if blob else {})), value

    def refused(self, wanted: Wanted, attempt: int, error: WriteRefused) -> dict[str, Any]:
        """The record of an attempt whose own writes were refused: that is final, as their conditions are."""
        now_ms = self.engine.clock.now_ms()
        if self.around is not None:
            self.around.failed(error, True)
        return self._failed(wanted, attempt, describe(error, now_ms), now_ms)

    def _check_fits(self, wanted: Wanted, text: str) -> None:
        try:
            decode(text, wanted.output_type)
        except Exception as error:
            raise NotEncodable(
                f"the result of step {display(wanted.key)!r} does not fit its output_type=: {error}"
            ) from error

    def _failed(self, wanted: Wanted, attempt: int, failure: Failure, started_ms: int) -> dict[str, Any]:
        clock = self.engine.clock
        now_ms = clock.now_ms()
        assert wanted.retry is not None
        until_ms = wanted.retry.next_ms(attempt, failure, now_ms, clock.random())
        kind = status.BROKEN if until_ms is None else status.RETRYING
        body = self._outcome(wanted, kind, attempt, e=failure.to_json(), ms=now_ms - started_ms)
        if until_ms is not None:
            body["until"] = until_ms
        self.engine.note(
            "WARNING" if until_ms else "ERROR",
            "step failed, will be retried" if until_ms else "step failed for good",
            **self._ids(wanted, attempt),
            error=failure.type,
            reason=failure.message,
            retry_at_ms=until_ms,
        )
        return body

    def _outcome(self, wanted: Wanted, kind: str, attempt: int, **fields: Any) -> dict[str, Any]:
        name, ordinal = wanted.key
        return {"k": kind, "s": name, "n": ordinal, "a": attempt, "at": self.engine.clock.now_ms(), **fields}

    def _append(
        self, body: dict[str, Any], value: str | None = None, also: Sequence[Any] = (), slots: Slots | None = None
    ) -> None:
        body.setdefault("at", self.engine.clock.now_ms())
        if self.alone and self.fold.flight:  # the losers of a race, say: nobody will ever wait for them again
            body["left"] = 1
        if self.invocation is not None and self.engine.fills(self.workflow):
            body["i"] = self.invocation
        self.ledger.append(self.fold, body, value, also, slots)

    # -------------------------------------------------------------------------------------- several in parallel
    def _plan(self, fresh: list[Wanted]) -> None:
        from .fanout import FEW, first_wakes

        self.alone = False
        now_ms = self.engine.clock.now_ms()
        sleeps = {str(index): ends_ms(wanted, now_ms) for index, wanted in enumerate(fresh) if wanted.is_sleep}
        body: dict[str, Any] = {
            "k": status.PLANNED,
            "seen": self.seen,
            "count": len(fresh),
            "digest": plan_digest(wanted.key for wanted in fresh),
            "names": [wanted.key for wanted in fresh[:NAMES_IN_PLAN]],
        }
        waits = {str(n): wanted.stands_for.ends_ms(now_ms) for n, wanted in enumerate(fresh) if wanted.stands_for}
        for wanted in fresh:
            if wanted.child is not None:
                self.engine.app[wanted.child.workflow]  # raises here what cannot be begun, before it is planned
                encode(wanted.child.data, f"the data for workflow {wanted.child.workflow!r}")
        if sleeps:
            body["sleeps"] = sleeps
            if dates := [str(n) for n, wanted in enumerate(fresh) if wanted.until_ms is not None]:
                body["dates"] = dates
        if waits:
            body["waits"] = waits
            if len(waits) == len(fresh) and not self.fold.in_flight - len(self.seen):
                body["k"] = status.STANDING
        if self.fold.in_flight - len(self.seen) + len(fresh) > FEW:
            body["wide"] = True
        timer_runs = any(self.fold.plans[plan].wide for plan in self.fold.flight)
        self._append(body)
        self.seen = []
        move = self.fold.moves[-1]
        self.replay.caught_up(move, fresh)
        self.sends.extend(first_wakes(self.fold.run, move, now_ms, timer_runs))
        self.engine.note("INFO", "steps in flight", run_id=self.fold.run, workflow=self.workflow.name, count=len(fresh))

    # ----------------------------------------------------------------------------------------------------- ends
    def complete(self, result: Any) -> None:
        """The workflow returned."""
        try:
            text = encode(result, f"the result of workflow {self.workflow.name!r}")
            value, blob = self.ledger.spill(text, run_context(self.fold))
        except (NotEncodable, ItemTooLarge) as error:
            self.fail(error)
            return
        body = {"k": status.RUN_COMPLETED, "at": self.engine.clock.now_ms(), **({"blob": blob} if blob else {})}
        if unasked := self.replay.unasked():
            names = [display(key) for key in unasked[:10]]
            self.engine.note("WARNING", "finished steps are no longer called", run_id=self.fold.run, steps=names)
        before = self._unwritten()
        self.ledger.end(self.fold, [*([before] if before else []), (body, value)])
        self.sends = []
        self.engine.after_end(self.fold)
        self.engine.note("INFO", "run completed", run_id=self.fold.run, workflow=self.workflow.name)
        if self.engine.hooks is not None:
            self.engine.hooks.run_ended(self.fold)

    def fail(self, error: BaseException) -> None:
        """The workflow raised."""
        self.sends = []
        if isinstance(error, Drift | LeaveSwallowed):
            failure = Failure(type(error).__name__, str(error), "")
        else:
            failure = describe(error, self.engine.clock.now_ms())
        self.engine.fail(self.fold, failure, self._unwritten(), error, failed_steps(error))

    def _unwritten(self) -> tuple[dict[str, Any], str | None] | None:
        """The record of what was observed, where the log does not have it yet."""
        if not self.seen:
            return None
        body = {
            "k": status.PLANNED,
            "seen": self.seen,
            "count": 0,
            "digest": "",
            "names": [],
            "at": self.engine.clock.now_ms(),
        }
        return body, None

    # ----------------------------------------------------------------------------------------------------- time
    def _leave_until(self, at_ms: int | None) -> None:
        """Leave the workflow, with a wake for the end of the log as it is now."""
        self.sends.append(({"do": "advance", "run": self.fold.run, "seq": self.fold.next_seq}, at_ms))
        raise Leave

    def _reserve_ms(self) -> int:
        assert self.deadline_ms is not None
        return min(MAX_RESERVE_MS, (self.deadline_ms - self.began_ms) // 4)

    def _out_of_time(self, now_ms: int) -> bool:
        """Whether another step as slow as the slowest here would run into the end of this invocation. The first step
        of an invocation is never put off: there would be no end to it."""
        if self.deadline_ms is None or self.performed == 0:
            return False
        return now_ms + self.slowest_ms > self.deadline_ms - self._reserve_ms()

    def _limit_s(self, wanted: Wanted, now_ms: int) -> float | None:
        """Seconds that this attempt may take: its own limit, or what is left of the invocation but for a reserve."""
        if self.deadline_ms is None:
            return wanted.timeout_s
        left_s = max((self.deadline_ms - self._reserve_ms() - now_ms) / 1000, 0.001)
        return left_s if wanted.timeout_s is None else min(wanted.timeout_s, left_s)

    def _ids(self, wanted: Wanted, attempt: int) -> dict[str, Any]:
        return {
            "run_id": self.fold.run,
            "workflow": self.workflow.name,
            "step": display(wanted.key),
            "attempt": attempt,
        }


def failed_steps(error: BaseException) -> list[Key]:
    """The steps whose failures an error consists of, or that were being handled when it was raised."""
    found: dict[Key, None] = {}
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, StepError) and one._key is not None:
            found[one._key] = None
        elif isinstance(one, BaseExceptionGroup):
            left.extend(one.exceptions)
        else:
            left.append(one.__cause__ or (None if one.__suppress_context__ else one.__context__))
    return list(found)


def ends_ms(wanted: Wanted, now_ms: int) -> int:
    """When a sleep that begins now is over. The date of `sleep_until` may be a stranger's."""
    until_ms = wanted.ends_ms(now_ms)
    if until_ms - now_ms > MAX_SLEEP_MS:
        raise InvalidOption(f"step {display(wanted.key)!r}: sleep_until takes a time within 366 days from now")
    return until_ms


def checked_writes(writes: Any, wanted: Wanted, most: int) -> Sequence[Any]:
    """The writes of a step of `step.transact`, if they fit a transaction beside its record and what frees its slots."""
    if not isinstance(writes, list | tuple):
        raise InvalidOption(
            f"step {display(wanted.key)!r}: transact takes a list of writes, not {type(writes).__name__}"
        )
    if len(writes) > most:
        raise InvalidOption(
            f"step {display(wanted.key)!r}: transact takes up to {most} writes, not {len(writes)}: a transaction of "
            f"DynamoDB holds {MAX_WRITES}, and the step's own record is one of them (and two for each limit on steps)"
        )
    return writes


def crashed(once: bool) -> Failure:
    """The error of a step whose process died in its last attempt. `once`: in the only one that it may have."""
    if once:
        message = "it began under once=True, and its process died before it ended: it is not performed again"
    else:
        message = "the process died while it was performed (killed, out of memory, or past its deadline)"
    return Failure(Crashed.__name__, message)


def swallowed_leave(workflow: str, fold: Fold, cause: BaseException | None) -> LeaveSwallowed:
    error = LeaveSwallowed(
        f"workflow {workflow!r} caught the signal by which Onward leaves it between two steps (run {fold.run}): a bare "
        f"`except:`, `except BaseException` or `contextlib.suppress(BaseException)` around a step must let it pass. "
        f"Write `except Exception` instead"
    )
    error.__cause__ = cause
    return error
