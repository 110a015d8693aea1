"""`onward run`, `resume`, `retry` and `rerun`: do runs to their end in this process, and show how they go."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from ..app import App
from ..core.errors import (
    Fault,
    InvalidOption,
    LayoutMismatch,
    MiddlewareFailed,
    Unavailable,
    UnknownRun,
    UnknownWorkflow,
)
from ..core.status import COMPLETED, ENDED
from ..core.values import Event
from ..engine.engine import RUN_STANDS, Engine
from ..engine.ingest import ingest
from ..engine.ledger import Ledger
from ..engine.notes import to_stderr
from ..engine.views import run_view
from ..entry.local import Local
from ..ports import Item, Put, Swap
from . import DEFAULT_STORE, target
from .opening import open_engine, table_of
from .show import Progress, as_json, plain, table

MAX_WORKERS = 64
REFRESH_S = 0.1
LOOK_SHARE = 10  # looking at long logs takes a tenth of the time at most


def run(options: argparse.Namespace) -> int:
    """Send an event and do the runs that it starts."""
    app, module = target.load(options.target)
    data = target.event_data(options.data, module, options.event)
    if not any(workflow.hears(Event(options.event, data, "", 0)) for workflow in app):
        known = ", ".join(sorted({str(trigger) for workflow in app for trigger in workflow.on})) or "none"
        raise UnknownWorkflow(
            f"no workflow of {options.target} is started by event {options.event!r}; known events: {known}"
        )
    local = _open(app, options)
    try:
        _remember(local, options.target)
        event = Event(
            options.event,
            data,
            f"cli-{secrets.token_hex(8)}" if options.id is None else options.id,
            local.clock.now_ms(),
        )
        runs = ingest(local.engine, event)
        local.resume_each(runs)
        return _finish(local, runs, options)
    finally:
        local.close()


def resume(options: argparse.Namespace) -> int:
    """Go on with unfinished runs of a store."""
    app, local = _open_again(options)
    try:
        if options.run is None:
            runs = local.unfinished()
            if not runs:
                print("nothing to resume: every run has ended")
                return 0
        else:
            app[run_view(local.engine.ledger, options.run)["workflow"]]
            runs = [options.run]
        readable = _readable(local, runs)
        if not readable:
            return 2
        local.resume_each(readable)
        code = _finish(local, readable, options)
        return code if len(readable) == len(runs) else 1
    finally:
        local.close()


def retry(options: argparse.Namespace) -> int:
    """Do a run that failed again, from the step that failed it, as a new run."""
    from ..engine import forks

    for option in ("workflow", "since", "until", "dry_run", "once"):
        if getattr(options, option):
            raise InvalidOption(f"--{option.replace('_', '-')} is for a retry of many: leave out the run")
    return _fork(options, lambda engine: forks.retry(engine, options.run, request=options.request))


def rerun(options: argparse.Namespace) -> int:
    """Do a run that has ended again, from a step or from its start, as a new run."""
    from ..engine import forks

    changed: dict[str, Any] = {}
    if options.data is not None:
        changed["data"] = target.json_of("--data", options.data)
    if options.input is not None:
        given = target.json_of("--input", options.input)
        if not isinstance(given, list | dict):
            raise InvalidOption("--input takes a JSON list (the step's arguments) or an object (its keyword arguments)")
        changed["args" if isinstance(given, list) else "kwargs"] = given
    return _fork(
        options,
        lambda engine: forks.fork(engine, options.run, options.step, request=options.request, **changed),
    )


def _fork(options: argparse.Namespace, make: Callable[[Engine], str]) -> int:
    """Make a fork, and do it to its end, or where it is one of a table, wake it; the exit code."""
    if table_of(options):
        with contextlib.ExitStack() as stack:
            run = make(open_engine(options, stack, with_app=True))
        print(json.dumps({"run_id": run}) if options.json else f"run {run} was begun")
        return 0
    options.store = options.store or DEFAULT_STORE
    app, local = _open_again(options)
    try:
        app[run_view(local.engine.ledger, options.run)["workflow"]]
        run = make(local.engine)
        local.resume_each([run])
        return _finish(local, [run], options)
    finally:
        local.close()


def _open_again(options: argparse.Namespace) -> tuple[App, Local]:
    """A store that is there, with the app that is named or that it was last used with."""
    from pathlib import Path

    if not Path(options.store).exists():
        raise UnknownRun(f"there is no store {options.store!r}: name the file with --store")
    named = options.app
    if named is None:
        peek = _open(App("peek"), options)
        try:
            named = target.remembered(peek.store, options.store)
        finally:
            peek.close()
    app, _ = target.load(named)
    return app, _open(app, options)


def _readable(local: Local, runs: list[str]) -> list[str]:
    """Those of the runs whose logs can be read; the others, which somebody edited or whose values need a key that is
    not here, are named on standard error."""
    found = []
    for run in runs:
        try:
            run_view(local.engine.ledger, run)
            _try_middleware(local.engine.ledger, run)
            found.append(run)
        except (Fault, LayoutMismatch, UnknownRun) as error:
            if isinstance(error, Unavailable):
                raise
            print("onward:", plain(f"run {run} is left as it is: {error}"), file=sys.stderr)
    return found


def _try_middleware(ledger: Ledger, run: str) -> None:
    """Raise `MiddlewareFailed` where not even the event of the run can be decoded here: it would stand."""
    fold = ledger.load(run)
    try:
        if fold is not None:
            ledger.event_text(fold)
    except MiddlewareFailed:
        raise
    except Fault:
        pass  # the run fails with it, and says so


def _told_of_runs_that_stand(level: str, message: str, **fields: object) -> None:
    """Without --log, the one line that must be seen: nothing else would say why the command does not end."""
    if message == RUN_STANDS:
        print("onward:", plain(f"run {fields['run_id']} stands: {fields['reason']}"), file=sys.stderr)


def _open(app: App, options: argparse.Namespace) -> Local:
    if not 1 <= options.workers <= MAX_WORKERS:
        raise InvalidOption(f"--workers takes 1 to {MAX_WORKERS}, not {options.workers}")
    note = to_stderr(app.name) if options.log else _told_of_runs_that_stand
    return Local(app, options.store, fill=True if options.fill else None, note=note)


def _remember(local: Local, name: str) -> None:
    """Note the app in the store, so that `resume` needs no name."""
    body = json.dumps({"target": name})
    item = Item(*target.TARGET_KEY, local.clock.token(), body)
    refused = local.store.write([Put(item)])
    if refused is not None and refused.standing[0] is not None and refused.standing[0].body != body:
        local.store.write([Swap(item, refused.standing[0].token)])


def _finish(local: Local, runs: list[str], options: argparse.Namespace) -> int:
    """Work until the runs have ended; show them; the exit code."""
    with local.workers(options.workers) as wait, Progress(sys.stderr) as progress:
        views, look_s = [run_view(local.engine.ledger, run) for run in runs], 0.0
        while not all(view["status"] in ENDED for view in views) and not _all_held(local, views):
            progress.show(views)
            wait(max(REFRESH_S, LOOK_SHARE * look_s))
            began = time.monotonic()
            views = [
                run_view(local.engine.ledger, view["run_id"]) if view["status"] not in ENDED else view for view in views
            ]
            look_s = time.monotonic() - began
        progress.show(views)
    if local.mischief is not None:
        print(local.mischief.summary(), file=sys.stderr)
    for view in views:
        print(as_json(view) if options.json else table(view))
    return 0 if all(view["status"] == COMPLETED for view in views) else 1


def _all_held(local: Local, views: list[dict[str, Any]]) -> bool:
    """Whether all that has not ended stands, since its workflow is paused; then that is told."""
    left = [view for view in views if view["status"] not in ENDED]
    held = {view["workflow"] for view in left}
    if held - local.engine.paused().keys() or any(local.wakes.of(view["run_id"]) for view in left):
        return False
    for name in sorted(held):
        print("onward:", plain(f"workflow {name} is paused: `onward unpause {name}` lets it go on"), file=sys.stderr)
    return True
