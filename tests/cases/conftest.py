import pytest

from onward.engine import fanout


@pytest.fixture(autouse=True)
def small_plans_are_wide(monkeypatch):
    """What is done for hundreds of steps in flight is done here for a few, so that every path of it is taken."""
    monkeypatch.setattr(fanout, "FEW", 2)
    monkeypatch.setattr(fanout, "FAN", 2)
    monkeypatch.setattr(fanout, "CHUNK", 2)
