"""What the seed decides.

Each kind of decision draws from a stream of its own, so that one fault less does not turn all the others into different
ones. Each fault that strikes has a label, `kind#number`: a story can be told again with only some of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Chance:
    """`rates`: how likely each kind of fault is, each time that it could strike; `budgets`: how often it strikes at
    most. `only`: the labels of the faults that may strike (None: any)."""

    def __init__(
        self,
        seed: int | str,
        rates: Mapping[str, float],
        budgets: Mapping[str, int] | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        self.seed = seed
        self.rates = rates
        self.budgets = budgets or {}
        self.only = only
        self.struck: list[str] = []
        self.counts: Counter[str] = Counter()
        self.calm = False
        self._asked: Counter[str] = Counter()
        self._streams: dict[str, random.Random] = {}

    def stream(self, kind: str) -> random.Random:
        found = self._streams.get(kind)
        if found is None:
            found = self._streams[kind] = random.Random(f"{self.seed}/{kind}")
        return found

    def strikes(self, kind: str) -> bool:
        """Whether a fault of this kind strikes now."""
        rate = self.rates.get(kind, 0.0)
        if not rate:
            return False
        drawn = self.stream(kind).random() < rate
        self._asked[kind] += 1
        if not drawn or self.calm or self.counts[kind] >= self.budgets.get(kind, 1 << 30):
            return False
        label = f"{kind}#{self._asked[kind]}"
        if self.only is not None and label not in self.only:
            return False
        self.struck.append(label)
        self.counts[kind] += 1
        return True

    def between(self, kind: str, low: int, high: int) -> int:
        return self.stream(kind).randint(low, high)

    def one_of(self, kind: str, options: Sequence[T]) -> T:
        return self.stream(kind).choice(options)

    def token(self, kind: str) -> str:
        return f"{self.stream(kind).getrandbits(80):020x}"[:16]


def picker(random_: random.Random) -> Any:
    """`pick(options)` for `programs.py`, from a random generator."""
    return random_.choice
