"""Hypothesis writes workflows; the model in plain Python says what they come to; the simulator runs them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .programs import Author, Do, Either, Made, Program, Together, fits
from .story import Story

EXAMPLES = 150


def written(data: st.DataObject) -> Program:
    return Author(lambda options: data.draw(st.sampled_from(list(options)))).program()


def tell(program: Program, seed: int) -> None:
    story = Story(seed, programs=[program])
    try:
        story.tell()
    except BaseException:
        print(f"{story.setting}\n{program}\nfaults: {story.chance.struck}")
        print("\n".join(story.lines))
        raise


CALM = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.timeout(900)  # where it fails, Hypothesis takes its time to make the program small
@settings(CALM, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 500))
def test_every_program_comes_to_what_the_model_says(data: st.DataObject, seed: int) -> None:
    tell(written(data), seed)


@pytest.mark.timeout(900)
@settings(CALM, max_examples=EXAMPLES // 2)
@given(data=st.data(), seed=st.integers(0, 1 << 40))
def test_every_fresh_program_comes_to_what_the_model_says(data: st.DataObject, seed: int) -> None:
    tell(written(data), seed)


def test_the_model_tells_right_from_wrong() -> None:
    """A model that agrees with everything would find nothing."""
    assert fits(Made("a"), {"made": "a", "by": 1}) and not fits(Made("a"), {"made": "b", "by": 1})
    assert not fits(Made("a", fails=1), {"made": "a", "by": 1}), "it must have failed once before"
    assert fits(Either(Made("a"), "not sure"), "not sure") and not fits(Either(1, 2), 3)
    assert fits([[Made("a")], None], [[{"made": "a", "by": 3}], None]) and not fits([None], [None, None])


@pytest.mark.parametrize("is_async", [False, True])
def test_a_program_whose_result_the_engine_changed_is_found(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fault planted: of two branches, each is given the result of the other."""
    from onward.core.log import Fold

    apply_lane = Fold.apply_lane

    def crossed(fold: Fold, item) -> None:  # type: ignore[no-untyped-def]
        apply_lane(fold, item)
        if len(fold.results) == 2:
            (first, (key_a, a)), (second, (key_b, b)) = fold.results.items()
            fold.results[first], fold.results[second] = (key_a, b), (key_b, a)

    monkeypatch.setattr(Fold, "apply_lane", crossed)
    program = Program([Together([[Do("a")], [Do("b")]], "gather")], is_async=is_async)
    with pytest.raises(AssertionError):
        Story("calm", programs=[program]).tell()
