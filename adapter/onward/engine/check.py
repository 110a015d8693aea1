"""The check before a deploy: replay every unfinished run against the code that is about to continue it.

A run goes on wherever its log ends, so what a deploy would do to it can be seen without doing it: load the log, add the
results that stand in its lanes and were not observed yet (as `collect` does), call the workflow function, and see
where it comes to stand. Nothing is performed, written or sent. The conductor leaves where the engine would perform the
next step or append a record, and the ports that it is given refuse every write, so a mistake here cannot do harm.

    outcome    meaning
    Fits       the code follows the log to its end, and would go on from there, or complete
    Ended      the run ended before it was read
    Finding    the code would not go on; its kind says why:

    drift              the log has finished or planned steps that the code does not call
    would_fail         the workflow function raises
    leave_swallowed    the workflow function caught the signal by which it is left
    takes_too_long     the workflow function comes to no step and no end
    workflow_gone      the app has no workflow of that name
    value_unreadable   a result or the event's data cannot be read back: a blob is missing, a class is gone
    newer_layout       the run was written by a newer Onward
    log_unreadable     the log was edited or deleted in part

The code between two steps does run, as at every replay. What it raises is a finding, `SystemExit` included; where it
never comes back it is left alone after `MAX_REPLAY_S`, in its own thread.
"""

from __future__ import annotations

import sys
import threading
import traceback
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from ..core.codec import encode
from ..core.errors import (
    Crashed,
    Drift,
    Fault,
    LayoutMismatch,
    Leave,
    LeaveSwallowed,
    Misconfigured,
    RequestRefused,
    Unavailable,
    UnknownWorkflow,
)
from ..core.log import HEAD, fields_of, head_of, lane_of, partition_of, run_context, run_of
from ..core.replay import Replay
from ..core.status import IllegalRecord
from ..core.values import display
from ..ports import key_of
from .advance import Invocation
from .engine import Engine
from .perform import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from ..app import App
    from ..core.log import Done, Fold, Lane
    from ..core.replay import Wanted
    from ..core.values import Event, Key
    from ..ports import Blobs, Clock, Item, Refused, Store, Write
    from .engine import Wake
    from .steplimits import Slots

DRIFT = "drift"
WOULD_FAIL = "would_fail"
SWALLOWED = "leave_swallowed"
TOO_LONG = "takes_too_long"
GONE = "workflow_gone"
VALUE = "value_unreadable"
LAYOUT = "newer_layout"
LOG = "log_unreadable"

MAX_RUNS = 1_000_000  # unfinished runs of one store; the due index hands them over in one piece, so memory bounds it
MAX_REPLAY_S = 120.0  # for the code between the steps of one run
MAX_STACK_LINES = 12  # of a workflow function that never comes back
_NEVER_MS = 1 << 60
_NOT_THE_RUNS = (Unavailable, RequestRefused, Misconfigured)


class Fits(NamedTuple):
    """The code would go on with this run."""

    run: str


class Ended(NamedTuple):
    """The run ended before the check came to it."""

    run: str


class Finding(NamedTuple):
    """A run with which the code would not go on. `kind`: see above. `where`: the step that the code called last.
    `report`: what belongs beneath the message, such as both step lists side by side; lines, or ""."""

    run: str
    workflow: str
    kind: str
    where: str
    message: str
    report: str = ""


if TYPE_CHECKING:
    Outcome = Fits | Ended | Finding


# ------------------------------------------------------------------------------------------------ ports that refuse
def _refuse(what: str) -> Fault:
    return Fault(f"the check was about to {what}: a bug in Onward. Please report it. Nothing was done")


