"""What earlier releases left behind is resumed and finished by this one.

For every release there is a folder with a store file and an exported table (see make.py). Each is resumed the way it
would be: the file as `onward resume` does, the table by the sweep alone, for wakes are no part of a table.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from onward import __version__
from onward.aws.blobs import S3Blobs
from onward.aws.dynamodb import DynamoStore
from onward.aws.envelopes import Batch, CameToNothing, OwnWake, recognise
from onward.aws.table import SCHEMA, check_layout
from onward.aws.wire import Wire
from onward.cli import main
from onward.core.codec import decode
from onward.core.ids import is_run_id
from onward.core.log import partition_of
from onward.core.status import COMPLETED, ENDED
from onward.core.values import Event
from onward.engine import control
from onward.engine.ingest import ingest
from onward.engine.ledger import Ledger
from onward.engine.views import run_view
from onward.entry.local import SWEEP_S, Local
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from onward.testing import FakeClock, Rehearsal
from tests.golden import make
from tests.golden.app import app, world
from tests.golden.stories import STORIES

HERE = Path(__file__).parent
VERSIONS = sorted(path.parent.name for path in HERE.glob("*/expected.json"))
MAX_TURNS = 10_000
_tables = itertools.count()

Rows = list[Any]


class Golden:
    """The golden stores of one release, unpacked."""

    def __init__(self, version: str, folder: Path) -> None:
        self.kept = HERE / version
        self.folder = folder
        told = json.loads((self.kept / "expected.json").read_text())
        self.at_ms: int = told["at_ms"]
        self.runs = [Expected(**fields) for fields in told["runs"]]
        self.wakes: list[dict[str, Any]] = json.loads((self.kept / "wakes.json").read_text())["wakes"]

    def file(self) -> Path:
        """A copy of the file, with the folder of its blobs beside it."""
        path = self.folder / "store.db"
        path.write_bytes(unpacked(self.kept / "store.db.gz"))
        for blob in (self.kept / "blobs").rglob("*.gz"):
            copy = self.folder / "store.db.blobs" / blob.relative_to(self.kept / "blobs").with_suffix("")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(unpacked(blob))
        return path

    def by_story(self, story: str) -> Expected:
        return next(run for run in self.runs if run.story == story)


class Expected(NamedTuple):
    """One entry of `expected.json`."""

    story: str
    run: str
    before: dict[str, dict[str, Any] | None]
    status: str
    result: str | None
    late: str | None
    error: list[str]
    again: dict[str, int]
    keys: dict[str, str]

    def ended(self, place: str) -> bool:
        """Whether the run had ended when the store was kept."""
        before = self.before[place]
        return before is not None and before["status"] in ENDED


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


@pytest.fixture(params=VERSIONS)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Golden]:
    world.forget()
    yield Golden(request.param, tmp_path)
    world.forget()


# -------------------------------------------------------------------------------------------------- two kinds of place
def rows_of(path: Path, run: str) -> Rows:
    """Every row of a run in a file, its marks among them."""
    connection = sqlite3.connect(path)
    try:
        return [
            row
            for table in ("items", "marks")
            for row in connection.execute(
                f"SELECT * FROM {table} WHERE partition = ? ORDER BY 1, 2, 3, 4", (partition_of(run),)
            )
        ]
    finally:
        connection.close()


class Table:
    """The exported table, imported into a DynamoDB that had none, and its bucket."""

    def __init__(self, golden: Golden, dynamodb_url: str, s3_url: str) -> None:
        self.wire = Wire(endpoint_url=dynamodb_url, environ=make.KEYS)
        self.s3 = Wire(endpoint_url=s3_url, environ=make.KEYS)
        self.name = f"golden-{next(_tables)}"
        self.wire.json("dynamodb", "CreateTable", {"TableName": self.name, **SCHEMA}, self.name)
        for line in unpacked(golden.kept / "table.jsonl.gz").splitlines():
            self.wire.json("dynamodb", "PutItem", {"TableName": self.name, "Item": json.loads(line)}, self.name)
        bucket = make.bucket(s3_url)
        for path in (golden.kept / "bucket").rglob("*.gz"):
            key = path.relative_to(golden.kept / "bucket").with_suffix("").as_posix()
            bucket.put_object(Bucket=make.BUCKET, Key=key, Body=unpacked(path))
        self.store = DynamoStore(self.wire, self.name)
        self.blobs = S3Blobs(self.s3, make.BUCKET, make.PREFIX)

    def rows_of(self, run: str) -> Rows:
        """Every item of a run, its marks among them."""
        items = map(make.in_order, make.scanned(self.wire, self.name))
        return sorted(
            (item for item in items if item["pk"]["S"] == partition_of(run)), key=lambda item: item["sk"]["S"]
        )

    def close(self) -> None:
        self.wire.close()
        self.s3.close()


@pytest.fixture
def table(golden: Golden, dynoxide_url: str, moto_url: str) -> Iterator[Table]:
    made = Table(golden, dynoxide_url, moto_url)
    yield made
    made.close()


# ---------------------------------------------------------------------------------------------------- what must hold
def check_views(golden: Golden, place: str, ledger: Ledger) -> None:
    """Each run is shown as it was shown when it was kept."""
    for run in golden.runs:
        before = run.before[place]
        if before is None:
            continue
        view = run_view(ledger, run.run)
        steps = [[step["name"], step["status"], step["attempts"]] for step in view["steps"]]
        assert {"workflow": view["workflow"], "status": view["status"], "steps": steps} == before, run.story


def check_ends(golden: Golden, place: str, ledger: Ledger, late: bool = False) -> None:
    """Every run has come to what it must come to, and no finished step was performed again. `late`: all for which they
    waited was over before they were resumed."""
    for run in golden.runs:
        view = run_view(ledger, run.run)
        assert view["status"] == run.status, (run.story, view["error"])
        assert (view["error"] or {"type": ""})["type"] == "".join(run.error[:1]), run.story
        assert all(text in view["error"]["message"] for text in run.error[1:]), run.story
        if run.result is not None:
            assert decode(view["output"]) == decode((run.late if late else run.result) or ""), run.story
        assert world.effects(run.run) == Counter(run.again), run.story
        attempts = {step["name"]: step["attempts"] for step in view["steps"]}
        for name, status, used in (run.before[place] or {"steps": []})["steps"]:
            if used:  # what was never begun may have been left, as the loser of a race
                again = status == "retrying"
                assert attempts[name] >= used + again, "an attempt that was used up is not to be had again"
        for effect, key in run.keys.items():
            assert world.keys[run.run, effect] == {key}, "an attempt is handed the key of the attempts before it"


def untouched(golden: Golden, place: str, rows: Callable[[str], Rows]) -> dict[str, Rows]:
    """The runs that had ended, with all that stands of them."""
    found = {run.run: rows(run.run) for run in golden.runs if run.ended(place)}
    assert len(found) >= 4 and all(found.values())
    return found


# ------------------------------------------------------------------------------------------------------------ resumed
def finish(local: Local, clock: FakeClock) -> None:
    """Work until every run has ended, turning the clock to where the next thing happens."""
    for _ in range(MAX_TURNS):
        if local.work_once():
            continue
        due = [due_ms for _, _, due_ms in local.store.due(1 << 60, 1)]
        if not due and not local.unfinished():
            return
        times = [time_ms for time_ms in (*due, local.wakes.next_ms()) if time_ms is not None]
        following_ms = min(times)
        clock.turn(following_ms if following_ms > clock.now_ms() else clock.now_ms() + round(SWEEP_S * 1000))
    raise AssertionError(f"not finished after {MAX_TURNS:,} turns: {local.unfinished()}")


def test_a_store_file_is_resumed_to_what_its_runs_must_come_to(golden: Golden) -> None:
    path = golden.file()
    before = untouched(golden, "file", lambda run: rows_of(path, run))
    clock = FakeClock(golden.at_ms, seed=1)
    local = Local(app, path, clock=clock)
    try:
        check_views(golden, "file", local.engine.ledger)
        local.resume_each(local.unfinished())
        finish(local, clock)
        check_ends(golden, "file", local.engine.ledger)
        assert local.wakes.next_ms() is None, "no wake is left over"
    finally:
        local.close()
    assert {run: rows_of(path, run) for run in before} == before


@pytest.mark.parametrize("fresh", [True, False], ids=["cold", "warm"])
def test_a_table_is_finished_by_the_sweep_alone(golden: Golden, table: Table, fresh: bool) -> None:
    check_layout(table.store, mark=False)
    before = untouched(golden, "table", table.rows_of)
    clock = FakeClock(golden.at_ms, seed=1)
    with Rehearsal(app, store=table.store, blobs=table.blobs, clock=clock, fresh=fresh) as stage:
        check_views(golden, "table", stage.engine.ledger)
        stage.drain()
        check_ends(golden, "table", stage.engine.ledger)
    assert {run: table.rows_of(run) for run in before} == before


def test_the_command_resumes_a_store_file_and_needs_no_name_of_its_app(golden: Golden, capsys) -> None:
    path = golden.file()
    assert main(["resume", "--store", str(path), "--workers", "1", "--json"]) == 1, "some of them fail, as they must"
    views = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    open_runs = {run.run: run for run in golden.runs if run.before["file"] and not run.ended("file")}
    assert {view["run_id"]: view["status"] for view in views} == {run: open_runs[run].status for run in open_runs}
    assert main(["resume", "--store", str(path), "--workers", "1"]) == 0, "the runs of on_failure= are left at most"
    store = SqliteStore(path)
    try:
        check_ends(golden, "file", Ledger(store, FolderBlobs(f"{path}.blobs"), FakeClock(golden.at_ms)), late=True)
    finally:
        store.close()


def test_an_event_that_an_earlier_release_has_seen_starts_no_second_run(golden: Golden) -> None:
    path = golden.file()
    before = {run.run: rows_of(path, run.run) for run in golden.runs}
    local = Local(app, path, clock=FakeClock(golden.at_ms, seed=1))
    try:
        kept = {run.story: run.run for run in golden.runs}
        for story in STORIES:
            if story.name in kept:
                event = Event(story.event, story.data, story.id, golden.at_ms)
                assert ingest(local.engine, event) == [kept[story.name]]
    finally:
        local.close()
    assert {run: rows_of(path, run) for run in before} == before


# -------------------------------------------------------------------------------------------------------------- wakes
def test_every_verb_of_an_earlier_release_is_kept(golden: Golden) -> None:
    verbs = {entry["wake"]["do"] for entry in golden.wakes}
    assert verbs == {"advance", "step", "fan", "collect", "recover", "sweep"}


def only_this(golden: Golden, stage: Rehearsal, entry: dict[str, Any], begin: Callable[[dict[str, Any]], None]) -> None:
    """Begin with one wake, and deliver what follows from it: no sweep, and none of the wakes in the file."""
    world.forget()
    begin(entry["wake"])
    for _ in range(MAX_TURNS):
        if stage.queue.next_ms() is None:
            break
        at_ms, wake = stage.queue.take()
        stage.clock.turn(at_ms)
        stage.deliver(wake)
    run = golden.by_story(entry["story"])
    assert stage.view(run.run)["status"] == COMPLETED, entry
    assert decode(stage.view(run.run)["output"]) == decode(run.result or ""), entry
    assert world.effects(run.run) == Counter(run.again), entry
    assert {other for other, _ in world.done} == {run.run}, "and it is about no other run"


def of_runs(golden: Golden) -> list[dict[str, Any]]:
    """The wakes that are about a run, each about another."""
    found = [entry for entry in golden.wakes if entry["run"] is not None]
    assert len({entry["run"] for entry in found}) == len(found) >= 5
    return found


def test_one_wake_of_an_earlier_release_is_enough_to_go_on_in_a_file(golden: Golden) -> None:
    store = SqliteStore(golden.file())
    try:
        blobs = FolderBlobs(golden.folder / "store.db.blobs")
        with Rehearsal(app, store=store, blobs=blobs, clock=FakeClock(golden.at_ms, seed=1)) as stage:
            for entry in of_runs(golden):
                only_this(golden, stage, entry, stage.deliver)
    finally:
        store.close()


def test_one_wake_of_an_earlier_release_is_enough_to_go_on_in_a_table(golden: Golden, table: Table) -> None:
    clock = FakeClock(golden.at_ms, seed=1)
    with Rehearsal(app, store=table.store, blobs=table.blobs, clock=clock) as stage:
        for entry in of_runs(golden):
            only_this(golden, stage, entry, stage.deliver)


def test_the_tick_of_an_earlier_release_wakes_what_is_due(golden: Golden) -> None:
    [entry] = [entry for entry in golden.wakes if entry["run"] is None]
    store = SqliteStore(golden.file())
    try:
        due = store.due(1 << 60, 1_000)
        clock = FakeClock(max(due_ms for _, _, due_ms in due), seed=1)
        with Rehearsal(app, store=store, clock=clock) as stage:
            stage.deliver(entry["wake"])
            woken = [stage.queue.take()[1] for _ in due]
            assert stage.queue.next_ms() is None
        assert {partition_of(wake["run"]) for wake in woken} == {partition for partition, _, _ in due}
    finally:
        store.close()


def on_failure(wake: dict[str, Any]) -> dict[str, Any]:
    """What Lambda tells when the invocation that had this wake was killed."""
    told = json.loads((HERE.parent / "events" / "on_failure_exit.json").read_text())
    return {**told, "requestPayload": wake}


def test_payloads_around_a_wake_of_an_earlier_release_are_known(golden: Golden) -> None:
    for entry in golden.wakes:
        wake = entry["wake"]
        own = recognise(wake)
        assert isinstance(own, OwnWake) and own.wake == wake
        body = json.dumps(wake)
        batch = recognise({"Records": [{"messageId": "m1", "eventSource": "aws:sqs", "body": body}]})
        assert isinstance(batch, Batch) and batch.messages == [("m1", body)]
        told = recognise(on_failure(wake))
        assert isinstance(told, CameToNothing) and told.killed and told.payload == wake


def test_the_death_of_an_invocation_of_an_earlier_release_is_taken_in(golden: Golden, table: Table) -> None:
    """Its process died with the old code, and the new code is told."""
    with Rehearsal(app, store=table.store, blobs=table.blobs, clock=FakeClock(golden.at_ms, seed=1)) as stage:
        for entry in of_runs(golden):
            only_this(golden, stage, entry, lambda wake: control.died(stage.engine, wake, "signal: killed"))


# ---------------------------------------------------------------------------------------------------------- fixtures
def test_this_release_has_golden_stores() -> None:
    assert __version__ in VERSIONS, "python -m tests.golden.make"


def test_a_golden_store_names_no_place_and_nobody(golden: Golden) -> None:
    kept = [path for path in golden.kept.rglob("*") if path.is_file()]
    for path in kept:
        content = unpacked(path) if path.suffix == ".gz" else path.read_bytes()
        assert not re.search(rb"/work|/home|/root|/tmp|/Users|site-packages|[A-Z]:\\\\", content), path
    assert sum(path.stat().st_size for path in kept) < 300_000
    assert all(is_run_id(run.run) for run in golden.runs)


def test_making_them_again_makes_the_same(tmp_path: Path, dynoxide_url: str, moto_url: str) -> None:
    """What is made twice differs in nothing, so where a later store differs from an older one, that has a cause."""
    made = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        make.make(folder, dynoxide_url, moto_url)
        made.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert made[0] == made[1] and len(made[0]) == 8


def test_stores_of_a_release_are_not_made_again_by_mistake(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr(make, "HERE", tmp_path)
    shutil.copytree(HERE / VERSIONS[-1], tmp_path / __version__)
    monkeypatch.setattr("sys.argv", ["make"])
    assert make.main() == 2
    assert "never made again" in capsys.readouterr().err
