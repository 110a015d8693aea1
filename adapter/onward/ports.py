"""What the engine asks of the world: `Store`, `Wakes`, `Blobs` and `Clock`.

Two wings answer, `onward.aws` and `onward.local`, and both pass one contract suite, races included. Each
docstring states what is atomic and what a caller may rely on; what is not stated is not promised.

The store is one table of small items under two keys, `partition` and `sort`. Nothing in it is overwritten
blindly: an item is put where none is, or swapped for the one that the caller saw, and every write carries a
fresh token of its writer. So a reply that was lost after its write was applied is recognised (the item that
stands in the way carries the writer's own token), and never read as a lost race.

On the hot path this module is imported for its values (`Item`, `Put`, `Swap`, `Drop`) and the size of an item only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Protocol
else:
    Protocol = object

MAX_ITEM_BYTES = 409_600  # DynamoDB's own limit, kept by every store: local equals deployed
MAX_WRITES = 100  # items in one transaction, DynamoDB's limit
MAX_WRITE_BYTES = 4 * 1024 * 1024  # of all of them


class Item:
    """One item of the table.

    `partition` and `sort`: its keys, non-empty, at most 2,048 and 1,024 bytes of UTF-8; `sort` orders by bytes.
    `token`: who wrote it last; fresh for each write.
    `body`: JSON text, the engine's own fields. `value`: a user's value as JSON text, or what middleware has made of
    that, or None.
    `due_ms`: epoch milliseconds; an item that has it appears in the due index.
    """

    __slots__ = ("body", "due_ms", "partition", "sort", "token", "value")

    def __init__(
        self,
        partition: str,
        sort: str,
        token: str,
        body: str,
        value: str | None = None,
        due_ms: int | None = None,
    ) -> None:
        self.partition = partition
        self.sort = sort
        self.token = token
        self.body = body
        self.value = value
        self.due_ms = due_ms

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Item):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Item.__slots__)

    def __hash__(self) -> int:
        return hash((self.partition, self.sort, self.token))

    def __repr__(self) -> str:
        return (
            f"Item({self.partition!r}, {self.sort!r}, {self.token!r}, {self.body!r}, {self.value!r}, {self.due_ms!r})"
        )


def item_bytes(item: Item) -> int:
    """The size of an item by DynamoDB's rule: names and strings as UTF-8, a number by its pairs of digits."""
    size = len("pksktb") + sum(
        len(text) if text.isascii() else len(text.encode("utf-8"))
        for text in (item.partition, item.sort, item.token, item.body, item.value or "")
    )
    if item.value is not None:
        size += len("v")
    if item.due_ms is not None:
        size += len("due") + _number_bytes(item.due_ms) + len("shard") + 1
    return size


def _number_bytes(number: int) -> int:
    digits = str(abs(number))
    significant = digits.rstrip("0")
    kept = len(significant) + (len(digits) - len(significant)) % 2  # pairs of digits, aligned at the point
    return (kept + 1) // 2 + (2 if number < 0 else 1)


class Put:
    """Write `item` where no item is."""

    __slots__ = ("item",)

    def __init__(self, item: Item) -> None:
        self.item = item


class Swap:
    """Replace the whole item under the keys of `item`, if it is there and carries the token `expected`."""

    __slots__ = ("expected", "item")

    def __init__(self, item: Item, expected: str) -> None:
        self.item = item
        self.expected = expected


class Drop:
    """Remove the item under these keys; where `expected` is given, only one that carries this token. That nothing is
    there is no reason to refuse: it may have been dropped before, by a write whose reply was lost."""

    __slots__ = ("expected", "partition", "sort")

    def __init__(self, partition: str, sort: str, expected: str | None = None) -> None:
        self.partition = partition
        self.sort = sort
        self.expected = expected


if TYPE_CHECKING:
    Write = Put | Swap | Drop


def key_of(write: Write) -> tuple[str, str]:
    """The (partition, sort) that it writes to."""
    place = write if isinstance(write, Drop) else write.item
    return place.partition, place.sort


