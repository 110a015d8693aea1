"""`onward complete`, `onward fail` and `onward beat`: answer a callback, by its token.

On a laptop the answer stands in the store, with a wake for the run: a process that works on the store goes on with it,
or `onward resume` does. For a table the wake goes to the deployed function.

Exit codes: 0 the answer counts, 1 it does not (another was given before, or nobody waits any more), 2 there is no such
callback, or the answer cannot be given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path
from types import ModuleType

from ..app import App
from ..clock import SystemClock
from ..core.errors import InvalidOption, UnknownRun
from ..engine import callbacks
from ..engine.engine import Engine
from ..local.blobs import FolderBlobs
from ..local.store import SqliteStore
from ..local.wakes import SqliteWakes
from . import DEFAULT_STORE, target


def complete(options: argparse.Namespace) -> int:
    """Let a step return this data."""
    data = None if options.data is None else target.event_data(options.data, ModuleType("none"), "")
    with contextlib.ExitStack() as stack:
        return _show(callbacks.complete(_engine(options, stack), options.token, data), options)


def fail(options: argparse.Namespace) -> int:
    """Let a step fail with this error."""
    with contextlib.ExitStack() as stack:
        return _show(callbacks.fail(_engine(options, stack), options.token, options.error, options.type), options)


def beat(options: argparse.Namespace) -> int:
    """Keep a callback with `heartbeat=` standing."""
    with contextlib.ExitStack() as stack:
        return _show(callbacks.beat(_engine(options, stack), options.token), options)


def _show(answer: str, options: argparse.Namespace) -> int:
    print(json.dumps({"answer": answer}) if options.json else answer)
    return 0 if answer == callbacks.ACCEPTED else 1


def _engine(options: argparse.Namespace, stack: contextlib.ExitStack) -> Engine:
    """An engine over the store that is named. It has no workflows: an answer starts none."""
    app, clock = App("answers"), SystemClock()
    table = options.table or (None if options.store else os.environ.get("ONWARD_TABLE"))
    if not table:
        path = options.store or DEFAULT_STORE
        if not Path(path).exists():
            raise UnknownRun(f"there is no store {path!r}: name the file with --store, or a table with --table")
        store = SqliteStore(path)
        stack.callback(store.close)
        return Engine(app, store, SqliteWakes(store, clock), FolderBlobs(f"{path}.blobs"), clock)
    function = options.function or os.environ.get("ONWARD_FUNCTION")
    if not function:
        raise InvalidOption(
            f"the answer must wake the function that works on table {table!r}: name it with --function "
            f"(or ONWARD_FUNCTION), with its alias if it has one"
        )
    from ..aws.blobs import S3Blobs
    from ..aws.dynamodb import DynamoStore
    from ..aws.table import check_layout
    from ..aws.wakes import LambdaWakes
    from ..aws.wire import Wire

    wire = Wire()
    stack.callback(wire.close)
    items = DynamoStore(wire, table)
    check_layout(items, mark=False)
    bucket = options.bucket or os.environ.get("ONWARD_BUCKET")
    prefix = os.environ.get("ONWARD_PREFIX", "") if options.prefix is None else options.prefix
    blobs = S3Blobs(wire, bucket, prefix) if bucket else None
    return Engine(app, items, LambdaWakes(wire, function, clock=clock), blobs, clock)
