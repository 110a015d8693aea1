"""The same random calls to every store that there is: SQLite, the simulator's table, dynoxide and moto's server.

Each answer is held against a model in plain Python, and what is kept in the end too, also where requests were cut off,
throttled or their replies lost. Below that, each single request to a server is put to the simulated table as well, and
the replies are compared field by field, with the capacity units that they charge. What may differ, and why:

    dynoxide   a page of a megabyte may end one item earlier: it measures a page by its JSON, DynamoDB and we by the
               items' sizes. Who asks for the next page, as the store does, sees the same items.
    moto       capacity units: it charges the same for each call, whatever its size. Nothing measured here leans on
               it.
    moto       a transaction that is sent again, after its reply was lost, is performed again, as moto does not know
               ClientRequestToken: its own token tells the store that it was the one who wrote.
    moto       the largest items are refused: it measures them by another rule (and is not asked to keep them here).
    moto       it is not atomic under concurrent requests (see `tests/contract/test_store.py`; here is one at a time).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from onward.aws.dynamodb import DynamoStore
from onward.local.store import SqliteStore
from onward.ports import MAX_ITEM_BYTES, Item, Put, Store

from . import table
from .mirrors import (
    FAULTS,
    MAX_CALLS,
    PAGE,
    TOKEN,
    UNITS,
    Calls,
    FaultyWire,
    Mirror,
    Model,
    check_whole,
    open_table,
    perform,
    sequences,
    simulated_store,
    size_of,
)

SETTINGS = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
FIXED = settings(SETTINGS, derandomize=True, max_examples=250)
FRESH = settings(SETTINGS, phases=[Phase.generate], max_examples=100)
SLOW = settings(SETTINGS, derandomize=True, max_examples=80)
_numbers = itertools.count()


@contextmanager
def mirrored(url: str) -> Iterator[tuple[Mirror, dict[str, Store]]]:
    """A store over a server, and those beside it."""
    mirror, sqlite = Mirror(url), SqliteStore(":memory:")
    try:
        server = open_table(mirror, f"mirror-{next(_numbers)}")
        yield mirror, {"server": server, "simulated": simulated_store(), "sqlite": sqlite}
    finally:
        mirror.close()
        sqlite.close()


def compare(stores: Mapping[str, Store], calls: Calls, faults: Mapping[int, str]) -> None:
    model = Model()
    for number, call in enumerate(calls):
        for store in stores.values():
            if isinstance(store, DynamoStore):
                assert isinstance(store.wire, FaultyWire)
                store.wire.fault = faults.get(number, "")
        perform(model, call, stores)
    check_whole(model, stores)


faults_at = st.dictionaries(st.integers(0, MAX_CALLS - 1), st.sampled_from(FAULTS), max_size=6)


@given(calls=sequences(), faults=faults_at)
@FIXED
def test_sqlite_the_simulated_table_and_dynoxide_do_as_the_model_says(
    dynoxide_url: str, calls: Calls, faults: dict[int, str]
) -> None:
    with mirrored(dynoxide_url) as (mirror, stores):
        compare(stores, calls, faults)
        assert set(mirror.differences) <= {PAGE}, mirror.differences


@given(calls=sequences(), faults=faults_at)
@FRESH
def test_they_do_so_with_a_fresh_seed(dynoxide_url: str, calls: Calls, faults: dict[int, str]) -> None:
    with mirrored(dynoxide_url) as (mirror, stores):
        compare(stores, calls, faults)
        assert set(mirror.differences) <= {PAGE}, mirror.differences


@given(calls=sequences(rooms=(None,)), faults=faults_at)
@SLOW
def test_a_second_opinion_of_moto_is_the_same(moto_url: str, calls: Calls, faults: dict[int, str]) -> None:
    with mirrored(moto_url) as (mirror, stores):
        compare(stores, calls, faults)
        assert set(mirror.differences) <= {UNITS, TOKEN}, mirror.differences


# -------------------------------------------------------------------------------------------- what is explained is so
def puts(*values: str) -> list[Put]:
    return [Put(Item("run#1", f"L#{n:08}", f"token-{n}", "{}", value)) for n, value in enumerate(values)]


def test_a_page_of_dynoxide_may_end_earlier_and_the_store_reads_on(dynoxide_url: str) -> None:
    with mirrored(dynoxide_url) as (mirror, stores):
        for put in puts(*["v" * 104_800] * 12):  # ten of them are just within a megabyte, and their JSON is not
            for store in stores.values():
                assert store.write([put]) is None
        found = {name: store.read("run#1", "", "~") for name, store in stores.items()}
        assert found["server"] == found["simulated"] == found["sqlite"] and len(found["server"]) == 12
        assert set(mirror.differences) == {PAGE}


def test_moto_charges_the_same_for_any_size(moto_url: str) -> None:
    with mirrored(moto_url) as (mirror, stores):
        assert stores["server"].write(puts("v" * 70_000)) is None
        assert set(mirror.differences) == {UNITS}


def test_moto_performs_a_transaction_again_and_the_store_knows_its_own_token(moto_url: str) -> None:
    with mirrored(moto_url) as (mirror, stores):
        mirror.fault = "reply lost"
        assert stores["server"].write(puts("a", "b")) is None
        assert TOKEN in mirror.differences


def test_moto_refuses_the_largest_item(moto_url: str) -> None:
    item = Item("run#1", "L#é", "token", "é" * 200, "")
    item.value = "é" * ((MAX_ITEM_BYTES - size_of(item) - 1) // 2)
    with mirrored(moto_url) as (_, stores):
        assert stores["simulated"].write([Put(item)]) is None
        assert stores["sqlite"].write([Put(item)]) is None
        with pytest.raises(AssertionError, match=r"real: 400 .*ValidationException.*\nfake: 200"):
            stores["server"].write([Put(item)])


def test_a_fake_that_is_not_like_the_real_is_found(dynoxide_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_holds", lambda write, standing: True)
    with mirrored(dynoxide_url) as (_, stores):
        stores["server"].write(puts("first"))
        with pytest.raises(AssertionError, match=r"PutItem .*\nreal: 400 .*ConditionalCheckFailed.*\nfake: 200"):
            stores["server"].write(puts("second"))


def test_a_fake_that_charges_otherwise_is_found(dynoxide_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_write_units", lambda size: 1.0)
    with mirrored(dynoxide_url) as (mirror, stores):
        stores["server"].write(puts("v" * 9_000))
        assert set(mirror.differences) == {UNITS}
