"""The list of the mutation check is true: each place that it breaks is there, once. `make mutants` runs it whole."""

from __future__ import annotations

import pytest

from .breakages import MUTANTS, Mutant
from .mutants import broken_copy, hunt

LEAST = 25


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_place_to_break_is_there(mutant: Mutant, tmp_path) -> None:
    root = broken_copy(mutant, tmp_path)
    compile((root / "onward" / mutant.file).read_text(), mutant.file, "exec")


def test_there_are_enough_of_them_and_no_two_are_the_same() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= LEAST
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["a result is visible before it was observed", "a cancel leaves the lanes open"])
def test_two_of_them_are_hunted_down(name: str) -> None:
    [mutant] = [mutant for mutant in MUTANTS if mutant.name == name]
    assert (hunt(mutant) or "").startswith("simulator: ")
