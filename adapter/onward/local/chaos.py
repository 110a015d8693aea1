"""What may go wrong between two services that work, switched on by probability; and what was counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..chaos import Chances

MAX_INIT_TIMES = 1_000


@dataclass
class Chaos(Chances):
    """Probabilities in [0, 1] for each asynchronous invocation and each queue message; all are 0 at first, and may
    be changed while the service runs.

    `duplicate`: it is delivered twice. `delay`: it is late by up to `delay_s` real seconds. `drop`: it is accepted
    and never delivered. `kill`: the sandbox that performs an invocation is killed, within `kill_s` real seconds of
    its start (or not at all, if it is done sooner).

    This is what befalls the function from outside, as AWS would do it. What ONWARD_CHAOS in the function's own
    variables does inside of it (see `onward.chaos`) comes on top.
    """


@dataclass
class Stats:
    """Counters since the start of the service.

    `invocations` = `cold` + `warm`, each performance counted, retries too. `throttles`: refused or put off because
    every sandbox was busy. `retries`: of asynchronous events, after an error. `redelivered`: messages that were
    not deleted after their delivery. `dropped`: asynchronous events given up (with or without a destination).
    `lost`, `duplicated`, `delayed`, `killed`: by chaos. `init_ms`: how long the first `MAX_INIT_TIMES` cold
    starts took, from the start of the process until it asked for work.
    """

    invocations: int = 0
    cold: int = 0
    warm: int = 0
    throttles: int = 0
    events: int = 0
    retries: int = 0
    errors: int = 0
    init_errors: int = 0
    timeouts: int = 0
    crashes: int = 0
    recursion_drops: int = 0
    dropped: int = 0
    messages: int = 0
    redelivered: int = 0
    ticks: int = 0
    lost: int = 0
    duplicated: int = 0
    delayed: int = 0
    killed: int = 0
    init_ms: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def count_fate(self, fate: list[float]) -> None:
        self.lost += not fate
        self.duplicated += len(fate) > 1
        self.delayed += any(fate)

    def count_init(self, took_ms: float) -> None:
        if len(self.init_ms) < MAX_INIT_TIMES:
            self.init_ms.append(took_ms)
