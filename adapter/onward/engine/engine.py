"""The engine: an app, the ports, and the verbs over them. It knows no vendor.

A wake is a small JSON object that names a run and what to do:

    advance   perform or plan what stands at the end of the log, which is expected to have `seq` records
    step      perform attempt `attempt` of the step in flight at (`plan`, `index`)
    fan       send the wakes `step` of the steps `first` to `last` of a plan
    fork      let a fork begin that has steps in flight, whose log is expected to have `seq` records
    collect   observe the results that steps in flight have left in their lanes
    fire      start the run of what was held back: a debounced event, or a batch
    cron      start a workflow because a time has come
    expire    look whether a run should have begun by now, or ended
    recover   whatever is needed: sent by the sweep, which knows only that too little happened
    sweep     look for runs to which nothing happened in time

A wake may come twice, late or never. It is a hint; the log decides what is done.
"""

from __future__ import annotations

from ..core.errors import MiddlewareFailed, OnwardError
from ..core.ids import is_run_id
from ..core.log import MAX_PLANNED, MAX_SEQ, Fold, head_of
from . import notes
from .ledger import HORIZON_MS, Ledger, Superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ..app import App, Workflow
    from ..core.values import Failure, Key
    from ..ports import Blobs, Clock, Store, Wakes
    from .middleware import Hooks
    from .notes import Note

    Wake = Mapping[str, Any]

LONGEST_INVOCATION_MS = 15 * 60 * 1000  # Lambda's own limit
PAUSED_KEY = ("onward", "paused")  # the item of all workflows that are paused (see pause.py)
KNOWN_MS = 10_000  # for how long a process goes by what it has read of it
_HELD = ("advance", "step", "fork", "collect", "recover")  # the wakes that lead to a step
RUN_STANDS = "run stands, a middleware failed"


