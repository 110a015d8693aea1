"""`onward pause` and `onward unpause`. Exit codes: 0 done, 2 the request cannot be carried out."""

from __future__ import annotations

import argparse
import contextlib
import json
import time

from ..core.errors import UnknownWorkflow
from ..engine import pause as engine_pause
from ..engine.engine import Engine
from .opening import open_engine
from .show import plain
from .why import when


def pause(options: argparse.Namespace) -> int:
    """Pause a workflow; without its name, say which are paused."""
    with contextlib.ExitStack() as stack:
        engine = open_engine(options, stack)
        if options.workflow is not None:
            _check(engine, options)
            engine_pause.pause(engine, options.workflow)
        return _show(engine, options)


def unpause(options: argparse.Namespace) -> int:
    """Let a workflow go on, and wake its runs when every process knows of that."""
    with contextlib.ExitStack() as stack:
        engine = open_engine(options, stack)
        _check(engine, options)
        since_ms = engine_pause.unpause(engine, options.workflow)
        if since_ms is None:
            if not options.json:
                print(plain(f"{options.workflow} is not paused"))
            return _show(engine, options)
        if not options.json:
            wait_s = engine_pause.UNTIL_KNOWN_MS // 1000
            print(plain(f"{options.workflow} goes on; its runs are woken in {wait_s} s, when every process knows"))
        time.sleep(engine_pause.UNTIL_KNOWN_MS / 1000)
        woken = engine_pause.wake_held(engine, options.workflow)
        if options.json:
            print(json.dumps({"woken": woken}))
        else:
            print(f"{woken:,} run{'' if woken == 1 else 's'} woken")
        return 0


def _check(engine: Engine, options: argparse.Namespace) -> None:
    """Where an app is named, it has the workflow; without one nobody can tell."""
    if options.app is not None and options.workflow not in engine_pause.paused(engine.store):
        try:
            engine.app[options.workflow]
        except UnknownWorkflow as error:
            raise UnknownWorkflow(f"{error}; nothing was paused") from None


def _show(engine: Engine, options: argparse.Namespace) -> int:
    names, now_ms = engine_pause.paused(engine.store), engine.clock.now_ms()
    if options.json:
        print(json.dumps({"paused": names}))
        return 0
    for name, since_ms in names.items():
        print(plain(f"{name} is paused, {when(since_ms, now_ms)}"))
    if not names:
        print("no workflow is paused")
    return 0
