"""`ports.Store` over one DynamoDB table.

Theory. An item is put where none is (`attribute_not_exists`) or swapped for the one that the caller saw
(`t = :expected`), and carries the token of its writer. So DynamoDB's own condition is the lock, and the item that
stands in the way, which DynamoDB hands back with the refusal, tells whose write it was:

    reply                        standing item                 meaning
    200                                                        applied
    condition failed             carries this write's token    applied before; that reply was lost
    condition failed             another, or none              refused
    transaction conflict         none is named                 another transaction is at work: wait, try again
    500, timeout, cut off        none is named                 unknown: try again, and one of the above follows

An item is dropped if it is the one that the caller saw, or gone (`attribute_not_exists(pk) OR t = :expected`), so that
a repetition does no harm. For several writes the reasons of a cancelled transaction are read the same way, and one own
token proves that all of it was applied. A transaction also carries a client request token, by which DynamoDB itself
recognises a repetition for ten minutes. One case is beyond all of this: a single `Swap` was applied, its reply was
lost, and somebody swapped the new item before the repetition. Then the caller is told `Refused`, reads again, and goes
on from what stands there, which is right for whoever acts on the log.

    attribute   type   of an item
    pk, sk      S      partition and sort
    t           S      token
    b           S      body
    v           S      value, absent if None
    due         N      due_ms, absent if None, and with it
    shard       S      "0" to "3", by the partition's checksum: the hash key of the index, so that no one partition
                       of the index takes the writes of all runs
    m_<name>    SS     a set of marks, on an item of its own

The index `due` (shard, due; keys only) is sparse: only what has a due time is in it.
"""

from __future__ import annotations

import os
import zlib

from onward.aws.failures import THROTTLED, AwsError, translate, unavailable
from onward.core.errors import ItemTooLarge, RequestRefused
from onward.ports import MAX_ITEM_BYTES, MAX_WRITE_BYTES, Drop, Item, Put, Refused, item_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from onward.aws.wire import Wire
    from onward.ports import Swap, Write

DUE_SHARDS = 4
DUE_INDEX = "due"
MAX_PAGES = 10_000  # 1 MB each
MAX_KEYS = 100  # in one BatchGetItem
FRUITLESS_ROUNDS = 8  # of BatchGetItem that bring nothing
CONFLICT_ATTEMPTS = 8  # 25 ms * 2^i: at most 3.2 s of waiting

CONDITION_FAILED = "ConditionalCheckFailedException"
CANCELLED = "TransactionCanceledException"
CONFLICT = "TransactionConflictException"
REFUSALS = ("ValidationException", "SerializationException", "ResourceNotFoundException", "AccessDeniedException")
"""What may be said of a whole transaction for the sake of a user's own write."""
VERBS = ("Put", "Update", "Delete", "ConditionCheck")
PASSING_REASONS = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}) | THROTTLED

_MARK = "m_"
_FREE = "attribute_not_exists(pk)"
_SAME = "t = :expected"


