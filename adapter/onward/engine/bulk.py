"""Many runs at once: those that are to be cancelled, and those that have failed and are to be done again.

Runs that have not ended are found by the index of `due`. Runs that failed have an entry each, put in the transaction
that ends them (see `Ledger.end`), in a partition for each day and shard, so that nothing else is read to find those of
a period.
"""

from __future__ import annotations

from heapq import merge

from ..core.errors import InvalidOption, LayoutMismatch, UnknownWorkflow
from ..core.log import FAILED_SHARDS, UNREADABLE, failed_key, failed_partition, fields_of, head_of, run_of
from ..core.status import ENDED, IllegalRecord
from . import control, forks
from .ledger import DAY_MS
from .views import unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ports import Store
    from .engine import Engine
    from .ledger import Ledger

PAGE = 100
MAX_RUNS = 100_000  # that one call cancels: the index hands them over in one piece


class Chosen:
    """A run that was chosen, and what came of that: `fork`, the run that does it again, or `why` nothing was done."""

    __slots__ = ("at_ms", "fork", "run", "why", "workflow")

    def __init__(self, run: str, workflow: str, at_ms: int) -> None:
        self.run = run
        self.workflow = workflow
        self.at_ms = at_ms  # when it was started, or failed
        self.fork: str | None = None
        self.why: str | None = None


def open_runs(ledger: Ledger, workflow: str | None, since_ms: int, until_ms: int) -> Iterator[Chosen]:
    """The runs that have not ended, of a workflow (None: of each), and that were started in that time, the end not
    included. Runs that are being started may be missing."""
    for head in unfinished(ledger, MAX_RUNS):
        try:
            told = head_of(head)
            started_ms = int(told["started"])
        except (IllegalRecord, *UNREADABLE):
            continue
        if told["status"] not in ENDED and workflow in (None, told["workflow"]) and since_ms <= started_ms < until_ms:
            yield Chosen(run_of(head.partition), told["workflow"], started_ms)


def cancel(engine: Engine, chosen: Chosen) -> bool:
    """Cancel it; False, with the reason, where that was not done."""
    try:
        if control.cancel(engine, chosen.run):
            return True
        chosen.why = "it has ended meanwhile"
    except (IllegalRecord, LayoutMismatch) as error:
        chosen.why = str(error)
    return False


def failed_runs(store: Store, workflow: str | None, since_ms: int, until_ms: int) -> Iterator[Chosen]:
    """The runs that failed in that time, the end not included, of a workflow (None: of each), the earliest first."""
    for day in range(since_ms // DAY_MS, (until_ms - 1) // DAY_MS + 1):
        shards = [_failed_in(store, failed_partition(day, shard), since_ms, until_ms) for shard in range(FAILED_SHARDS)]
        for at_ms, run, name in merge(*shards):
            if workflow in (None, name):
                yield Chosen(run, name, at_ms)


def _failed_in(store: Store, partition: str, since_ms: int, until_ms: int) -> Iterator[tuple[int, str, str]]:
    first, last = failed_key(since_ms, ""), failed_key(until_ms, "")
    while items := store.read(partition, first, last, limit=PAGE):
        for item in items:
            if item.sort < last:
                _, at_ms, run = item.sort.split("#", 2)
                yield int(at_ms), run, str(fields_of(item)["workflow"])
        if len(items) < PAGE:
            return
        first = f"{items[-1].sort}\0"


def retry(engine: Engine, chosen: Chosen, once: bool = False, request: str = "") -> bool:
    """Do a run that failed again, from what failed it; False, with the reason, where that was not done. `once`: also
    where what failed had begun and may run only once."""
    try:
        chosen.fork = forks.retry(engine, chosen.run, once=once, request=request)
    except (InvalidOption, UnknownWorkflow, IllegalRecord, LayoutMismatch) as error:
        chosen.why = str(error)
    return chosen.fork is not None
