"""What somebody did to the table or the bucket is told, performs nothing with a wrong input, and hurts no other run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.aws.blobs import S3Blobs
from onward.aws.wire import Wire
from onward.cli import main
from onward.core.codec import decode
from onward.core.errors import BlobCorrupt, BlobMissing, Misconfigured, NotEncodable, OnwardError
from onward.core.log import HEAD, lane_key, log_key, partition_of
from onward.core.status import IllegalRecord
from onward.engine.control import cancel
from onward.engine.ledger import Ledger
from onward.engine.sweep import sweep
from onward.engine.views import run_view
from onward.entry.local import Local
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from onward.ports import Item, Put, Store, Swap
from onward.testing import Rehearsal
from onward.testing.rehearsal import FakeClock
from tests.core.shapes import Basket  # noqa: F401  (a loaded dataclass)
from tests.rules.acting import SYNC, Notes

LARGE = "x" * 100_000
NONE = "no item"


def put(store: Store, partition: str, sort: str, **fields: Any) -> None:
    """Write an item, or change some of its fields, as with the console."""
    [item] = store.get([(partition, sort)])
    if item is None:
        assert store.write([Put(Item(partition, sort, "edited", **fields))]) is None
        return
    old = {name: getattr(item, name) for name in ("body", "value", "due_ms")}
    assert store.write([Swap(Item(partition, sort, "edited", **{**old, **fields}), item.token)]) is None


def delete(store: Store, partition: str, sort: str) -> None:
    if isinstance(store, SqliteStore):
        with store.transaction() as db:
            db.execute("DELETE FROM items WHERE partition = ? AND sort = ?", (partition, sort))
    else:
        request = {"TableName": store.table, "Key": {"pk": {"S": partition}, "sk": {"S": sort}}}  # type: ignore[attr-defined]
        store.wire.json("dynamodb", "DeleteItem", request, "t")  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------- tampered blobs
class Bucket:
    """Blobs, and what somebody else can do to them."""

    def __init__(self, blobs: Any, write: Callable[[str, bytes], None], remove: Callable[[str], None]) -> None:
        self.blobs = blobs
        self.write = write
        self.remove = remove


@pytest.fixture(params=["folder", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    if request.param == "folder":
        folder = tmp_path / "blobs"

        def path(reference: str) -> Path:
            return folder / reference[7:9] / reference[7:]

        yield Bucket(
            FolderBlobs(folder),
            lambda ref, content: path(ref).write_bytes(content) and None,
            lambda ref: path(ref).unlink(),
        )
        return
    import boto3

    url, name = request.getfixturevalue("moto_url"), f"tampered-{os.urandom(4).hex()}"
    client = boto3.Session().client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    wire = Wire(endpoint_url=url, sleep=lambda _: None)
    yield Bucket(
        S3Blobs(wire, name, "onward/"),
        lambda ref, content: client.put_object(Bucket=name, Key=f"onward/{ref[7:]}", Body=content) and None,
        lambda ref: client.delete_object(Bucket=name, Key=f"onward/{ref[7:]}") and None,
    )
    wire.close()


TAMPERED = {
    "changed": lambda content: content.replace(b"xx", b"xy", 1),
    "truncated": lambda content: content[:-1],
    "longer": lambda content: content + b" ",
    "empty": lambda content: b"",
    "swapped": lambda content: b'"another"',
}


@pytest.mark.parametrize("how", [*TAMPERED, NONE])
def test_a_tampered_blob_fails_the_run_and_nothing_is_performed_with_it(bucket: Bucket, how: str) -> None:
    performed: list[Any] = []

    def work(event: Any, step: Any) -> None:
        large = step.run("large", lambda: LARGE)
        step.run("use", performed.append, large)

    with Rehearsal(SYNC.app(work), blobs=bucket.blobs, fresh=True) as stage:
        [run] = stage.start("go")
        stage.step()
        [item] = stage.store.get([(partition_of(run), log_key(1))])
        reference = json.loads(item.body)["blob"]  # type: ignore[union-attr]
        if how == NONE:
            bucket.remove(reference)
        else:
            bucket.write(reference, TAMPERED[how](bucket.blobs.get(reference)))
        stage.drain()
        told = stage.view(run)
    assert (told["status"], performed) == ("failed", [])
    assert told["error"]["type"] == ("BlobMissing" if how == NONE else "BlobCorrupt")


@pytest.mark.parametrize(
    "reference",
    [
        *("", "sha256:", "sha256:../../../etc/passwd", "/etc/passwd", "../x", "\ud800", "sha512:" + "0" * 64),
        *("sha256:" + digits for digits in ("/" * 64, "\u0660" * 64, "A" * 64, "0" * 63 + "\n", "0" * 1_000_000)),
    ],
    ids=lambda reference: ascii(reference)[:40],
)
def test_a_reference_cannot_leave_the_folder_or_the_prefix(bucket: Bucket, reference: str) -> None:
    with pytest.raises(BlobMissing) as refusal:
        bucket.blobs.get(reference)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("reference", [5, {"a": 1}, ["sha256:"], True, ""], ids=str)
def test_a_reference_in_the_log_that_is_none_is_told(tmp_path: Path, reference: Any) -> None:
    store = SqliteStore(":memory:")
    with pytest.raises(BlobMissing):
        Ledger(store, FolderBlobs(tmp_path), FakeClock()).text(None, reference, "")
    store.close()


def test_a_blob_that_is_larger_than_any_value_is_corrupt_and_is_not_read(
    tmp_path: Path, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    from onward.local import blobs

    folder = FolderBlobs(tmp_path)
    reference = folder.put(b"small")
    monkeypatch.setattr(blobs, "MAX_BLOB_BYTES", 4)
    with pytest.raises(BlobCorrupt, match="larger than any value"):
        folder.get(reference)
    client = boto3.Session().client("s3", endpoint_url=moto_url, region_name="us-east-1")
    client.create_bucket(Bucket="large")
    client.put_object(Bucket="large", Key=reference[7:], Body=b"x" * 5_000)
    wire = Wire(endpoint_url=moto_url, sleep=lambda _: None, max_reply_bytes=4_000)
    with pytest.raises(BlobCorrupt, match="larger than any value"):
        S3Blobs(wire, "large").get(reference)
    wire.close()


def test_a_blob_that_is_no_text_is_told_although_its_digest_is_right(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    other = blobs.put(b"\xff\xfe")

    def work(event: Any, step: Any) -> Any:
        return step.run("large", lambda: LARGE)

    with Rehearsal(SYNC.app(work), blobs=blobs, fresh=True) as stage:
        [run] = stage.start("go")
        stage.step()
        body = json.loads(stage.store.get([(partition_of(run), log_key(1))])[0].body)  # type: ignore[union-attr]
        put(stage.store, partition_of(run), log_key(1), body=json.dumps({**body, "blob": other}))
        stage.drain()
        assert stage.view(run)["error"]["type"] == "BlobCorrupt"


# --------------------------------------------------------------------------------------------------- an edited table
def two_steps(performed: list[Any]) -> Callable[[Any, Any], Any]:
    def work(event: Any, step: Any) -> Any:
        one = step.run("one", lambda: {"n": 1})
        return step.run("two", lambda: performed.append(one) or one)

    return work


EDITS: dict[str, Callable[[Store, str], None]] = {
    "unknown kind": lambda store, run: put(store, run, log_key(1), body='{"k":"nonsense"}'),
    "kind of another type": lambda store, run: put(store, run, log_key(1), body='{"k":["done"]}'),
    "no kind": lambda store, run: put(store, run, log_key(1), body="{}"),
    "no JSON": lambda store, run: put(store, run, log_key(1), body="nonsense"),
    "no object": lambda store, run: put(store, run, log_key(1), body="[1]"),
    "deep JSON": lambda store, run: put(store, run, log_key(1), body="[" * 50_000),
    "many digits": lambda store, run: put(store, run, log_key(1), body="9" * 10_000),
    "record missing": lambda store, run: delete(store, run, log_key(0)),
    "out of order": lambda store, run: put(store, run, log_key(7), body='{"k":"died","at":1}'),
    "started twice": lambda store, run: put(
        store,
        run,
        log_key(2),
        body='{"k":"started","layout":1,"workflow":"work","event":{"name":"go","id":"i","at":1},"at":1}',
    ),
    "a plan larger than any run": lambda store, run: put(
        store, run, log_key(2), body='{"k":"planned","seen":[],"count":2000000,"digest":"","names":[],"at":1}'
    ),
    "observed what is not there": lambda store, run: put(
        store, run, log_key(2), body='{"k":"planned","seen":[[9,9]],"count":0,"digest":"","names":[],"at":1}'
    ),
    "foreign sort key": lambda store, run: put(store, run, "L#zzz", body='{"k":"died","at":1}'),
    "layout of another type": lambda store, run: put(store, run, log_key(0), body='{"k":"started","layout":"x"}'),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_log_is_told_and_nothing_is_performed(store: Store, edit: str) -> None:
    performed: list[Any] = []
    with Rehearsal(SYNC.app(two_steps(performed)), store=store, fresh=True) as stage:
        [run] = stage.start("go")
        stage.step()
        EDITS[edit](store, partition_of(run))
        for see in (lambda: run_view(stage.engine.ledger, run), stage.step, lambda: cancel(stage.new_engine(), run)):
            with pytest.raises(IllegalRecord) as told:
                see()
            assert run in str(told.value) and len(str(told.value)) < 600
    assert performed == []


VALUES = {
    "no JSON": "nonsense",
    "empty": "",
    "deep": "[" * 100_000,
    "many digits": "9" * 100_000,
    "unknown tag": '{"$":"pickle","v":"gASV"}',
    "tag without value": '{"$":"decimal"}',
    "no decimal": '{"$":"decimal","v":"many"}',
    "no class": '{"$":"dataclass","t":"os:system","v":{"command":"true"}}',
    "class that is not loaded": '{"$":"dataclass","t":"antigravity:X","v":{}}',
    "wrong fields": '{"$":"dataclass","t":"tests.core.shapes:Basket","v":{"no":1}}',
    "fields that are none": '{"$":"dataclass","t":"tests.core.shapes:Basket","v":5}',
    "class of another type": '{"$":"enum","t":5,"v":5}',
}


@pytest.mark.parametrize("edit", VALUES)
def test_an_edited_value_fails_the_run_and_nothing_is_performed_with_it(store: Store, edit: str) -> None:
    performed: list[Any] = []
    with Rehearsal(SYNC.app(two_steps(performed)), store=store, fresh=True) as stage:
        [run] = stage.start("go")
        stage.step()
        put(store, partition_of(run), log_key(1), value=VALUES[edit])
        stage.drain()
        view = stage.view(run)
    assert (view["status"], view["error"]["type"], performed) == ("failed", "NotEncodable", [])


def test_reading_a_value_builds_loaded_dataclasses_and_enums_and_imports_runs_and_finds_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys
    import types

    asked: list[str] = []
    lazy = types.ModuleType("lazy_module")
    lazy.__getattr__ = lambda name: asked.append(name)  # type: ignore[method-assign]

    class Described:
        inner = property(lambda self: asked.append("property"))

    lazy.Described = Described  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    before = set(sys.modules)
    names = ["lazy_module:anything", "lazy_module:Described.inner", "os:system", "builtins:eval", "subprocess:Popen"]
    names += ["onward.core.log:Fold", "tests.core.shapes:dataclasses", "antigravity:x", ":", "", "os.path:os.system"]
    for name in names:
        for tag in ("dataclass", "enum"):
            with pytest.raises(NotEncodable):
                decode(json.dumps({"$": tag, "t": name, "v": {}}))
    assert not asked and set(sys.modules) == before


LANES = {
    "no JSON": "nonsense",
    "no record": "{}",
    "no outcome": '{"k":"done","s":"a","n":1,"at":1}',
    "no time": '{"k":"done","s":"a","n":1,"a":1,"at":"soon"}',
}


@pytest.mark.parametrize("edit", [*LANES, NONE])
def test_an_edited_lane_is_told(store: Store, edit: str) -> None:
    def work(event: Any, step: Any) -> Any:
        both = step.parallel(lambda: step.run("a", lambda: 1), lambda: step.run("b", lambda: 2))
        return step.run("sum", lambda: sum(both))

    with Rehearsal(SYNC.app(work), store=store, fresh=True) as stage:
        [run] = stage.start("go")
        for _ in range(3):
            stage.step()
        lane = lane_key((1, 0))
        assert store.get([(partition_of(run), lane)])[0] is not None
        if edit == NONE:
            delete(store, partition_of(run), lane)
        else:
            put(store, partition_of(run), lane, body=LANES[edit])
        with pytest.raises(IllegalRecord):
            stage.engine = stage.new_engine()
            stage.engine.handle({"do": "recover", "run": run})
            stage.drain()


def test_a_forged_wake_makes_no_storm(store: Store) -> None:
    with Rehearsal(SYNC.app(two_steps([])), store=store) as stage:
        [run] = stage.start("go")
        sent = stage.queue.sent
        for wake in (
            {"do": "fan", "run": run, "plan": 1, "first": 0, "end": 99_999_999},
            {"do": "fan", "run": run, "plan": 1, "first": 0, "end": 10**30},
            {"do": "step", "run": "run#../x", "plan": 1, "index": 0, "attempt": 1},
            {"do": "advance", "run": "x" * 3_000, "seq": 1},
            {"do": "advance", "run": run},
        ):
            with pytest.raises(OnwardError):
                stage.engine.handle(wake)
        stage.engine.handle({"do": "step", "run": run, "plan": 0, "index": 0, "attempt": 1})
        stage.engine.handle({"do": "step", "run": run, "plan": 1, "index": 5, "attempt": 99_999_999})
        assert stage.queue.sent == sent


# ------------------------------------------------------------------------------------------------ one run among others
HEADS: dict[str, Callable[[Store, str], None]] = {
    "no JSON": lambda store, run: put(store, run, HEAD, body="nonsense", due_ms=1),
    "no object": lambda store, run: put(store, run, HEAD, body="5", due_ms=1),
    "no fields": lambda store, run: put(store, run, HEAD, body="{}", due_ms=1),
    "no workflow of ours": lambda store, run: put(store, run, HEAD, body='{"workflow":5,"status":"queued"}', due_ms=1),
    "stalls of another type": lambda store, run: put(
        store, run, HEAD, body='{"workflow":"work","status":"queued","stalls":"many"}', due_ms=1
    ),
    "foreign last record": lambda store, run: put(store, run, "L#zzz", body="{}") or put(store, run, HEAD, due_ms=1),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("edit", HEADS)
def test_a_poisoned_run_is_told_by_the_sweep_and_stops_it_for_no_other(store: Store, edit: str) -> None:
    notes = Notes()
    with Rehearsal(SYNC.app(two_steps([])), store=store, note=notes) as stage:
        [bad], [good] = stage.start("go"), stage.start("go")
        HEADS[edit](store, partition_of(bad))
        stage.clock.turn(stage.clock.now_ms() + 3 * stage.horizon_ms)
        sweep(stage.engine, {"do": "sweep"}, None, None)
        assert [fields["run_id"] for fields in notes.of("run woken by the sweep")] == [good]
        assert [fields["run_id"] for fields in notes.of("run cannot be swept")] == [bad]
        sweep(stage.engine, {"do": "sweep"}, None, None)
        assert len(notes.of("run cannot be swept")) == 1, "it is set aside for one horizon"
        stage.clock.turn(stage.clock.now_ms() + 3 * stage.horizon_ms)
        sweep(stage.engine, {"do": "sweep"}, None, None)
        assert len(notes.of("run cannot be swept")) == 2, "and told again"


def test_a_due_time_that_is_no_whole_number_stops_no_sweep(store: Store) -> None:
    with Rehearsal(SYNC.app(two_steps([])), store=store) as stage:
        [run] = stage.start("go")
        if isinstance(store, SqliteStore):
            with store.transaction() as db:
                db.execute("UPDATE items SET due_ms = 1.5 WHERE sort = ?", (HEAD,))
        else:
            request = {
                "TableName": store.table,  # type: ignore[attr-defined]
                "Key": {"pk": {"S": partition_of(run)}, "sk": {"S": HEAD}},
                "UpdateExpression": "SET due = :d",
                "ExpressionAttributeValues": {":d": {"N": "1.5"}},
            }
            store.wire.json("dynamodb", "UpdateItem", request, "t")  # type: ignore[attr-defined]
        sweep(stage.engine, {"do": "sweep"}, None, None)
        stage.drain()
        assert stage.view(run)["status"] == "completed"


def test_attributes_of_another_type_are_never_read_as_a_value(store: Store) -> None:
    if isinstance(store, SqliteStore):
        pytest.skip("SQLite's columns have no such types")
    performed: list[Any] = []
    with Rehearsal(SYNC.app(two_steps(performed)), store=store, fresh=True) as stage:
        [run] = stage.start("go")
        stage.step()
        request = {
            "TableName": store.table,  # type: ignore[attr-defined]
            "Key": {"pk": {"S": partition_of(run)}, "sk": {"S": log_key(1)}},
            "UpdateExpression": "SET v = :v",
            "ExpressionAttributeValues": {":v": {"M": {"n": {"N": "1"}}}},
        }
        store.wire.json("dynamodb", "UpdateItem", request, "t")  # type: ignore[attr-defined]
        stage.drain()
        assert (stage.view(run)["status"], performed) == ("failed", [])


@pytest.mark.parametrize("poison", ["log", "head", "wake"])
def test_a_poisoned_run_stops_no_worker_of_another(tmp_path: Path, poison: str) -> None:
    notes = Notes()
    local = Local(SYNC.app(two_steps([])), tmp_path / "store.db", note=notes)
    from onward.core.values import Event
    from onward.engine.ingest import ingest

    [bad] = ingest(local.engine, Event("go", {}, "bad", 1))
    [good] = ingest(local.engine, Event("go", {}, "good", 1))
    if poison == "log":
        put(local.store, partition_of(bad), log_key(0), body="nonsense")
    elif poison == "head":
        put(local.store, partition_of(bad), HEAD, body="nonsense", due_ms=1)
    else:
        with local.store.transaction() as db:
            for wake in ("nonsense", "5", "[" * 50_000, "{}", '{"do":"advance"}', f'{{"do":5,"run":"{bad}"}}'):
                db.execute("INSERT INTO wakes (at_ms, wake, owner) VALUES (0, ?, ?)", (wake, "what:ever"))
    for _ in range(40):
        if not local.work_once():
            break
    assert run_view(local.engine.ledger, good)["status"] == "completed"
    said = [message for _, message, _ in notes.lines]
    assert ("wake refused" if poison == "wake" else "run cannot be read") in said or "run cannot be swept" in said
    local.close()


def test_resume_names_a_poisoned_run_and_finishes_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onward.core.values import Event
    from onward.engine.ingest import ingest

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("poisoned_app.py").write_text(
        "from onward import App\napp = App('p')\n\n@app.workflow(on='go')\ndef work(event, step):\n"
        "    return step.run('one', lambda: 1)\n"
    )
    import importlib

    local = Local(importlib.import_module("poisoned_app").app, "store.db")
    runs = [ingest(local.engine, Event("go", {}, id, 1))[0] for id in ("a", "b", "c")]
    put(local.store, partition_of(runs[0]), log_key(0), body="\x1b[2Jnonsense")
    put(local.store, partition_of(runs[1]), HEAD, body="nonsense")
    local.close()
    assert main(["resume", "--app", "poisoned_app:app", "--store", "store.db"]) == 1
    shown = capsys.readouterr()
    told = [line for line in shown.err.splitlines() if line.startswith("onward: run ")]
    assert len(told) == 2 and all(run in shown.err for run in runs[:2])
    assert f"run {runs[2]} of work completed" in shown.out and all(line.isprintable() for line in told)
    assert main(["resume", "--app", "poisoned_app:app", "--store", "store.db", runs[0]]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("run", ["../../etc/passwd", "\udcff", "\x00", "x" * 5_000, "run#x", "", "\x1b[2J"], ids=ascii)
def test_a_hostile_id_of_a_run_is_unknown_in_one_printable_line(store: Store, run: str) -> None:
    from onward.cli.show import plain
    from onward.core.errors import UnknownRun

    with Rehearsal(SYNC.app(two_steps([])), store=store) as stage, pytest.raises(UnknownRun) as told:
        run_view(stage.engine.ledger, run)
    assert plain(str(told.value)).isprintable() and len(str(told.value)) < 200


@pytest.mark.parametrize("name", ["", "a b", "a\r\nX: 1", "../x", "ü", "x" * 256, "a/b", "a?b"], ids=ascii)
def test_a_hostile_name_of_a_bucket_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured, match="cannot be the name of a bucket"):
        S3Blobs(Wire(region="us-east-1"), name)


def test_a_head_that_is_gone_is_told(store: Store) -> None:
    with Rehearsal(SYNC.app(two_steps([])), store=store, fresh=True) as stage:
        [run] = stage.start("go")
        delete(store, partition_of(run), HEAD)
        with pytest.raises(IllegalRecord, match=f"run {run} has a log but no head item"):
            stage.drain()
        with pytest.raises(IllegalRecord, match=f"run {run} has a log but no head item"):
            cancel(stage.new_engine(), run)
