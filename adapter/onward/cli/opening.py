"""Open the store or table that a command looks at, and changes nothing in."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InvalidOption, Misconfigured, UnknownRun
from ..local.blobs import FolderBlobs
from ..local.store import SqliteStore
from . import DEFAULT_STORE

if TYPE_CHECKING:
    from ..ports import Blobs, Store


def open_store(options: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[str, Store, Blobs]:
    """A store to be looked at, as `--store` or `--table` names it: in words, and its ports. Nothing is made where
    nothing is, and nothing is written."""
    table = options.table or (None if options.store else os.environ.get("ONWARD_TABLE"))
    if table is None or not table:
        if options.bucket is not None or options.prefix is not None:
            raise InvalidOption("--bucket and --prefix belong to a table: name it with --table (or ONWARD_TABLE)")
        path = options.store or DEFAULT_STORE
        if not Path(path).exists():
            raise UnknownRun(f"there is no store {path!r}: name the file with --store, or a table with --table")
        store = SqliteStore(path, read_only=True)
        stack.callback(store.close)
        return f"store {path!r}", store, FolderBlobs(f"{path}.blobs")
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
    return f"table {table!r}", items, S3Blobs(wire, bucket, prefix) if bucket else _NoBucket()


class _NoBucket:
    """Stands where no bucket was named. A value that is kept in one is then no fault of its run."""

    def get(self, reference: str) -> bytes:
        raise Misconfigured(
            "a run has a value that is kept in S3: name the bucket of the deployed function with --bucket "
            "(or ONWARD_BUCKET), and --prefix if it has one"
        )

    def put(self, content: bytes) -> str:
        raise Misconfigured("a check stores nothing")
