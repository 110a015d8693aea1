"""Names that follow from other names. Runs in the field are found under them, so they never change."""

from hypothesis import given
from hypothesis import strategies as st

from onward.core.ids import _ALPHABET, idempotency_key, plan_digest, run_id

NAMES = st.text(st.characters(exclude_categories=()), min_size=1, max_size=8)
STEP_KEYS = st.tuples(NAMES, st.integers(1, 20))

RUN = "3rc2ef42s19fxtqtdw9yb4g8"
FETCH = "dd0e8x2m94661fp4"
FETCH_AGAIN = "jk689zsdqsy31a4g"
ODD = "cndh29q12f3mjs8s"
PLAN = "21471amrth7v"
EMPTY_PLAN = "t540954yeedj"


def test_the_names_of_the_first_release_are_kept_for_ever():
    assert run_id("sync_pricing", "event-1") == RUN
    assert idempotency_key(RUN, ("fetch-items", 1)) == f"{RUN}-{FETCH}"
    assert idempotency_key(RUN, ("fetch-items", 2)) == f"{RUN}-{FETCH_AGAIN}"
    assert idempotency_key(RUN, ("\ud800 \N{ROCKET}", 1)) == f"{RUN}-{ODD}"
    assert plan_digest([("a", 1), ("b", 2)]) == PLAN
    assert plan_digest([]) == EMPTY_PLAN


def test_the_border_between_two_names_counts():
    assert run_id("ab", "c") != run_id("a", "bc")
    assert idempotency_key("r", ("a1", 1)) != idempotency_key("r", ("a", 11))
    assert plan_digest([("a", 1), ("b", 1)]) != plan_digest([("a1b", 1)])
    assert plan_digest([("a", 1)]) != plan_digest([("a", 1), ("", 1)])
    assert plan_digest([("a", 1), ("b", 1)]) != plan_digest([("b", 1), ("a", 1)])


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_different_events_and_workflows_have_different_runs(one, other):
    assert (run_id(*one) == run_id(*other)) == (one == other)


@given(STEP_KEYS, STEP_KEYS)
def test_different_steps_have_different_idempotency_keys(one, other):
    assert (idempotency_key("run", one) == idempotency_key("run", other)) == (one == other)


@given(st.lists(STEP_KEYS, max_size=5), st.lists(STEP_KEYS, max_size=5))
def test_different_plans_have_different_digests(one, other):
    assert (plan_digest(one) == plan_digest(other)) == (one == other)


@given(NAMES, NAMES)
def test_a_run_id_is_safe_in_urls_keys_and_file_names(workflow, event):
    run = run_id(workflow, event)
    assert len(run) == 24 and set(run) <= set(_ALPHABET)
