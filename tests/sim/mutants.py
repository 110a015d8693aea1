"""The mutation check: break the engine on purpose, in one place at a time, and see that the suite finds it.

    python -m tests.sim.mutants                 all of them, with what found each
    python -m tests.sim.mutants 1 12 fence      those of these numbers, and those with that word in their names

Each breakage is made in a copy of the package. Then the hunters go after it, one after the other, the quickest first:
the simulator on fixed seeds, then the rest of the suite. One that nobody finds is the news, and the exit code is 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .breakages import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "adapter" / "onward"
SIMULATION = ["-m", "tests.sim", "--first", "0", "--stories", "300", "--seconds", "90", "--as-is"]
SUITES = (
    "tests/rules tests/core",
    "tests/sim/test_pairs.py tests/sim/test_zombies.py",
    "tests/contract tests/aws -k (not(moto))",
    "tests/cases -k (not(dynamodb))",
    "tests/security",
)
LONGEST_S = 400
NOTHING = Mutant("nothing", "engine/engine.py", "class Engine:", "class Engine:")
WORKERS = 2


def broken_copy(mutant: Mutant, folder: Path) -> Path:
    """A source root with the package, broken. Raises `ValueError` where the place to break is not there once."""
    root = folder / "adapter"
    shutil.copytree(PACKAGE, root / "onward", ignore=shutil.ignore_patterns("__pycache__"))
    path = root / "onward" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} has {text.count(mutant.old)} places to break for «{mutant.name}»")
    path.write_text(text.replace(mutant.old, mutant.new))
    return root


def hunt(mutant: Mutant) -> str | None:
    """What found it, or None."""
    with tempfile.TemporaryDirectory(prefix="onward-mutant-") as folder:
        root = broken_copy(mutant, Path(folder))
        environment = {
            **os.environ,
            "PYTHONPATH": f"{root}{os.pathsep}{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ONWARD_SIM_FRESH_S": "1",
        }
        found = _run(SIMULATION, environment)
        if found is not None:
            return f"simulator: {_last(found, 'breaks: ')}"
        for suite in SUITES:
            paths, _, only = suite.partition(" -k ")
            there = [path for path in paths.split() if (ROOT / path).exists()]
            command = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={root} ."]
            found = _run([*command, *(["-k", only] if only else []), *there], environment) if there else None
            if found is not None:
                return _last(found, "FAILED ", "ERROR ")
    return None


def _run(arguments: list[str], environment: dict[str, str]) -> str | None:
    """What a hunter printed, if it found something."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        return f"FAILED no end within {LONGEST_S} s: {' '.join(arguments[-3:])}"
    return None if done.returncode == 0 else done.stdout + done.stderr


def _last(text: str, *marks: str) -> str:
    lines = [line.partition(mark)[2] for line in text.splitlines() for mark in marks if mark in line]
    return (lines or text.splitlines() or ["?"])[-1][:110]


def main(chosen: list[str]) -> int:
    """Hunt the chosen ones, or all. First the hunters are let loose on the package as it is: they must find nothing."""
    numbered = [
        (number, mutant)
        for number, mutant in enumerate(MUTANTS, 1)
        if not chosen or str(number) in chosen or any(not word.isdigit() and word in mutant.name for word in chosen)
    ]
    began = time.monotonic()
    missed = []
    if not chosen:
        false_alarm = hunt(NOTHING)
        if false_alarm is not None:
            print(f"nothing was broken, and yet found by {false_alarm}")
            return 1
    with ThreadPoolExecutor(WORKERS) as pool:
        hunts = [(number, mutant, pool.submit(hunt, mutant)) for number, mutant in numbered]
        for number, mutant, task in hunts:
            found = task.result()
            print(f"{number:>3}  {mutant.name}\n       {'found by ' + found if found else 'NOT FOUND'}", flush=True)
            if found is None:
                missed.append(mutant.name)
    print(f"{len(numbered) - len(missed)} of {len(numbered)} breakages found, {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