class Engine:
    """`fill`: perform as many steps as fit into an invocation, for every workflow (None: as each workflow says).
    `horizon_ms`: how far ahead a run's `due` is set, which bounds how long a lost wake goes unnoticed."""

    def __init__(
        self,
        app: App,
        store: Store,
        wakes: Wakes,
        blobs: Blobs | None,
        clock: Clock,
        *,
        fill: bool | None = None,
        horizon_ms: int = HORIZON_MS,
        note: Note = notes.silent,
    ) -> None:
        self.app = app
        self.ledger = Ledger(store, blobs, clock)
        self.store = store
        self.wakes = wakes
        self.clock = clock
        self.fill = fill
        self.ledger.horizon_ms = horizon_ms
        self.note = note
        self.hooks: Hooks | None = None
        if app.middleware:
            from .middleware import Hooks

            self.hooks = Hooks(app.middleware, note)
            self.ledger.payloads = self.hooks.payloads
        self._paused: Mapping[str, int] = {}
        self._paused_ms = -KNOWN_MS  # when that was read
        self.shapes: dict[tuple[str, str], int] = {}  # of waits, known to be written down (see waiting.py)
        self.invocation_ms = LONGEST_INVOCATION_MS  # how long an invocation lasts at most; the door knows better

    @property
    def horizon_ms(self) -> int:
        return self.ledger.horizon_ms

    @horizon_ms.setter
    def horizon_ms(self, horizon_ms: int) -> None:
        self.ledger.horizon_ms = horizon_ms

    def fills(self, workflow: Workflow) -> bool:
        return workflow.fill if self.fill is None else self.fill

    def workflow_of(self, fold: Fold) -> Workflow:
        """The workflow of a run; raises `UnknownWorkflow` to the door where a deploy has removed it. The run stands as
        it is: it goes on when the workflow is back, and the sweep ends it when it stays away."""
        from ..core.errors import UnknownWorkflow

        try:
            return self.app[fold.workflow]
        except UnknownWorkflow as error:
            self.note(
                "ERROR", "the workflow of a run is gone", run_id=fold.run, workflow=fold.workflow, reason=str(error)
            )
            raise

    def may_go_on(self, fold: Fold) -> bool:
        """Whether a run may begin now, or has begun. If not, it was seen to that it will be woken."""
        workflow = self.workflow_of(fold)
        if workflow.flow is None and "from" not in fold.body and "start_by" not in fold.body:
            return True
        from .gate import passes

        return passes(self, fold, workflow)

    def expired(self, fold: Fold) -> bool:
        """Whether a time has passed by which the run should have begun, or ended; then it has failed."""
        if "start_by" not in fold.body and "finish_by" not in fold.body:
            return False
        from .gate import expired

        return expired(self, fold)

    # ---------------------------------------------------------------------------------------------------- verbs
    def handle(self, wake: Wake, deadline_ms: int | None = None, invocation: str | None = None) -> None:
        """Do what the wake asks, if it still stands. `deadline_ms`: epoch milliseconds at which this invocation is
        killed. `invocation`: its id, by which a later notice of its death is matched. Raises `UnknownPayload` for what
        is no wake of ours."""
        check_wake(wake)
        try:
            if not self._holds(wake):
                _verb(wake["do"])(self, wake, deadline_ms, invocation)
        except Superseded:
            self.note("INFO", "superseded", run_id=wake.get("run"), wake=wake["do"])
        except MiddlewareFailed as error:
            self._stands(wake["run"], error)
            raise

    def _holds(self, wake: Wake) -> bool:
        """Whether the wake is for a run whose workflow is paused."""
        if wake["do"] not in _HELD or not (names := self.paused()):
            return False
        from .pause import holds

        return holds(self, wake, names)

    def paused(self) -> Mapping[str, int]:
        """The workflows that are paused, and since when, as this process knows it: a change of the last `KNOWN_MS` may
        be missing."""
        now_ms = self.clock.now_ms()
        if not 0 <= now_ms - self._paused_ms < KNOWN_MS:
            item = self.store.get([PAUSED_KEY])[0]
            self._paused, self._paused_ms = {}, now_ms
            if item is not None:
                from .pause import names_in

                self._paused = names_in(item)
        return self._paused

    def forget_pauses(self) -> None:
        """Look again at the next wake."""
        self._paused_ms = -KNOWN_MS

    def _stands(self, run: str, error: MiddlewareFailed) -> None:
        """A run cannot go on, as long as this deployment lacks what its middleware needs: the sweep, which wakes it
        again, must not take it for stalled."""
        fold = Fold(run)
        self.note("ERROR", RUN_STANDS, run_id=run, error=type(error).__name__, reason=str(error))
        if head_of(self.ledger.head(fold)).get("stalls"):
            try:
                self.ledger.move_head(fold, self.clock.now_ms() + self.horizon_ms, stalls=0)
            except Superseded:
                pass  # it has ended

    def send(self, wake: Wake, at_ms: int | None = None) -> None:
        """Send a wake, if it lies within reach; what lies beyond is the sweep's, through `due`."""
        if at_ms is None or not self.far(at_ms):
            self.wakes.send({"onward": 1, **wake}, at_ms)

    def far(self, at_ms: int) -> bool:
        """Whether a wake at that time is beyond reach."""
        return at_ms - self.clock.now_ms() > self.wakes.reach_ms

    # ------------------------------------------------------------------------------------------------ due times
    def waits_ms(self, fold: Fold) -> list[int]:
        """The times for which this run waits, as far as its log has them; it does not say whether waits for something
        outside have begun."""
        times = [fold.slept[fold.resting]] if fold.resting else []
        times += [trouble.until_ms for trouble in fold.trouble.values()]
        if fold.next_seq - fold.deaths == 1 and "from" in fold.body:
            times.append(fold.body["from"])
        for plan, indexes in fold.flight.items():
            sleeps = fold.plans[plan].sleeps
            times += [until_ms for index, until_ms in sleeps.items() if index in indexes]
        return times

    def due_for(self, until_ms: int) -> int:
        """By when something must have happened to a run that waits until then: soon after, or where no wake reaches
        that far, early enough to send one."""
        return until_ms - self.wakes.reach_ms // 2 if self.far(until_ms) else until_ms + self.horizon_ms

    def due_ms(self, fold: Fold) -> int:
        """By when something must have happened to this run."""
        far = [until_ms for until_ms in self.waits_ms(fold) if self.far(until_ms)]
        idle = far and (len(far) == fold.in_flight or not fold.flight)
        times = [self.due_for(until_ms) for until_ms in far]
        return min([*(times if idle else [self.clock.now_ms() + self.horizon_ms, *times]), *fold.deadlines])

    def watch(self, fold: Fold) -> None:
        """Move the run's `due` where it has become wrong by more than half the horizon. Rarely: each move is an
        index write as well."""
        wanted_ms = self.due_ms(fold)
        standing_ms = self.ledger.head(fold).due_ms or 0
        if abs(standing_ms - wanted_ms) > self.horizon_ms // 2:
            self.ledger.move_head(fold, wanted_ms, stalls=0)

    # ------------------------------------------------------------------------------------------------------ ends
    def fail(
        self,
        fold: Fold,
        failure: Failure,
        before: tuple[dict[str, Any], str | None] | None = None,
        error: BaseException | None = None,
        steps: Sequence[Key] = (),
    ) -> None:
        """End a run as failed (by the failures of these steps), and start what its workflow does on failure, in one
        transaction. `error`: what the failure describes, where it was raised."""
        from ..core import status
        from .ingest import failure_run

        body = {"k": status.RUN_FAILED, "e": failure.to_json(), "at": self.clock.now_ms()}
        if steps:
            body["steps"] = list(steps)
        after = failure_run(self, fold, failure)
        self.ledger.end(fold, [*([before] if before else []), (body, None)], after[1] if after else ())
        self.note(
            "ERROR", "run failed", run_id=fold.run, workflow=fold.workflow, error=failure.type, reason=failure.message
        )
        if after:
            self.send({"do": "advance", "run": after[0], "seq": 1})
        self.after_end(fold)
        if self.hooks is not None:
            self.hooks.run_ended(fold, error or OnwardError(f"{failure.type}: {failure.message}"))

    def tidy(self, fold: Fold) -> None:
        """Free the slots that a run holds for steps that are not performed any more."""
        if fold.head is not None and '"limits"' in fold.head.body:
            from .steplimits import tidy

            tidy(self, fold.run)

    def after_end(self, fold: Fold) -> None:
        """What follows when a run has ended: the run that waits for it is woken, and so are those that queue for its
        place. Can be repeated."""
        if fold.head is not None and '"slots"' in fold.head.body:
            from .gate import hand_on

            hand_on(self, fold)
        self.tidy(fold)
        lane = fold.body.get("lane")
        if lane:
            plan, index = lane["at"]
            wake = {"do": "step", "run": fold.body["parent"], "plan": plan, "index": index, "attempt": lane["next"]}
            self.send(wake)


