"""`onward why`."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

import onward as onward_package
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.cli.why import lines, span, when
from onward.core.log import log_key, partition_of
from onward.local.store import SqliteStore
from onward.ports import Item, Swap
from onward.testing import Rehearsal
from onward.testing.rehearsal import FakeClock

COMMAND = [sys.executable, "-m", "onward"]
ENVIRON = {**os.environ, "PYTHONPATH": str(Path(onward_package.__file__).parents[1])}  # this one, not what is installed
CODE = """
    import asyncio
    from onward import App

    app = App("slow")

    def bad():
        raise ConnectionError("no answer\\nat all")

    @app.workflow(on="go")
    async def work(event, step):
        await step.run("first", str)
        await asyncio.gather(
            step.sleep("rest", 7_440),
            step.wait_for_event("paid", match={"data.order": 7}, timeout=90_000),
            step.invoke("child", timeout=90_000),
        )

    @app.workflow(on="child/go")
    def child(event, step):
        step.sleep("nap", 7_440)

    @app.workflow(on="hostile")
    def hostile(event, step):
        step.sleep("\\x1b[2J\\u202e", 7_440)
"""


@pytest.fixture
def slow(folder, monkeypatch):
    """The module whose runs stand for hours."""
    monkeypatch.delenv("ONWARD_TABLE", raising=False)
    monkeypatch.syspath_prepend(".")
    (folder / "slow.py").write_text(textwrap.dedent(CODE))
    return folder


@pytest.fixture
def killed(slow):
    """A run that a real process has begun, and that was killed in the middle: its id."""
    process = subprocess.Popen([*COMMAND, "run", "slow:app", "go"], stderr=subprocess.DEVNULL, env=ENVIRON)
    try:
        for _ in range(300):
            time.sleep(0.1)
            found = rows("SELECT substr(partition, 5) FROM items WHERE body LIKE '%awaiting%paid%'")
            if found and rows("SELECT 1 FROM items WHERE body LIKE '%slept%'"):
                break
        else:
            raise AssertionError("the run did not come to its wait")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return found[0][0]


def rows(query, path=".onward/store.db"):
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return []
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError:  # it is made just now
        return []
    finally:
        connection.close()


def rehearsed(store, event="go"):
    """A run in a store, come to where it stands."""
    import slow as module

    with Rehearsal(module.app, store=store, clock=FakeClock(round(time.time() * 1000))) as stage:
        [run] = stage.start(event)
        while (at_ms := stage.queue.next_ms()) is not None and at_ms <= stage.clock.now_ms():
            stage.step()
    if isinstance(store, SqliteStore):
        store.close()
    return run


# --------------------------------------------------------------------------------------------------- what it says
def test_a_run_that_was_killed_in_the_middle_says_what_it_waits_for(killed):
    before = rows("SELECT * FROM items")
    done = subprocess.run([*COMMAND, "why", killed], capture_output=True, text=True, check=False, env=ENVIRON)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows("SELECT * FROM items") == before
    clock = r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d"
    expected = [
        rf"run {killed} of work is \w+",
        r"    child: waits for run \w{24} of 'child', until " + clock + r" \(in 1 d( 5\d min| \d h)?\)",
        r"        run \w{24} of child is sleeping",
        r"            nap: sleeps, until " + clock + r" \(in 2 h [34] min\)",
        r"    paid: waits for an event 'paid' with data.order = 7, until " + clock + r" \(in 1 d( 5\d min| \d h)?\)",
        r"    rest: sleeps, until " + clock + r" \(in 2 h [34] min\)",
    ]
    shown = done.stdout.splitlines()
    assert len(shown) == len(expected), done.stdout
    for line, pattern in zip(shown, expected, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


def test_json_says_the_same_with_children(killed):
    done = subprocess.run([*COMMAND, "why", killed, "--json"], capture_output=True, text=True, check=True, env=ENVIRON)
    [line] = done.stdout.splitlines()
    view = json.loads(line)
    assert (view["run_id"], view["workflow"], view["more"]) == (killed, "work", {})
    kinds = {reason["step"]: reason["kind"] for reason in view["reasons"]}
    assert kinds == {"child": "child", "paid": "event", "rest": "sleeping"}
    [nap] = view["reasons"][0]["run"]["reasons"]
    assert (nap["kind"], nap["step"]) == ("sleeping", "nap")
    assert 7_300_000 < nap["until_ms"] - time.time() * 1000 < 7_440_000


@pytest.mark.parametrize(
    ("event", "said"),
    [("greet", "the run has completed, "), ("break", "the run has failed: StepError: ")],
)
def test_an_ended_run_says_how_in_one_line(onward, event, said):
    run = json.loads(onward("run", "tiny:app", event, "--json").out[-1])["run_id"]
    answer = onward("why", run)
    first, reason = answer.out
    assert answer.code == 0 and not answer.err
    assert first.startswith(f"run {run} of ") and reason.startswith(f"    {said}") and reason.endswith(" ago)")
    assert "until" not in reason and "since" not in reason


def test_what_is_performed_says_by_when_the_sweep_looks(onward, slow):
    import slow as module

    store = SqliteStore("s.db")
    with Rehearsal(module.app, store=store, clock=FakeClock(round(time.time() * 1000))) as stage:
        [run] = stage.start("go")
    store.close()
    answer = onward("why", run, "--store", "s.db")
    assert answer.code == 0 and len(answer.out) == 3
    assert "the run has not begun" in answer.out[1] and ", since " in answer.out[1] and answer.out[1].endswith(" ago)")
    assert re.search(r"if nothing happens, the sweep looks after it .* \(in \d+ min( \d+ s)?\)$", answer.out[2])


def test_the_app_says_whether_the_workflow_is_still_there(onward, slow):
    run = rehearsed(SqliteStore("s.db"))
    assert "no workflow" not in "".join(onward("why", run, "--store", "s.db").out)
    assert "no workflow" not in "".join(onward("why", run, "--store", "s.db", "--app", "slow:app").out)
    answer = onward("why", run, "--store", "s.db", "--app", "tiny:app")
    assert answer.code == 0 and answer.out[1].startswith("    the app has no workflow 'work': deploy it again")


def test_hostile_names_cannot_steer_the_terminal(onward, slow):
    answer = onward("why", rehearsed(SqliteStore("s.db"), "hostile"), "--store", "s.db")
    assert answer.code == 0 and all(line.isprintable() for line in answer.out)
    assert r"\x1b[2J\u202e: " in answer.out[1]


def test_a_run_of_a_deployed_table_says_the_same(onward, slow, dynoxide_url, monkeypatch):
    environ = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "REGION": "us-east-1"}
    for name, value in {**environ, "ENDPOINT_URL_DYNAMODB": dynoxide_url}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    wire, table = Wire(), f"asked-{uuid.uuid4().hex[:8]}"
    create_table(wire, table)
    run = rehearsed(DynamoStore(wire, table))
    scan = {"TableName": table, "ConsistentRead": True}
    before = wire.json("dynamodb", "Scan", scan, table)
    answer = onward("why", run, "--table", table)
    assert answer.code == 0 and answer.out[0].startswith(f"run {run} of work is ")
    assert [line.split()[0] for line in answer.out[1:]] == ["child:", "run", "nap:", "paid:", "rest:"]
    monkeypatch.setenv("ONWARD_TABLE", table)
    assert onward("why", run).out == answer.out
    assert wire.json("dynamodb", "Scan", scan, table) == before
    wire.close()


# ------------------------------------------------------------------------------------------ what cannot be carried out
@pytest.mark.parametrize("run", ["0" * 24, "no run", "", "../x", "\x1b[2J"])
def test_a_run_that_is_not_there_is_one_line(refused, slow, run):
    rehearsed(SqliteStore("s.db"))
    said = refused("why", run, "--store", "s.db")
    assert said.startswith("there is no run ") and said.isprintable()


def test_a_store_that_is_not_there_is_not_made(refused, folder, monkeypatch):
    monkeypatch.delenv("ONWARD_TABLE", raising=False)
    before = sorted(folder.rglob("*"))
    assert refused("why", "0" * 24, "--store", "no/such.db").startswith("there is no store 'no/such.db'")
    assert refused("why", "0" * 24).startswith("there is no store '.onward/store.db'")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("body", ['{"k":"nonsense"}', "[" * 50_000, '{"k":"slept","s":"x","n":1,"a":1,"at":1}'])
def test_an_edited_run_is_one_line(refused, slow, body):
    run = rehearsed(SqliteStore("s.db"))
    store = SqliteStore("s.db")
    [item] = store.get([(partition_of(run), log_key(2))])
    assert store.write([Swap(Item(item.partition, item.sort, "edited", body), item.token)]) is None
    store.close()
    assert run in refused("why", run, "--store", "s.db")


def test_a_store_and_a_table_are_one_too_many(onward, slow):
    answer = onward("why", "0" * 24, "--store", "s.db", "--table", "t")
    assert answer.code == 2 and "not allowed with" in answer.err[-1]


# --------------------------------------------------------------------------------------------------------- in words
@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"), (59, "59 s"), (60, "1 min"), (65, "1 min 5 s"), (3_600, "1 h"), (7_440, "2 h 4 min"),
        (7_499, "2 h 4 min"), (86_400, "1 d"), (86_520, "1 d"), (266_400, "3 d 2 h"),
    ],
)  # fmt: skip
def test_a_span_is_told_in_two_units(seconds, said):
    assert span(seconds) == said


def test_a_time_is_that_of_the_clock_on_the_wall_and_how_far_away_it_is(monkeypatch):
    monkeypatch.setenv("TZ", "UTC-2")  # two hours ahead of it
    time.tzset()
    try:
        now_ms = 1_764_583_200_000  # 2025-12-01T10:00:00Z
        assert when(now_ms + 7_440_000, now_ms) == "14:04:00 (in 2 h 4 min)"
        assert when(now_ms - 5_000, now_ms) == "11:59:55 (5 s ago)"
        assert when(now_ms + 86_400_000, now_ms) == "2025-12-02 12:00:00 (in 1 d)"
        assert when(10**30, now_ms) == when(-(10**300), now_ms) == "at no time that a calendar has"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_reasons_that_are_not_told_are_counted():
    view = {"run_id": "r", "workflow": "w", "status": "running", "due_ms": None, "reasons": []}
    assert list(lines({**view, "more": {"performing": 1_990}}, 0))[1:] == ["    ... and 1,990 more (performing)"]
