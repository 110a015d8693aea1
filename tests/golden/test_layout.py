"""What a newer Onward has written is refused by this one in one clear line, and left as it is.

While a deploy goes forth or back, old code meets runs of new code: in the wakes that Lambda and the queue deliver, in
the sweep, in the notices of deaths. It must write nothing about such a run, neither its end nor a mark against it, and
the run must go on when the newer code is back. Here the newer code is this code, with a `LAYOUT` of one more.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from onward import App
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import LAYOUT_KEY, check_layout, create_table
from onward.aws.wire import Wire
from onward.cli import main
from onward.core import log
from onward.core.errors import LayoutMismatch
from onward.core.log import HEAD, LAYOUT, log_key, partition_of
from onward.core.values import Event
from onward.engine import control, ledger
from onward.engine.ingest import ingest
from onward.engine.sweep import MAX_STALLS, NEWER_ASIDE_MS, sweep
from onward.entry.aws import Door
from onward.entry.local import Local
from onward.local.store import SqliteStore
from onward.ports import Item, Store, Swap
from onward.testing import FakeClock, Rehearsal
from tests.golden.make import KEYS

NEWER = LAYOUT + 1
ADVICE = f"was written in layout {NEWER} by a newer Onward; this one knows layout {LAYOUT}: upgrade onward"
WIDE = 20
_tables = itertools.count()

app = App("layouts")


@app.workflow(on="sequence", retries=1)
def sequence(event: Event, step: Any) -> list[str]:
    return [step.run(name, str, name) for name in "abc"]


@app.workflow(on="wide", retries=1)
async def wide(event: Event, step: Any) -> int:
    return sum(await asyncio.gather(*(step.run(f"w{number}", abs, number) for number in range(WIDE))))


@app.workflow(on="lanes", retries=1)
def lanes(event: Event, step: Any) -> list[str]:
    return step.parallel(*(partial(step.run, name, str, name) for name in "abc"))


class Notes:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, level: str, message: str, **fields: Any) -> None:
        self.lines.append((level, message, fields))


@pytest.fixture(params=["sqlite", "dynoxide"])
def store(request: pytest.FixtureRequest, tmp_path) -> Iterator[Store]:
    if request.param == "sqlite":
        file = SqliteStore(tmp_path / "store.db")
        yield file
        file.close()
        return
    wire = Wire(endpoint_url=request.getfixturevalue("dynoxide_url"), environ=KEYS)
    name = f"layouts-{next(_tables)}"
    create_table(wire, name)
    yield DynamoStore(wire, name)
    wire.close()


@pytest.fixture
def newer(monkeypatch) -> Callable[[bool], None]:
    """Put the newer code in place of this, or this back."""

    def put(is_newer: bool) -> None:
        for module in (log, ledger):
            monkeypatch.setattr(module, "LAYOUT", NEWER if is_newer else LAYOUT)

    return put


@pytest.fixture
def stage(store: Store) -> Iterator[Rehearsal]:
    notes = Notes()
    with Rehearsal(app, store=store, fresh=True, note=notes) as made:
        yield made


def left_by_newer(newer: Callable[[bool], None], stage: Rehearsal, event: str, steps: int) -> tuple[str, list[Any]]:
    """A run that the newer code has begun, and the wakes that it left."""
    newer(True)
    [run] = stage.start(event)
    for _ in range(steps):
        stage.step()
    newer(False)
    wakes = []
    while stage.queue.next_ms() is not None:
        wakes.append(stage.queue.take()[1])
    return run, wakes


def standing(store: Store, run: str) -> list[Item]:
    partition = partition_of(run)
    return [*store.read(partition, "A", "M"), *store.read(partition, "N", "~")]


def finishes(newer: Callable[[bool], None], stage: Rehearsal, run: str) -> dict[str, Any]:
    """Bring the newer code back; the run goes on by the sweep."""
    newer(True)
    stage.drain()
    return stage.view(run)


# ------------------------------------------------------------------------------------------------------------ wakes
@pytest.mark.parametrize(
    ("event", "steps", "do"),
    [
        ("sequence", 1, "advance"),
        ("lanes", 1, "step"),
        ("lanes", 2, "step"),
        ("wide", 1, "collect"),
        ("wide", 4, "collect"),
        ("wide", 1, "recover"),
    ],
)
def test_a_wake_of_a_newer_run_is_refused_in_one_line_and_nothing_is_written(newer, stage, store, event, steps, do):
    run, wakes = left_by_newer(newer, stage, event, steps)
    before = standing(store, run)
    [wake, *_] = [wake for wake in wakes if wake["do"] == do] or [{"onward": 1, "do": do, "run": run}]
    with pytest.raises(LayoutMismatch) as error:
        stage.deliver(wake)
    assert str(error.value) == f"run {run} {ADVICE}"
    assert standing(store, run) == before
    assert finishes(newer, stage, run)["status"] == "completed"


def test_a_cancel_of_a_newer_run_is_refused(newer, stage, store):
    run, _ = left_by_newer(newer, stage, "lanes", 2)
    before = standing(store, run)
    with pytest.raises(LayoutMismatch):
        control.cancel(stage.new_engine(), run)
    assert standing(store, run) == before


@pytest.mark.parametrize(("event", "do"), [("sequence", "advance"), ("lanes", "step")])
def test_the_death_of_a_newer_invocation_is_not_written_by_older_code(newer, stage, store, event, do):
    run, wakes = left_by_newer(newer, stage, event, 1)
    before = standing(store, run)
    wake = next(wake for wake in wakes if wake["do"] == do)
    with pytest.raises(LayoutMismatch):
        control.died(stage.new_engine(), wake, "signal: killed")
    assert standing(store, run) == before and stage.queue.next_ms() is None


def test_an_event_that_started_a_newer_run_starts_no_second_one(newer, stage, store):
    newer(True)
    [run] = stage.start("sequence", id="e1")
    newer(False)
    before = standing(store, run)
    assert stage.start("sequence", id="e1") == [run]
    assert standing(store, run) == before


# ------------------------------------------------------------------------------------------------------------ sweep
@pytest.mark.parametrize(("event", "steps"), [("sequence", 1), ("lanes", 2), ("wide", 4)])
def test_a_newer_run_is_not_counted_out_by_the_sweep_of_older_code(newer, stage, store, event, steps):
    run, _ = left_by_newer(newer, stage, event, steps)
    [other] = stage.start("sequence")
    while stage.queue.next_ms() is not None:
        stage.queue.take()  # lost, so that both stand
    log_before = standing(store, run)
    for number in range(2 * MAX_STALLS):
        stage.clock.turn(stage.clock.now_ms() + 2 * stage.horizon_ms)
        sweep(stage.new_engine(), {"do": "sweep"}, None, None)
        woken = [stage.queue.take()[1] for _ in iter(lambda: stage.queue.next_ms() is not None, False)]
        assert [wake["run"] for wake in woken] == ([other] if number < MAX_STALLS else [])
    told = [fields for level, message, fields in stage.note.lines if message == "run cannot be swept"]
    assert len(told) == 2 * MAX_STALLS, "each time it is said, in the log"
    assert {(line["run_id"], line["reason"]) for line in told} == {(run, f"run {run} {ADVICE}")}
    [head] = store.get([(partition_of(run), HEAD)])
    assert head is not None and head.due_ms == stage.clock.now_ms() + NEWER_ASIDE_MS, (
        "newer code need not wait for long"
    )
    log_after = standing(store, run)
    assert [item.body for item in log_after] == [item.body for item in log_before]
    assert [item for item in log_after if item.sort != HEAD] == [item for item in log_before if item.sort != HEAD]
    assert stage.view(other)["error"]["type"] == "Stalled", "a run of its own is counted, as ever"
    assert finishes(newer, stage, run)["status"] == "completed"


def test_newer_runs_do_not_keep_the_sweep_from_runs_of_its_own(newer, stage, store, monkeypatch):
    monkeypatch.setattr("onward.engine.sweep.MAX_SWEPT", 2)
    for _ in range(4):
        left_by_newer(newer, stage, "sequence", 1)
    [own] = stage.start("sequence")
    stage.queue.take()
    stage.clock.turn(stage.clock.now_ms() + 2 * stage.horizon_ms)
    for _ in range(3):
        sweep(stage.new_engine(), {"do": "sweep"}, None, None)
    assert stage.queue.take()[1] == {"onward": 1, "do": "recover", "run": own}


# ------------------------------------------------------------------------------------------------- the deployed handler
def test_a_deployed_handler_tells_of_a_newer_run_and_leaves_it_to_newer_code(newer, dynoxide_url):
    wire = Wire(endpoint_url=dynoxide_url, environ=KEYS)
    try:
        name = f"layouts-{next(_tables)}"
        create_table(wire, name)
        notes, clock = Notes(), FakeClock()
        door = Door(app, {**KEYS, "ONWARD_TABLE": name}, wire=wire, clock=clock, note=notes)
        with Rehearsal(app, store=door.engine.store, fresh=True, clock=clock) as stage:
            run, [wake] = left_by_newer(newer, stage, "sequence", 1)
            door.engine.wakes = stage.queue
            before = standing(door.engine.store, run)
            with pytest.raises(LayoutMismatch, match=ADVICE) as error:
                door.handle(wake, None)
            refused = {"errorType": "LayoutMismatch", "errorMessage": str(error.value), "stackTrace": ["..."]}
            record = {
                "requestContext": {"requestId": "r1", "condition": "RetriesExhausted"},
                "requestPayload": wake,
                "responseContext": {"statusCode": 200, "functionError": "Unhandled"},
                "responsePayload": refused,
            }
            door.handle(record, None)
            [(level, _, fields)] = [line for line in notes.lines if line[1] == "invocation failed"]
            assert level == "WARNING" and fields["run_id"] == run and ADVICE in fields["reason"]
            assert standing(door.engine.store, run) == before
            _, again = stage.queue.take()
            newer(True)
            door.handle(again, None)
            stage.drain()
            assert stage.view(run)["status"] == "completed"
    finally:
        wire.close()


# ------------------------------------------------------------------------------------------------------------ a laptop
MODULE = """
    from onward import App
    app = App("tiny")

    @app.workflow(on="go")
    def work(event, step):
        return [step.run(name, str, name) for name in "ab"]
