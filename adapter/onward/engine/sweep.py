"""The sweep: once a minute, wake every run to which nothing happened in time.

A run's head carries `due`. Whoever advances the run moves it ahead; where nobody did, a wake was lost, or an
invocation died and the notice of that was lost too, or a time further away than a wake can reach has come near.
The sweep moves `due` itself before it wakes the run, so a run is swept once for each horizon, by one of several sweeps.

A run that cannot be swept because somebody edited its items is reported, set aside for one horizon, and hurts no other.
So is a run of a newer Onward, which comes before the sweep of an older one while a deploy goes forth or back, but for
minutes only: the next sweep may be the newer code's. It is not counted as stalled, or that sweep would fail it.

A wake that was merely lost costs no attempt. But a run that is woken again and again and whose log never grows must
end: it fails, with an error that says so.
"""

from __future__ import annotations

from ..core.errors import ItemTooLarge, LayoutMismatch, Misconfigured, Unavailable, UnknownWorkflow
from ..core.log import HELD_BACK, LOG_END, fields_of, head_of, log_key, run_of, unreadable
from ..core.values import Failure
from ..ports import Item, Swap
from .ledger import Superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .engine import Engine, Wake

MAX_STALLS = 10  # sweeps in a row of one run whose log did not grow
NEWER_ASIDE_MS = 5 * 60 * 1000  # how long a run of a newer Onward is out of the way
MAX_SWEPT = 1_000  # runs in one sweep; the next one goes on with the rest
STALLED = "Stalled"


def sweep(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Wake the runs whose `due` has passed."""
    now_ms = engine.clock.now_ms()
    swept = 0
    for partition, sort, _ in engine.store.due(now_ms, MAX_SWEPT):
        if deadline_ms is not None and engine.clock.now_ms() > (now_ms + 2 * deadline_ms) // 3:
            break
        head = engine.store.get([(partition, sort)])[0]
        if head is None or head.due_ms is None or head.due_ms > now_ms:
            continue  # the index lags behind
        try:
            if partition.startswith(HELD_BACK):
                _sweep_held(engine, head)
            else:
                _sweep_run(engine, head)
            swept += 1
        except Superseded:
            continue
        except Unavailable as error:
            engine.note("WARNING", "run not swept", run_id=run_of(partition), reason=str(error))
        except Exception as error:
            if isinstance(error, Misconfigured) and not isinstance(error, LayoutMismatch):
                raise  # it is not this run's, and would be said once for each
            engine.note(
                "ERROR",
                "run cannot be swept",
                run_id=run_of(partition),
                error=type(error).__name__,
                reason=str(error),
            )
            is_newer = isinstance(error, LayoutMismatch)
            _set_aside(engine, head, min(NEWER_ASIDE_MS, engine.horizon_ms) if is_newer else engine.horizon_ms)
    if swept:
        engine.note("INFO", "swept", runs=swept)


def _sweep_held(engine: Engine, item: Item) -> None:
    """Wake what holds events back: its wake was lost."""
    if not _set_aside(engine, item, engine.horizon_ms):
        return
    engine.note("WARNING", "held events woken by the sweep", of=fields_of(item)["of"])
    engine.send({"do": "fire", "of": fields_of(item)["of"]})


def _set_aside(engine: Engine, head: Item, for_ms: int) -> bool:
    """Move the `due` of an item, so that it stands in nobody's way; all else stays as it is. Whether that was done."""
    due_ms = engine.clock.now_ms() + for_ms
    aside = Item(head.partition, head.sort, engine.clock.token(), head.body, head.value, due_ms)
    try:
        return engine.store.write([Swap(aside, head.token)]) is None
    except (Unavailable, ItemTooLarge):
        return False  # the next sweep meets it again


def _sweep_run(engine: Engine, head: Item) -> None:
    body = head_of(head)
    run = run_of(head.partition)
    engine.ledger.refuse_newer(run)
    last = engine.store.read(head.partition, log_key(0), LOG_END, limit=1, newest_first=True)
    seq = int(last[0].sort[2:]) if last else 0
    if type(body.get("stalls", 0)) is not int:
        raise unreadable(run, head.sort, "stalls is no number")
    stalls = body.get("stalls", 0) + 1 if body.get("stall_seq") == seq else 1
    body.update(stalls=stalls, stall_seq=seq)
    item = engine.ledger.item(run, head.sort, body, due_ms=engine.clock.now_ms() + engine.horizon_ms)
    if engine.store.write([Swap(item, head.token)]) is not None:
        return  # another sweep, or the run itself, was faster
    if stalls > MAX_STALLS:
        _give_up(engine, run, stalls)
        return
    engine.note("WARNING", "run woken by the sweep", run_id=run, workflow=body["workflow"], stalls=stalls, seq=seq)
    engine.send({"do": "recover", "run": run})


def _give_up(engine: Engine, run: str, stalls: int) -> None:
    fold = engine.ledger.load(run)
    if fold is None:
        raise unreadable(run, log_key(0), "it is gone, and the run's head is not")
    if fold.ended is not None:
        return
    failure = Failure(
        STALLED,
        f"the run was woken {stalls} times and its log never grew: each invocation was lost, or died without a "
        f"trace. Look for timeouts and memory in the function's own log around run {run}",
    )
    try:
        engine.workflow_of(fold)
    except UnknownWorkflow as error:
        failure = Failure(
            UnknownWorkflow.__name__, f"{error}. The run was woken {stalls} times, and it never came back"
        )
    engine.fail(fold, failure)
