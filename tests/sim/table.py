"""DynamoDB, as far as Onward asks it: the operations, the two conditions, one index, capacity units.

It takes requests and gives replies in DynamoDB's own words, one at a time and atomically; what happens to a request on
its way is not its business (see `cloud.py`). `tests/sim/test_fake_against_real.py` holds it against dynoxide, moto and
SQLite. The index lags: what is written appears in it after `lag_ms()`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Attributes = dict[str, dict[str, Any]]
Key = tuple[str, str]

PAGE_BYTES = 1024 * 1024
MAX_ITEM_BYTES = 409_600
MAX_TRANSACTION = 100
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
MAX_BATCH = 100
MAX_BATCH_BYTES = 16 * 1024 * 1024
MAX_KEY_BYTES = {"pk": 2048, "sk": 1024}
INDEXED = ("pk", "sk", "shard", "due")  # what the index keeps of an item
TOKEN_MS = 10 * 60 * 1000  # for which a client request token is known
FREE, SAME = "attribute_not_exists(pk)", "t = :expected"
COUNTERS = "counters"  # a table of the user's, whose key is `id`: what `step.transact` writes to
THERE, ADD_ONE = "attribute_exists(id)", "ADD n :one"


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]
    units: float


class Change(NamedTuple):
    """One item that was written, or deleted (`after` is None)."""

    key: Key
    before: Attributes | None
    after: Attributes | None


class Replay(NamedTuple):
    """A transaction that was applied, for whoever repeats it: until when it is known (epoch milliseconds), what was
    asked, and what a repetition costs."""

    until_ms: int
    asked: Any
    units: float


class Invalid(Exception):
    """DynamoDB refuses the request. `code`: the error's name."""

    def __init__(self, message: str, code: str = "ValidationException") -> None:
        super().__init__(message)
        self.code = code


class KeyTooLong(Invalid):
    """What DynamoDB finds out last: a transaction with such a key is cancelled, not refused."""


