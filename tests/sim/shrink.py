"""Makes a failing story small: fewer programs, fewer nodes in them, fewer faults, as long as it still fails in the
same way. What is left is said as one command that tells it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .invariants import Broken
from .story import Story, fails

T = TypeVar("T")
MAX_TELLINGS = 300


def kind_of(error: BaseException | None) -> str | None:
    """What must stay the same while a story is made smaller: the number of the invariant, or the kind of the error."""
    if error is None:
        return None
    return f"invariant {error.number}" if isinstance(error, Broken) else type(error).__name__


class Shrinker:
    def __init__(self, seed: int | str, kind: str, most: int = MAX_TELLINGS) -> None:
        self.seed = seed
        self.kind = kind
        self.left = most

    def still_fails(self, **parts: Any) -> bool:
        if self.left <= 0:
            return False
        self.left -= 1
        return kind_of(fails(lambda: Story(self.seed, **parts))[1]) == self.kind

    def fewest(self, parts: Sequence[T], try_with: Callable[[list[T]], bool]) -> list[T]:
        """The least of these parts with which it still fails: halves are left out, then quarters, and so on (delta
        debugging, Zeller 1999)."""
        kept = list(parts)
        pieces = 2
        while kept and self.left > 0:
            size = -(-len(kept) // pieces)
            for start in range(0, len(kept), size):
                without = kept[:start] + kept[start + size :]
                if try_with(without):
                    kept, pieces = without, max(pieces - 1, 2)
                    break
            else:
                if size == 1:
                    break
                pieces = min(pieces * 2, len(kept))
        return kept


def shrunk(seed: int | str, most: int = MAX_TELLINGS) -> tuple[str, BaseException] | None:
    """The command that tells the small story, and how it fails; None where the story does not fail."""
    whole, error = fails(lambda: Story(seed))
    kind = kind_of(error)
    if error is None or kind is None:
        return None
    shrinker = Shrinker(seed, kind, most)
    numbers = [int(name.rpartition("-")[2]) for name in whole.programs]
    keep = shrinker.fewest(numbers, lambda some: bool(some) and shrinker.still_fails(keep=some))
    struck = whole.chance.struck
    only = shrinker.fewest(struck, lambda some: shrinker.still_fails(keep=keep, only=some))
    if only == struck and not shrinker.still_fails(keep=keep, only=only):
        only = []  # with other faults left out it goes another way: all are kept
        again: dict[str, Any] = {"keep": keep}
    else:
        again = {"keep": keep, "only": only}
    nodes = list(range(1, whole.nodes + 1))
    left = shrinker.fewest(
        nodes, lambda some: shrinker.still_fails(**again, cut=[number for number in nodes if number not in some])
    )
    cut = [number for number in nodes if number not in left]
    if cut and shrinker.still_fails(**again, cut=cut):
        again["cut"] = cut
    _, last = fails(lambda: Story(seed, **again))
    return command(seed, again), last or error


def command(seed: int | str, parts: dict[str, Any]) -> str:
    """The one command that tells this story again."""
    words = [f"python -m tests.sim --seed {seed}"]
    for name, value in parts.items():
        words.append(f"--{name} {','.join(map(str, value))}" if value else f"--{name} none")
    return " ".join(words)
