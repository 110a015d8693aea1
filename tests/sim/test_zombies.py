"""Whoever comes back when the run went on without it changes nothing. `ONWARD_SIM_FULL=1` takes every way of every
place; without it the ways take turns over the places."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from itertools import count, islice

import pytest

from tests.corpus import CASES, Case

from .stage import SIDES, Place
from .story import small_plans
from .zombies import (
    NEXT_STEP,
    THE_END,
    Calm,
    Target,
    belated,
    calm,
    check_untouched,
    haunt,
    haunt_cancel,
    is_sweep,
    remember,
    targets,
)

FULL = bool(os.environ.get("ONWARD_SIM_FULL"))
# Every so many places (an odd number, or all would be on one side): of cancels, of sweeps, and of plans that are wide
# only here.
CANCELS = SWEEPS = WIDE = 1 if FULL else 3
MOST_REQUESTS = 40  # of a cancel, which asks again when the run went on meanwhile
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@contextlib.contextmanager
def told(what: object) -> Iterator[None]:
    """Say which zombie it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"the zombie: {what}")
        raise


def in_both_sizes(case: Case, tell: Callable[[Calm, int], None]) -> None:
    """With plans as they are, and, where that makes a difference, with the bounds of wide plans so small that these
    are some. `tell` is given what the case does, and that every so many places are enough."""
    few = calm(case)
    tell(few, 1)
    with small_plans():
        wide = calm(case)
        if wide.requests != few.requests:
            tell(wide, WIDE)


@each_case
def test_an_invocation_that_comes_back_late_changes_nothing(case: Case) -> None:
    def tell(before: Calm, every: int) -> None:
        for target in islice(targets(before, FULL, turn=CASES.index(case)), 0, None, every):
            with told(target):
                haunt(case, target, before)

    in_both_sizes(case, tell)


@each_case
def test_a_sweep_that_comes_back_late_changes_nothing(case: Case) -> None:
    """A wake is lost, so that there is something to sweep; the sweep is frozen, or who recovers the run for it."""

    def tell(before: Calm, every: int) -> None:
        found = {lost: calm(case, lost) for lost in range(1, before.sent + 1)}
        # The run may well end without the wake of somebody who lost a race, and then there is nothing to sweep.
        missed = [lost for lost, swept in found.items() if any(map(is_sweep, swept.payloads))]
        assert missed, "nothing was swept, whatever was lost"
        for lost in missed if FULL else [missed[len(missed) // 2]]:
            swept = found[lost]
            places = targets(swept, FULL, is_sweep, turn=CASES.index(case))
            for target in islice(places, 0, None, SWEEPS):
                with told(f"{target}; wake {lost} was lost"):
                    haunt(case, target, swept, lost)

    in_both_sizes(case, tell)


@each_case
def test_a_cancel_that_comes_back_late_changes_nothing(case: Case) -> None:
    turn = count(CASES.index(case))

    def tell(before: Calm, every: int) -> None:
        for moment in range(2, len(before.payloads) + 1):  # before that there is nothing to cancel
            for request in count(1):
                places = [Place(request, side) for side in SIDES if next(turn) % CANCELS == 0 or request == 1]
                with told(f"a cancel at invocation {moment}, {places}"):
                    reached = [haunt_cancel(case, before, moment, place) for place in places]
                if not all(reached):
                    break
                assert request < MOST_REQUESTS, "a cancel asks and asks"

    in_both_sizes(case, tell)


@each_case
def test_a_sandbox_that_remembers_an_old_log_goes_on_with_the_new_one(case: Case) -> None:
    def tell(before: Calm, every: int) -> None:
        for number in range(1, len(before.payloads) + 1):
            for until in (NEXT_STEP, THE_END):
                with told(f"the sandbox of invocation {number}, until {until}"):
                    remember(case, before, number, until)

    in_both_sizes(case, tell)


@each_case
def test_a_wake_that_arrives_when_its_run_has_ended_changes_nothing(case: Case) -> None:
    def tell(before: Calm, every: int) -> None:
        for number in range(1, before.sent + 1):
            with told(f"wake {number}"):
                belated(case, before, number)

    in_both_sizes(case, tell)


# ------------------------------------------------------------------------------------- what these tests rest upon
def test_every_kind_of_wake_is_frozen_somewhere() -> None:
    kinds = set()
    with small_plans():
        for case in CASES:
            found = calm(case, lost=1)
            for payload in calm(case).payloads + found.payloads:
                kinds.add(payload.get("do") or ("queue" if "Records" in payload else "event"))
                kinds |= {"look"} if "look" in payload else set()
    assert kinds >= {"event", "queue", "advance", "step", "fan", "collect", "look", "recover", "sweep"}


def test_a_zombie_has_really_lived_on_past_its_deadline() -> None:
    [case] = [case for case in CASES if case.name == "three_in_sequence"]
    before = calm(case)
    append = before.requests[2].index("PutItem") + 1
    stage = haunt(case, Target(3, Place(append, "before"), "swept", THE_END), before)
    zombie = stage.invocations[2]
    assert zombie.deadline_passed and stage.function.deaths == 1
    assert stage.effects.counts["b"] == 2, "it had performed its step, and so did the one after it"
    assert stage.requests[append:] == [], "its append was refused, and it asked for nothing more"


@pytest.mark.parametrize(
    "change",
    [
        ("L#00000001", {"b": {"S": "other"}}),
        ("L#00000009", {"b": {"S": "more"}}),
        ("H", {"due": {"N": "1"}}),
        ("S#00000001.00000", {"b": {"S": "other"}}),
    ],
)
def test_what_may_not_change_is_told(change: tuple[str, dict[str, object]]) -> None:
    before = {("run#r", sort): {"b": {"S": "{}"}} for sort in ("H", "L#00000001", "S#00000001.00000")}
    check_untouched(before, dict(before), is_cancelled=False)
    with pytest.raises(AssertionError, match="was written"):
        check_untouched(before, {**before, ("run#r", change[0]): change[1]}, is_cancelled=False)


def test_after_a_cancel_not_even_a_losers_result_may_be_added() -> None:
    before: dict[tuple[str, str], object] = {("run#r", "H"): {}}
    after = {**before, ("run#r", "S#00000001.00000"): {}}
    check_untouched(before, after, is_cancelled=False)
    with pytest.raises(AssertionError, match="was written"):
        check_untouched(before, after, is_cancelled=True)
