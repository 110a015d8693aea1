"""Wakes in the store's own file, so that they outlive the process that sent them.

A worker claims a wake, does what it asks, and deletes it. The claim names the worker's process, by its id and the time
at which it started (ids are used again). When that process is gone, the wake is handed out again, with word that
whoever had it died: locally, this is what Lambda's on-failure record says.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.ids import is_run_id
from ..ports import Clock
from .store import SqliteStore

REACH_MS = 15 * 60 * 1000  # as on AWS, so that what is further away takes the same path there and here

LOOK_S = 0.2  # how long a process that lived is taken to live on
MAX_DEAD = 100  # owners in one query; those beyond have their turn when these have no wakes any more
MAX_PID_DIGITS = 9
_OWNERS = "SELECT DISTINCT owner FROM wakes WHERE owner IS NOT NULL"
NOBODY = "nobody"  # the owner of what an abandoned invocation held; no process is called so


class Claim:
    """A wake that a worker has claimed. `died`: the worker that had it before is dead."""

    __slots__ = ("died", "id", "wake")

    def __init__(self, id: int, wake: dict[str, Any], died: bool) -> None:
        self.id = id
        self.wake = wake
        self.died = died


class SqliteWakes:
    """The wakes in `store`. `reach_ms`: how far in the future one may lie."""

    def __init__(self, store: SqliteStore, clock: Clock, reach_ms: int = REACH_MS) -> None:
        self.store = store
        self.clock = clock
        self.reach_ms = reach_ms
        self._dead: list[str] = []
        self._alive: dict[str, float] = {}  # owners that lived a moment ago, and until when that is believed
        self._looked_s = 0.0

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        with self.store.transaction() as db:
            db.execute(
                "INSERT INTO wakes (at_ms, wake) VALUES (?, ?)", (at_ms or self.clock.now_ms(), json.dumps(wake))
            )

    def claim(self, owner: str) -> Claim | None:
        """The earliest wake whose time has come, and which no living process has."""
        now_ms = self.clock.now_ms()
        if time.monotonic() - self._looked_s > LOOK_S or not self._free(now_ms):
            self._looked_s = time.monotonic()
            self._dead = self._dead_owners()
            if not self._free(now_ms):
                return None  # most looks are in vain, and take no lock
        with self.store.transaction() as db:
            query, parameters = self._free_query("id, wake, owner", now_ms)
            for id, wake, holder in db.execute(query, parameters):
                db.execute("UPDATE wakes SET owner = ? WHERE id = ?", (owner, id))
                return Claim(id, _read(wake), holder is not None)
        return None

    def _free(self, now_ms: int) -> bool:
        return bool(self.store.rows(*self._free_query("1", now_ms)))

    def _free_query(self, columns: str, now_ms: int) -> tuple[str, Sequence[object]]:
        """For the earliest wake whose time has come, and which nobody has, or somebody who is known to be dead."""
        dead = self._dead[:MAX_DEAD]
        places = ", ".join("?" * len(dead))
        where = f"at_ms <= ? AND (owner IS NULL OR owner IN ({places}))"
        return f"SELECT {columns} FROM wakes WHERE {where} ORDER BY at_ms, id LIMIT 1", (now_ms, *dead)

    def _dead_owners(self) -> list[str]:
        """Who has wakes and is no more. This asks the operating system, and so is done without the write lock."""
        owners = [str(owner) for (owner,) in self.store.rows(_OWNERS, ())]
        now_s = time.monotonic()
        alive = {owner: until_s for owner, until_s in self._alive.items() if until_s > now_s}
        alive |= {owner: now_s + LOOK_S for owner in owners if owner not in alive and process_lives(owner)}
        self._alive = alive
        return [owner for owner in owners if owner not in alive]

    def settle(self, claim: Claim) -> None:
        """The wake was done."""
        with self.store.transaction() as db:
            db.execute("DELETE FROM wakes WHERE id = ?", (claim.id,))

    def put_back(self, claim: Claim, at_ms: int) -> None:
        """The wake could not be done for want of a service: hand it out again at that time."""
        with self.store.transaction() as db:
            db.execute("UPDATE wakes SET owner = NULL, at_ms = ? WHERE id = ?", (at_ms, claim.id))

    def abandon(self, claim: Claim) -> None:
        """Leave the wake as a worker leaves it that dies: held by nobody who lives."""
        with self.store.transaction() as db:
            db.execute("UPDATE wakes SET owner = ? WHERE id = ?", (NOBODY, claim.id))

    def next_ms(self) -> int | None:
        """The time of the earliest wake that nobody has."""
        [(first_ms,)] = self.store.rows("SELECT min(at_ms) FROM wakes WHERE owner IS NULL", ())
        return None if first_ms is None else int(str(first_ms))

    def has(self, run: str, but: int | None = None) -> bool:
        """Whether there is a wake of this run, waiting or held, but for the one of that id."""
        return bool(self.of(run, but))

    def of(self, run: str, but: int | None = None) -> list[dict[str, Any]]:
        """The wakes of this run, waiting or held, but for the one of that id."""
        rows = self.store.rows("SELECT wake FROM wakes WHERE id IS NOT ? AND instr(wake, ?)", (but, json.dumps(run)))
        return [read for (wake,) in rows if (read := _read(wake)).get("run") == run]

    def held(self) -> set[str]:
        """The runs that living processes work on now."""
        rows = self.store.rows("SELECT owner, wake FROM wakes WHERE owner IS NOT NULL", ())
        runs = [_read(wake).get("run", "") for owner, wake in rows if process_lives(str(owner))]
        return {run for run in runs if is_run_id(run)}


def this_process() -> str:
    """The name of this process as an owner of wakes: its id and when it started."""
    return f"{os.getpid()}:{_started(os.getpid())}"


def _read(wake: object) -> dict[str, Any]:
    """A wake of the file; {} for what is none, which the engine then refuses."""
    try:
        read = json.loads(str(wake))
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) and isinstance(read.get("run", ""), str) else {}


def process_lives(owner: str) -> bool:
    pid_text, _, started = owner.partition(":")
    if not pid_text.isdecimal() or len(pid_text) > MAX_PID_DIGITS:
        return False
    pid = int(pid_text)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(pid) == started


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks since boot; "" where it is a zombie or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
