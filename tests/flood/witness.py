"""Who counts the effects: a file to which each is appended as one line, by one call of the operating system, so that
no kill tears a line and no line is lost with its process."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

VARIABLE = "FLOOD_WITNESS"


class Witness:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    @classmethod
    def of_environment(cls) -> Witness:
        return cls(os.environ.get(VARIABLE, os.devnull))

    def saw(self, run: str, step: str, attempt: int) -> None:
        os.write(self._file, f"{run} {step} {attempt}\n".encode())


def performed(path: str | os.PathLike[str]) -> Counter[tuple[str, str]]:
    """How often each (run, step) was performed."""
    lines = Path(path).read_text().splitlines()
    return Counter((run, step) for run, step, _ in map(str.split, lines))
