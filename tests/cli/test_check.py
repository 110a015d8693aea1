"""`onward check`."""

import itertools
import json
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from functools import partial

import pytest

from onward.aws.blobs import S3Blobs
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import LAYOUT_KEY, SCHEMA, create_table
from onward.aws.wire import Wire
from onward.cli import check as command
from onward.core.errors import Unavailable
from onward.core.log import LAYOUT
from onward.engine.check import Check
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from onward.ports import Item, Put, Swap
from onward.testing import Rehearsal

_numbers = itertools.count()
DEPLOYED = """
    from onward import App

    app = App("shop")

    @app.workflow(on="go")
    def sync(event, step):
        step.run(f"load-{event.data}", lambda: "x" * 100_000)
        step.sleep("rest", 3600)
        return step.run("done", str)
"""


@pytest.fixture
def write(folder):
    """Write a module with the code that is to be deployed: what is deployed now, changed."""

    def write(name, *changes):
        code = textwrap.dedent(DEPLOYED)
        for old, new in changes:
            assert old in code
            code = code.replace(old, new)
        (folder / f"{name}.py").write_text(code)
        return f"{name}:app"

    write("shipped")
    return write


def begin(count, store, blobs):
    """Runs of the deployed code, each of which sleeps behind its first step."""
    import shipped

    with Rehearsal(shipped.app, store=store, blobs=blobs) as stage:
        runs = [stage.start("go", n)[0] for n in range(count)]
        for _ in range(2 * count):
            stage.step()
        assert all(stage.view(run)["status"] == "sleeping" for run in runs)
    return runs


@pytest.fixture
def store(write, monkeypatch):
    """A store file with two such runs; `.more(n)` begins n of them in another."""
    monkeypatch.delenv("ONWARD_TABLE", raising=False)
    path = "s.db"

    def more(count, path=path):
        opened = SqliteStore(path)
        begin(count, opened, FolderBlobs(f"{path}.blobs"))
        opened.close()
        return path

    monkeypatch.syspath_prepend(".")
    more(2)
    yield type("Store", (), {"path": path, "more": staticmethod(more)})


def rows(path):
    connection = sqlite3.connect(path)
    try:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("items", "marks", "wakes")]
    finally:
        connection.close()


# --------------------------------------------------------------------------------------------------- what it says
def test_runs_that_fit_are_counted_and_nothing_is_changed(onward, store):
    before = rows(store.path)
    answer = onward("check", "shipped:app", "--store", store.path)
    assert (answer.code, answer.out) == (0, ["2 unfinished runs: 2 fit, 0 would diverge; store 's.db'"])
    assert not answer.err and rows(store.path) == before


def test_a_run_that_would_diverge_is_a_line_with_its_report_beneath(onward, store, write):
    before = rows(store.path)
    answer = onward("check", write("renamed", ("load-{", "fetch-{")), "--store", store.path)
    assert answer.code == 1 and not answer.err and rows(store.path) == before
    first, message, *lists, second, gap, last = answer.out
    assert re.fullmatch(r"[0-9a-z]{24} sync drift at step 'fetch-[01]'", first)
    assert message.startswith("    the code of workflow 'sync' does not fit the log of run ")
    assert [line.split() for line in lists] == [
        ["log", "|", "code"],
        ["!", "load-0", "|", "fetch-0"],
        ["!", "rest", "|"],
    ]
    assert second.endswith(f": like {first.split()[0]}") and gap == ""
    assert last == "2 unfinished runs: 0 fit, 2 would diverge (drift 2); store 's.db'"


def test_kinds_are_told_apart_and_counted(onward, store, write):
    changed = write(
        "mixed", ('    step.sleep("rest"', '    if event.data == 1: raise ValueError("new")\n    step.sleep("nap"')
    )
    answer = onward("check", changed, "--store", store.path)
    assert answer.code == 1
    assert answer.out[-1].startswith("2 unfinished runs: 0 fit, 2 would diverge (")
    assert {"drift 1", "would_fail 1"} == set(re.search(r"\((.*)\)", answer.out[-1])[1].split(", "))
    assert any("ValueError: new" in line for line in answer.out)


