"""A thousand parallel steps cost what a hundred cost, for each: wakes, writes, capacity and bytes read."""

import pytest

from benchmarks.parallel import measure
from onward.engine import fanout

FEW, FAN, CHUNK = fanout.FEW, fanout.FAN, fanout.CHUNK


@pytest.fixture(autouse=True)
def as_deployed(small_plans_are_wide, monkeypatch):
    """The real bounds, not the small ones of this folder."""
    for name, value in (("FEW", FEW), ("FAN", FAN), ("CHUNK", CHUNK)):
        monkeypatch.setattr(fanout, name, value)


@pytest.mark.parametrize("fresh", [True, False], ids=["cold", "warm"])
def test_figures_grow_in_proportion_and_no_step_is_done_twice(dynoxide_url, fresh):
    figures = {size: measure(size, dynoxide_url, fresh) for size in (10, 100, 1_000)}
    for size, found in figures.items():
        print(size, {name: round(value / size, 2) for name, value in found.items()})
    for name in figures[10]:
        per_step = [figures[size][name] / size for size in (10, 100, 1_000)]
        assert per_step[2] <= per_step[0] * 1.15, (name, per_step)
