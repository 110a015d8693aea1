"""Every store that there is, for the one suite that all of them pass."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.local.store import SqliteStore
from onward.ports import Store

_numbers = itertools.count()
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class Opener:
    """Opens the store under test: each call is another client, as in another process."""

    def __init__(self, kind: str, place: str) -> None:
        self.kind = kind
        self.place = place
        self.table = f"contract-{next(_numbers)}"
        self._open: list[SqliteStore | Wire] = []
        if kind != "sqlite":
            create_table(self._wire(), self.table)

    def _wire(self) -> Wire:
        wire = Wire(endpoint_url=self.place, environ=_KEYS)
        self._open.append(wire)
        return wire

    def __call__(self) -> Store:
        if self.kind != "sqlite":
            return DynamoStore(self._wire(), self.table)
        store = SqliteStore(self.place)
        self._open.append(store)
        return store

    def close(self) -> None:
        for opened in self._open:
            opened.close()


@pytest.fixture(params=["sqlite", "dynoxide", "moto"])
def opened(request: pytest.FixtureRequest, tmp_path) -> Iterator[Opener]:
    kind = request.param
    place = str(tmp_path / "store.db") if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    opener = Opener(kind, place)
    yield opener
    opener.close()


@pytest.fixture
def store(opened: Callable[[], Store]) -> Store:
    return opened()