def test_many_runs_that_diverge_alike_are_named_once_and_counted(onward, store, write):
    path = store.more(40, "many.db")
    answer = onward("check", write("alike", ("load-{", "fetch-{")), "--store", path)
    lines = [line for line in answer.out if " sync drift " in line]
    assert len(lines) == command.MAX_RUNS_NAMED and len(answer.out) < 15
    assert f"... and {40 - command.MAX_RUNS_NAMED} more runs like {lines[0].split()[0]}" in answer.out
    assert answer.out[-1] == "40 unfinished runs: 0 fit, 40 would diverge (drift 40); store 'many.db'"
    [reason] = json.loads(onward("check", "alike:app", "--store", path, "--json").out[0])["reasons"]
    assert (reason["count"], len(reason["runs"])) == (40, command.MAX_RUNS_NAMED)


def test_many_reasons_are_told_up_to_a_bound_and_counted_beyond(onward, store, write, monkeypatch):
    monkeypatch.setattr(command, "MAX_REASONS", 3)
    path = store.more(10, "many.db")
    changed = write(
        "unlike", ('    step.sleep("rest"', '    raise ValueError("x" * event.data)\n    step.sleep("rest"')
    )
    answer = onward("check", changed, "--store", path)
    assert len([line for line in answer.out if " sync would_fail " in line]) == 3
    assert "... and 7 more runs for reasons that are not told (3 are)" in answer.out
    assert answer.out[-1].startswith("10 unfinished runs: 0 fit, 10 would diverge (would_fail 10)")
    [line] = onward("check", changed, "--store", path, "--json").out
    assert (len(json.loads(line)["reasons"]), json.loads(line)["untold"]) == (3, 7)


def test_json_is_one_object_with_each_reason_once(onward, store, write):
    answer = onward("check", write("renamed", ("load-{", "fetch-{")), "--store", store.path, "--json")
    assert answer.code == 1 and len(answer.out) == 1
    told = json.loads(answer.out[0])
    [reason] = told.pop("reasons")
    assert told == {
        "unfinished": 2,
        "fit": 0,
        "diverge": 2,
        "kinds": {"drift": 2},
        "not_checked": 0,
        "all_listed": True,
        "stopped": None,
        "place": "store 's.db'",
        "untold": 0,
    }
    assert (reason["kind"], reason["workflow"], reason["count"], len(reason["runs"])) == ("drift", "sync", 2, 2)
    assert reason["where"].startswith("at step 'fetch-") and "does not fit the log" in reason["message"]
    assert reason["report"][0].strip() == "log    | code"


def test_what_a_workflow_prints_is_no_part_of_the_report(onward, store, write):
    answer = onward(
        "check", write("loud", ("    step.sleep", '    print("hello")\n    step.sleep')), "--store", store.path
    )
    assert answer.code == 0 and len(answer.out) == 1 and answer.err == ["hello", "hello"]


def test_names_and_messages_cannot_steer_the_terminal(onward, store, write):
    changed = write("rude", ("    step.sleep", '    raise ValueError("\\x1b[2J\\ud800")\n    step.sleep'))
    answer = onward("check", changed, "--store", store.path)
    assert answer.code == 1 and "    ValueError: \\x1b[2J\\ud800" in answer.out


def test_a_store_without_unfinished_runs_is_fine(onward, store):
    assert onward("run", "tiny:app", "greet", "--store", "ended.db").code == 0
    answer = onward("check", "tiny:app", "--store", "ended.db")
    assert (answer.code, answer.out) == (0, ["0 unfinished runs: 0 fit, 0 would diverge; store 'ended.db'"])


def test_the_default_store_is_that_of_the_other_commands(onward, store):
    store.more(1, ".onward/store.db")
    answer = onward("check", "shipped:app")
    assert answer.out == ["1 unfinished run: 1 fit, 0 would diverge; store '.onward/store.db'"]


# ---------------------------------------------------------------------------------------- never silently only a part
def test_a_limit_is_said(onward, store):
    path = store.more(5, "five.db")
    answer = onward("check", "shipped:app", "--store", path, "--limit", "2")
    assert answer.code == 0
    assert answer.out == [
        "2 unfinished runs: 2 fit, 0 would diverge; store 'five.db'",
        "not all: 3 of 5 runs were not checked (--limit)",
    ]
    assert len(onward("check", "shipped:app", "--store", path, "--limit", "5").out) == 1


def test_more_runs_than_a_check_can_hold_are_no_success(onward, store, monkeypatch):
    monkeypatch.setattr(command, "MAX_RUNS", 1)
    answer = onward("check", "shipped:app", "--store", store.path)
    assert answer.code == 2
    assert answer.out[1:] == ["not all: the store has more than 1 runs, and the others were not checked"]


