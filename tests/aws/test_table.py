"""A table is made once, from one schema, and known by its layout."""

from __future__ import annotations

import json
from collections.abc import Callable

import boto3
import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import CREATE_WAITS, LAYOUT_KEY, SCHEMA, check_layout, create_table
from onward.aws.wire import Wire
from onward.core.errors import LayoutMismatch, Misconfigured, TableMissing, Unavailable
from onward.ports import Item, Put, Swap
from tests.aws.scripted import reply, scripted

MakeWire = Callable[..., Wire]


def test_a_created_table_says_its_layout_and_can_be_created_again(any_store: DynamoStore) -> None:
    create_table(any_store.wire, any_store.table)
    (layout,) = any_store.get([LAYOUT_KEY])
    assert layout is not None
    assert json.loads(layout.body) == {"layout": 1}
    check_layout(any_store)


def test_the_table_is_as_boto3_would_have_made_it(store: DynamoStore) -> None:
    client = boto3.Session().client("dynamodb", endpoint_url=store.wire._endpoint_url)
    told = client.describe_table(TableName=store.table)["Table"]
    client.create_table(TableName="by-boto3", **SCHEMA)
    theirs = client.describe_table(TableName="by-boto3")["Table"]
    for name in ("KeySchema", "AttributeDefinitions", "BillingModeSummary"):
        assert told.get(name) == theirs.get(name)
    (index,), (their_index,) = told["GlobalSecondaryIndexes"], theirs["GlobalSecondaryIndexes"]
    assert (index["KeySchema"], index["Projection"]) == (their_index["KeySchema"], {"ProjectionType": "KEYS_ONLY"})


def test_a_table_that_infrastructure_code_made_is_marked_at_the_first_check(
    dynoxide_url: str, wire_to: MakeWire
) -> None:
    wire = wire_to(dynoxide_url)
    wire.json("dynamodb", "CreateTable", {"TableName": "made-elsewhere", **SCHEMA}, "made-elsewhere")
    store = DynamoStore(wire, "made-elsewhere")
    check_layout(store)
    assert store.get([LAYOUT_KEY])[0] is not None


@pytest.mark.parametrize(("body", "told"), [('{"layout": 2}', "has layout 2"), ("not json", "has layout unreadable")])
def test_a_table_of_another_layout_is_not_touched(any_store: DynamoStore, body: str, told: str) -> None:
    (layout,) = any_store.get([LAYOUT_KEY])
    assert layout is not None
    any_store.write([Swap(Item(*LAYOUT_KEY, "other", body), layout.token)])
    with pytest.raises(LayoutMismatch, match=f"{told}, and this version of Onward knows layout 1"):
        check_layout(any_store)
    with pytest.raises(LayoutMismatch):
        create_table(any_store.wire, any_store.table)


def test_a_missing_table_is_told(any_store: DynamoStore) -> None:
    with pytest.raises(TableMissing, match="Create it"):
        check_layout(DynamoStore(any_store.wire, "no-such-table"))


def test_a_name_that_no_table_can_have_is_told(dynoxide_url: str, wire_to: MakeWire) -> None:
    with pytest.raises(Misconfigured, match="cannot be the name of a table"):
        create_table(wire_to(dynoxide_url), "x")


def test_a_table_is_awaited_until_it_and_its_index_are_active(wire_to: MakeWire) -> None:
    def state(table: str, index: str) -> bytes:
        return reply(200, {"Table": {"TableStatus": table, "GlobalSecondaryIndexes": [{"IndexStatus": index}]}})

    waits: list[float] = []
    unknown = reply(400, {"__type": "ResourceNotFoundException"})
    script = [reply(), unknown, state("CREATING", "CREATING"), state("ACTIVE", "CREATING"), state("ACTIVE", "ACTIVE")]
    layout = {"pk": {"S": "onward"}, "sk": {"S": "layout"}, "t": {"S": "t"}, "b": {"S": '{"layout": 1}'}}
    with scripted(*script, reply(200, {"Item": layout})) as server:
        create_table(wire_to(server.url), "runs", sleep=waits.append)
        targets = [request.headers["x-amz-target"].rpartition(".")[2] for request in server.requests]
    assert targets == ["CreateTable", *["DescribeTable"] * 4, "GetItem"]
    assert len(waits) == 3


def test_a_table_that_never_becomes_active_is_given_up(wire_to: MakeWire) -> None:
    waits: list[float] = []
    with scripted(reply(200, {"Table": {"TableStatus": "CREATING"}})) as server:
        with pytest.raises(Unavailable, match="did not become active"):
            create_table(wire_to(server.url), "runs", sleep=waits.append)
    assert len(waits) == CREATE_WAITS


def test_of_two_who_mark_a_new_table_both_are_content(store: DynamoStore) -> None:
    """The one that comes second finds the layout of the first."""

    class Late(DynamoStore):
        def get(self, keys: object) -> list[Item | None]:
            return [None]

    check_layout(Late(store.wire, store.table))
    assert store.write([Put(Item("run", "1", "t", "{}"))]) is None
