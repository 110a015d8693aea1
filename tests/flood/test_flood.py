"""A slice of the flood, over both stores; and that its count can say no."""

from __future__ import annotations

import os
import time
from collections import Counter
from copy import copy
from pathlib import Path

import pytest

from onward.core.ids import run_id
from onward.core.values import Event
from onward.engine.ingest import start
from onward.engine.views import unfinished
from onward.entry.local import Local

from .__main__ import judge, run, table
from .app import FAILS, app, event_of, workflow_of
from .count import Count, count, event_id
from .laptop import items_of
from .options import Flood, Told
from .witness import performed

EVENTS = 300
SANDBOXES = 20


@pytest.mark.parametrize(("store", "kills"), [("sqlite", 8), ("dynoxide", 20)])
def test_counts_in_equal_counts_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, kills: int) -> None:
    monkeypatch.setitem(os.environ, "ONWARD_CHAOS", "")
    options = Flood(EVENTS, SANDBOXES, store, kills, window=150, horizon_s=6.0, timeout_s=3.0, tick_s=1.0, within_s=120)
    told, figures = run(options, tmp_path)
    print("\n" + table(options, told, figures))
    assert not figures.wrongs
    assert (figures.events, figures.runs, figures.completed, figures.left_open) == (EVENTS, EVENTS, EVENTS, 0)
    assert told.kills and told.duplicates and told.deliveries > EVENTS, "something went wrong on purpose"


# ------------------------------------------------------------------------------------------------ the count says no
@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory):
    """Twelve events whose runs went well: the numbers, the items and what the witness saw."""
    from . import app as module
    from .witness import Witness

    folder = tmp_path_factory.mktemp("count")
    before, module.witness = module.witness, Witness(folder / "effects")
    local = Local(app, folder / "store.db", chaos="off")
    for n in range(12):
        name, data = event_of(n)
        start(local.engine, workflow_of(n), Event(name, data, event_id(n), local.clock.now_ms()))
    ends_s = time.monotonic() + 30
    while unfinished(local.engine.ledger, 100) and time.monotonic() < ends_s:
        if not local.work_once():
            time.sleep(0.01)
    items = list(items_of(local.store))
    local.close()
    module.witness = before
    return list(range(12)), items, performed(folder / "effects")


def wrongs(accepted, items, effects):
    return [wrong.partition(":")[0] for wrong in count(accepted, items, effects).wrongs]


def without(items, run, sort):
    return [item for item in items if not (item.partition == f"run#{run}" and item.sort.startswith(sort))]


def test_nothing_is_wrong_where_all_went_well(done):
    figures = count(*done)
    assert not figures.wrongs
    assert (figures.runs, figures.completed, figures.results, figures.repeated) == (12, 12, 60, 0)
    assert figures.effects == figures.attempts == 60 + 3, "a step of each fourth event fails once"


def test_an_event_without_a_run_is_found(done):
    accepted, items, effects = done
    assert wrongs([*accepted, 12], items, effects) == ["no run"]


def test_a_run_of_an_event_that_nobody_sent_is_found(done):
    accepted, items, effects = done
    assert set(wrongs(accepted[:-1], items, effects)) == {"a run of no event", "an effect of no run"}


def test_a_run_that_is_left_open_is_found(done):
    accepted, items, effects = done
    run = run_id(workflow_of(3), event_id(3))
    last = max(item.sort for item in items if item.partition == f"run#{run}" and item.sort.startswith("L#"))
    assert wrongs(accepted, without(items, run, last), effects) == ["left open"]


def test_a_wrong_output_is_found(done):
    accepted, items, effects = done
    run = run_id(workflow_of(3), event_id(3))
    last = max(item.sort for item in items if item.partition == f"run#{run}" and item.sort.startswith("L#"))
    [ended] = [item for item in items if item.partition == f"run#{run}" and item.sort == last]
    value, ended.value = ended.value, '{"n": 3, "sum": 0}'
    try:
        assert wrongs(accepted, items, effects) == ["wrong end"]
    finally:
        ended.value = value


def test_a_step_without_an_effect_is_found(done):
    accepted, items, effects = done
    run = run_id(workflow_of(3), event_id(3))
    assert wrongs(accepted, items, Counter(effects) - Counter({(run, "sum"): 1})) == ["no effect"]


def test_an_attempt_that_was_not_recorded_is_found(done):
    accepted, items, effects = done
    partition = f"run#{run_id(workflow_of(FAILS), event_id(FAILS))}"
    altered = [copy(item) for item in items]
    for item in altered:
        if item.partition == partition:
            item.body = item.body.replace('"a":2', '"a":1')
    assert wrongs(accepted, altered, effects) == ["attempts"]


def test_an_effect_that_nothing_explains_is_found(done):
    accepted, items, effects = done
    run = run_id(workflow_of(3), event_id(3))
    figures = count(accepted, items, Counter(effects) + Counter({(run, "sum"): 1}))
    assert figures.repeated == 1 and not figures.wrongs
    assert judge(Told(kills=1), Count(repeated=1)).wrongs == []
    assert [wrong.partition(":")[0] for wrong in judge(Told(), figures).wrongs] == ["repeated"]