"""


@pytest.fixture
def left(tmp_path, monkeypatch) -> Iterator[tuple[str, list[str]]]:
    """A store file with two runs, which nobody has advanced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "layout_app.py").write_text("\n".join(line.removeprefix("    ") for line in MODULE.splitlines()))
    local = Local(importlib.import_module("layout_app").app, "store.db")
    yield (
        "store.db",
        [run for id in ("e1", "e2") for run in ingest(local.engine, Event("go", {}, id, local.clock.now_ms()))],
    )
    local.close()


def make_newer(path: str, run: str) -> None:
    store = SqliteStore(path)
    [item] = store.get([(partition_of(run), log_key(0))])
    assert item is not None
    body = json.dumps({**json.loads(item.body), "layout": NEWER})
    assert store.write([Swap(Item(item.partition, item.sort, "newer", body, item.value), item.token)]) is None
    store.close()


def resume(capsys, *arguments: str) -> tuple[int, list[str], list[str]]:
    code = main(["resume", "--store", "store.db", "--app", "layout_app:app", "--json", *arguments])
    shown = capsys.readouterr()
    return code, shown.out.splitlines(), shown.err.splitlines()


def test_resume_leaves_a_newer_run_in_one_line_and_does_the_others(left, capsys):
    path, [first, second] = left
    make_newer(path, first)
    store = SqliteStore(path)
    before = standing(store, first)
    code, out, err = resume(capsys)
    assert code == 1 and err == [f"onward: run {first} is left as it is: run {first} {ADVICE}"]
    assert [json.loads(line)["run_id"] for line in out] == [second]
    assert standing(store, first) == before
    store.close()