def test_functions_that_never_come_back_end_the_check_before_they_eat_the_machine(onward, store, write, monkeypatch):
    monkeypatch.setattr(command, "Check", partial(Check, replay_s=0.2))
    path = store.more(command.MAX_STUCK + 2, "stuck.db")
    changed = write("stuck", ("    step.sleep", "    import time; time.sleep(3)\n    step.sleep"))
    answer = onward("check", changed, "--store", path)
    assert answer.code == 1
    assert answer.out[-2].startswith("3 unfinished runs: 0 fit, 3 would diverge (takes_too_long 3)")
    assert answer.out[-1] == "not all: 2 of 5 runs were not checked (3 workflow functions never came back)"


def test_a_store_that_fails_in_the_middle_is_told_with_what_was_found(onward, store, monkeypatch):
    calls, read = itertools.count(), SqliteStore.read

    def fails(self, *args, **kwargs):
        if next(calls) == 1:
            raise Unavailable("the disk is gone")
        return read(self, *args, **kwargs)

    monkeypatch.setattr(SqliteStore, "read", fails)
    answer = onward("check", "shipped:app", "--store", store.path)
    assert answer.code == 2 and answer.err == ["onward: the disk is gone"]
    assert answer.out[0].startswith("1 unfinished run: 1 fit")
    assert answer.out[1].startswith("not all: 1 of 2 runs were not checked")


def test_ctrl_c_ends_it_with_what_was_found(store, write):
    changed = write(
        "slow", ("    step.sleep", '    print("now", flush=True)\n    import time; time.sleep(60)\n    step.sleep')
    )
    arguments = [sys.executable, "-m", "onward", "check", changed, "--store", store.path]
    # Whoever starts the tests in the background has this signal ignored, and children inherit that.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, preexec_fn=heeds) as process:
        assert process.stderr.readline() == "now\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 20
    assert out.splitlines() == [
        "0 unfinished runs: 0 fit, 0 would diverge; store 's.db'",
        "not all: 2 of 2 runs were not checked (interrupted)",
    ]
    assert err.strip() == "onward: stopped"


# -------------------------------------------------------------------------------------------- what it does not touch
def test_a_store_in_which_others_write_can_be_checked(onward, store):
    writer = SqliteStore(store.path)
    try:
        with writer.transaction() as db:
            db.execute("INSERT INTO marks VALUES ('p', 's', 'n', 'm')")
            answer = onward("check", "shipped:app", "--store", store.path)
    finally:
        writer.close()
    assert answer.code == 0, answer.text


def test_a_store_that_is_only_read_refuses_every_write(store):
    opened = SqliteStore(store.path, read_only=True)
    for attempt in (
        lambda: opened.write([Put(Item("p", "s", "t", "{}"))]),
        lambda: opened.mark("p", "s", {"n": ["m"]}),
    ):
        with pytest.raises((sqlite3.OperationalError, Unavailable), match="readonly"):
            attempt()
    opened.close()


def test_a_store_that_is_not_there_is_not_made(refused, store, folder):
    before = sorted(folder.rglob("*"))
    assert refused("check", "shipped:app", "--store", "no/such.db") == (
        "there is no store 'no/such.db': name the file with --store, or a table with --table"
    )
    assert refused("check", "shipped:app").startswith("there is no store '.onward/store.db'")
    assert sorted(folder.rglob("*")) == before


