"""The bill is a sum of counts and prices."""

from __future__ import annotations

import pytest

from benchmarks import prices
from benchmarks.bill import Spent, at_rest, for_an_event, in_sequence


def test_a_step_of_one_write_costs_what_the_price_list_makes_it() -> None:
    """A request, 50 ms of 512 MB on arm64 and a write unit: 0.20 + 0.33 + 0.625 dollars for a million."""
    assert Spent(invocations=1, write_units=1).dollars() * prices.MILLION == pytest.approx(1.158, abs=0.001)
    assert Spent(read_units=8).dollars() * prices.MILLION == pytest.approx(1.00)
    assert Spent(sqs_requests=1, custom_events=1, schedules=1).dollars() * prices.MILLION == pytest.approx(2.40)


def test_what_is_summed_is_counted(dynoxide_url: str) -> None:
    step = in_sequence(dynoxide_url)
    assert (round(step.invocations), round(step.write_units), round(step.read_units)) == (1, 1, 1)
    event = for_an_event(dynoxide_url)
    assert event.custom_events == 1
    assert event.write_units > step.write_units
    rest = at_rest(dynoxide_url)
    assert rest.write_units == 0, "at rest nothing is written"
    assert rest.read_units / prices.MONTH_MINUTES == 4 * 0.5, "a look at each shard of the index"
