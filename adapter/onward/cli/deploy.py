"""`onward template` and `onward package`: from an app to what a deploy takes. Neither talks to AWS."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..core.errors import InvalidOption
from . import target

DEFAULT_FOLDER = "build"
KINDS = {"Step": "step", "Door": "door"}


def template(options: argparse.Namespace) -> int:
    """Write the SAM template of an app."""
    from ..deploy.package import this_runtime
    from ..deploy.plan import Options, plan
    from ..deploy.sam import template as sam_template
    from ..deploy.sam import to_yaml

    app, _ = target.load(options.target)
    made = plan(
        app,
        Options(
            options.target,
            runtime=options.runtime or this_runtime(),
            memory_mb=options.memory,
            timeout_s=options.timeout,
            env=_environment(options.env),
            policies=tuple(options.policy),
            door=not options.no_door,
            disposable=options.disposable,
            snapstart=options.snapstart,
            tracing=options.tracing,
        ),
    )
    content = sam_template(made, {name: f"{options.code}/{kind}.zip" for name, kind in KINDS.items()})
    text = json.dumps(content, indent=2) + "\n" if options.json else to_yaml(content)
    if options.out is None:
        sys.stdout.write(text)
        return 0
    path = Path(options.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(made.resources)} resources")
    return 0


def package(options: argparse.Namespace) -> int:
    """Make the zips of an app's functions, and say what is in them."""
    from ..deploy.package import package as make

    target.load(options.target)  # an app that cannot be imported here cannot be there
    folder = Path(options.out)
    for kind in ("step",) if options.no_door else ("step", "door"):
        made = make(
            options.target,
            folder / f"{kind}.zip",
            kind=kind,
            runtime=options.runtime,
            requirements=Path(options.requirements) if options.requirements else None,
            include=options.include,
        )
        print(f"{made.path}: {made.zipped_bytes:,} bytes")
        for part in made.parts:
            inside = f", of which the engine {made.engine_bytes:,}" if part.name == "onward" else ""
            print(f"  {part.name:24} {part.zipped_bytes:>12,}   {part.unzipped_bytes:>12,} unpacked{inside}")
        for remark in made.remarks:
            print(f"  ! {remark}")
    return 0


def _environment(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidOption(f"--env takes NAME=VALUE, not {pair!r:.80}")
        found[name] = value
    return found


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The two commands."""
    write = commands.add_parser(
        "template",
        help="write the SAM template of an app",
        description="Write the SAM template of an app: its table, functions, queues, bus, and a rule or schedule for "
        "each of its triggers. `onward package` makes the code that it names. Nothing is sent to AWS.",
    )
    write.add_argument("target", metavar="TARGET", help="the app, as module:variable (handlers.demo:app)")
    write.add_argument("--out", metavar="FILE", help="where to (default: standard output)")
    write.add_argument(
        "--code", metavar="FOLDER", default=DEFAULT_FOLDER, help="where the zips are (default: %(default)s)"
    )
    write.add_argument(
        "--memory", type=int, default=512, metavar="MB", help="of the step function (default: %(default)s)"
    )
    write.add_argument(
        "--timeout", type=int, default=60, metavar="S", help="of the step function (default: %(default)s)"
    )
    write.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the step function"
    )
    write.add_argument(
        "--policy", action="append", default=[], metavar="ARN", help="a managed policy that your steps need"
    )
    write.add_argument("--disposable", action="store_true", help="to try it: table and bucket go with the stack")
    write.add_argument(
        "--snapstart", action="store_true", help="start from snapshots (python3.12 or newer; costs extra)"
    )
    write.add_argument("--tracing", action="store_true", help="X-Ray traces (they cost extra)")
    write.add_argument("--json", action="store_true", help="as JSON")
    write.set_defaults(command=template)

    make = commands.add_parser(
        "package",
        help="make the zips that are deployed, as small as can be",
        description="Make the zips of an app's functions: Onward's own part as bytecode, your top-level package, and "
        "what your requirements name. Says what takes how much.",
    )
    make.add_argument("target", metavar="TARGET", help="the app, as module:variable (handlers.demo:app)")
    make.add_argument("--out", metavar="FOLDER", default=DEFAULT_FOLDER, help="where to (default: %(default)s)")
    make.add_argument("--requirements", metavar="FILE", help="what your steps import, as pip takes it")
    make.add_argument(
        "--include", action="append", default=[], metavar="MODULE", help="another top-level module of yours"
    )
    make.set_defaults(command=package)
    for command in (write, make):
        command.add_argument(
            "--runtime", metavar="NAME", help="python3.13 and so on (default: what this command runs on)"
        )
        command.add_argument("--no-door", action="store_true", help="without the HTTP door")
        command.add_argument("--debug", action="store_true", help="show tracebacks")
