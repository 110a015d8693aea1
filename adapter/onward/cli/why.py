"""`onward why`: what an unfinished run waits for. Exit codes: 0 it was told, 2 there is no such run or store."""

from __future__ import annotations

import argparse
import contextlib
import json
from datetime import datetime
from typing import Any

from ..clock import SystemClock
from ..engine import why as engine
from ..engine.ledger import Ledger
from .opening import open_store
from .show import plain

MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


def why(options: argparse.Namespace) -> int:
    """Print what a run waits for."""
    clock = SystemClock()
    with contextlib.ExitStack() as stack:
        _, store, blobs = open_store(options, stack)
        told = engine.why(Ledger(store, blobs, clock), options.run, clock.now_ms())
    print(json.dumps(told) if options.json else "\n".join(lines(told, clock.now_ms())))
    return 0


def lines(told: dict[str, Any], now_ms: int, indent: str = "") -> list[str]:
    """The answer as people read it."""
    shown = [f"{indent}run {told['run_id']} of {plain(told['workflow'])}: {told['status']}"]
    for reason in told["reasons"]:
        step = f"{plain(reason['step'])}: " if reason["step"] else ""
        until_ms, at = reason["until_ms"], "at" if reason["kind"] == "ended" else "until"
        when = f", {at} {moment(until_ms, now_ms)}" if until_ms is not None else ""
        shown.append(f"{indent}  {step}{plain(reason['text'])}{when}")
        if reason.get("why"):
            shown += lines(reason["why"], now_ms, indent + "    ")
    if told["more"]:
        shown.append(f"{indent}  ... and {told['more']:,} more steps")
    if told["due_ms"] is not None:
        shown.append(f"{indent}  where nothing happens, the sweep looks after it: {moment(told['due_ms'], now_ms)}")
    return shown


def moment(at_ms: int, now_ms: int) -> str:
    """A time as people read it: by the clock on the wall, and from now."""
    wall = datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    away_s = round(abs(at_ms - now_ms) / 1000)
    return f"{wall} ({'in ' if at_ms > now_ms else ''}{_span(away_s)}{'' if at_ms > now_ms else ' ago'})"


def _span(seconds: int) -> str:
    if seconds < MINUTE_S:
        return f"{seconds} s"
    if seconds < HOUR_S:
        return f"{seconds // MINUTE_S} min {seconds % MINUTE_S} s"
    if seconds < DAY_S:
        return f"{seconds // HOUR_S} h {seconds % HOUR_S // MINUTE_S} min"
    return f"{seconds // DAY_S} d {seconds % DAY_S // HOUR_S} h"