_NUMBERS = {
    "advance": ("seq",),
    "step": ("plan", "index", "attempt"),
    "fan": ("plan", "first", "end"),
    "fork": ("seq",),
    "collect": (),
    "recover": (),
    "expire": (),
}
"""What each wake of a run must hold besides its run: whole numbers from 0 to `MAX_SEQ`."""


def check_wake(wake: Wake) -> None:
    """Refuse what no engine of ours has sent; raises `UnknownPayload`. A wake names a run and a place in it, and holds
    neither data nor code, so whoever forges one can make a run look after itself, and no more. (A forged "fan" without
    a bound could send wakes without end.)"""
    from ..core.errors import UnknownPayload

    do = wake.get("do")
    if do in ("fire", "cron"):
        from .starts import check_start

        check_start(wake)
        return
    needed = _NUMBERS.get(do) if isinstance(do, str) else ()
    if needed is None:
        return  # the sweep's; or a newer Onward's, which is refused by its name
    given = [wake.get(name) for name in needed] + [wake.get("again", 0), wake.get("upto", 0)]
    if "look" in wake:
        look = wake["look"]
        given += look if isinstance(look, list) and len(look) == 2 else [None]
    numbers = all(type(number) is int and 0 <= number <= MAX_SEQ for number in given)
    if not isinstance(do, str) or not is_run_id(wake.get("run")) or not numbers:
        raise UnknownPayload(f"this is no wake of Onward's: {wake!r:.200}")
    if do == "fan" and wake["end"] - wake["first"] > MAX_PLANNED:
        raise UnknownPayload(f"a wake asks for {wake['end'] - wake['first']:,} wakes, and no plan is that large")


def _verb(do: str) -> Any:
    """The verbs live in files of their own, which are imported when a wake first asks for them."""
    if do == "advance":
        from .advance import advance

        return advance
    if do in ("step", "fan", "collect", "recover"):
        from . import fanout

        return getattr(fanout, do)
    if do == "fork":
        from .forks import begin

        return begin
    if do == "expire":
        from .gate import expire

        return expire
    if do in ("fire", "cron"):
        from . import starts

        return getattr(starts, do)
    if do == "sweep":
        from .sweep import sweep

        return sweep
    from ..core.errors import UnknownPayload

    raise UnknownPayload(f"a wake asks to {do!r:.60}, which this Onward does not know: was it sent by a newer one?")
