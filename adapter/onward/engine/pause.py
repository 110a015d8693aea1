"""Pausing workflows: nothing of them is performed until they go on.

One item of the table names all workflows that are paused. Every process reads it again when what it knows is older than
`KNOWN_MS`, which is one request in that time however many steps it performs; for so long a pause may go unnoticed. A
wake for a run of a paused workflow is held: nothing is done with it, and it is kept as an item of its own. What is
being performed comes to its end and is kept. Events are taken in, runs are started and wait, and what waits for an
event gets it; times pass as ever, deadlines among them, and a run can be cancelled.

When a workflow goes on, the wakes are sent that were held: just these, for a wake that asks for whatever is needed
would take a step under `once=True` for dead that began before the pause and is performed still. They are not sent
before every process knows that the workflow goes on, or one that does not would hold them again. Where whoever does
that dies, the sweep wakes the runs, as it looks after all that stand.
"""

from __future__ import annotations

import json

from ..core.errors import Unavailable
from ..core.ids import _digest
from ..core.log import UNREADABLE, attempt_key, head_of, log_key
from ..core.status import ENDED
from ..ports import Drop, Item, Put, Swap
from .engine import KNOWN_MS, PAUSED_KEY
from .ledger import Superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..core.log import Fold
    from ..ports import Store
    from .engine import Engine, Wake

UNTIL_KNOWN_MS = KNOWN_MS + 5_000  # when every process knows of it, whose clocks may disagree
MAX_TRIES = 20
SHARDS = 4  # of the partition in which the wakes of a workflow are held
PAGE = 50


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
    if told["status"] not in ENDED:
        _keep(engine, fold.workflow, wake)
        _stands(engine, fold, head)
    engine.ledger.keep(fold)
    if "limits" in told:
        from .steplimits import give_back

        if wake["do"] == "advance":
            give_back(engine, fold.run, log_key(wake["seq"]))
        elif wake["do"] == "step":
            give_back(engine, fold.run, attempt_key((wake["plan"], wake["index"]), wake["attempt"]))
    engine.note("INFO", "run held, its workflow is paused", run_id=fold.run, workflow=fold.workflow, wake=wake["do"])
    return True


def _keep(engine: Engine, workflow: str, wake: Wake) -> None:
    """Keep a wake, once. One of the sweep's, only where the run has no other: that one was lost."""
    run = wake["run"]
    told = {name: value for name, value in wake.items() if name not in ("onward", "again")}
    body = json.dumps(told, sort_keys=True, separators=(",", ":"))
    partition = _partition(workflow, sum(run.encode()) % SHARDS)
    if wake["do"] == "recover" and engine.store.read(partition, f"{run}#", f"{run}#~", limit=1):
        return
    item = Item(partition, f"{run}#{_digest(12, 'held', body)}", engine.clock.token(), body)
    engine.store.write([Put(item)])  # refused: it came twice


def _stands(engine: Engine, fold: Fold, head: Item) -> None:
    """See to it that the sweep does not take the run for stalled."""
    now_ms = engine.clock.now_ms()
    late = head.due_ms is None or head.due_ms < now_ms + engine.horizon_ms // 2
    if late or head_of(head).get("stalls"):
        due_ms = min([now_ms + engine.horizon_ms, *fold.deadlines]) if late else head.due_ms
        assert due_ms is not None
        try:
            engine.ledger.move_head(fold, due_ms, stalls=0)
        except Superseded:
            pass  # it has ended


def _partition(workflow: str, shard: int) -> str:
    return f"paused#{_digest(24, 'paused', workflow)}#{shard}"


def wake_held(engine: Engine, workflow: str) -> int:
    """Send the wakes that were held of a workflow; of how many runs. Can be repeated."""
    runs: set[str] = set()
    for shard in range(SHARDS):
        partition = _partition(workflow, shard)
        while items := engine.store.read(partition, "", "~", limit=PAGE):
            for item in items:
                wake = json.loads(item.body)
                engine.send(wake)
                runs.add(wake["run"])
            engine.store.write([Drop(item.partition, item.sort) for item in items])
    engine.note("INFO", "workflow goes on", workflow=workflow, runs=len(runs))
    return len(runs)
