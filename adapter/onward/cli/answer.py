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
from types import ModuleType

from ..engine import callbacks
from . import target
from .opening import open_engine


def complete(options: argparse.Namespace) -> int:
    """Let a step return this data."""
    data = None if options.data is None else target.event_data(options.data, ModuleType("none"), "")
    with contextlib.ExitStack() as stack:
        return _show(callbacks.complete(open_engine(options, stack), options.token, data), options)


def fail(options: argparse.Namespace) -> int:
    """Let a step fail with this error."""
    with contextlib.ExitStack() as stack:
        return _show(callbacks.fail(open_engine(options, stack), options.token, options.error, options.type), options)


def beat(options: argparse.Namespace) -> int:
    """Keep a callback with `heartbeat=` standing."""
    with contextlib.ExitStack() as stack:
        return _show(callbacks.beat(open_engine(options, stack), options.token), options)


def _show(answer: str, options: argparse.Namespace) -> int:
    print(json.dumps({"answer": answer}) if options.json else answer)
    return 0 if answer == callbacks.ACCEPTED else 1
