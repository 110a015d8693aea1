"""Imports point one way. This reads the sources and names the line that points another.

    core <- ports <- loop, step, middleware, app <- engine <- web <- entry <- dev, cli, testing
            ports, clock <- aws | local              <- entry
            entry <- deploy <- cli           (what stands in an AWS account; nothing that runs sees it)
            ports <- chaos <- local, entry           (what befalls the calls of the ports, where a user asks for it)

A part may import itself and what stands to its left. The wings `aws` and `local` implement the ports and see nothing
else, each other included; only `entry` and what stands behind it sees them. What an annotation alone needs
(`if TYPE_CHECKING:`) is held to the same directions.

Two exceptions are named, not hidden: `App.handler()` opens the front door, lazily, for it is what users write; and
`core/log.py` names the `Item` of the ports in an annotation (a log is folded from items), which no import follows.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "adapter" / "onward"

FOUNDATION = {"core", "ports", "clock"}
USER = {"app", "step", "loop", "flow", "triggers", "middleware"}
MAY_SEE: dict[str, set[str]] = {
    "core": set(),
    "clock": set(),
    "ports": {"core"},
    "chaos": {"core", "ports"},
    "loop": {"core", "ports"},
    "step": {"core", "ports", "loop"},
    "flow": {"core", "step"},
    "triggers": {"core", "step"},
    "middleware": {"core", "ports", "loop", "step"},
    "encryption": {"core", "middleware"},
    "app": {"core", "ports", "loop", "step", "flow", "triggers", "middleware"},
    "engine": {"core", "ports"} | USER,
    "aws": FOUNDATION,
    "local": FOUNDATION | {"chaos"},
    "web": FOUNDATION | USER | {"engine"},
    "deploy": FOUNDATION | USER | {"aws", "entry"},
    "entry": FOUNDATION | USER | {"engine", "web", "aws", "local", "chaos"},
}
FRONT = FOUNDATION | USER | {"engine", "web", "aws", "local", "entry", "chaos"}
MAY_SEE |= {"dev": FRONT | {"cli", "testing"}, "cli": FRONT | {"dev", "testing", "deploy"}, "testing": FRONT}
MAY_SEE |= {"__main__": {"cli"}}
MAY_SEE |= {"": {"app", "step", "core", "flow", "triggers", "middleware", "encryption"}}  # the package itself
LAZY = {("app.py", "entry")}  # inside a function only
FOR_ANNOTATIONS = {("core/log.py", "ports")}  # under `if TYPE_CHECKING:` only
THIRD_PARTY = {
    "encryption": {"cryptography"},
    "aws": {"botocore"},  # the door to credentials that the wire does not know
    "web": {"starlette"},
    "dev": {"starlette", "uvicorn", "boto3", "botocore"},
    "cli": {"boto3", "botocore", "uvicorn"},
    "deploy": {"yaml", "aws_cdk", "constructs"},
    "entry": {"boto3", "botocore", "mangum", "starlette", "aws_lambda_powertools"},  # from mangum on: of the HTTP door
}


class Import:
    """One import: where it stands, the dotted name that it asks for, and when it happens: "early", with its module,
    "lazy", in a function, or "never", under `if TYPE_CHECKING:`."""

    def __init__(self, path: Path, line: int, name: str, when: str) -> None:
        self.path = path
        self.line = line
        self.name = name
        self.when = when

    @property
    def part(self) -> str:
        """The part of the package that imports."""
        first = self.path.relative_to(PACKAGE).parts[0]
        return "" if first == "__init__.py" else first.removesuffix(".py")

    @property
    def seen(self) -> str | None:
        """The part of the package that is imported; None for what is not ours."""
        package, _, rest = self.name.partition(".")
        return rest.partition(".")[0] if package == "onward" else None

    def __str__(self) -> str:
        return f"{self.path.relative_to(REPOSITORY)}:{self.line} imports {self.name}"


def statements(node: ast.AST, when: str = "early") -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """The imports beneath a node, and when each happens."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, when
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from statements(child, "never")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(child, "lazy")
        else:
            yield from statements(child, when)


def imports(path: Path) -> Iterator[Import]:
    package = ["onward", *path.relative_to(PACKAGE).parts[:-1]]
    for node, when in statements(ast.parse(path.read_text())):
        home = ""
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*base, *filter(None, [node.module])]) + "."
        for alias in node.names:  # `from .. import loop` asks for a module, and so may `from ..core import status`
            yield Import(path, node.lineno, home + alias.name, when)


ALL = [found for path in sorted(PACKAGE.rglob("*.py")) for found in imports(path)]


def test_every_part_of_the_package_has_its_directions() -> None:
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    unknown = parts - set(MAY_SEE) - {"__pycache__", "__init__", "py", "py.typed"}
    assert not unknown, f"say in {Path(__file__).name} what these may import: {sorted(unknown)}"


def turned_round(found: list[Import]) -> list[str]:
    """The imports that point the wrong way."""
    named = {(edge, "lazy") for edge in LAZY} | {(edge, "never") for edge in FOR_ANNOTATIONS}
    wrong = []
    for one in found:
        seen = one.seen
        if seen not in MAY_SEE or seen == one.part or seen in MAY_SEE[one.part]:
            continue
        if ((one.path.relative_to(PACKAGE).as_posix(), seen), one.when) not in named:
            wrong.append(f"{one}: {one.part or 'onward'} must not see {seen}")
    return wrong


def test_imports_point_one_way() -> None:
    wrong = turned_round(ALL)
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "name", "when", "is_wrong"),
    [
        ("aws/dynamodb.py", "onward.engine.engine", "early", True),
        ("aws/dynamodb.py", "onward.local.store", "never", True),
        ("local/store.py", "onward.core.errors", "early", False),
        ("engine/engine.py", "onward.chaos", "lazy", True),
        ("chaos.py", "onward.local.store", "early", True),
        ("engine/sweep.py", "onward.aws.wire", "lazy", True),
        ("core/log.py", "onward.ports.Item", "never", False),
        ("core/log.py", "onward.ports.Item", "early", True),
        ("app.py", "onward.entry.aws", "lazy", False),
        ("app.py", "onward.entry.aws", "early", True),
        ("web/pages.py", "onward.entry.aws", "lazy", True),
        ("entry/aws.py", "onward.engine.engine", "early", False),
    ],
)
def test_the_rule_knows_right_from_wrong(file: str, name: str, when: str, is_wrong: bool) -> None:
    told = turned_round([Import(PACKAGE / file, 7, name, when)])
    assert bool(told) is is_wrong
    assert not told or told[0].startswith(f"adapter/onward/{file}:7 imports {name}")


def test_third_parties_come_in_where_they_are_expected() -> None:
    wrong = [
        str(found)
        for found in ALL
        if found.seen is None
        and (top := found.name.partition(".")[0]) not in sys.stdlib_module_names
        and top not in THIRD_PARTY.get(found.part, ())
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("forbidden", ["time", "random", "os", "socket", "threading", "secrets"])
def test_core_takes_no_time_chance_or_environment(forbidden: str) -> None:
    wrong = [str(found) for found in ALL if found.part == "core" and found.name.partition(".")[0] == forbidden]
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_handlers_see_what_users_see() -> None:
    """The demo is copied by users: it imports names of `onward` itself and nothing beneath."""
    wrong = []
    for path in sorted((REPOSITORY / "handlers").rglob("*.py")):
        for node, _ in statements(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            wrong += [f"{path}:{node.lineno} imports {name}" for name in names if name.startswith("onward.")]
    assert not wrong, "\n" + "\n".join(wrong)
