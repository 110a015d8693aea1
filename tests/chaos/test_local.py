"""Chaos on a laptop: the corpus and the demo come to their results, and each kind of chaos really happened."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from handlers.demo.feed import LINES, write
from handlers.demo.shop import Shop
from onward import App
from onward.core.codec import decode
from onward.core.values import Event
from onward.engine.ingest import start
from onward.engine.views import run_view, unfinished
from onward.entry.local import Local
from tests.corpus import QUICK, Effects
from tests.end_to_end.chaos_handler import CASES_CHOSEN
from tests.end_to_end.test_chaos import ALSO

ROOT = Path(__file__).parents[2]
STRONG = "duplicate=0.2 delay=0.2 delay_s=0.3 drop=0.1 kill=0.15 lose=0.05 throttle=0.05 horizon=1 seed=5"
KINDS = {
    "wake duplicated",
    "wake delayed",
    "wake dropped",
    "invocation killed",
    "reply lost",
    "call throttled",
}
WORKERS = 4
WITHIN_S = 90.0
STANDS_S = 4.0  # several horizons


class Counted(Effects):
    """Effects of several workers at a time."""

    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()

    def do(self, name, result=None):
        with self._lock:
            return super().do(name, result)


def corpus_app():
    """The corpus as one app, and the effects of each case."""
    app, effects = App("corpus"), {}
    for case in CASES_CHOSEN:
        effects[case.name] = Counted()
        for workflow in case.build(effects[case.name]):
            fill = "fill" if workflow.fill else 1
            app.workflow(on="go", name=case.name, retries=QUICK, steps_per_invocation=fill)(workflow.fn)
    return app, effects


def work(local, within_s=WITHIN_S):
    """Work until no run is open; False if that took longer."""
    ends_s = time.monotonic() + within_s
    with local.workers(WORKERS) as wait:
        while unfinished(local.engine.ledger, 1_000):
            if time.monotonic() > ends_s:
                return False
            wait(0.05)
    return True


def test_the_corpus_comes_to_its_results_under_every_kind_of_chaos(tmp_path):
    app, effects = corpus_app()
    lines = []
    local = Local(
        app, tmp_path / "store.db", chaos=STRONG, note=lambda level, message, **fields: lines.append((message, fields))
    )
    runs = {case: start(local.engine, case.name, Event("go", case.data, case.name, 0))[0] for case in CASES_CHOSEN}
    assert work(local), "a run was left open"
    for case, run in runs.items():
        view = run_view(local.engine.ledger, run)
        assert view["status"] == case.status, view
        result = None if view["output"] is None else decode(view["output"])
        assert result in [*case.results, *ALSO.get(case.name, [])], (case, view)
        done = effects[case.name]
        assert case.effects <= set(done.counts), case
        assert all(done.counts[name] <= 1 for name in case.once), case
    assert set(local.mischief.counts) == KINDS, "each kind of chaos happened"
    told = Counter(message.removeprefix("chaos: ") for message, _ in lines if message.startswith("chaos: "))
    assert told == local.mischief.counts, "each act is a line"
    print("\n" + local.mischief.summary())
    local.close()


def one_of_many(chaos, tmp_path, seed=1):
    app = App("many")

    @app.workflow(on="go", retries=QUICK)
    def three(event, step):
        return [step.run(f"step {n}", lambda n=n: n) for n in range(3)]

    local = Local(app, tmp_path / "store.db", chaos=f"{chaos} horizon=1 seed={seed}")
    for number in range(20):
        start(local.engine, "three", Event("go", {}, f"e{number}", 0))
    return local


def no_sweep(local, monkeypatch):
    monkeypatch.setattr(local, "_sweep", lambda: None)


def no_word_of_deaths(local, monkeypatch):
    monkeypatch.setattr(local.wakes, "abandon", local.wakes.settle)


def no_second_try(local, monkeypatch):
    monkeypatch.setattr(local.wakes, "put_back", lambda claim, at_ms: local.wakes.settle(claim))


@pytest.mark.parametrize(
    ("chaos", "without"),
    [
        ("drop=0.3", [no_sweep]),
        ("kill=0.3", [no_sweep, no_word_of_deaths]),
        ("throttle=0.2", [no_sweep, no_second_try]),
    ],
)
@pytest.mark.parametrize("recovers", [True, False], ids=["recovers", "recovery switched off"])
def test_runs_end_by_recovery_and_by_nothing_else(tmp_path, monkeypatch, chaos, without, recovers):
    local = one_of_many(chaos, tmp_path)
    if not recovers:
        for switch_off in without:
            switch_off(local, monkeypatch)
    assert work(local, WITHIN_S if recovers else STANDS_S) is recovers
    assert local.mischief.counts
    local.close()


def test_a_death_is_told_at_once_and_costs_no_horizon(tmp_path, monkeypatch):
    local = one_of_many("kill=0.3", tmp_path)
    no_sweep(local, monkeypatch)
    assert work(local, 30.0)
    assert local.mischief.counts["invocation killed"] > 5
    local.close()


def test_who_looks_from_outside_meets_no_chaos(tmp_path):
    local = one_of_many("throttle=1 kill=1 drop=1", tmp_path)
    assert len(local.unfinished()) == 20
    local.resume_each(local.unfinished())
    assert not local.mischief.counts
    local.close()


@pytest.mark.parametrize("fill", [False, True], ids=["one step each", "fill"])
def test_the_demo_delivers_every_sku_exactly_once_under_chaos(tmp_path, fill):
    count, batch = 400, 20
    write(LINES["prices"](count, 1), tmp_path / "prices.jsonl.gz")
    with Shop(tmp_path / "shop.db", misbehave=0.1, rate_per_s=0) as shop:
        data = json.dumps({"feed": str(tmp_path / "prices.jsonl.gz"), "shop": shop.url, "batch": batch})
        command = [sys.executable, "-m", "onward", "run", "handlers.demo:app", "pricing/sync.requested", "--data", data]
        options = ["--store", str(tmp_path / "store.db"), "--json", *(["--fill"] if fill else [])]
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'adapter'}{os.pathsep}{ROOT}",
            "ONWARD_CHAOS": f"on kill=0.2 drop=0.05 horizon=1 delay_s=0.3 seed={9 if fill else 4}",
        }
        done = subprocess.run([*command, *options], env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        prices = shop.stats()["tables"]["prices"]
    view = json.loads(done.stdout.splitlines()[-1])
    assert (view["status"], view["output"]) == ("completed", {"skus": count, "batches": count // batch})
    assert (prices["rows"], prices["applied"], prices["applied_twice_or_more"]) == (count, count, 0)
    assert view["steps_done"] == 1 + count // batch
    [told] = [line for line in done.stderr.splitlines() if line.startswith("chaos: ")]
    assert re.search(r"\d+ invocations? killed", told), told