def test_a_file_that_is_no_store_or_another_layout_is_left_as_it_is(refused, store, folder):
    (folder / "empty.db").write_bytes(b"")
    assert "is a SQLite file, but not a store of Onward" in refused("check", "shipped:app", "--store", "empty.db")
    assert (folder / "empty.db").read_bytes() == b""
    (folder / "notes.txt").write_text("not a database at all, but quite a long text " * 100)
    assert refused("check", "shipped:app", "--store", "notes.txt").startswith("'notes.txt' cannot be used as a store")
    assert refused("check", "shipped:app", "--store", ".").startswith("cannot open the store '.'")
    connection = sqlite3.connect(store.path)
    connection.execute(f"PRAGMA user_version = {LAYOUT + 1}")
    connection.close()
    assert refused("check", "shipped:app", "--store", store.path).endswith("upgrade onward")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch:app"], "there is no module 'nosuch'"),
        (["shipped"], "'shipped' names no app"),
        (["shipped:app", "--limit", "0"], "--limit takes 1 to 1,000,000, not 0"),
        (["shipped:app", "--bucket", "b"], "--bucket and --prefix belong to a table"),
        (["shipped:app", "--prefix", "p"], "--bucket and --prefix belong to a table"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_carried_out_is_one_line(refused, store, arguments, said):
    assert refused("check", *arguments, "--store", store.path).startswith(said)


def test_a_store_and_a_table_are_one_too_many(onward, store):
    answer = onward("check", "shipped:app", "--store", store.path, "--table", "t")
    assert answer.code == 2 and "not allowed with" in answer.err[-1]


# ------------------------------------------------------------------------------------------------ a deployed table
@pytest.fixture
def table(write, dynoxide_url, moto_url, monkeypatch):
    """A table with two runs, whose values are in a bucket."""
    environ = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_DYNAMODB": dynoxide_url,
        "AWS_ENDPOINT_URL_S3": moto_url,
    }
    for name in ("ONWARD_TABLE", "ONWARD_BUCKET", "ONWARD_PREFIX", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(".")
    wire, name = Wire(), f"checked-{next(_numbers)}"
    create_table(wire, name)
    _make_bucket(moto_url, name)
    store = DynamoStore(wire, name)
    begin(2, store, S3Blobs(wire, name, "values/"))
    yield store
    wire.close()


def _make_bucket(url, name):
    from urllib.request import Request, urlopen

    with urlopen(Request(f"{url}/{name}", method="PUT", headers={"Host": "s3.us-east-1.amazonaws.com"})):
        pass


def items(store):
    found = store.wire.json("dynamodb", "Scan", {"TableName": store.table, "ConsistentRead": True}, store.table)
    return sorted(json.dumps(fields, sort_keys=True) for fields in found["Items"])


def test_a_deployed_table_and_its_bucket_are_checked_and_not_changed(onward, table, write, monkeypatch):
    before, name = items(table), table.table
    place = ["--table", name, "--bucket", name, "--prefix", "values/"]
    answer = onward("check", "shipped:app", *place)
    assert (answer.code, answer.out) == (0, [f"2 unfinished runs: 2 fit, 0 would diverge; table '{name}'"])
    answer = onward("check", write("renamed", ("load-{", "fetch-{")), *place)
    assert answer.code == 1 and answer.out[-1].startswith("2 unfinished runs: 0 fit, 2 would diverge (drift 2)")
    assert items(table) == before
    monkeypatch.setenv("ONWARD_TABLE", name)
    monkeypatch.setenv("ONWARD_BUCKET", name)
    monkeypatch.setenv("ONWARD_PREFIX", "values/")
    assert onward("check", "shipped:app").out == [f"2 unfinished runs: 2 fit, 0 would diverge; table '{name}'"]


def test_a_store_that_is_named_stands_above_the_environment(onward, refused, table, monkeypatch):
    monkeypatch.setenv("ONWARD_TABLE", table.table)
    monkeypatch.setenv("ONWARD_BUCKET", table.table)
    SqliteStore("mine.db").close()
    answer = onward("check", "shipped:app", "--store", "mine.db")
    assert answer.out == ["0 unfinished runs: 0 fit, 0 would diverge; store 'mine.db'"]


def test_values_in_a_bucket_that_is_not_named_are_no_fault_of_the_runs(onward, table):
    answer = onward("check", "shipped:app", "--table", table.table)
    assert answer.code == 2 and not answer.out
    assert answer.err == [
        "onward: a run has a value that is kept in S3: name the bucket of the deployed function with --bucket "
        "(or ONWARD_BUCKET), and --prefix if it has one"
    ]


def test_values_that_are_not_in_the_bucket_are_told(onward, table):
    answer = onward("check", "shipped:app", "--table", table.table, "--bucket", table.table, "--prefix", "other/")
    assert answer.code == 1 and "(value_unreadable 2)" in answer.out[-1]


def test_a_table_that_says_nothing_of_its_layout_is_not_marked_and_one_of_another_is_refused(onward, refused, table):
    name = f"checked-{next(_numbers)}"
    table.wire.json("dynamodb", "CreateTable", {"TableName": name, **SCHEMA}, name)
    bare = DynamoStore(table.wire, name)
    assert onward("check", "shipped:app", "--table", name).code == 0
    assert items(bare) == []
    [standing] = table.get([LAYOUT_KEY])
    newer = Item(*LAYOUT_KEY, "other", json.dumps({"layout": LAYOUT + 1}))
    assert table.write([Swap(newer, standing.token)]) is None
    assert f"has layout {LAYOUT + 1}" in refused("check", "shipped:app", "--table", table.table)


def test_what_a_table_lacks_is_one_line(refused, table, monkeypatch):
    assert "no-such-table" in refused("check", "shipped:app", "--table", "no-such-table")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert refused("check", "shipped:app", "--table", table.table).startswith("No AWS region is set")
