"""Every case of the corpus comes to what it says, whether each step has a new process or all share one."""

import json

import pytest

from onward.core.log import LOG_END, log_key, partition_of
from onward.local.blobs import FolderBlobs
from onward.testing import Rehearsal
from tests.corpus import CASES, Effects

VOLATILE = ("at", "ms", "until", "i", "sleeps")


def rehearse(case, tmp_path, **options):
    effects = Effects()
    rehearsal = Rehearsal(case.build(effects), blobs=FolderBlobs(tmp_path / "blobs"), **options)
    run = rehearsal.send("go", case.data, id="event-1")
    return rehearsal, effects, run


def log_of(rehearsal, run):
    records = []
    for item in rehearsal.store.read(partition_of(run["run_id"]), log_key(0), LOG_END):
        body = {key: value for key, value in json.loads(item.body).items() if key not in VOLATILE}
        if "e" in body:
            body["e"].pop("traceback")
        records.append((body, item.value))
    return records


@pytest.mark.parametrize("fresh", [True, False], ids=["always_suspend", "warm"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_comes_to_its_result_and_every_effect_happens_once(case, fresh, tmp_path):
    rehearsal, effects, run = rehearse(case, tmp_path, fresh=fresh)
    with rehearsal:
        assert run["status"] == case.status, run["error"]
        assert run["result"] in case.results
        assert case.effects | case.once <= effects.counts.keys()
        assert not list(rehearsal.open_heads()), "a run was left open"
        for name, count in effects.counts.items():
            assert count <= len(effects.keys[name]) or name in ("try", "fail"), (name, count)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_always_suspend_and_never_suspend_write_the_same_log(case, tmp_path):
    apart, apart_effects, apart_run = rehearse(case, tmp_path, fresh=True, fill=False)
    fused, fused_effects, fused_run = rehearse(case, tmp_path, fresh=False, fill=True)
    with apart, fused:
        assert log_of(apart, apart_run) == log_of(fused, fused_run)
        assert apart_run["result"] == fused_run["result"]
        assert apart_effects.counts == fused_effects.counts
