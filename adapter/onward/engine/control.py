"""What is done to runs from outside: the notice that an invocation died, and cancelling."""

from __future__ import annotations

from ..core import status
from ..core.errors import UnknownRun
from ..core.log import attempt_key
from ..ports import Put
from .engine import check_wake
from .ledger import Superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .engine import Engine, Wake

MAX_REDELIVERIES = 5  # of a wake whose invocation died where no step can be blamed
MAX_CANCEL_TRIES = 20


def died(
    engine: Engine, wake: Wake, reason: str, invocation: str | None = None, look_again_ms: int | None = None
) -> None:
    """The invocation that had this wake died (killed, out of memory, past its deadline): if the run still stands
    where that invocation was, its step has used up an attempt.

    Where the log went on, nobody can tell whether the dead invocation had sent the next wake. Then the run is woken
    after `look_again_ms`, when any invocation that got that wake is over (default: the longest one; 0 where the caller
    knows that there is no such wake).
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
            body = {"k": status.DIED, "at": engine.clock.now_ms(), "why": reason}
            item = engine.ledger.item(wake["run"], attempt_key((wake["plan"], wake["index"]), wake["attempt"]), body)
            engine.store.write([Put(item)])  # refused: it had begun, or its failure was recorded before it died
            engine.send({**wake, "attempt": wake["attempt"] + 1})
        elif (again := wake.get("again", 0)) < MAX_REDELIVERIES:
            engine.send({**wake, "again": again + 1})
    except Superseded:
        engine.note("INFO", "superseded", run_id=run, wake="died")


def _died_at_end(engine: Engine, wake: Wake, reason: str, invocation: str | None, look_again_ms: int) -> None:
    fold = engine.ledger.load(wake["run"])
    if fold is None or fold.ended is not None:
        return
    begun = any(trouble.begun for trouble in fold.trouble.values())
    own = invocation is not None and fold.last_invocation == invocation
    if fold.next_seq > wake["seq"] and not own and not (begun and fold.next_seq == wake["seq"] + 1):
        engine.ledger.keep(fold)
        at_ms = engine.clock.now_ms() + min(look_again_ms, engine.wakes.reach_ms)
        engine.send({"do": "advance", "run": fold.run, "seq": fold.next_seq}, at_ms)
        return
    if not begun:
        engine.ledger.append(fold, {"k": status.DIED, "at": engine.clock.now_ms(), "why": reason})
    engine.ledger.keep(fold)
    engine.send({"do": "advance", "run": fold.run, "seq": fold.next_seq})


def failed(engine: Engine, wake: Wake, reason: str) -> None:
    """The invocation that had this wake gave up because a service did not answer. No step is to blame."""
    check_wake(wake)
    again = wake.get("again", 0)
    engine.note("WARNING", "invocation failed", run_id=wake.get("run"), wake=wake["do"], reason=reason, again=again)
    if again < MAX_REDELIVERIES and "run" in wake:
        wait_ms = round(1000 * 4**again * engine.clock.random())
        engine.send({"do": "recover", "run": wake["run"], "again": again + 1}, engine.clock.now_ms() + wait_ms)


def cancel(engine: Engine, run: str) -> bool:
    """End a run now: nothing of it is performed or kept from here on. False when it had ended before."""
    for _ in range(MAX_CANCEL_TRIES):
        fold = engine.ledger.load(run)
        if fold is None:
            raise UnknownRun(f"there is no run {run!r} in this store")
        if fold.ended is not None:
            return False
        try:
            engine.ledger.end(fold, [({"k": status.RUN_CANCELLED, "at": engine.clock.now_ms()}, None)])
        except Superseded:
            continue
        engine.note("INFO", "run cancelled", run_id=run, workflow=fold.workflow)
        return True
    raise Superseded
