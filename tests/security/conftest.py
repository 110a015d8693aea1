"""Both stores, and an environment that holds no key of the developer's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.local.store import SqliteStore
from onward.ports import Store

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "ONWARD_")) and name != "ONWARD_DYNOXIDE":
            monkeypatch.delenv(name)
    for name, value in (KEYS | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["sqlite", "dynoxide"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "sqlite":
        local = SqliteStore(":memory:")
        yield local
        local.close()
        return
    wire = Wire(endpoint_url=request.getfixturevalue("dynoxide_url"), environ=KEYS, sleep=lambda _: None)
    name = f"security-{next(_numbers)}"
    create_table(wire, name, sleep=lambda _: None)
    yield DynamoStore(wire, name)
    wire.close()