@pytest.mark.parametrize("named", [True, False], ids=["named", "all"])
def test_resume_of_nothing_but_a_newer_run_cannot_be_carried_out(left, capsys, named):
    path, runs = left
    for run in runs[:1] if named else runs:
        make_newer(path, run)
    code, out, err = resume(capsys, *(runs[:1] if named else []))
    assert code == 2 and not out
    assert len(err) == (1 if named else 2) and all(line.endswith(ADVICE) for line in err)


def test_a_newer_file_is_refused_and_left_as_it_is(left, capsys):
    path, _ = left
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {NEWER}")
    before = connection.execute("SELECT * FROM items").fetchall()
    line = f"onward: the store 'store.db' has layout {NEWER}, this Onward knows layout {LAYOUT}: upgrade onward"
    assert resume(capsys) == (2, [], [line])
    assert main(["run", "layout_app:app", "go", "--store", "store.db"]) == 2
    assert capsys.readouterr().err.splitlines() == [line]
    with pytest.raises(LayoutMismatch) as error:
        Door(app, {**KEYS, "ONWARD_STORE": path})
    assert f"onward: {error.value}" == line, "a handler is refused at INIT"
    assert connection.execute("SELECT * FROM items").fetchall() == before
    connection.close()


# ------------------------------------------------------------------------------------------------------------- a table
def test_a_newer_table_is_refused_by_what_deploys_and_by_the_check(left, dynoxide_url, capsys, monkeypatch):
    for name, value in {**KEYS, "AWS_ENDPOINT_URL_DYNAMODB": dynoxide_url}.items():
        monkeypatch.setenv(name, value)
    wire, name = Wire(), f"layouts-{next(_tables)}"
    try:
        create_table(wire, name)
        table = DynamoStore(wire, name)
        [item] = table.get([LAYOUT_KEY])
        assert item is not None
        newer_item = Item(*LAYOUT_KEY, "newer", json.dumps({"layout": NEWER}))
        assert table.write([Swap(newer_item, item.token)]) is None
        line = (
            f"The table {name!r} has layout {NEWER}, and this version of Onward knows layout {LAYOUT}. "
            f"Install the version that made the table, or name another table."
        )
        for refuse in (partial(check_layout, table), partial(create_table, wire, name)):
            with pytest.raises(LayoutMismatch) as error:
                refuse()
            assert str(error.value) == line
        assert main(["check", "layout_app:app", "--table", name]) == 2
        assert capsys.readouterr().err.splitlines() == [f"onward: {line}"]
        assert table.get([LAYOUT_KEY]) == [newer_item]
    finally:
        wire.close()
