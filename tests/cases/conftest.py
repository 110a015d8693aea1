from collections.abc import Iterator

import pytest

from onward.engine import fanout
from tests import servers


@pytest.fixture(scope="session")
def dynoxide_url() -> Iterator[str]:
    with servers.dynoxide() as url:
        yield url


@pytest.fixture(autouse=True)
def small_plans_are_wide(monkeypatch):
    """What is done for hundreds of steps in flight is done here for a few, so that every path of it is taken."""
    monkeypatch.setattr(fanout, "FEW", 2)
    monkeypatch.setattr(fanout, "FAN", 2)
    monkeypatch.setattr(fanout, "CHUNK", 2)
