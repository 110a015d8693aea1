"""The demo, packed and planned by the commands of the README."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.demo.feed import LINES, write
from onward.engine.views import run_view
from tests.infra.transformed import transformed

from .stack import KEYS, Stack

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared" / "data" / "prices.jsonl.gz"
APP = "handlers.demo:app"
LONGEST_S = 120.0
_numbers = itertools.count()

Deploy = Callable[..., Stack]


def onward(*arguments: str) -> str:
    environ = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'adapter'}{os.pathsep}{REPOSITORY}"}
    command = [sys.executable, "-m", "onward", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("build")
    print(onward("package", APP, "--out", str(folder)))
    return {"Step": folder / "step.zip", "Door": folder / "door.zip"}


@pytest.fixture
def deploy(
    packed: dict[str, Path],
    dynoxide_url: str,
    moto_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Deploy]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", moto_url)
    stacks: list[Stack] = []

    def make(*options: str, **more: Any) -> Stack:
        template = json.loads(onward("template", APP, "--json", *options))
        stack = Stack(
            f"demo-{next(_numbers)}",
            transformed(template),
            packed,
            folder=tmp_path_factory.mktemp("stack"),
            dynoxide_url=dynoxide_url,
            moto_url=moto_url,
            **more,
        )
        stacks.append(stack.__enter__())
        return stack

    yield make
    for stack in stacks:
        stack.close()


@pytest.fixture(scope="session")
def prices(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """The real feed where it is there, else one of its shape; and how many SKUs it has."""
    if REAL.exists():
        return str(REAL), 3_938
    path = tmp_path_factory.mktemp("feed") / "prices.jsonl.gz"
    write(LINES["prices"](3_938, 1), path)
    return str(path), 3_938


def ended(stack: Stack, run: str, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """The view of a run when it has ended."""
    until_s = time.monotonic() + LONGEST_S
    with stack.ledger() as ledger:
        while True:
            view = look(ledger, run)
            if view is not None and view["status"] in ("completed", "failed", "cancelled"):
                return view
            assert time.monotonic() < until_s, (view, stack.functions["Step"].log_lines[-30:])
            meanwhile()
            time.sleep(0.05)


def look(ledger: Any, run: str) -> dict[str, Any] | None:
    from onward.core.errors import UnknownRun

    try:
        return run_view(ledger, run)
    except UnknownRun:
        return None
