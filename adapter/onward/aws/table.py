"""The table itself: how it is made, and how a program knows that it was made by its like.

One schema makes every table, here and in infrastructure code. The layout item, `onward` / `layout`, says by which
rules its items are to be read. It is off the cold path: a table is checked by what deploys or starts the
application, not by every invocation.
"""

from __future__ import annotations

import contextlib
import json
import time

from onward.aws.dynamodb import DUE_INDEX, DynamoStore
from onward.aws.failures import AwsError, unavailable
from onward.clock import SystemClock
from onward.core.errors import LayoutMismatch
from onward.core.log import LAYOUT
from onward.ports import Item, Put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from onward.aws.wire import Wire

LAYOUT_KEY = ("onward", "layout")

SCHEMA: dict[str, Any] = {
    "BillingMode": "PAY_PER_REQUEST",
    "AttributeDefinitions": [
        {"AttributeName": "pk", "AttributeType": "S"},
        {"AttributeName": "sk", "AttributeType": "S"},
        {"AttributeName": "shard", "AttributeType": "S"},
        {"AttributeName": "due", "AttributeType": "N"},
    ],
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": DUE_INDEX,
            "KeySchema": [{"AttributeName": "shard", "KeyType": "HASH"}, {"AttributeName": "due", "KeyType": "RANGE"}],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }
    ],
}
CREATE_WAITS = 120  # a table is there in seconds; after two minutes we stop believing in it
CREATE_WAIT_S = 1.0


def create_table(wire: Wire, name: str, sleep: Callable[[float], None] = time.sleep) -> None:
    """Create the table if there is none, wait until it and its index can be used, and write the layout item.
    Raises `LayoutMismatch` if a table of that name holds another layout."""
    with contextlib.suppress(AwsError):  # it is there, or is being made
        wire.json("dynamodb", "CreateTable", {"TableName": name, **SCHEMA}, name, ("ResourceInUseException",))
    for _ in range(CREATE_WAITS):
        with contextlib.suppress(AwsError):  # just created, and not yet known everywhere
            told = wire.json("dynamodb", "DescribeTable", {"TableName": name}, name, ("ResourceNotFoundException",))
            if _is_active(told["Table"]):
                check_layout(DynamoStore(wire, name))
                return
        sleep(CREATE_WAIT_S)
    raise unavailable("dynamodb", "CreateTable", f"the table {name!r} did not become active", CREATE_WAITS)


def check_layout(store: DynamoStore, *, mark: bool = True) -> None:
    """Raise `LayoutMismatch` if the table was written by a version of Onward with another layout, `TableMissing` if
    there is none. A table that says nothing yet (infrastructure code made it) is marked with this layout, unless `mark`
    is False: then nothing is written."""
    body = json.dumps({"layout": LAYOUT})
    refused = None
    standing = store.get([LAYOUT_KEY])[0]
    if standing is None and mark:
        refused = store.write([Put(Item(*LAYOUT_KEY, SystemClock().token(), body))])
        standing = refused.standing[0] if refused else None
    if standing is None:
        return
    try:
        found = json.loads(standing.body)["layout"]
    except (ValueError, KeyError, TypeError):
        found = "unreadable"
    if found != LAYOUT:
        raise LayoutMismatch(
            f"The table {store.table!r} has layout {found}, and this version of Onward knows layout {LAYOUT}. "
            f"Install the version that made the table, or name another table."
        )


def _is_active(table: dict[str, Any]) -> bool:
    indexes = table.get("GlobalSecondaryIndexes", [])
    return table["TableStatus"] == "ACTIVE" and all(index.get("IndexStatus", "ACTIVE") == "ACTIVE" for index in indexes)