class Table:
    """`now_ms`: the time. `lag_ms`: drawn for each change of the index. `changed`: told of every write."""

    def __init__(
        self,
        now_ms: Callable[[], int] = lambda: 0,
        lag_ms: Callable[[], int] = lambda: 0,
        later: Callable[[int, Callable[[], None]], None] | None = None,
        changed: Callable[[Change], None] = lambda change: None,
    ) -> None:
        self.items: dict[Key, Attributes] = {}
        self.index: dict[Key, tuple[str, int]] = {}
        self.charged = 0.0
        self._index_changes = 0
        self._indexed: dict[Key, int] = {}  # the number of the last change of each item that came to the index
        self._sorts: dict[str, list[str]] = {}
        self._tokens: dict[str, Replay] = {}
        self._now_ms = now_ms
        self._lag_ms = lag_ms
        self._later = later
        self.changed = changed

    def call(self, operation: str, request: Mapping[str, Any]) -> Answer:
        """Do one request."""
        try:
            answer: Answer = _OPERATIONS[operation](self, request)
        except Invalid as refused:
            answer = Answer(400, {"__type": f"x#{refused.code}", "message": str(refused)}, 0.0)
        self.charged += answer.units
        if answer.status == 200 and request.get("ReturnConsumedCapacity") == "TOTAL":
            several = operation in ("BatchGetItem", "TransactWriteItems")
            used = {"TableName": "t", "CapacityUnits": answer.units}
            answer.body["ConsumedCapacity"] = [used] if several else used
        return answer

    def partition(self, pk: str) -> list[Attributes]:
        """All items of a partition, by their sort keys."""
        return [self.items[pk, sk] for sk in self._sorts.get(pk, ())]

    # ------------------------------------------------------------------------------------------------- reading
    def _get_item(self, request: Mapping[str, Any]) -> Answer:
        found = self.items.get(_checked_key(request["Key"]))
        units = _read_units(_size(found) if found else 0, bool(request.get("ConsistentRead")))
        return Answer(200, {"Item": found} if found else {}, units)

    def _batch_get(self, request: Mapping[str, Any]) -> Answer:
        [(table, wanted)] = request["RequestItems"].items()
        keys = [_checked_key(key) for key in wanted["Keys"]]
        if not 1 <= len(keys) <= MAX_BATCH or len(set(keys)) < len(keys):
            raise Invalid("Too many items requested for the BatchGetItem call, or a key twice")
        found: list[Attributes] = []
        units, size = 0.0, 0
        for place, key in enumerate(keys):
            item = self.items.get(key)
            item_size = _size(item) if item else 0
            size += item_size
            if size > MAX_BATCH_BYTES:
                left = {table: {**wanted, "Keys": wanted["Keys"][place:]}}
                return Answer(200, {"Responses": {table: found}, "UnprocessedKeys": left}, units)
            units += _read_units(item_size, bool(wanted.get("ConsistentRead")))
            found += [item] if item else []
        return Answer(200, {"Responses": {table: found}, "UnprocessedKeys": {}}, units)

    def _query(self, request: Mapping[str, Any]) -> Answer:
        values = request["ExpressionAttributeValues"]
        if request.get("IndexName") == "due":
            entries = [
                {"pk": {"S": pk}, "sk": {"S": sk}, "shard": {"S": shard}, "due": {"N": str(due)}}
                for due, pk, sk, shard in sorted((due, pk, sk, shard) for (pk, sk), (shard, due) in self.index.items())
                if shard == values[":s"]["S"] and due <= int(values[":d"]["N"])
            ]
            return self._page(entries, request, 0.5, lambda entry: (int(entry["due"]["N"]), *_key(entry)))
        condition, pk = request["KeyConditionExpression"], values[":p"]["S"]
        sorts = self._sorts.get(pk, [])
        if condition == "pk = :p AND sk BETWEEN :a AND :z":
            if values[":a"]["S"] > values[":z"]["S"]:
                raise Invalid("The BETWEEN operator requires upper bound to be greater than or equal to lower bound")
            sorts = sorts[bisect_left(sorts, values[":a"]["S"]) :]
        elif condition != "pk = :p AND sk <= :z":
            raise Invalid(f"the simulated table does not know the condition {condition}")
        entries = [self.items[pk, sk] for sk in sorts if sk <= values[":z"]["S"]]
        return self._page(entries, request, 1.0 if request.get("ConsistentRead") else 0.5, _key)

    def _page(
        self,
        entries: list[Attributes],
        request: Mapping[str, Any],
        rate: float,
        place: Callable[[Attributes], tuple[Any, ...]],
    ) -> Answer:
        """The entries from the start on, as many as fit. `place`: by what they are in order. The item over which a page
        becomes larger than a megabyte still belongs to it."""
        backwards = request.get("ScanIndexForward") is False
        start = request.get("ExclusiveStartKey")
        if start:  # what stood there may be gone by now
            at = place(start)
            entries = [entry for entry in entries if (place(entry) < at if backwards else place(entry) > at)]
        if backwards:
            entries = entries[::-1]
        page: list[Attributes] = []
        size = 0
        for entry in entries:
            if size >= PAGE_BYTES or len(page) == request.get("Limit", 1 << 30):
                break
            page.append(entry)
            size += _size(entry)
        body: dict[str, Any] = {"Items": page, "Count": len(page)}
        stopped = len(page) < len(entries) or len(page) == request.get("Limit")
        if page and stopped:
            names = INDEXED if "IndexName" in request else ("pk", "sk")
            body["LastEvaluatedKey"] = {name: page[-1][name] for name in names}
        return Answer(200, body, max(1, -(-size // 4096)) * rate)

    # ------------------------------------------------------------------------------------------------- writing
    def _write_item(self, request: Mapping[str, Any]) -> Answer:
        key, standing = self._checked(request)
        if not _holds(request, standing):
            body: dict[str, Any] = {"__type": "x#ConditionalCheckFailedException", "message": "The request failed"}
            if standing is not None and request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD":
                body["Item"] = standing
            return Answer(400, body, _write_units(_size(standing or {})))
        return Answer(200, {}, self._store(key, _after(request)))

    def _update_item(self, request: Mapping[str, Any]) -> Answer:
        names, values = request["ExpressionAttributeNames"], request["ExpressionAttributeValues"]
        expression = request["UpdateExpression"]
        if not expression.startswith("ADD "):
            raise Invalid(f"the simulated table does not know the update {expression}")
        key = _checked_key(request["Key"])
        after = dict(self.items.get(key) or request["Key"])
        for part in expression.removeprefix("ADD ").split(", "):
            name, value = part.split(" ")
            members = set(after.get(names[name], {}).get("SS", ())) | set(values[value]["SS"])
            after[names[name]] = {"SS": sorted(members)}
        if _size(after) > MAX_ITEM_BYTES:
            raise Invalid("Item size to update has exceeded the maximum allowed size")
        units = self._store(key, after)
        return Answer(200, {"Attributes": after}, units)

    def _transact(self, request: Mapping[str, Any]) -> Answer:
        now_ms = self._now_ms()
        token = request["ClientRequestToken"]
        writes = [write for entry in request["TransactItems"] for write in entry.values()]
        if not 1 <= len(writes) <= MAX_TRANSACTION:
            raise Invalid(f"Member must have length between 1 and {MAX_TRANSACTION}")
        known = self._tokens.get(token)
        if known is not None and known.until_ms > now_ms:
            if known.asked != request["TransactItems"]:
                raise Invalid("the token was used for another request", "IdempotentParameterMismatchException")
            return Answer(200, {}, known.units)
        reasons = [self._reason(write) for write in writes]
        if len({_place(write) for write in writes}) < len(writes):
            raise Invalid("Transaction request cannot include multiple operations on one item")
        if sum(_size(write.get("Item", {})) for write in writes) > MAX_TRANSACTION_BYTES:
            raise Invalid("the aggregate size of the items in the transaction exceeds the 4MB limit")
        if any(reason["Code"] != "None" for reason in reasons):
            body = {"__type": "x#TransactionCanceledException", "message": "cancelled", "CancellationReasons": reasons}
            return Answer(400, body, 2.0 * sum(_write_units(_size(write.get("Item", {}))) for write in writes))
        sizes = [max(_size(self.items.get(_place(write), {})), _size(write.get("Item", {}))) for write in writes]
        self._tokens[token] = Replay(
            now_ms + TOKEN_MS, request["TransactItems"], 2.0 * sum(_read_units(size, True) for size in sizes)
        )
        return Answer(200, {}, sum(self._store(_place(write), self._then(write), 2) for write in writes))

    def _then(self, write: Mapping[str, Any]) -> Attributes | None:
        """What stands there after a write of a transaction."""
        if write["TableName"] != COUNTERS:
            return _after(write)
        standing = self.items.get(_place(write))
        if "UpdateExpression" not in write:
            return standing
        if write["UpdateExpression"] != ADD_ONE:
            raise Invalid(f"the simulated table does not know the update {write['UpdateExpression']}")
        number = int(standing["n"]["N"]) if standing else 0
        return {**write["Key"], "n": {"N": str(number + 1)}}

    def _reason(self, write: Mapping[str, Any]) -> dict[str, Any]:
        """What one write has against its transaction."""
        try:
            _, standing = self._checked(write)
        except KeyTooLong as refused:
            return {"Code": "ValidationError", "Message": str(refused)}
        if _holds(write, standing):
            return {"Code": "None"}
        shown = {} if standing is None else {"Item": standing}
        return {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", **shown}

    def _checked(self, write: Mapping[str, Any]) -> tuple[Key, Attributes | None]:
        if _size(write.get("Item", {})) > MAX_ITEM_BYTES:
            raise Invalid("Item size has exceeded the maximum allowed size")
        users = write.get("TableName") == COUNTERS
        key = _place(write) if users else _checked_key(write.get("Item") or write["Key"])
        return key, self.items.get(key)

    def _store(self, key: Key, after: Attributes | None, rate: int = 1) -> float:
        """Write, or delete; the units that it costs, the index included. What leaves the index is written there, and
        what comes into it; neither costs more in a transaction."""
        before = self.items.get(key)
        if after is not None:
            self.items[key] = after
            if before is None:
                insort(self._sorts.setdefault(key[0], []), key[1])
        elif before is not None:
            del self.items[key]
            self._sorts[key[0]].remove(key[1])
        indexed = 0.0
        if (before or {}).get("due") != (after or {}).get("due"):
            indexed = sum(_write_units(_size(_entry(one))) for one in (before or {}, after or {}) if "due" in one)
            entry = (after["shard"]["S"], int(after["due"]["N"])) if after and "due" in after else None
            lag_ms = self._lag_ms()
            number = self._index_changes = self._index_changes + 1
            if lag_ms and self._later is not None:
                self._later(lag_ms, lambda: self._to_index(key, entry, number))
            else:
                self._to_index(key, entry, number)
        self.changed(Change(key, before, after))
        return rate * _write_units(max(_size(before or {}), _size(after or {}))) + indexed

    def _to_index(self, key: Key, entry: tuple[str, int] | None, number: int) -> None:
        """The changes of one item come to the index late, and in their order."""
        if self._indexed.get(key, 0) > number:
            return
        self._indexed[key] = number
        if entry is None:
            self.index.pop(key, None)
        else:
            self.index[key] = entry


_OPERATIONS: dict[str, Any] = {
    "GetItem": Table._get_item,
    "BatchGetItem": Table._batch_get,
    "Query": Table._query,
    "PutItem": Table._write_item,
    "DeleteItem": Table._write_item,
    "UpdateItem": Table._update_item,
    "TransactWriteItems": Table._transact,
}


def _key(attributes: Mapping[str, Any]) -> Key:
    return attributes["pk"]["S"], attributes["sk"]["S"]


def _place(write: Mapping[str, Any]) -> Key:
    if write.get("TableName") == COUNTERS:
        return COUNTERS, write["Key"]["id"]["S"]
    return _key(write.get("Item") or write["Key"])


def _after(write: Mapping[str, Any]) -> Attributes | None:
    """What stands there after a write: nothing, where it deletes."""
    return dict(write["Item"]) if "Item" in write else None


def _checked_key(attributes: Mapping[str, Any]) -> Key:
    """The key, if DynamoDB would have it."""
    for name, most in MAX_KEY_BYTES.items():
        if not attributes[name]["S"]:
            raise Invalid(f"The AttributeValue for a key attribute cannot contain an empty string value. Key: {name}")
        if len(attributes[name]["S"].encode()) > most:
            raise KeyTooLong(f"the key {name} has exceeded the size limit of {most} bytes")
    return _key(attributes)


def _entry(attributes: Attributes) -> Attributes:
    """What the index keeps of an item."""
    return {name: attributes[name] for name in INDEXED}


def _holds(write: Mapping[str, Any], standing: Attributes | None) -> bool:
    condition = write.get("ConditionExpression")
    if condition == FREE:
        return standing is None
    if condition == SAME:
        return standing is not None and standing.get("t") == write["ExpressionAttributeValues"][":expected"]
    if condition == f"{FREE} OR {SAME}":
        return standing is None or standing.get("t") == write["ExpressionAttributeValues"][":expected"]
    if condition == THERE:
        return standing is not None
    if condition is None:
        return True
    raise Invalid(f"the simulated table does not know the condition {condition}")


def _size(attributes: Mapping[str, Any]) -> int:
    """By DynamoDB's rule: names and strings as UTF-8, a number by its significant digits, two to a byte, and
    one, and one more below zero."""
    size = 0
    for name, typed in attributes.items():
        [(kind, value)] = typed.items()
        size += len(name)
        if kind == "S":
            size += len(value.encode())
        elif kind == "N":
            size += (len(value.lstrip("-").rstrip("0")) + 1) // 2 + 1 + value.startswith("-")
        else:
            size += sum(len(member.encode()) for member in value)
    return size


def _read_units(size: int, strong: bool) -> float:
    return max(1, -(-size // 4096)) * (1.0 if strong else 0.5)


def _write_units(size: int) -> float:
    return float(max(1, -(-size // 1024)))
