"""The front door on a laptop: an app over one SQLite file, and workers that do its wakes in this process.

Everything is as deployed but for the wings: the same engine, the same wakes, one step for each. Several processes may
work on one file. When one of them is killed, the others, or the next one that opens the file, go on with what it held.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..clock import SystemClock
from ..core.errors import LayoutMismatch, MiddlewareFailed, Unavailable, UnknownPayload, UnknownWorkflow
from ..core.log import Fold, head_of, run_of
from ..core.status import IllegalRecord
from ..engine import notes
from ..engine.control import died
from ..engine.engine import Engine
from ..engine.ledger import HORIZON_MS
from ..engine.sweep import sweep
from ..engine.views import unfinished
from ..local.blobs import FolderBlobs
from ..local.store import SqliteStore
from ..local.wakes import Claim, SqliteWakes, this_process

if TYPE_CHECKING:
    from ..app import App
    from ..chaos import Mischief
    from ..engine.notes import Note
    from ..ports import Blobs, Clock, Store, Wakes

POLL_S = 0.2  # how often a worker looks for wakes that other processes have sent
SWEEP_S = 60.0
SWEEPS_PER_HORIZON = 4  # at least, where the horizon is short
RETRY_MS = 1_000  # for a wake that could not be done because the store was locked
FOREIGN_MS = 60_000  # for a wake of a workflow that this app does not have
MAX_RUNS = 100_000


class Local:
    """An app over a store file. `store`: its path, or ":memory:"; blobs stand in the folder `<store>.blobs`. `chaos`: a
    text as in ONWARD_CHAOS (None: what that variable says)."""

    def __init__(
        self,
        app: App,
        store: str | os.PathLike[str] = ":memory:",
        *,
        fill: bool | None = None,
        horizon_ms: int = HORIZON_MS,
        clock: Clock | None = None,
        note: Note = notes.silent,
        chaos: str | None = None,
        schedules: bool = False,
    ) -> None:
        self.app = app
        self.clock = clock or SystemClock()
        self.store = SqliteStore(store)
        self.wakes = SqliteWakes(self.store, self.clock)
        self.mischief: Mischief | None = None
        folder = None if self.store.path == ":memory:" else FolderBlobs(f"{self.store.path}.blobs")
        ports: tuple[Store, Wakes, Blobs | None] = (self.store, self.wakes, folder)
        text = os.environ.get("ONWARD_CHAOS", "") if chaos is None else chaos
        if text:
            from ..chaos import parse, surround

            if mixture := parse(text):
                self.mischief, ports = surround(mixture, ports, self.clock, note)
                horizon_ms = self.mischief.horizon_ms(0)
        store_port, wakes, blobs = ports
        self.engine = Engine(app, store_port, wakes, blobs, self.clock, fill=fill, horizon_ms=horizon_ms, note=note)
        self._sweep_ms = min(round(SWEEP_S * 1000), horizon_ms // SWEEPS_PER_HORIZON)
        self._owner = this_process()
        self._owed: deque[Callable[[], None]] = deque()  # what became of claims, and the store could not be told
        self._next_sweep_ms = self._told_ms = self.clock.now_ms()
        self._schedules = schedules

    def close(self) -> None:
        self.store.close()

    # ---------------------------------------------------------------------------------------------------- working
    def work_once(self) -> bool:
        """Do one wake whose time has come; False when there is none."""
        now_ms = self.clock.now_ms()
        if now_ms >= self._next_sweep_ms:
            self._next_sweep_ms = now_ms + self._sweep_ms
            self._sweep()
        try:
            while self._owed:
                self._tell(self._owed.popleft())
            claim = self.wakes.claim(self._owner)
        except Unavailable as error:
            self.engine.note("WARNING", "no wake taken", reason=str(error))
            return False
        if claim is None:
            return False
        self._do(claim)
        return True

    def _tell(self, what: Callable[[], None]) -> None:
        """Tell the store what became of a claim. Where it cannot be told it is told later: this process lives, so the
        wake would else be held for ever."""
        try:
            what()
        except Unavailable:
            self._owed.append(what)
            raise

    def _sweep(self) -> None:
        try:
            self._vouch()
            if self._schedules:
                self._begin_scheduled()
            self._befall(None, lambda: sweep(self.engine, {"do": "sweep"}, None, None))
        except Unavailable as error:  # the next one comes soon
            self.engine.note("WARNING", "no sweep", reason=str(error))

    def _begin_scheduled(self) -> None:
        from ..engine.starts import begin_between

        now_ms = self.clock.now_ms()
        begin_between(self.engine, self._told_ms, now_ms)
        self._told_ms = now_ms

    def _befall(self, run: str | None, work: Callable[[], None]) -> bool:
        """Do the work of one invocation, with what chaos does to it; False where that killed it."""
        if self.mischief is None:
            work()
            return True
        return self.mischief.survives(run, work)

    def _vouch(self) -> None:
        """Move `due` of the runs that living processes work on: here a step may take longer than any on Lambda."""
        engine = self.engine
        for run in self.wakes.held():
            fold = Fold(run)
            try:
                standing_ms = engine.ledger.head(fold).due_ms
            except IllegalRecord as error:
                engine.note("ERROR", "run cannot be read", run_id=run, reason=str(error))
                continue
            if standing_ms is not None and standing_ms < self.clock.now_ms() + engine.horizon_ms // 2:
                engine.ledger.move_head(fold, self.clock.now_ms() + engine.horizon_ms, stalls=0)

    def _do(self, claim: Claim) -> None:
        """Do what a wake asks, and tell the store what became of it."""
        try:
            self._tell(self._outcome(claim))
        except Unavailable as error:
            self.engine.note("WARNING", "wake not settled yet", run_id=claim.wake.get("run"), reason=str(error))

    def _outcome(self, claim: Claim) -> Callable[[], None]:
        """Do what a wake asks; what the store is to be told."""
        try:
            if not self._befall(claim.wake.get("run"), lambda: self._handle(claim)):
                return partial(self.wakes.abandon, claim)
        except Unavailable:
            return self._later(claim, RETRY_MS)
        except UnknownWorkflow as error:  # another app's run, in the same file: it waits for its app
            self.engine.note("WARNING", "wake of another app", run_id=claim.wake.get("run"), reason=str(error))
            return self._later(claim, FOREIGN_MS)
        except (IllegalRecord, LayoutMismatch) as error:  # somebody edited that run: the others go on
            self.engine.note("ERROR", "run cannot be read", run_id=claim.wake.get("run"), reason=str(error))
            return self._later(claim, FOREIGN_MS)
        except MiddlewareFailed:  # the engine has said why: a key is missing, say
            return self._later(claim, FOREIGN_MS)
        except UnknownPayload as error:  # a wake that is none: what its run needs, the sweep will send
            self.engine.note("ERROR", "wake refused", reason=str(error))
        except BaseException:
            # Ctrl-C, or a bug: not the step's fault. The wake goes back, so that the run can be resumed at once.
            with contextlib.suppress(Unavailable):
                self.wakes.put_back(claim, self.clock.now_ms())
            raise
        return partial(self.wakes.settle, claim)

    def _later(self, claim: Claim, after_ms: int) -> Callable[[], None]:
        return partial(self.wakes.put_back, claim, self.clock.now_ms() + after_ms)

    def _handle(self, claim: Claim) -> None:
        if claim.died:
            run = claim.wake.get("run", "")
            carried = self._is_carried(run, but=claim.id)
            died(self.engine, claim.wake, "its process was killed", look_again_ms=None if carried else 0)
        else:
            self.engine.handle(claim.wake)

    def _is_carried(self, run: str, but: int | None = None) -> bool:
        """Whether there is a wake, other than the one of that id, that carries this run on. One that expects a shorter
        log does not: deaths leave such behind, to look again later."""
        wakes = self.wakes.of(run, but)
        fold = self.engine.ledger.load(run) if wakes else None
        if fold is None:
            return bool(wakes)
        self.engine.ledger.keep(fold)
        stale = [wake for wake in wakes if wake.get("do") == "advance" and _seq(wake) < fold.next_seq]
        return len(stale) < len(wakes)

    @contextlib.contextmanager
    def workers(self, count: int) -> Iterator[Callable[[float], None]]:
        """Threads that do wakes until the block is left. Yields a function that waits that many seconds at most, and
        raises what a worker has raised."""
        stop = threading.Event()
        errors: list[BaseException] = []
        failed = threading.Event()

        def loop() -> None:
            try:
                while not stop.is_set():
                    if not self.work_once():
                        stop.wait(self._pause_s())
            except BaseException as error:
                errors.append(error)
                failed.set()
            finally:
                from ..loop import close_thread_loop

                close_thread_loop()

        threads = [threading.Thread(target=loop, name=f"onward-worker-{n}", daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()

        def wait(seconds: float) -> None:
            failed.wait(seconds)
            if errors:
                raise errors[0]

        try:
            yield wait
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=5)

    def _pause_s(self) -> float:
        first_ms = self.wakes.next_ms()
        if first_ms is None:
            return POLL_S
        return min(max((first_ms - self.clock.now_ms()) / 1000, 0.001), POLL_S)

    # ---------------------------------------------------------------------------------------------------- resuming
    def unfinished(self) -> list[str]:
        """The ids of this app's runs that have not ended, and of those whose head nobody can read."""
        own = {workflow.name for workflow in self.app}
        found = []
        for head in unfinished(self.engine.ledger, MAX_RUNS):
            try:
                if head_of(head)["workflow"] in own:
                    found.append(run_of(head.partition))
            except IllegalRecord as error:
                self.engine.note("ERROR", "run cannot be read", run_id=run_of(head.partition), reason=str(error))
                found.append(run_of(head.partition))
        return found

    def resume_each(self, runs: list[str]) -> None:
        """Make sure that each of these runs has a wake. One whose wake a living process holds is left to it."""
        for run in runs:
            if not self._is_carried(run):
                self.engine.send({"do": "recover", "run": run})


def _seq(wake: Mapping[str, object]) -> int:
    """The length of the log that a wake expects; what somebody else wrote expects none."""
    seq = wake.get("seq")
    return seq if isinstance(seq, int) else 0
