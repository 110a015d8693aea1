"""What a flood is asked for, and what it tells."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from onward.ports import Item

DUPLICATE = 0.05  # of the events are delivered twice
PROGRESS_S = 5.0


@dataclass(frozen=True)
class Flood:
    """`kills`: about how many. `window`: runs open at once; the next event waits. `timeout_s`, `tick_s`: of the
    function, where there is one. `horizon_s`: after which the sweep looks after a run. A backlog that outlasts the
    horizon would be taken for lost, and its wakes sent again."""

    events: int
    sandboxes: int
    store: str
    kills: int
    window: int
    horizon_s: float = 30.0
    timeout_s: float = 15.0
    tick_s: float = 5.0
    drop: float = 0.005
    duplicate: float = 0.02
    seed: int = 1
    within_s: float = 1_800.0
    verbose: bool = False

    @property
    def laptop_chaos(self) -> str:
        return f"drop={self.drop} duplicate={self.duplicate} horizon={self.horizon_s}"


@dataclass
class Told:
    """What happened, as far as the flood saw it. `lost`, `duplicates`: wakes, by chaos. `sweeps`: runs that a sweep
    has woken."""

    accepted: list[int] = field(default_factory=list)
    deliveries: int = 0
    sandboxes: int = 0
    kills: int = 0
    deaths: int = 0
    duplicates: int = 0
    lost: int = 0
    throttles: int = 0
    sweeps: int = 0
    invocations: int | None = None
    wall_s: float = 0.0
    gave_up: bool = False
    items: list[Item] = field(default_factory=list)
    lines: Counter[str] = field(default_factory=Counter)
    effects: Path | None = None
    told_s: float = field(default_factory=time.monotonic)

    def progress(self, sent: int, open_runs: int) -> None:
        if time.monotonic() - self.told_s > PROGRESS_S:
            self.told_s = time.monotonic()
            print(f"  {sent:,} sent, {open_runs:,} open, {self.kills:,} kills", file=sys.stderr, flush=True)
