"""Pausing workflows: nothing of them is performed until they go on.

One item of the table names all workflows that are paused. Every process reads it again when what it knows is older than
`KNOWN_MS`, which is one request in that time however many steps it performs; for so long a pause may go unnoticed. A
wake for a run of a paused workflow is held: nothing is done with it, and the run's head says when that was (`held`).
What is being performed comes to its end and is kept. Events are taken in, runs are started and wait, and what waits for
an event gets it; times pass as ever, deadlines among them, and a run can be cancelled.

When a workflow goes on, its runs are woken that were held meanwhile: not before every process knows of it, or one that
does not would hold them again. Where whoever does that dies, the sweep wakes them, as it looks after all that stand.
"""

from __future__ import annotations

import json

from ..core.errors import Unavailable
from ..core.log import UNREADABLE, attempt_key, head_of, log_key, run_of
from ..core.status import ENDED
from ..ports import Item, Put, Swap
from .engine import KNOWN_MS, PAUSED_KEY
from .ledger import Superseded
from .views import unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..ports import Store
    from .engine import Engine, Wake

UNTIL_KNOWN_MS = KNOWN_MS + 5_000  # when every process knows of it, whose clocks may disagree
MAX_TRIES = 20
MAX_RUNS = 100_000


def paused(store: Store) -> dict[str, int]:
    """The workflows that are paused, and since when (epoch milliseconds), as the table has it now."""
    return names_in(store.get([PAUSED_KEY])[0])


def names_in(item: Item | None) -> dict[str, int]:
    """What that item says. One that cannot be read pauses none, or the whole app would stand for it."""
    try:
        return (
            {} if item is None else {str(name): int(at_ms) for name, at_ms in json.loads(item.body)["paused"].items()}
        )
    except UNREADABLE:
        return {}


def pause(engine: Engine, workflow: str) -> int:
    """Pause a workflow; since when it is paused (epoch milliseconds), where it was before."""
    now_ms = engine.clock.now_ms()
    return _change(engine, lambda names: {workflow: now_ms, **names})[workflow]


def unpause(engine: Engine, workflow: str) -> int | None:
    """Let a workflow go on. Since when it was paused; None where it was not. Its runs are woken by `wake_held`, when
    `UNTIL_KNOWN_MS` has passed."""
    since_ms: list[int] = []

    def without(names: dict[str, int]) -> dict[str, int]:
        since_ms[:] = [names[workflow]] if workflow in names else []
        return {name: at_ms for name, at_ms in names.items() if name != workflow}

    _change(engine, without)
    return since_ms[0] if since_ms else None


def _change(engine: Engine, change: Callable[[dict[str, int]], dict[str, int]]) -> dict[str, int]:
    for _ in range(MAX_TRIES):
        standing = engine.store.get([PAUSED_KEY])[0]
        names = change(names_in(standing))
        if names == names_in(standing):
            return names
        body = json.dumps({"paused": names}, ensure_ascii=True, separators=(",", ":"))
        item = Item(*PAUSED_KEY, engine.clock.token(), body)
        if engine.store.write([Put(item) if standing is None else Swap(item, standing.token)]) is None:
            engine.forget_pauses()
            return names
    raise Unavailable(f"the list of paused workflows was changed by others {MAX_TRIES} times in a row")


def holds(engine: Engine, wake: Wake, names: Mapping[str, int]) -> bool:
    """Whether a wake is for a run of a paused workflow, and is held."""
    fold = engine.ledger.load(wake["run"])
    if fold is None:
        return False
    if fold.ended is not None or fold.workflow not in names:
        engine.ledger.keep(fold)
        return False
    fold.head = None
    head = engine.ledger.head(fold)
    told = head_of(head)
    now_ms = engine.clock.now_ms()
    late = head.due_ms is None or head.due_ms < now_ms + engine.horizon_ms // 2
    if told["status"] not in ENDED and (late or told.get("stalls") or told.get("held", 0) < names[fold.workflow]):
        due_ms = min([now_ms + engine.horizon_ms, *fold.deadlines]) if late else head.due_ms
        assert due_ms is not None
        try:
            engine.ledger.move_head(fold, due_ms, stalls=0, held=now_ms)
        except Superseded:
            pass  # it has ended
    engine.ledger.keep(fold)
    if "limits" in told:
        from .steplimits import give_back

        if wake["do"] == "advance":
            give_back(engine, fold.run, log_key(wake["seq"]))
        elif wake["do"] == "step":
            give_back(engine, fold.run, attempt_key((wake["plan"], wake["index"]), wake["attempt"]))
    engine.note("INFO", "run held, its workflow is paused", run_id=fold.run, workflow=fold.workflow, wake=wake["do"])
    return True


def wake_held(engine: Engine, workflow: str, since_ms: int) -> int:
    """Wake the runs of a workflow that were held since then; how many these were. Can be repeated."""
    woken = 0
    for head in unfinished(engine.ledger, MAX_RUNS):
        told = head_of(head)
        if told["workflow"] != workflow or told["status"] in ENDED or told.get("held", 0) < since_ms:
            continue
        told.pop("held")
        body = json.dumps(told, ensure_ascii=True, separators=(",", ":"))
        item = Item(head.partition, head.sort, engine.clock.token(), body, head.value, head.due_ms)
        if engine.store.write([Swap(item, head.token)]) is None:
            engine.send({"do": "recover", "run": run_of(head.partition)})
            woken += 1
    engine.note("INFO", "workflow goes on", workflow=workflow, runs=woken)
    return woken
