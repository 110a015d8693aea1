"""Make the golden stores of this release: `python -m tests.golden.make`, in the folder of the repository.

It plays the stories on a SQLite file and on a DynamoDB table, and keeps in `tests/golden/<version>/`:

    store.db.gz      the file with its wakes, as a killed laptop leaves it
    blobs/           the folder beside it, each blob compressed
    table.jsonl.gz   the table, as a scan returns it: one item a line
    bucket/          the objects of the bucket beside it, each compressed
    wakes.json       one wake of each kind, as this release writes them
    expected.json    what each run looked like, and what it must come to

A release that is out keeps the files that it was released with: they are never made again, or they would prove nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onward import __version__
from onward.aws.blobs import S3Blobs
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import LAYOUT_KEY, SCHEMA, create_table
from onward.aws.wire import Wire
from onward.core.codec import encode
from onward.core.log import LAYOUT
from onward.core.status import COMPLETED
from onward.engine.views import run_view
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from onward.ports import Item, Put
from onward.testing import FakeClock
from tests import servers
from tests.golden.app import world
from tests.golden.stage import START_MS, FileWakes, PassingWakes, Stage
from tests.golden.stories import STORIES, after_run

HERE = Path(__file__).parent
TABLE = "golden"
BUCKET = "golden"
PREFIX = "onward/"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
MAX_PAGES = 1_000
SWEEP = {"onward": 1, "do": "sweep"}  # what the schedule sends


@contextmanager
def no_places() -> Iterator[None]:
    """Meanwhile the tracebacks that the logs keep name no folder of this machine."""
    formatted = traceback.format_exception

    def relative(*arguments: Any, **options: Any) -> list[str]:
        return [line.replace(f"{servers.REPOSITORY}/", "") for line in formatted(*arguments, **options)]

    traceback.format_exception = relative
    try:
        yield
    finally:
        traceback.format_exception = formatted


def played(stage: Stage) -> dict[str, str]:
    """Play every story; the runs by their stories."""
    world.forget()
    runs = {}
    for story in STORIES:
        run = runs[story.name] = stage.start(story.event, story.data, story.id)
        story.drive(stage, run)
    return runs


def expected(stage: Stage, runs: dict[str, str]) -> dict[str, Any]:
    """What is kept in `expected.json`."""
    found: list[dict[str, Any]] = []
    for story in STORIES:
        result, late = None, None
        if story.status == COMPLETED:
            result, late = encode(story.result, story.name), encode(story.late, story.name)
        comes_to = {"status": story.status, "result": result, "late": late, "error": list(story.error)}
        found.append({"story": story.name, **seen(stage, runs[story.name]), **comes_to, "again": story.again})
        if story.after is not None:
            after = after_run(runs[story.name])
            again = dict.fromkeys(story.after["again"], 1)
            result = encode(story.after["result"], story.name)
            comes_to = {"status": COMPLETED, "result": result, "late": result, "error": []}
            name = f"{story.name}, on_failure"
            found.append({"story": name, **seen(stage, after), **comes_to, "again": again})
    for entry in found:
        entry["keys"] = {name: handed(entry["run"], name) for name in entry["again"] if handed(entry["run"], name)}
    return {"layout": LAYOUT, "at_ms": stage.clock.now_ms(), "runs": found}


def handed(run: str, effect: str) -> str | None:
    """The idempotency key that an effect was handed; None where it was not begun."""
    keys = world.keys.get((run, effect), {None})
    [key] = keys
    return key


def seen(stage: Stage, run: str) -> dict[str, Any]:
    """A run as it stands: None for what is not there yet."""
    ledger = stage.engine().ledger
    if ledger.load(run) is None:
        return {"run": run, "before": None}
    view = run_view(ledger, run)
    steps = [[step["name"], step["status"], step["attempts"]] for step in view["steps"]]
    return {"run": run, "before": {"workflow": view["workflow"], "status": view["status"], "steps": steps}}


def wakes(stage: Stage, runs: dict[str, str]) -> list[dict[str, Any]]:
    """What is kept in `wakes.json`: wakes that alone bring their runs to their ends."""
    found: list[dict[str, Any]] = []
    for story in STORIES:
        if story.wake is not None:
            [row] = stage.wakes.of(runs[story.name])
            assert row.wake["do"] == story.wake, row
            found.append({"story": story.name, "run": runs[story.name], "wake": row.wake})
    return [*found, {"story": None, "run": None, "wake": SWEEP}]


# ------------------------------------------------------------------------------------------------------ two stores
def make_file(folder: Path) -> dict[str, Any]:
    """Write the file, its blobs, and the wakes; what is kept in `expected.json`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "store.db"
        clock = FakeClock(START_MS)
        store = SqliteStore(path)
        blobs = Path(f"{path}.blobs")
        stage = Stage(store, FileWakes(store, clock), FolderBlobs(blobs), clock, deployed=False)
        target = json.dumps({"target": "tests.golden.app:app"})
        store.write([Put(Item("onward", "target", clock.token(), target))])  # as `onward run` notes it
        runs = played(stage)
        found = expected(stage, runs)
        kept = wakes(stage, runs)
        store.rows("PRAGMA wal_checkpoint(TRUNCATE)", ())
        store.rows("PRAGMA journal_mode = DELETE", ())
        store.close()
        write(folder / "store.db", path.read_bytes())
        for blob in sorted(path for path in blobs.rglob("*") if path.is_file()):
            write(folder / "blobs" / blob.relative_to(blobs), blob.read_bytes())
    (folder / "wakes.json").write_text(shown({"wakes": kept}))
    return found


