from collections.abc import Iterator

import pytest

from tests import servers


@pytest.fixture(scope="session")
def dynoxide_url() -> Iterator[str]:
    with servers.dynoxide() as url:
        yield url
