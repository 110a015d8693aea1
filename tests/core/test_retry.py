"""When a step that failed is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.core.errors import InvalidOption, RetryAfter
from onward.core.retry import MAX_ATTEMPTS, MAX_WAIT_S, Retry
from onward.core.values import Failure

NOW_MS = 1_764_547_200_000
ANY = Failure("ValueError", "bad")
POLICIES = st.builds(
    Retry,
    max_attempts=st.integers(1, MAX_ATTEMPTS),
    base=st.floats(0, MAX_WAIT_S),
    factor=st.floats(1, 100),
    cap=st.floats(0, MAX_WAIT_S),
    jitter=st.booleans(),
)
CHANCES = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, MAX_ATTEMPTS), CHANCES)
def test_every_wait_lies_between_nothing_and_the_cap(policy, attempt, chance):
    assert 0 <= policy.wait_ms(attempt, chance) <= round(policy.cap * 1000)


@given(st.integers(1, 30), CHANCES)
def test_full_jitter_draws_evenly_from_nothing_to_the_grown_wait(attempt, chance):
    policy = Retry(base=1.0, factor=2.0, cap=300.0)
    longest_s = min(300.0, 2.0 ** (attempt - 1))
    assert policy.wait_ms(attempt, chance) == round(longest_s * chance * 1000)
    assert policy.wait_ms(attempt, 0.0) == 0


def test_without_jitter_the_waits_grow_up_to_the_cap():
    policy = Retry(max_attempts=10, base=2.0, factor=3.0, cap=60.0, jitter=False)
    assert [policy.wait_ms(attempt, 0.5) for attempt in range(1, 7)] == [2_000, 6_000, 18_000, 54_000, 60_000, 60_000]


@given(POLICIES, CHANCES)
def test_a_step_is_performed_max_attempts_times_and_no_more(policy, chance):
    times = [policy.next_ms(attempt, ANY, NOW_MS, chance) for attempt in range(1, policy.max_attempts + 1)]
    assert times[-1] is None
    assert all(at_ms is not None and at_ms >= NOW_MS for at_ms in times[:-1])


def test_a_failure_that_is_final_is_not_tried_again():
    assert Retry().next_ms(1, Failure("NonRetriable", "no", final=True), NOW_MS, 0.5) is None


@pytest.mark.parametrize(("asked_ms", "given_ms"), [(NOW_MS + 90_000, NOW_MS + 90_000), (NOW_MS - 5, NOW_MS)])
def test_the_step_itself_may_choose_the_time_of_the_next_attempt(asked_ms, given_ms):
    asked = Failure("RetryAfter", "later", retry_at_ms=asked_ms)
    assert Retry(cap=1.0).next_ms(1, asked, NOW_MS, 0.5) == given_ms
    assert Retry(max_attempts=2).next_ms(2, asked, NOW_MS, 0.5) is None, "it consumes an attempt like any other"


@given(st.integers(0, MAX_ATTEMPTS - 1))
def test_a_number_of_retries_is_one_attempt_more(retries):
    assert Retry.of(retries).max_attempts == retries + 1


def test_a_policy_stands_for_itself_and_the_default_is_five_attempts():
    policy = Retry(3)
    assert Retry.of(policy) is policy
    assert Retry().max_attempts == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "Retry(max_attempts=...) takes 1 to 1000, not 0"),
        ({"max_attempts": 1_001}, "Retry(max_attempts=...) takes 1 to 1000, not 1001"),
        ({"max_attempts": True}, "Retry(max_attempts=...) takes 1 to 1000, not True"),
        ({"max_attempts": 2.0}, "Retry(max_attempts=...) takes 1 to 1000, not 2.0"),
        ({"base": -1}, "Retry(base=...) takes a number from 0 to "),
        ({"base": float("nan")}, "Retry(base=...) takes a number from 0 to "),
        ({"base": "1"}, "Retry(base=...) takes a number from 0 to "),
        ({"factor": 0.5}, "Retry(factor=...) takes a number from 1 to "),
        ({"cap": float("inf")}, "Retry(cap=...) takes a number from 0 to "),
        ({"cap": None}, "Retry(cap=...) takes a number from 0 to "),
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(InvalidOption) as caught:
        Retry(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("retries", [-1, 1_000, True, "4", 4.0, None])
def test_a_number_of_retries_that_makes_no_sense_is_refused(retries):
    with pytest.raises(InvalidOption, match=r"retries= takes 0 to 999 or a Retry\(\.\.\.\), not "):
        Retry.of(retries)


@pytest.mark.parametrize("when", ["Wed, 21 Oct 2026 07:28:00 GMT", float("nan"), float("inf"), None, [1], 1e300])
def test_a_time_that_is_none_is_refused_where_it_is_asked_for(when):
    with pytest.raises(InvalidOption, match=r"RetryAfter takes seconds .* or a datetime, not "):
        RetryAfter(when)
