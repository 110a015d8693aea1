"""`onward cancel`, and `onward retry` of all runs that failed in a period.

On a laptop what follows stands in the store, with its wakes, and `onward resume` does it. For a table the wakes go to
the deployed function. Exit codes: 0 done (or nothing to do), 1 some runs were left as they are,
2 the request cannot be carried out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from ..core.errors import InvalidOption, UnknownRun
from ..core.ids import is_run_id
from ..core.log import HEAD, head_of, partition_of
from ..engine import bulk
from ..engine.bulk import Chosen
from ..engine.engine import Engine
from .opening import open_engine
from .show import plain

_SPAN = re.compile(r"(\d{1,6})(s|min|h|d)")
_UNITS_S = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}


def cancel(options: argparse.Namespace) -> int:
    """Cancel the runs that are named, or all of a workflow and a time."""
    with contextlib.ExitStack() as stack:
        engine = open_engine(options, stack, with_app=True)
        if options.runs:
            if options.workflow or options.since or options.until:
                raise InvalidOption("name the runs, or choose them by --workflow, --since and --until; not both")
            chosen: Iterable[Chosen] = [_named(engine, run) for run in options.runs]
        elif options.workflow or options.since:
            chosen = bulk.open_runs(engine.ledger, options.workflow, *_period(options, engine.clock.now_ms(), 0))
        else:
            raise InvalidOption("name the runs to cancel, or choose them by --workflow, or by --since")
        return _each(options, chosen, lambda one: bulk.cancel(engine, one), "cancelled")


def retry(options: argparse.Namespace) -> int:
    """Do all runs again that failed in a time."""
    if not options.since:
        raise InvalidOption("name the run to retry, or say since when: --since 2h retries all that failed in that time")
    if options.fill or options.log:
        raise InvalidOption("--fill and --log are for the retry of one run: many are only begun here")
    with contextlib.ExitStack() as stack:
        engine = open_engine(options, stack, with_app=True)
        chosen = bulk.failed_runs(engine.store, options.workflow, *_period(options, engine.clock.now_ms(), None))
        return _each(options, chosen, lambda one: bulk.retry(engine, one, options.once, options.request), "retried")


def _each(options: argparse.Namespace, chosen: Iterable[Chosen], do: Callable[[Chosen], bool], done: str) -> int:
    """Do it to each, and tell what came of it."""
    told, left = [], 0
    for one in chosen:
        if not options.dry_run and one.why is None:
            do(one)
        left += one.why is not None
        result = one.why or (f"would be {done}" if options.dry_run else done)
        told.append({"run_id": one.run, "workflow": one.workflow, "result": result, "fork": one.fork})
        if not options.json:
            print(plain(f"{one.run}  {one.workflow}  {result}{f' as {one.fork}' if one.fork else ''}"))
    if options.json:
        print(json.dumps({"runs": told}))
    else:
        count = f"{len(told) - left:,} run{'' if len(told) - left == 1 else 's'} {'would be ' * options.dry_run}{done}"
        print(f"{count}, {left:,} left as they are" if left else count)
    return 1 if left else 0


def _named(engine: Engine, run: str) -> Chosen:
    head = engine.store.get([(partition_of(run), HEAD)])[0] if is_run_id(run) else None
    if head is None:
        raise UnknownRun(f"there is no run {run!r:.80} in this store")
    return Chosen(run, head_of(head)["workflow"], 0)


def _period(options: argparse.Namespace, now_ms: int, since_ms: int | None) -> tuple[int, int]:
    since_ms = _time_ms("--since", options.since, now_ms) if options.since else since_ms
    until_ms = _time_ms("--until", options.until, now_ms) if options.until else now_ms + 1
    assert since_ms is not None
    if since_ms >= until_ms:
        raise InvalidOption("--since lies before --until")
    return since_ms, until_ms


def _time_ms(option: str, text: str, now_ms: int) -> int:
    """Epoch milliseconds of a time as people type it: so long ago, or a date and time (UTC, if it names no zone)."""
    if span := _SPAN.fullmatch(text):
        return now_ms - int(span[1]) * _UNITS_S[span[2]] * 1000
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidOption(f"{option} takes 30s, 15min, 2h, 3d, or 2026-11-23T07:00 (UTC), not {text!r:.40}") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
