"""`onward why`: what a run waits for, or how it ended. Exit codes: 0 it is said, 2 it cannot be."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from ..clock import SystemClock
from ..engine.ledger import Ledger
from ..engine.why import why as why_of
from . import target
from .opening import open_store
from .show import plain

INDENT = "    "
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def why(options: argparse.Namespace) -> int:
    """Say it, as lines or as one JSON object."""
    workflows = None
    if options.app is not None:
        workflows = {workflow.name for workflow in target.load(options.app)[0]}
    with contextlib.ExitStack() as stack:
        clock = SystemClock()
        _, store, blobs = open_store(options, stack)
        now_ms = clock.now_ms()
        view = why_of(Ledger(store, blobs, clock), options.run, now_ms, workflows)
    if options.json:
        print(json.dumps(view))
        return 0
    for line in lines(view, now_ms):
        print(line)
    return 0


def lines(view: dict[str, Any], now_ms: int) -> Iterator[str]:
    """The answer for a terminal: a line for each reason, and beneath it what another run waits for in turn."""
    yield plain(f"run {view['run_id']} of {view['workflow']} is {view['status']}")
    for reason in view["reasons"]:
        step = f"{reason['step']}: " if reason["step"] is not None else ""
        yield f"{INDENT}{plain(step + reason['text'])}{_times(reason, now_ms)}"
        if reason.get("run") is not None:
            for line in lines(reason["run"], now_ms):
                yield f"{INDENT}{INDENT}{line}"
    for kind, count in view["more"].items():
        yield f"{INDENT}... and {count:,} more ({kind})"
    if view["due_ms"] is not None and any(reason["due_ms"] is not None for reason in view["reasons"]):
        yield f"{INDENT}if nothing happens, the sweep looks after it {when(view['due_ms'], now_ms)}"


def _times(reason: dict[str, Any], now_ms: int) -> str:
    if reason["until_ms"] is not None:
        return f", until {when(reason['until_ms'], now_ms)}"
    if reason["since_ms"] is None:
        return ""
    return f", {'' if reason['kind'] == 'ended' else 'since '}{when(reason['since_ms'], now_ms)}"


def when(at_ms: int, now_ms: int) -> str:
    """A time as the clock on the wall has it, and how far away that is."""
    try:
        at, now = time.localtime(at_ms / 1000), time.localtime(now_ms / 1000)
    except (OverflowError, ValueError, OSError):  # a time that somebody else has written
        return "at no time that a calendar has"
    clock = time.strftime("%H:%M:%S" if at[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", at)
    seconds = round((at_ms - now_ms) / 1000)
    return f"{clock} ({f'in {span(seconds)}' if seconds > 0 else f'{span(-seconds)} ago'})"


def span(seconds: int) -> str:
    """A length of time in its largest unit and the next: 2 h 4 min."""
    for place, (size, unit) in enumerate(_UNITS[:-1]):
        if seconds >= size:
            smaller, name = _UNITS[place + 1]
            rest = seconds % size // smaller
            return f"{seconds // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{seconds} s"