class _ReadOnlyStore:
    """A store that is read and never written."""

    def __init__(self, store: Store) -> None:
        self.read = store.read
        self.get = store.get
        self.marks = store.marks
        self.due = store.due

    def write(self, writes: Sequence[Write], also: Sequence[Any] = ()) -> Refused | None:
        raise _refuse(f"write {key_of(writes[0])[1]!r}")

    def mark(self, partition: str, sort: str, adds: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
        raise _refuse(f"mark {sort!r}")


class _ReadOnlyBlobs:
    """Blobs that are read. What would be stored is measured and dropped."""

    def __init__(self, blobs: Blobs) -> None:
        self.get = blobs.get

    def put(self, content: bytes) -> str:
        return "sha256:" + "0" * 64


class _NoWakes:
    """Sends no wake."""

    reach_ms = 0

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        raise _refuse(f"send a wake {wake['do']!r}")


# ----------------------------------------------------------------------------------------------------- one replay
class _TracedReplay(Replay):
    """A replay that remembers the step that was called last."""

    __slots__ = ("last",)

    def __init__(self, fold: Fold, conductor: Trial, seen: Sequence[Lane]) -> None:
        super().__init__(fold, conductor, seen)
        self.last: Key | None = None

    def key(self, name: str) -> Key:
        self.last = super().key(name)
        return self.last


class Trial(Invocation):
    """Conducts one replay to the end of the log, and does nothing there."""

    def __init__(self, engine: Engine, fold: Fold, seen: Sequence[Lane]) -> None:
        super().__init__(engine, fold, seen=seen)
        self.traced = self.replay = _TracedReplay(fold, self, seen)
        self.unreadable: tuple[str, Exception] | None = None

    def outcome(self) -> Fits | Finding:
        """What came of the replay. Raises what says nothing about the run, such as a store that does not answer."""
        try:
            result, error = self.replayed()
            if error is None and not self.replay.left:
                text = encode(result, f"the result of workflow {self.workflow.name!r}")
                self.ledger.spill(text, run_context(self.fold))
        except _NOT_THE_RUNS:
            raise
        except BaseException as raised:  # user code may raise anything, and the next run is still to be checked
            error = raised
        return Fits(self.fold.run) if error is None else self._finding(error)

    def _finding(self, error: BaseException) -> Finding:
        run, workflow = self.fold.run, self.workflow.name
        if self.unreadable is not None:
            where, cause = self.unreadable
            return Finding(run, workflow, VALUE, where, f"{type(cause).__name__}: {cause}")
        where = f"at step {display(self.traced.last)!r}" if self.traced.last else "before its first step"
        if isinstance(error, Drift):
            message, _, lists = str(error).partition("\n")
            return Finding(run, workflow, DRIFT, where, message, lists)
        if isinstance(error, LeaveSwallowed):
            return Finding(run, workflow, SWALLOWED, where, str(error))
        if isinstance(error, IllegalRecord):
            return Finding(run, workflow, LOG, where, str(error))
        failure = describe(error, self.began_ms)
        return Finding(run, workflow, WOULD_FAIL, where, f"{failure.type}: {failure.message}", failure.traceback)

    # ------------------------------------------------------------------------------------------ asked by replay
    def event(self) -> Event:
        try:
            return super().event()
        except (Crashed, *_NOT_THE_RUNS):
            raise
        except Exception as error:
            self.unreadable = "in the event's data", error
            raise

    def value(self, wanted: Wanted, outcome: Done) -> Any:
        try:
            return super().value(wanted, outcome)
        except _NOT_THE_RUNS:
            raise
        except Exception as error:
            self.unreadable = f"in the result of step {display(wanted.key)!r}", error
            raise

    # -------------------------------- the engine decides what is next and may refuse it; where it would act it leaves
    def attempt(self, wanted: Wanted, attempt: int) -> tuple[dict[str, Any], str | None]:
        raise Leave

    def slots(self, wanted: Wanted, place: str, wake: Wake) -> None:
        raise Leave

    def _append(
        self, body: dict[str, Any], value: str | None = None, also: Sequence[Any] = (), slots: Slots | None = None
    ) -> None:
        raise Leave

    def _unwritten(self) -> None:
        return None  # what was observed would be written first; here it is enough that the workflow has seen it


# ------------------------------------------------------------------------------------------------------- all runs
class Check:
    """Checks runs of a store against an app. `replay_s`: seconds that the code between the steps of one run may take.
    Close it, or use it as a context manager: it keeps a thread in which user code runs."""

    def __init__(
        self, app: App, store: Store, blobs: Blobs | None, clock: Clock, *, replay_s: float = MAX_REPLAY_S
    ) -> None:
        self.app = app
        self.engine = Engine(
            app, _ReadOnlyStore(store), _NoWakes(), None if blobs is None else _ReadOnlyBlobs(blobs), clock
        )
        self.replay_s = replay_s
        self.stuck = 0  # threads that were left alone
        self._worker: _Worker | None = None

    def __enter__(self) -> Check:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.dismiss()
            self._worker = None

    def unfinished(self, most: int = MAX_RUNS) -> tuple[list[str], bool]:
        """The ids of the runs that have not ended, as the due index has them, and whether these are all: more than
        `most` are not listed. A run that starts, or whose `due` moves, while this is read may be missing."""
        found = self.engine.store.due(_NEVER_MS, most + 1)
        heads = dict.fromkeys(partition for partition, sort, _ in found[:most] if sort == HEAD)
        return [run_of(partition) for partition in heads], len(found) <= most

    def run(self, run: str) -> Outcome:
        """What the code would do to one run. Raises `Unavailable` and `Misconfigured`."""
        try:
            fold = self.engine.ledger.load(run)
            if fold is None and self._head(run) is not None:
                return Finding(run, self._name(run), LOG, "", "the run has a head but no log: it was deleted in part")
            if fold is None or fold.ended is not None:
                return Ended(run)
            seen = _in_lanes(self.engine, fold)
        except LayoutMismatch as error:
            return Finding(run, self._name(run), LAYOUT, "", str(error))
        except _NOT_THE_RUNS:
            raise
        except Exception as error:
            return Finding(run, self._name(run), LOG, "", f"{type(error).__name__}: {error}")
        try:
            trial = Trial(self.engine, fold, seen)
        except UnknownWorkflow as error:
            return Finding(run, fold.workflow, GONE, "", str(error))
        return self._within_time(trial)

    def _within_time(self, trial: Trial) -> Fits | Finding:
        if self._worker is None:
            self._worker = _Worker()
        try:
            return self._worker.do(trial.outcome, self.replay_s)
        except Empty:
            stack = self._worker.stack()
            self.close()
            self.stuck += 1
            last = trial.traced.last
            return Finding(
                trial.fold.run,
                trial.workflow.name,
                TOO_LONG,
                f"after step {display(last)!r}" if last else "before its first step",
                f"the workflow function came to no step and no end within {self.replay_s:g} s: it loops, or waits for "
                f"something other than a step",
                stack,
            )

    def _head(self, run: str) -> Item | None:
        return self.engine.store.get([(partition_of(run), HEAD)])[0]

    def _name(self, run: str) -> str:
        """The name of a run's workflow, where its log does not tell."""
        head = self._head(run)
        try:
            return str(head_of(head)["workflow"]) if head else ""
        except IllegalRecord:
            return ""


def _in_lanes(engine: Engine, fold: Fold) -> list[Lane]:
    """The lanes that have a result which the log has not observed, in the order of their completion: what `recover`
    would collect, whether its completion was marked or not."""
    flying = [(plan, index) for plan, indexes in fold.flight.items() for index in sorted(indexes)]
    found: list[tuple[int, Lane]] = []
    for item in engine.ledger.lanes(fold.run, flying):
        fold.apply_lane(item)
        found.append((fields_of(item)["at"], lane_of(item)[0]))
    return [lane for _, lane in sorted(found)]


class _Worker:
    """A thread that does one thing after another, and can be left alone in the middle of one."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], Fits | Finding] | None] = SimpleQueue()
        self._done: SimpleQueue[Fits | Finding | BaseException] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="onward-check", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        from ..loop import close_thread_loop

        try:
            while (task := self._tasks.get()) is not None:
                try:
                    self._done.put(task())
                except BaseException as error:
                    self._done.put(error)
        finally:
            close_thread_loop()

    def do(self, task: Callable[[], Fits | Finding], limit_s: float) -> Fits | Finding:
        """What the task returns; raises what it raises, or `queue.Empty` after `limit_s` seconds."""
        self._tasks.put(task)
        done = self._done.get(timeout=limit_s)
        if isinstance(done, BaseException):
            raise done
        return done

    def stack(self) -> str:
        """Where the thread stands now."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        lines = "".join(traceback.format_stack(frame)).splitlines() if frame is not None else []
        return "\n".join(lines[-MAX_STACK_LINES:])

    def dismiss(self) -> None:
        """End the thread when it has done what it does, and wait for that if it does nothing."""
        self._tasks.put(None)
        self._thread.join(timeout=0.2)