def make_table(folder: Path, dynamodb_url: str, s3_url: str) -> dict[str, Any]:
    """Write the table and its bucket; what is kept in `expected.json`."""
    clock = FakeClock(START_MS)
    wire, s3 = Wire(endpoint_url=dynamodb_url, environ=KEYS), Wire(endpoint_url=s3_url, environ=KEYS)
    try:
        store = DynamoStore(wire, TABLE)
        wire.json("dynamodb", "CreateTable", {"TableName": TABLE, **SCHEMA}, TABLE)
        store.write([Put(Item(*LAYOUT_KEY, clock.token(), json.dumps({"layout": LAYOUT})))])
        create_table(wire, TABLE)  # finds it as it would have made it, but for a token of chance
        made = bucket(s3_url)
        stage = Stage(store, PassingWakes(clock), S3Blobs(s3, BUCKET, PREFIX), clock, deployed=True)
        found = expected(stage, played(stage))
        items = sorted(scanned(wire, TABLE), key=lambda item: (item["pk"]["S"], item["sk"]["S"]))
        write(folder / "table.jsonl", "".join(json.dumps(item, sort_keys=True) + "\n" for item in items).encode())
        for entry in made.list_objects_v2(Bucket=BUCKET)["Contents"]:
            write(folder / "bucket" / entry["Key"], made.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())
        wire.json("dynamodb", "DeleteTable", {"TableName": TABLE}, TABLE)
    finally:
        wire.close()
        s3.close()
    return found


def bucket(url: str) -> Any:
    """A client of S3, with the bucket made and empty."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name=KEYS["AWS_REGION"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    return client


def scanned(wire: Wire, table: str) -> list[dict[str, Any]]:
    """Every item of a table, as DynamoDB returns it."""
    found: list[dict[str, Any]] = []
    request: dict[str, Any] = {"TableName": table, "ConsistentRead": True}
    for _ in range(MAX_PAGES):
        reply = wire.json("dynamodb", "Scan", request, table)
        found += map(in_order, reply["Items"])
        if "LastEvaluatedKey" not in reply:
            return found
        request["ExclusiveStartKey"] = reply["LastEvaluatedKey"]
    raise AssertionError(f"the table {table} has more than {MAX_PAGES:,} pages")


def in_order(item: dict[str, Any]) -> dict[str, Any]:
    """An item with the members of its sets in order: theirs is of no meaning."""
    return {name: {"SS": sorted(value["SS"])} if "SS" in value else value for name, value in item.items()}


def write(path: Path, content: bytes) -> None:
    """Write a compressed file beside which no time stands."""
    path = path.with_name(f"{path.name}.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, mtime=0))


def shown(found: dict[str, Any]) -> str:
    """JSON whose last field is a list, with an entry in each line."""
    *fields, (last, entries) = found.items()
    lines = [json.dumps(name) + ": " + json.dumps(value) for name, value in fields]
    lines.append(f"{json.dumps(last)}: [\n" + ",\n".join(map(json.dumps, entries)) + "\n]")
    return "{" + ",\n".join(lines) + "}\n"


def make(folder: Path, dynamodb_url: str, s3_url: str) -> None:
    """Write everything into the folder."""
    with no_places():
        found, in_table = make_file(folder), make_table(folder, dynamodb_url, s3_url)
    assert found["at_ms"] == in_table["at_ms"], "the same stories took another time"
    for entry, other in zip(found["runs"], in_table["runs"], strict=True):
        entry["before"] = {"file": entry["before"], "table": other["before"]}
        assert entry == {**other, "before": entry["before"]}, f"{entry['story']} comes to something else in the table"
    (folder / "expected.json").write_text(shown(found))


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the golden stores of this release.")
    parser.add_argument("--force", action="store_true", help="make them again, where this release is not out yet")
    options = parser.parse_args()
    folder = HERE / __version__
    if folder.exists() and not options.force:
        print(
            f"{folder.name} has its golden stores: those of a release that is out are never made again. "
            f"Raise the version, or, where {folder.name} is not out, say --force",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as scratch, servers.dynoxide() as dynamodb_url, servers.moto() as s3_url:
        made = Path(scratch) / "made"
        made.mkdir()
        make(made, dynamodb_url, s3_url)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
    sizes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"made {folder.relative_to(Path.cwd())}: {sizes:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