class Refused:
    """Nothing was written. `standing`: for each write, in order, the item that stood there (None: no item)
    where that write was the reason, and None where it was not. `why`: which of the caller's own writes was refused, and
    for what; "" where none was."""

    __slots__ = ("standing", "why")

    def __init__(self, standing: Sequence[Item | None], why: str = "") -> None:
        self.standing = tuple(standing)
        self.why = why

    def __repr__(self) -> str:
        return f"Refused({self.standing!r}{f', {self.why!r}' if self.why else ''})"


class Store(Protocol):
    """The table. Every method may raise `Unavailable` (try later; a write may or may not have been applied),
    `TableMissing`, `NoCredentials` or `ItemTooLarge` from `onward.core.errors`, and raises nothing else."""

    def read(
        self, partition: str, first: str, last: str, *, limit: int | None = None, newest_first: bool = False
    ) -> list[Item]:
        """All items of one partition with first <= sort <= last, ascending by the bytes of `sort` (descending
        with `newest_first`), at most `limit` of them.

        Strongly consistent for each item: every write that was acknowledged before the call began is seen.
        Not a snapshot: a range over 1 MB is read in pages, and a write between two pages may be seen.
        """

    def get(self, keys: Sequence[tuple[str, str]]) -> list[Item | None]:
        """The items under these (partition, sort) keys, in order, None where there is none. Strongly consistent
        for each item; not a snapshot over several. Any number of keys; no key twice."""

    def write(self, writes: Sequence[Write], also: Sequence[Any] = ()) -> Refused | None:
        """All of 1 to 100 writes, of 4 MB together, or none of them, atomically; no key twice. None when they are
        applied.

        `also`: writes of the user's own, which belong to the same transaction (and count among the 100): all of both
        are applied, and once, or nothing is. On DynamoDB they are entries of TransactWriteItems, on SQLite
        `(sql, parameters)`. Where one of them is refused for a reason that is its own, the answer says so in `why`;
        where the store's own writes were refused as well, `standing` has what stood there.

        A write that was applied although its reply was lost counts as applied: the store retries, and knows its
        own token again. A race with another writer is either won (None) or `Refused`; it is never both, and of
        any number of writers that put the same key exactly one is not refused.
        """

    def mark(self, partition: str, sort: str, adds: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
        """Add members to the named sets of the marks under these keys, and return all its sets as they are
        right after. Atomic, idempotent, and made on first use. Adding one member at a time, of n concurrent
        callers exactly one sees the set complete first. At most 128 members of at most 32 bytes a set. Marks live
        in the same key space as items, but `read` and `get` are never pointed at them."""

    def marks(self, partition: str, sort: str) -> dict[str, frozenset[str]]:
        """The sets of the marks under these keys, strongly consistent; {} where nothing was marked."""

    def due(self, before_ms: int, limit: int) -> list[tuple[str, str, int]]:
        """(partition, sort, due_ms) of at most `limit` items with due_ms <= before_ms, the earliest first within
        each shard of the index. Eventually consistent: an item that was just written may be missing or stale."""


class Wakes(Protocol):
    """Sends wakes: small JSON objects that say «advance this run». At least once, in no order, and now and then
    lost: the table is the truth, a wake is a hint, and the sweep replaces what is lost."""

    @property
    def reach_ms(self) -> int:
        """How far in the future a wake may lie, in milliseconds."""

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        """Hand over one wake, to be delivered now (None) or not before `at_ms` (epoch milliseconds, at most
        `reach_ms` ahead; a time in the past is now). Returns when it is accepted; raises `Unavailable`."""


class Blobs(Protocol):
    """Keeps values that are too large for an item, by the SHA-256 of their content."""

    def put(self, content: bytes) -> str:
        """Store and return the reference, `sha256:<64 hex digits>`. Idempotent. Raises `Unavailable`."""

    def get(self, reference: str) -> bytes:
        """The content, whose digest was checked. Raises `BlobMissing`, `BlobCorrupt` or `Unavailable`."""


class Clock(Protocol):
    """Time and chance, the two things that `core` is handed and never takes."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""

    def random(self) -> float:
        """A float in [0, 1), from a source that copies of one sandbox snapshot do not share."""

    def token(self) -> str:
        """A fresh random token: 16 characters of [0-9a-z], 80 bits."""
