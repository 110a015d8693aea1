"""`onward why`, as somebody meets it at the command line."""

import json
import re
import textwrap

import pytest

from onward.cli.target import load
from onward.core.values import Event
from onward.engine.ingest import ingest
from onward.entry.local import Local

SLOW = """
    from onward import App

    app = App("slow")

    @app.workflow(on="go")
    def work(event, step):
        step.run("first", lambda: 1)
        step.wait_for_event("order/paid", match={"data.order": 7}, timeout=7200)
"""


@pytest.fixture
def run(folder):
    """A run that waits, in the store that the commands use."""
    (folder / "slow.py").write_text(textwrap.dedent(SLOW))
    (folder / ".onward").mkdir()
    local = Local(load("slow:app")[0], ".onward/store.db")
    [run] = ingest(local.engine, Event("go", {}, "e", local.clock.now_ms()))
    while local.work_once():
        pass
    local.close()
    return run


def test_a_run_that_waits_is_explained_in_words(onward, run):
    answer = onward("why", run)
    assert answer.code == 0 and not answer.err
    first, event, due = answer.out
    assert first == f"run {run} of work: waiting"
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(in [\dhmins ]+\)"
    assert re.fullmatch(rf"  order/paid: it waits for event 'order/paid' with data.order = 7, until {moment}", event)
    assert re.fullmatch(rf"  where nothing happens, the sweep looks after it: {moment}", due)


def test_the_same_as_one_json_object(onward, run):
    answer = onward("why", run, "--json")
    told = json.loads(answer.out[-1])
    assert (answer.code, told["run_id"], told["status"]) == (0, run, "waiting")
    assert [(reason["kind"], reason["step"]) for reason in told["reasons"]] == [("event", "order/paid")]


def test_what_is_not_there_is_said_in_one_line(refused, run):
    assert refused("why", "nobody") == "there is no run 'nobody' in this store"
    assert refused("why", run, "--store", "no.db").startswith("there is no store 'no.db'")
    assert "belong to a table" in refused("why", run, "--bucket", "b")
