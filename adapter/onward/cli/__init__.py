"""The command `onward`. Exit codes: 0 done, 1 the run failed or was cancelled (`check`: some runs would diverge;
`complete`, `fail`, `beat`: the answer does not count), 2 the request cannot be carried out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..core.errors import OnwardError

DEFAULT_STORE = ".onward/store.db"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. `python -m onward` and the script `onward` end here."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.command(options)
        return code
    except OnwardError as error:
        if options.debug:
            raise
        from .show import plain

        lines = [line.strip() for line in str(error).splitlines()]
        print("onward:", plain(" ".join(filter(None, lines))), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\nonward: stopped; `onward resume --store {options.store or DEFAULT_STORE}` goes on where it stands",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    from .. import __version__
    from . import deploy, runs

    parser = argparse.ArgumentParser(prog="onward", description="Durable workflows for Python on your own AWS account.")
    parser.add_argument("--version", action="version", version=f"onward {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="send an event, and run what it starts to the end, here")
    run.add_argument("target", metavar="TARGET", help="the app, as module:variable (handlers.demo:app)")
    run.add_argument("event", metavar="EVENT", help="the name of the event (pricing/sync.requested)")
    run.add_argument(
        "--data", metavar="JSON", help="the event's data, as JSON or @FILE; without it the app's own sample"
    )
    run.add_argument("--id", metavar="ID", help="the event's id: the same id is the same event, whose run goes on")
    run.set_defaults(command=runs.run)

    resume = commands.add_parser("resume", help="go on with a run that stopped, or with all of them")
    resume.add_argument("run", metavar="RUN", nargs="?", help="the id of the run (default: every unfinished one)")
    resume.add_argument("--app", metavar="TARGET", help="the app (default: the one that the store was last used with)")
    resume.set_defaults(command=runs.resume)

    again = _add_again(commands)
    _add_pauses(commands)

    check = commands.add_parser(
        "check",
        help="replay the unfinished runs of a store against the code that is about to be deployed",
        description="Replay every unfinished run of a store against the code that is about to be deployed, and say "
        "which would diverge and where. Nothing is performed, written or sent. Without --store and --table, the table "
        "that ONWARD_TABLE names is checked, or where that is not set the file .onward/store.db. Exit codes: 0 every "
        "run fits, 1 some would diverge, 2 the check cannot be carried out.",
    )
    check.add_argument("target", metavar="TARGET", help="the app, as module:variable (handlers.demo:app)")
    check.add_argument("--limit", type=int, metavar="N", help="check N runs only; the exit code is about these")
    check.set_defaults(command=_check)

    why = commands.add_parser(
        "why",
        help="what an unfinished run waits for",
        description="Say what an unfinished run waits for: a time, an event, another run and what that waits for, a "
        "limit and its holders, a retry and the last error, a step that is performed now; or how it has ended. Nothing "
        "is written or sent.",
    )
    why.add_argument("run", metavar="RUN", help="the id of the run")
    why.add_argument("--app", metavar="TARGET", help="the app, to say whether it still has the workflow of the run")
    why.set_defaults(command=_why)

    deploy.add_to(commands)
    for command in (check, why):
        _add_place(command)
    _add_answers(commands)
    for command in (run, resume):
        command.add_argument("--store", metavar="FILE", default=DEFAULT_STORE, help="the store (default: %(default)s)")
        command.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    for command in (run, resume, *again):
        command.add_argument("--fill", action="store_true", help="perform steps one after the other in one invocation")
        command.add_argument("--workers", type=int, default=4, metavar="N", help="invocations at a time (default: 4)")
        command.add_argument("--log", action="store_true", help="print the engine's log lines to standard error")
    return parser


def _add_again(commands: Any) -> list[argparse.ArgumentParser]:
    """The commands that end runs, and do them again; those that then work here."""
    retry = commands.add_parser(
        "retry",
        help="do a run that failed again from the step that failed it, as a new run",
        description="Do a run that failed again from the step that failed it. That is a new run: it reuses what the "
        "steps before have returned, and the run that failed stays as it is. The same command again is the same run.",
    )
    rerun = commands.add_parser(
        "rerun",
        help="do a run that has ended again, from any step, as a new run",
        description="Do a run that has ended again from a step, or from its start. That is a new run: it reuses what "
        "the steps before have returned, and the old one stays as it is. The same command again is the same run.",
    )
    rerun.add_argument(
        "--from", dest="step", metavar="STEP", help='the step: "name", or "name (2)" for the second of that name'
    )
    rerun.add_argument("--data", metavar="JSON", help="other data of the event, as JSON or @FILE")
    rerun.add_argument(
        "--input",
        metavar="JSON",
        help="what the step is called with instead: a list of arguments, or an object of keyword arguments; or @FILE",
    )
    retry.add_argument("run", metavar="RUN", nargs="?", help="the id of the run (default: all that failed --since)")
    retry.add_argument("--once", action="store_true", help="of many: also where what failed may run only once")
    rerun.add_argument("run", metavar="RUN", help="the id of the run")
    for command in (retry, rerun):
        command.add_argument("--request", metavar="ID", default="", help="another ID makes another run of the same")

    cancel = commands.add_parser(
        "cancel",
        help="end runs now",
        description="End these runs now, or all unfinished ones of a workflow. Nothing of them is performed or kept "
        "from here on; a step that is being performed is not stopped.",
    )
    cancel.add_argument("runs", metavar="RUN", nargs="*", help="the id of a run")
    cancel.set_defaults(command=_cancel)
    for command, what in ((cancel, "started"), (retry, "failed")):
        command.add_argument("--workflow", metavar="NAME", help=f"all of this workflow that {what} in a time")
        command.add_argument("--since", metavar="TIME", help="from then on: 2h, 3d, or 2026-11-23T07:00 (UTC)")
        command.add_argument("--until", metavar="TIME", help="and before then (default: now)")
        command.add_argument("--dry-run", action="store_true", help="say which these are, and do nothing")
    for command in (cancel, retry, rerun):
        _add_place(command)
        command.add_argument("--app", metavar="TARGET", help="the app (default: the one last used with the store)")
        command.add_argument("--function", metavar="NAME", help="the function to wake (default: ONWARD_FUNCTION)")
    retry.set_defaults(command=_retry)
    rerun.set_defaults(command=_rerun)
    return [retry, rerun]


def _add_pauses(commands: Any) -> None:
    """The commands that let a workflow stand, and go on."""
    pause = commands.add_parser(
        "pause",
        help="let all runs of a workflow stand between two steps, or say which workflows are paused",
        description="Let all runs of a workflow stand: no step of them begins, from 10 seconds after this on. What is "
        "being performed ends and is kept; events are taken in; deadlines pass. Without a name, say what is paused.",
    )
    unpause = commands.add_parser("unpause", help="let a workflow go on, and wake its runs")
    pause.add_argument("workflow", metavar="WORKFLOW", nargs="?", help="the name of the workflow")
    unpause.add_argument("workflow", metavar="WORKFLOW", help="the name of the workflow")
    pause.set_defaults(command=_pause)
    unpause.set_defaults(command=_unpause)
    for command in (pause, unpause):
        _add_place(command)
        command.add_argument("--app", metavar="TARGET", help="the app, to refuse a name that it does not have")
        command.add_argument("--function", metavar="NAME", help="the function to wake (default: ONWARD_FUNCTION)")


def _pause(options: argparse.Namespace) -> int:
    from .pause import pause

    return pause(options)


def _unpause(options: argparse.Namespace) -> int:
    from .pause import unpause

    return unpause(options)


def _add_place(command: argparse.ArgumentParser) -> None:
    """The options that name a store or a table."""
    place = command.add_mutually_exclusive_group()
    place.add_argument("--store", metavar="FILE", help=f"a store file (default: {DEFAULT_STORE})")
    place.add_argument("--table", metavar="NAME", help="a deployed DynamoDB table, in the region AWS_REGION")
    command.add_argument(
        "--bucket", metavar="NAME", help="where the table's values over 64 KiB are kept (default: ONWARD_BUCKET)"
    )
    command.add_argument("--prefix", metavar="TEXT", help="what their keys begin with (default: ONWARD_PREFIX)")
    command.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    command.add_argument("--debug", action="store_true", help="show tracebacks")


def _add_answers(commands: Any) -> None:
    """The commands that answer a callback."""
    for name, told in (
        ("complete", "let the step that waits for a token go on, with data"),
        ("fail", "let the step that waits for a token fail, with an error"),
        ("beat", "say that whoever works on a callback is alive"),
    ):
        command = commands.add_parser(name, help=told)
        command.add_argument("token", metavar="TOKEN", help="the token that the step has handed out")
        if name == "complete":
            command.add_argument(
                "--data", metavar="JSON", help="what the step returns, as JSON or @FILE (default: null)"
            )
        if name == "fail":
            command.add_argument("--error", metavar="TEXT", required=True, help="what went wrong")
            command.add_argument("--type", metavar="NAME", default="CallbackFailed", help="(default: %(default)s)")
        _add_place(command)
        command.add_argument("--app", metavar="TARGET", help="the app, where its middleware encodes values")
        command.add_argument("--function", metavar="NAME", help="the function to wake (default: ONWARD_FUNCTION)")
        command.set_defaults(command=_answer, answer=name)


def _answer(options: argparse.Namespace) -> int:
    from . import answer

    code: int = getattr(answer, options.answer)(options)
    return code


def _cancel(options: argparse.Namespace) -> int:
    from .many import cancel

    return cancel(options)


def _retry(options: argparse.Namespace) -> int:
    from . import many, runs

    if options.run is None:
        return many.retry(options)
    return runs.retry(options)


def _rerun(options: argparse.Namespace) -> int:
    from . import runs

    return runs.rerun(options)


def _check(options: argparse.Namespace) -> int:
    from .check import check

    return check(options)


def _why(options: argparse.Namespace) -> int:
    from .why import why

    return why(options)