class DynamoStore:
    """`table`: name or ARN of a table with the `SCHEMA` of `onward.aws.table`."""

    def __init__(self, wire: Wire, table: str) -> None:
        self.wire = wire
        self.table = table

    # ------------------------------------------------------------------------------------------------- reading
    def read(
        self, partition: str, first: str, last: str, *, limit: int | None = None, newest_first: bool = False
    ) -> list[Item]:
        if not last or first > last or (limit is not None and limit <= 0):  # str orders as its UTF-8 does
            return []
        values = {":p": {"S": partition}, ":z": {"S": last}}
        if first:
            values[":a"] = {"S": first}
        request: dict[str, Any] = {
            "ConsistentRead": True,
            "KeyConditionExpression": "pk = :p AND sk BETWEEN :a AND :z" if first else "pk = :p AND sk <= :z",
            "ExpressionAttributeValues": values,
        }
        if newest_first:
            request["ScanIndexForward"] = False
        return [_item(fields) for fields in self._query(request, limit)]

    def get(self, keys: Sequence[tuple[str, str]]) -> list[Item | None]:
        if len(keys) == 1:
            fields = self._get_one(*keys[0])
            return [_item(fields) if fields else None]
        found: dict[tuple[str, str], Item] = {}
        for start in range(0, len(keys), MAX_KEYS):
            for fields in self._get_batch([_key(*key) for key in keys[start : start + MAX_KEYS]]):
                item = _item(fields)
                found[item.partition, item.sort] = item
        return [found.get(key) for key in keys]

    def marks(self, partition: str, sort: str) -> dict[str, frozenset[str]]:
        return _sets(self._get_one(partition, sort))

    def due(self, before_ms: int, limit: int) -> list[tuple[str, str, int]]:
        found: list[tuple[str, str, int]] = []
        for shard in range(DUE_SHARDS if limit > 0 else 0):
            request = {
                "IndexName": DUE_INDEX,
                "KeyConditionExpression": "#s = :s AND #d <= :d",
                "ExpressionAttributeNames": {"#s": "shard", "#d": "due"},
                "ExpressionAttributeValues": {":s": {"S": str(shard)}, ":d": {"N": str(before_ms)}},
            }
            for fields in self._query(request, limit):
                found.append((fields["pk"]["S"], fields["sk"]["S"], _milliseconds(fields["due"]["N"])))
        found.sort(key=lambda entry: entry[2])
        return found[:limit]

    # ------------------------------------------------------------------------------------------------- writing
    def write(self, writes: Sequence[Write], also: Sequence[Any] = ()) -> Refused | None:
        if not writes:
            return None
        requests = [self._drop(write) if isinstance(write, Drop) else self._put(write) for write in writes]
        if len(requests) == 1 and not also:
            return self._write_one(writes[0], *requests[0])
        for place, entry in enumerate(also):
            if wrong := _wrong(entry):
                return Refused([None] * len(writes), f"write {place + 1} of {len(also)} {wrong}")
        return self._write_all(writes, requests, also)

    def mark(self, partition: str, sort: str, adds: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
        sets = [(name, sorted(set(members))) for name, members in adds.items() if members]
        if not sets:
            return self.marks(partition, sort)
        request = {
            "Key": _key(partition, sort),
            "UpdateExpression": "ADD " + ", ".join(f"#{number} :{number}" for number in range(len(sets))),
            "ExpressionAttributeNames": {f"#{number}": _MARK + name for number, (name, _) in enumerate(sets)},
            "ExpressionAttributeValues": {f":{number}": {"SS": members} for number, (_, members) in enumerate(sets)},
            "ReturnValues": "ALL_NEW",
        }
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                return _sets(self._call("UpdateItem", request, (CONFLICT,))["Attributes"])
            except AwsError:
                self.wire.wait(attempt)
        raise unavailable("dynamodb", "UpdateItem", "another transaction held the item", CONFLICT_ATTEMPTS)

    # -------------------------------------------------------------------------------------------------- leaves
    def _call(self, operation: str, request: Mapping[str, Any], expected: Sequence[str] = ()) -> dict[str, Any]:
        full = dict(request)
        if operation not in ("BatchGetItem", "TransactWriteItems"):  # they name their tables themselves
            full["TableName"] = self.table
        if self.wire.meter is not None:
            full["ReturnConsumedCapacity"] = "TOTAL"
        return self.wire.json("dynamodb", operation, full, self.table, expected)

    def _query(self, request: dict[str, Any], limit: int | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for _ in range(MAX_PAGES):
            if limit is not None:
                request["Limit"] = limit - len(found)
            reply = self._call("Query", request)
            found += reply["Items"]
            following = reply.get("LastEvaluatedKey")
            if not following or (limit is not None and len(found) >= limit):
                return found
            request["ExclusiveStartKey"] = following
        raise RequestRefused(f"DynamoDB Query on {self.table!r}: a partition has more than {MAX_PAGES} pages.")

    def _get_one(self, partition: str, sort: str) -> dict[str, Any]:
        found: dict[str, Any] = self._call("GetItem", {"Key": _key(partition, sort), "ConsistentRead": True}).get(
            "Item", {}
        )
        return found

    def _get_batch(self, keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """At most 100 keys. DynamoDB answers with 16 MB at a time and leaves out what it is too busy for."""
        found: list[dict[str, Any]] = []
        fruitless = 0
        while keys:
            request = {"RequestItems": {self.table: {"Keys": keys, "ConsistentRead": True}}}
            reply = self._call("BatchGetItem", request)
            # Named by an ARN, the table still answers by its name; there is only one.
            arrived = [fields for table in reply["Responses"].values() for fields in table]
            keys = [key for table in reply.get("UnprocessedKeys", {}).values() for key in table["Keys"]]
            found += arrived
            if keys and not arrived:
                fruitless += 1
                if fruitless == FRUITLESS_ROUNDS:
                    raise unavailable("dynamodb", "BatchGetItem", "the table is throttled", fruitless)
                self.wire.wait(fruitless - 1)
        return found

    def _put(self, write: Put | Swap) -> tuple[str, dict[str, Any]]:
        item = write.item
        size_bytes = item_bytes(item)
        if size_bytes > MAX_ITEM_BYTES:
            raise ItemTooLarge(
                f"The item {item.partition!r} {item.sort!r} has {size_bytes:,} bytes, and DynamoDB allows "
                f"{MAX_ITEM_BYTES:,}. Let large values spill to S3."
            )
        put: dict[str, Any] = {
            "Item": _fields(item),
            "ConditionExpression": _FREE,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        if not isinstance(write, Put):
            put["ConditionExpression"] = _SAME
            put["ExpressionAttributeValues"] = {":expected": {"S": write.expected}}
        return "Put", put

    def _drop(self, write: Drop) -> tuple[str, dict[str, Any]]:
        drop: dict[str, Any] = {"Key": _key(write.partition, write.sort)}
        if write.expected is not None:
            drop["ConditionExpression"] = f"{_FREE} OR {_SAME}"
            drop["ExpressionAttributeValues"] = {":expected": {"S": write.expected}}
            drop["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        return "Delete", drop

    def _write_one(self, write: Write, verb: str, request: dict[str, Any]) -> Refused | None:
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                self._call(f"{verb}Item", request, (CONDITION_FAILED, CONFLICT))
            except AwsError as error:
                if error.code == CONFLICT:
                    self.wire.wait(attempt)
                    continue
                standing = _standing(error.body)
                return None if _is_own(write, standing) else Refused([standing])
            return None
        raise unavailable("dynamodb", f"{verb}Item", "another transaction held the item", CONFLICT_ATTEMPTS)

    def _write_all(
        self, writes: Sequence[Write], requests: list[tuple[str, dict[str, Any]]], also: Sequence[Any]
    ) -> Refused | None:
        size_bytes = sum(item_bytes(write.item) for write in writes if not isinstance(write, Drop))
        if size_bytes > MAX_WRITE_BYTES:
            raise ItemTooLarge(
                f"{len(writes)} items have {size_bytes:,} bytes, and DynamoDB allows {MAX_WRITE_BYTES:,} in one write. "
                "Let large values spill to S3."
            )
        request = {
            "TransactItems": [{verb: {"TableName": self.table, **request}} for verb, request in requests] + [*also],
            "ClientRequestToken": os.urandom(18).hex(),
        }
        throttled = 0
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                self._call("TransactWriteItems", request, (CANCELLED, *REFUSALS) if also else (CANCELLED,))
                return None
            except AwsError as error:
                if error.code != CANCELLED:
                    return Refused([None] * len(writes), f"the writes: {error}")
                reasons = error.body.get("CancellationReasons") or []
                codes = {reason.get("Code") or "None" for reason in reasons} - {"None"}
                why = _why(also, reasons[len(writes) :])
                if "ConditionalCheckFailed" in codes or why:
                    return _judge(writes, reasons[: len(writes)], why)
                if not codes or not codes <= PASSING_REASONS:
                    raise self._cancelled(error, reasons) from error
            throttled += codes != {"TransactionConflict"}
            if throttled == self.wire.attempts:  # these waits are forty times longer
                break
            self.wire.wait(attempt, throttled=codes != {"TransactionConflict"})
        raise unavailable("dynamodb", "TransactWriteItems", f"cancelled for {', '.join(sorted(codes))}", attempt + 1)

    def _cancelled(self, error: AwsError, reasons: list[dict[str, Any]]) -> Exception:
        """A reason for which no repetition helps: the item is too large, or we asked for nonsense."""
        final = next((reason for reason in reasons if reason.get("Code") not in (None, "None", *PASSING_REASONS)), {})
        code = "ValidationException" if final.get("Code") == "ValidationError" else final.get("Code") or error.code
        told = AwsError(code, error.status, final.get("Message") or error.message, error.body)
        return translate(told, "dynamodb", "TransactWriteItems", self.table, 1)


def _wrong(entry: Any) -> str:
    """What is wrong with a write of the user's, as far as it can be seen here; "" where nothing is."""
    import json

    verb = next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else None
    if verb not in VERBS or not isinstance(entry[verb], dict) or not isinstance(entry[verb].get("TableName"), str):
        return f'is no {{"Put": {{"TableName": ..., ...}}}} (or {", ".join(VERBS[1:])}): {entry!r:.200}'
    try:
        json.dumps(entry)
    except (TypeError, ValueError) as error:
        return f'({verb} on {entry[verb]["TableName"]!r}) is not in DynamoDB\'s own words, as {{"N": "1"}}: {error}'
    return ""


def _why(also: Sequence[Any], reasons: Sequence[dict[str, Any]]) -> str:
    """Which writes of the user's had something against the transaction that will not pass; "" where none had."""
    told = []
    for place, (entry, reason) in enumerate(zip(also, reasons, strict=False)):
        code = reason.get("Code") or "None"
        if code not in ("None", *PASSING_REASONS):
            [(verb, request)] = entry.items()
            message = f": {reason['Message']}" if reason.get("Message") else ""
            told.append(f"write {place + 1} of {len(also)} ({verb} on {request['TableName']!r}): {code}{message}")
    return "; ".join(told)


def _judge(writes: Sequence[Write], reasons: list[dict[str, Any]], why: str) -> Refused | None:
    standing: list[Item | None] = []
    for write, reason in zip(writes, reasons, strict=True):
        failed = reason.get("Code") == "ConditionalCheckFailed"
        item = _standing(reason) if failed else None
        if _is_own(write, item):
            return None
        standing.append(item)
    return Refused(standing, why)


def _is_own(write: Write, standing: Item | None) -> bool:
    if isinstance(write, Drop):
        return False
    return standing is not None and standing.token == write.item.token


def _standing(body: dict[str, Any]) -> Item | None:
    fields = body.get("Item")
    return _item(fields) if fields else None


# ------------------------------------------------------------------------------------------- items and attributes
def _key(partition: str, sort: str) -> dict[str, Any]:
    return {"pk": {"S": partition}, "sk": {"S": sort}}


def _fields(item: Item) -> dict[str, Any]:
    fields = _key(item.partition, item.sort)
    fields["t"] = {"S": item.token}
    fields["b"] = {"S": item.body}
    if item.value is not None:
        fields["v"] = {"S": item.value}
    if item.due_ms is not None:
        fields["due"] = {"N": str(item.due_ms)}
        fields["shard"] = {"S": shard_of(item.partition)}
    return fields


def _item(fields: dict[str, Any]) -> Item:
    """What is no item of ours (marks, in the way of a write, or what somebody edited) has an empty token, body or
    value: nobody can read those as anything else."""
    value = fields.get("v")
    due = fields.get("due", {}).get("N")
    return Item(
        fields["pk"]["S"],
        fields["sk"]["S"],
        fields.get("t", {}).get("S", ""),
        fields.get("b", {}).get("S", ""),
        None if value is None else value.get("S", ""),
        None if due is None else _milliseconds(due),
    )


def _milliseconds(number: str) -> int:
    """A time of ours is a whole number; one that somebody else wrote must not keep the rest from being read."""
    return int(number) if number.isdecimal() else round(float(number))


def _sets(fields: dict[str, Any]) -> dict[str, frozenset[str]]:
    return {
        name.removeprefix(_MARK): frozenset(content["SS"])
        for name, content in fields.items()
        if name.startswith(_MARK) and "SS" in content
    }


def shard_of(partition: str) -> str:
    """The shard of the due index in which the items of a partition stand; the same for ever."""
    return str(zlib.crc32(partition.encode("utf-8")) % DUE_SHARDS)
