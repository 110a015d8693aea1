"""The flood over one SQLite file: processes of several workers each, killed by SIGKILL at random, and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from onward.core.values import Event
from onward.engine.ingest import start
from onward.entry.local import Local
from onward.local.store import _COLUMNS, SqliteStore
from onward.ports import Item

from .app import app, event_of, workflow_of
from .count import event_id
from .options import DUPLICATE, Flood, Told
from .witness import VARIABLE

ROOT = Path(__file__).parents[2]
WORKERS = 10  # of a process
POLL_S = 0.1
STOP_S = 20.0


class Fleet:
    """`processes` processes that work on one store."""

    def __init__(self, folder: Path, processes: int, workers: int, chaos: str) -> None:
        self.store = folder / "store.db"
        self.log = folder / "log.jsonl"
        self.log.touch()
        environment = {**os.environ, VARIABLE: str(folder / "effects"), "ONWARD_CHAOS": chaos}
        self._environment = {**environment, "PYTHONPATH": f"{ROOT / 'adapter'}{os.pathsep}{ROOT}"}
        self._command = [sys.executable, "-m", "tests.flood.worker", str(self.store), str(workers), str(self.log)]
        self._processes = [self._start() for _ in range(processes)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, env=self._environment, cwd=ROOT, stdin=subprocess.PIPE)

    def kill(self, place: int) -> None:
        """Kill one process, and start another in its place."""
        process = self._processes[place % len(self._processes)]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"a process of the fleet ended by itself, with {process.returncode}")
        self._processes[place % len(self._processes)] = self._start()

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()


def flood(options: Flood, folder: Path) -> Told:
    """Send every event, kill at random, and wait until no run is open."""
    told = Told()
    workers = min(WORKERS, options.sandboxes)
    os.environ.pop("ONWARD_CHAOS", None)  # the feeder's own calls are not part of the storm
    local = Local(app, folder / "store.db", horizon_ms=round(options.horizon_s * 1000))
    chance = Random(options.seed)
    kill_at = sorted(chance.randrange(options.events) for _ in range(options.kills))
    fleet = Fleet(folder, options.sandboxes // workers, workers, options.laptop_chaos)
    told.sandboxes = options.sandboxes // workers * workers
    began_s = time.monotonic()
    try:
        sent, open_runs = 0, 0
        while sent < options.events or open_runs:
            if time.monotonic() - began_s > options.within_s:
                told.gave_up = True
                break
            while sent < options.events and open_runs < options.window:
                name, data = event_of(sent)
                for _ in range(1 + (chance.random() < DUPLICATE)):
                    start(local.engine, workflow_of(sent), Event(name, data, event_id(sent), local.clock.now_ms()))
                    told.deliveries += 1
                told.accepted.append(sent)
                sent += 1
                open_runs += 1
            open_runs = open_count(local.store)
            while kill_at and kill_at[0] <= sent - open_runs:
                kill_at.pop(0)
                fleet.kill(chance.randrange(options.sandboxes))
                told.kills += 1
            told.progress(sent, open_runs)
            time.sleep(POLL_S)
    finally:
        told.wall_s = time.monotonic() - began_s
        fleet.close()
    told.items = list(items_of(local.store))
    local.close()
    lines = Counter(json.loads(line)["message"] for line in fleet.log.read_text().splitlines())
    told.deaths = lines["invocation died"]
    told.duplicates = lines["chaos: wake duplicated"]
    told.lost = lines["chaos: wake dropped"]
    told.sweeps = lines["run woken by the sweep"]
    told.kills += lines["chaos: invocation killed"]
    told.lines = lines
    return told


def open_count(store: SqliteStore) -> int:
    [(number,)] = store.rows("SELECT count(*) FROM items WHERE due_ms IS NOT NULL", ())
    return int(str(number))


def items_of(store: SqliteStore) -> Iterator[Item]:
    for row in store.rows(f"SELECT {_COLUMNS} FROM items WHERE partition LIKE 'run#%'", ()):
        yield Item(*row)  # type: ignore[arg-type]
