"""Open the store or table that a command looks at, or works on."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..app import App
from ..clock import SystemClock
from ..core.errors import InvalidOption, Misconfigured, UnknownRun
from ..engine.engine import Engine
from ..local.blobs import FolderBlobs
from ..local.store import SqliteStore
from ..local.wakes import SqliteWakes
from . import DEFAULT_STORE, target

if TYPE_CHECKING:
    from ..aws.blobs import S3Blobs
    from ..aws.dynamodb import DynamoStore
    from ..aws.wire import Wire
    from ..ports import Blobs, Store


def open_store(options: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[str, Store, Blobs]:
    """A store to be looked at, as `--store` or `--table` names it: in words, and its ports. Nothing is made where
    nothing is, and nothing is written."""
    table = table_of(options)
    if not table:
        path = _file_of(options)
        store = SqliteStore(path, read_only=True)
        stack.callback(store.close)
        return f"store {path!r}", store, FolderBlobs(f"{path}.blobs")
    _, items, blobs = _open_table(options, table, stack)
    return f"table {table!r}", items, blobs or _NoBucket()


def open_engine(options: argparse.Namespace, stack: contextlib.ExitStack, with_app: bool = False) -> Engine:
    """An engine over the store that is named, to write there and wake runs: on a laptop by a wake in the store file,
    for a table by one to the deployed function (`--function`). `with_app`: what is done asks for the app, `--app` or
    the one that the store was last used with; else, without `--app`, the engine has no workflows."""
    app = App("commands") if options.app is None else target.load(options.app)[0]
    table, clock = table_of(options), SystemClock()
    if not table:
        path = _file_of(options)
        store = SqliteStore(path)
        stack.callback(store.close)
        if with_app and options.app is None:
            app = target.load(target.remembered(store, path))[0]
        return Engine(app, store, SqliteWakes(store, clock), FolderBlobs(f"{path}.blobs"), clock)
    function = options.function or os.environ.get("ONWARD_FUNCTION")
    if not function:
        raise InvalidOption(
            f"this wakes the function that works on table {table!r}: name it with --function (or ONWARD_FUNCTION), "
            f"with its alias if it has one"
        )
    if with_app and options.app is None:
        raise InvalidOption(f"name the app that works on table {table!r} with --app module:variable")
    from ..aws.wakes import LambdaWakes

    wire, items, blobs = _open_table(options, table, stack)
    return Engine(app, items, LambdaWakes(wire, function, clock=clock), blobs, clock)


def table_of(options: argparse.Namespace) -> str | None:
    return options.table or (None if options.store else os.environ.get("ONWARD_TABLE"))


def _file_of(options: argparse.Namespace) -> str:
    if options.bucket is not None or options.prefix is not None:
        raise InvalidOption("--bucket and --prefix belong to a table: name it with --table (or ONWARD_TABLE)")
    path: str = options.store or DEFAULT_STORE
    if not Path(path).exists():
        raise UnknownRun(f"there is no store {path!r}: name the file with --store, or a table with --table")
    return path


def _open_table(
    options: argparse.Namespace, table: str, stack: contextlib.ExitStack
) -> tuple[Wire, DynamoStore, S3Blobs | None]:
    from ..aws.blobs import S3Blobs
    from ..aws.dynamodb import DynamoStore
    from ..aws.table import check_layout
    from ..aws.wire import Wire

    wire = Wire()
    stack.callback(wire.close)
    items = DynamoStore(wire, table)
    check_layout(items, mark=False)
    bucket = os.environ.get("ONWARD_BUCKET") if options.bucket is None else options.bucket
    prefix = os.environ.get("ONWARD_PREFIX", "") if options.prefix is None else options.prefix
    return wire, items, S3Blobs(wire, bucket, prefix) if bucket else None


class _NoBucket:
    """Stands where no bucket was named. A value that is kept in one is then no fault of its run."""

    def get(self, reference: str) -> bytes:
        raise Misconfigured(
            "a run has a value that is kept in S3: name the bucket of the deployed function with --bucket "
            "(or ONWARD_BUCKET), and --prefix if it has one"
        )

    def put(self, content: bytes) -> str:
        raise Misconfigured("a check stores nothing")
