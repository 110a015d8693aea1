"""Every ordered pair of acts on one run, raced at every request, comes to what the table says. `ONWARD_SIM_FULL=1`
takes every place on every shape, in both kinds of workflow and on both stores; without it some take turns."""

from __future__ import annotations

import contextlib
import os

import pytest

from .pairs import ACTS, PARALLEL, SEQUENCE, SHAPES, TABLE, WIDE, markdown
from .ring import Race, outcomes, race
from .stage import Place
from .story import small_plans

FULL = bool(os.environ.get("ONWARD_SIM_FULL"))
PLACES = 1 if FULL else 5  # every so many, on wide plans and on SQLite (an odd number: both sides take turns)
KINDS = (False, True)
each_pair = pytest.mark.parametrize(("first", "second"), TABLE, ids=[f"{first}-{second}" for first, second in TABLE])


def raced(what: Race, every: int = 1) -> set[str]:
    """What came of it at every so many places, all of it lawful."""
    row = TABLE[what.first, what.second]
    found = set()
    with small_plans() if what.shape == WIDE else contextlib.nullcontext():
        for place, outcome in outcomes(what, every):
            assert outcome in row.of(what.shape), (
                f"{what} held {place!r} came to {outcome}; lawful is {row.of(what.shape)}, for {row.why}"
            )
            found.add(outcome)
    return found


@each_pair
@pytest.mark.parametrize("shape", [SEQUENCE, PARALLEL])
def test_a_pair_comes_to_what_is_lawful_and_to_all_of_it(first: str, second: str, shape: str) -> None:
    by_kind = {is_async: raced(Race(first, second, shape, is_async)) for is_async in KINDS}
    assert set().union(*by_kind.values()) >= TABLE[first, second].surely(shape), "the table allows what never happens"
    assert by_kind[False] == by_kind[True], "sync and async workflows come to different ends"


@each_pair
def test_a_pair_in_a_wide_plan_comes_to_what_is_lawful(first: str, second: str) -> None:
    for is_async in KINDS if FULL else [ACTS.index(first) % 2 == 0]:
        raced(Race(first, second, WIDE, is_async), PLACES)


@each_pair
def test_a_pair_on_sqlite_comes_to_what_is_lawful(first: str, second: str) -> None:
    shapes = SHAPES if FULL else [SHAPES[(ACTS.index(first) + ACTS.index(second)) % len(SHAPES)]]
    for shape in shapes:
        for is_async in KINDS if FULL else [ACTS.index(second) % 2 == 0]:
            raced(Race(first, second, shape, is_async, on_sqlite=True), PLACES)


# ------------------------------------------------------------------------------------- what these tests rest upon
def test_the_table_has_a_row_for_each_ordered_pair() -> None:
    assert list(TABLE) == [(first, second) for first in ACTS for second in ACTS]
    assert markdown().count("\n") == len(TABLE) + 1


@pytest.mark.parametrize("on_sqlite", [False, True])
def test_an_act_is_held_at_what_it_asks_of_the_store(on_sqlite: bool) -> None:
    what = Race("cancel", "complete", SEQUENCE, is_async=False, on_sqlite=on_sqlite)
    found = [outcome for _, outcome in outcomes(what)]
    assert len(found) >= 4 and found[:-1] == ["dC1"] * (len(found) - 1), "as long as the cancel is not applied"
    assert found[-1] == "X0", "and when it is, although it has not heard of it"
    assert race(what, Place(len(found) // 2 + 1, "before")) is None
