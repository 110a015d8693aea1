"""Wakes are lost, doubled and late, sandboxes are killed: results are right, and what was done twice is explained."""

from __future__ import annotations

import json
import time
from collections import Counter
from uuid import uuid4

import pytest

from onward.core.codec import decode
from onward.engine.views import unfinished
from onward.local.chaos import Chaos

from .chaos_handler import CASES_CHOSEN, CHOSEN
from .conftest import Deployer
from .deployment import Sandboxed

HORIZON_MS = 1_500
TICK_S = 0.5
AGAIN_S = 1.0  # after which an event is delivered again
TIMES = 2  # that the corpus is run
TIMEOUT_S = 4.0
WIDEST = 5  # steps of a run in flight at once, in the corpus
ALSO = {"only_once_in_parallel": [[False, False]]}  # where both sandboxes were killed
OUTCOMES = ("done", "broken")


def start(deployed: Sandboxed, case) -> str:
    """Deliver an event until it has reached the engine, which promises nothing about one that was lost before."""
    id = str(uuid4())
    run = ""
    while not run or deployed.look(run) is None:
        run = deployed.start(case.name, case.data, id)
        ends_s = time.monotonic() + AGAIN_S
        while deployed.look(run) is None and time.monotonic() < ends_s:
            deployed.wait()
    return run


def check(deployed: Sandboxed, case, run: str) -> Counter[str]:
    """Hold a run to what its case says; how often each of its steps was performed beyond what its log accounts for."""
    view = deployed.follow(run)
    assert view["status"] == case.status, view
    result = None if view["output"] is None else decode(view["output"])
    assert result in [*case.results, *ALSO.get(case.name, [])], view
    outcomes = Counter((body["s"], body["n"]) for body in deployed.records(run) if body["k"] in OUTCOMES)
    assert not outcomes or max(outcomes.values()) == 1, "the log holds one outcome of each step"
    performed = Counter(line["key"] for line in deployed.notes(run))
    names = {line["key"]: line["step"] for line in deployed.notes(run)}
    assert len(performed) <= len(view["steps"]), "all performances of a step carry one idempotency key"
    for key, times in performed.items():
        assert times == 1 or not case.once, f"{names[key]} may run only once, and ran {times} times"
    attempts = Counter({step["name"]: step["attempts"] for step in view["steps"]})
    return Counter({names[key]: times for key, times in performed.items()}) - attempts


@pytest.mark.parametrize("kill", [0.0, 0.15], ids=["no kills", "kills"])
@pytest.mark.parametrize("store", ["table", "file"])
def test_the_corpus_survives_duplicates_delays_and_drops(deploy: Deployer, store: str, kill: float) -> None:
    deployed = deploy(
        "chaos_handler",
        store=store,
        env={"HORIZON_MS": str(HORIZON_MS)},
        timeout_s=TIMEOUT_S,
        concurrency=4,
        tick_s=TICK_S,
        tick_payload={"onward": 1, "do": "sweep"},
        chaos=Chaos(duplicate=0.2, delay=0.2, delay_s=0.5, drop=0.15, kill=kill, kill_s=0.01),
    )
    chaos, stats = deployed.lambda_.chaos, deployed.lambda_.stats
    assert len(CASES_CHOSEN) == len(CHOSEN)
    runs = [(case, start(deployed, case)) for case in CASES_CHOSEN * TIMES]
    surplus: Counter[str] = Counter()
    for case, run in runs:
        surplus.update(check(deployed, case, run))
    chaos.drop = chaos.duplicate = chaos.delay = chaos.kill = 0.0
    assert not unfinished(deployed.ledger, len(runs)), "a run was left open"
    lines = [line.partition("] ")[2] for line in deployed.lambda_.log_lines]
    told = Counter(json.loads(line)["message"] for line in lines if line.startswith("{"))
    print(f"\n{stats.invocations} invocations, {stats.lost} lost, {stats.duplicated} doubled, {stats.delayed} late, "
          f"{stats.killed} killed, {told['run woken by the sweep']} woken by {stats.ticks} sweeps, "
          f"{sum(surplus.values())} performances more than recorded attempts")  # fmt: skip
    assert stats.lost and stats.duplicated and stats.delayed and told["run woken by the sweep"]
    assert bool(stats.killed) is bool(kill)
    explained = stats.duplicated + stats.killed + told["run woken by the sweep"] * WIDEST
    assert sum(surplus.values()) <= explained, surplus
