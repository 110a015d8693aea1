"""What is done to runs from outside: the notice that an invocation died, and cancelling."""

from __future__ import annotations

from ..core import status
from ..core.errors import UnknownRun
from ..core.log import attempt_key, lane_key
from ..ports import Put
from .engine import check_wake
from .ledger import Superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..core.log import Fold, Lane
    from ..ports import Item
    from .engine import Engine, Wake

MAX_REDELIVERIES = 5  # of a wake whose invocation died where no step can be blamed
MAX_CANCEL_TRIES = 20
CLOSED_AT_ONCE = 90  # lanes, in the transaction that ends the run


def died(
    engine: Engine, wake: Wake, reason: str, invocation: str | None = None, look_again_ms: int | None = None
) -> None:
    """The invocation that had this wake died (killed, out of memory, past its deadline): if the run still stands
    where that invocation was, its step has used up an attempt.

    Where the log went on, nobody can tell whether the dead invocation had sent the next wake. Then the run is woken
    after `look_again_ms`, when any invocation that got that wake is over (default: the longest one; 0 where the caller
    knows that there is no such wake). The same holds for the wakes of steps that it may have planned.
    """
    check_wake(wake)
    if look_again_ms is None:
        look_again_ms = engine.invocation_ms
    do, run = wake["do"], wake.get("run")
    engine.note("WARNING", "invocation died", run_id=run, wake=do, reason=reason)
    try:
        if do == "advance":
            _died_at_end(engine, wake, reason, invocation, look_again_ms)
        elif do == "step":
            engine.ledger.refuse_newer(wake["run"])
            body = {"k": status.DIED, "at": engine.clock.now_ms(), "why": reason}
            item = engine.ledger.item(wake["run"], attempt_key((wake["plan"], wake["index"]), wake["attempt"]), body)
            engine.store.write([Put(item)])  # refused: it had begun, or its failure was recorded before it died
            _free_slots(engine, wake["run"])
            engine.send({**wake, "attempt": wake["attempt"] + 1})
            if engine.ledger.lanes(wake["run"], [(wake["plan"], wake["index"])]):  # else it died in its step
                _look_after_plans(engine, wake["run"], wake["plan"], look_again_ms)
        elif (again := wake.get("again", 0)) < MAX_REDELIVERIES:
            next_look = {"look": [wake["look"][0], wake["look"][1] + 1]} if "look" in wake else {}
            engine.send({**wake, **next_look, "again": again + 1})
            if "look" in wake:
                _look_after_plans(engine, wake["run"], wake["look"][0], look_again_ms)
    except Superseded:
        engine.note("INFO", "superseded", run_id=run, wake="died")


def _died_at_end(engine: Engine, wake: Wake, reason: str, invocation: str | None, look_again_ms: int) -> None:
    fold = engine.ledger.load(wake["run"])
    if fold is None or fold.ended is not None:
        if fold is not None:
            engine.after_end(fold)
        return
    begun = any(trouble.begun for trouble in fold.trouble.values())
    own = invocation is not None and fold.last_invocation == invocation
    grown = fold.next_seq > wake["seq"]
    if grown and (fold.flight or (not own and not (begun and fold.next_seq == wake["seq"] + 1))):
        engine.ledger.keep(fold)
        _free_slots(engine, fold.run)
        go_on = {"do": "recover", "upto": fold.next_seq} if fold.flight else {"do": "advance", "seq": fold.next_seq}
        engine.send({**go_on, "run": fold.run}, _later_ms(engine, look_again_ms))
        return
    if not begun:
        engine.ledger.append(fold, {"k": status.DIED, "at": engine.clock.now_ms(), "why": reason})
    engine.ledger.keep(fold)
    _free_slots(engine, fold.run)
    engine.send({"do": "advance", "run": fold.run, "seq": fold.next_seq})


def _free_slots(engine: Engine, run: str) -> None:
    """The invocation may have died in an attempt that held a slot of a limit on steps, or as it was to hand one on."""
    if any(workflow.flow is not None and workflow.flow.step_limits for workflow in engine.app):
        from .steplimits import tidy

        tidy(engine, run)


def _look_after_plans(engine: Engine, run: str, since: int, look_again_ms: int) -> None:
    """Of an invocation that had the wake of a plan: it may have observed results, planned what follows from them, and
    died before it sent the wakes of that."""
    fold = engine.ledger.load(run)
    if fold is None or fold.ended is not None:
        return
    engine.ledger.keep(fold)
    if any(plan > since for plan in fold.flight):
        engine.send({"do": "recover", "run": run, "upto": fold.next_seq}, _later_ms(engine, look_again_ms))


def _later_ms(engine: Engine, after_ms: int) -> int:
    return engine.clock.now_ms() + min(after_ms, engine.wakes.reach_ms)


def failed(engine: Engine, wake: Wake, reason: str) -> None:
    """The invocation that had this wake gave up because a service did not answer. No step is to blame."""
    check_wake(wake)
    again = wake.get("again", 0)
    engine.note("WARNING", "invocation failed", run_id=wake.get("run"), wake=wake["do"], reason=reason, again=again)
    if again < MAX_REDELIVERIES and "run" in wake:
        wait_ms = round(1000 * 4**again * engine.clock.random())
        engine.send({"do": "recover", "run": wake["run"], "again": again + 1}, engine.clock.now_ms() + wait_ms)


def cancel(engine: Engine, run: str) -> bool:
    """End a run now: nothing of it is performed or kept from here on. False when it had ended before.

    Steps in flight have lanes of their own, which the log's end does not fence: their lanes are closed in the same
    transaction, so that a result that comes late finds no place. Where more are in flight than a transaction holds, or
    they come in faster than they can be counted, the rest is closed right after.
    """
    from .ingest import cancel_run

    for attempt in range(MAX_CANCEL_TRIES):
        fold = engine.ledger.load(run)
        if fold is None:
            raise UnknownRun(f"there is no run {run!r} in this store")
        if fold.ended is not None:
            engine.tidy(fold)  # whoever ended it may have died before that
            return False
        closing = _open_lanes(engine, fold)
        at_once = closing[:CLOSED_AT_ONCE] if attempt < MAX_CANCEL_TRIES // 2 else []
        record = {"k": status.RUN_CANCELLED, "at": engine.clock.now_ms()}
        after = cancel_run(engine, fold)
        also = [*(after[1] if after else ()), *(Put(_closed(engine, run, lane)) for lane in at_once)]
        try:
            engine.ledger.end(fold, [(record, None)], also)
        except Superseded:
            continue
        engine.note("INFO", "run cancelled", run_id=run, workflow=fold.workflow)
        if after:
            engine.send({"do": "advance", "run": after[0], "seq": 1})
        engine.after_end(fold)
        if engine.hooks is not None:
            engine.hooks.run_ended(fold)
        for lane in closing[len(at_once) :]:
            engine.store.write([Put(_closed(engine, run, lane))])  # refused: its result was faster than we were
        return True
    raise Superseded


def _open_lanes(engine: Engine, fold: Fold) -> list[Lane]:
    """The lanes that have no result, the losers of a race among them."""
    lanes = fold.open_lanes()
    found = {item.sort for item in engine.ledger.lanes(fold.run, lanes)}
    return [lane for lane in lanes if lane_key(lane) not in found]


def _closed(engine: Engine, run: str, lane: Lane) -> Item:
    """What stands in a lane where no result may come any more."""
    return engine.ledger.item(run, lane_key(lane), {"k": status.CLOSED, "at": engine.clock.now_ms()})
