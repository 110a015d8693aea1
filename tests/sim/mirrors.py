"""The same calls to several stores at once, and what they answer side by side.

Call        one call of `ports.Store`, as plain values
Model       what a store is, as a dict: it says what every call comes to
sequences   generated calls over a few keys, with hostile names and sizes at the limits
FaultyWire  a wire on which a request can be told to go wrong
Mirror      a wire to a real server that puts every single request to the simulated table as well, and compares
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from onward.aws.connection import Broken, Reply
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import SCHEMA
from onward.aws.wire import Call as Request
from onward.aws.wire import Wire
from onward.core.errors import OnwardError
from onward.ports import MAX_ITEM_BYTES, Drop, Item, Put, Refused, Store, Swap, key_of

from .chance import Chance
from .cloud import ENVIRONMENT, Cloud, SimulatedWire
from .table import PAGE_BYTES, Table
from .world import World

MAX_CALLS = 24
MAX_AT_ONCE = 5
FAULTS = ("not sent", "throttled", "reply lost")
LAST = "\U0010ffff"  # no sort key of these is behind it
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


# --------------------------------------------------------------------------------------------------------- calls
class Read(NamedTuple):
    partition: str
    first: str
    last: str
    limit: int | None
    newest_first: bool


class Get(NamedTuple):
    keys: tuple[tuple[str, str], ...]


class Wanted(NamedTuple):
    """One write. `swaps`: "free" (a put), "seen" (a swap for what stands there), "stale" (for what stood there),
    "other" (for what never did); the same with "drop " before it removes instead, and "drop any" whatever is there.
    `room`: None, or the value is made so long that the item has so many bytes less than
    it may have.
    """

    partition: str
    sort: str
    swaps: str
    body: str
    value: str | None
    due_ms: int | None
    room: int | None


class Write(NamedTuple):
    wanted: tuple[Wanted, ...]


class Mark(NamedTuple):
    partition: str
    sort: str
    adds: dict[str, list[str]]


class Marks(NamedTuple):
    partition: str
    sort: str


class Due(NamedTuple):
    before_ms: int
    limit: int


Call = Read | Get | Write | Mark | Marks | Due


class Calls(list[Call]):
    """Calls that can be read when a test fails."""

    def __repr__(self) -> str:
        return "\n".join(map(told, self))


def told(what: object) -> str:
    """As it is written, but for the tenth time the same letter."""
    return re.sub(r"(.)\1{9,}", lambda run: f"{run[1]}…×{len(run[0])}…", ascii(what))


HOSTILE = (
    "a", "b", "A", "H", "L#00000001", "L#00000002", "L#1", "L#10", "L~", "\x00", "a\x00", "a\x00b", "\x01", "\n",
    "\x7f", '"', "\\", "'; DROP TABLE items; --", "%s{}${x}", ":p", "#0", "é", "e\u0301", "ſ", "\u202e", "\ud7ff",
    "\ue000", "\uffff", "\U00010000", "🛒", "\U0010ffff", "../..", " ", "null",
)  # fmt: skip
LONG_SORTS = ("k" * 1024, "k" * 1023 + "l", "é" * 512, "🛒" * 256)
LONG_PARTITIONS = ("p" * 900, "p" * 2048, "é" * 1024)
BODIES = ("{}", "", '{"k":"done"}', '{"t":"\\u0000ü🛒"}', "x" * 990, "x" * 4_000)
VALUES = (None, None, "", "null", '"výsledek 🛒 \\u0000"', "\x00", "y" * 1_000, "y" * 70_000)
ROOMS = (None,) * 30 + (-1, 0, 1)
SWAPS = ("free", "seen", "seen", "free", "seen", "stale", "other", "drop seen", "drop stale", "drop other", "drop any")
TIMES = (None, None, 0, 1, 10, 1_764_547_200_000, 1_764_547_200_001, 1_764_547_260_000, -5, -1_200, 253_402_300_800_000)
NAMES = ("done", "visible", "", "é", "a b", "#", "m_")
MEMBERS = ("1", "2", "10", "é", "🛒", "x" * 32, "\x00")


@st.composite
def sequences(draw: st.DrawFn, rooms: tuple[int | None, ...] = ROOMS) -> Calls:
    """Calls over a handful of keys. `rooms`: of the items that they write (see `Wanted`)."""
    some = st.sampled_from
    partitions = draw(st.lists(some(HOSTILE + LONG_PARTITIONS), min_size=1, max_size=3, unique=True))
    sorts = draw(st.lists(some(HOSTILE + LONG_SORTS), min_size=1, max_size=6, unique=True))
    # Marks live under names of their own: `read` and `get` are never pointed at them.
    places = [("marks of " + partition[:900], sort) for partition in partitions for sort in sorts[:2]]
    edges = ["", *sorts, *HOSTILE, LAST]
    keys = st.tuples(some(partitions), some(sorts))
    wanted = st.builds(
        lambda key, *more: Wanted(*key, *more),
        keys, some(SWAPS), some(BODIES), some(VALUES), some(TIMES), some(rooms),
    )  # fmt: skip
    limits = st.one_of(st.none(), st.integers(0, 7))
    call = st.one_of(
        st.builds(Read, some(partitions), some(edges), some(edges), limits, st.booleans()),
        st.builds(Read, some(partitions), st.just(""), st.just(LAST), limits, st.booleans()),
        st.builds(lambda found: Get(tuple(found)), st.lists(keys, max_size=8, unique=True)),
        st.builds(lambda one: Write((one,)), wanted),
        st.builds(
            lambda several: Write(tuple(several)),
            st.lists(wanted, min_size=1, max_size=MAX_AT_ONCE, unique_by=lambda one: one[:2]),
        ),
        st.builds(
            lambda place, adds: Mark(*place, adds),
            some(places), st.dictionaries(some(NAMES), st.lists(some(MEMBERS), max_size=3), max_size=3),
        ),
        st.builds(lambda place: Marks(*place), some(places)),
        st.builds(Due, st.one_of(some([one for one in TIMES if one is not None]), st.just(1 << 50)), st.integers(0, 9)),
    )  # fmt: skip
    return Calls(draw(st.lists(call, min_size=1, max_size=MAX_CALLS)))


# --------------------------------------------------------------------------------------------------------- model
class Model:
    """A store as a dict, with nothing to go wrong. `write` takes what is wanted, and remembers the writes that it made
    of it: the others are handed these."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Item] = {}
        self.sets: dict[tuple[str, str], dict[str, frozenset[str]]] = {}
        self._written = 0
        self._stale: dict[tuple[str, str], str] = {}

    def writes(self, call: Write) -> list[Put | Swap | Drop]:
        """The writes of a call, each with a fresh token."""
        made: list[Put | Swap | Drop] = []
        for one in call.wanted:
            self._written += 1
            key = one.partition, one.sort
            item = Item(*key, f"token-{self._written:06}", one.body, one.value, one.due_ms)
            if one.room is not None:
                item.value = ""
                item.value = "z" * (MAX_ITEM_BYTES - one.room - size_of(item))
            standing = self.items.get(key)
            if one.swaps.startswith("drop"):
                tokens = {"seen": standing and standing.token, "stale": self._stale.get(key), "any": None}
                made.append(Drop(*key, tokens.get(one.swaps.removeprefix("drop "), "token-of-another")))
            elif one.swaps == "free":
                made.append(Put(item))
            elif one.swaps == "seen" and standing is not None:
                made.append(Swap(item, standing.token))
            elif one.swaps == "stale":
                made.append(Swap(item, self._stale.get(key, "token-of-nobody")))
            else:
                made.append(Swap(item, "token-of-another"))
        return made

    def write(self, writes: Sequence[Put | Swap | Drop]) -> tuple[str, Any]:
        if any(size_of(write.item) > MAX_ITEM_BYTES for write in writes if not isinstance(write, Drop)):
            return "raised", "ItemTooLarge"
        standing: list[Item | None] = []
        refused = False
        for write in writes:
            found = self.items.get(key_of(write))
            if isinstance(write, Drop):
                free = found is None or write.expected in (None, found.token)
            elif isinstance(write, Put):
                free = found is None
            else:
                free = found is not None and found.token == write.expected
            refused = refused or not free
            standing.append(None if free else found)
        if refused:
            return "refused", tuple(standing)
        for write in writes:
            key = key_of(write)
            if key in self.items:
                self._stale[key] = self.items[key].token
            if isinstance(write, Drop):
                self.items.pop(key, None)
            else:
                self.items[key] = write.item
        return "returned", None

    def read(self, call: Read) -> list[Item]:
        found = [
            item
            for (partition, sort), item in sorted(self.items.items(), key=lambda entry: entry[0][1].encode())
            if partition == call.partition and call.first.encode() <= sort.encode() <= call.last.encode()
        ]
        return (found[::-1] if call.newest_first else found)[: call.limit]

    def mark(self, call: Mark) -> dict[str, frozenset[str]]:
        sets = self.sets.setdefault((call.partition, call.sort), {})
        for name, members in call.adds.items():
            if members:
                sets[name] = sets.get(name, frozenset()) | set(members)
        return dict(sets)

    def due(self, call: Due) -> list[tuple[str, str, int]]:
        found = [(*key, item.due_ms) for key, item in self.items.items() if item.due_ms is not None]
        return sorted((one for one in found if one[2] <= call.before_ms), key=lambda one: one[2])


def size_of(item: Item) -> int:
    """By DynamoDB's documentation, spelled out: each attribute's name and content; a number has a byte for two
    significant digits, one more, and one more below zero; what has a time is in the index and has a shard."""
    texts = {"pk": item.partition, "sk": item.sort, "t": item.token, "b": item.body, "v": item.value}
    size = sum(len(name) + len(text.encode()) for name, text in texts.items() if text is not None)
    if item.due_ms is None:
        return size
    digits = str(abs(item.due_ms))
    pairs = (("0" if len(digits) % 2 else "") + digits).removesuffix("00")
    while pairs.endswith("00"):
        pairs = pairs.removesuffix("00")
    return size + len("due") + max(len(pairs) // 2, 1) + 1 + (item.due_ms < 0) + len("shard") + 1


def perform(model: Model, call: Call, stores: Mapping[str, Store]) -> None:
    """Make the call everywhere, and hold what each store says against the model."""
    match call:
        case Write():
            writes = model.writes(call)
            expected: Any = model.write(writes)
            answers = {name: outcome(lambda store=store: store.write(writes)) for name, store in stores.items()}
        case Read():
            expected = "returned", model.read(call)
            answers = {
                name: outcome(
                    lambda store=store: store.read(
                        call.partition, call.first, call.last, limit=call.limit, newest_first=call.newest_first
                    )
                )
                for name, store in stores.items()
            }
        case Get():
            expected = "returned", [model.items.get(key) for key in call.keys]
            answers = {name: outcome(lambda store=store: store.get(call.keys)) for name, store in stores.items()}
        case Mark():
            expected = "returned", model.mark(call)
            answers = {name: outcome(lambda store=store: store.mark(*call)) for name, store in stores.items()}
        case Marks():
            expected = "returned", model.sets.get((call.partition, call.sort), {})
            answers = {name: outcome(lambda store=store: store.marks(*call)) for name, store in stores.items()}
        case Due():
            check_due(model.due(call), call, {name: store.due(*call) for name, store in stores.items()})
            return
    for name, answer in answers.items():
        if answer != expected:  # no bare assertion: its explanation would be a megabyte
            raise AssertionError(f"{name} answers {told(call)}\nwith {told(answer)}\nand not {told(expected)}")


def check_due(
    all_due: list[tuple[str, str, int]], call: Due, answers: Mapping[str, list[tuple[str, str, int]]]
) -> None:
    """The earliest first, as many as asked for; of those that are due at the same time, any."""
    for name, found in answers.items():
        times = [due_ms for _, _, due_ms in found]
        assert times == [due_ms for _, _, due_ms in all_due][: call.limit], f"{name} answers {call} with {found}"
        assert set(found) <= set(all_due) and len(set(found)) == len(found), f"{name} answers {call} with {found}"


def check_whole(model: Model, stores: Mapping[str, Store]) -> None:
    """Everything that is kept, at the end."""
    for partition in sorted({partition for partition, _ in model.items}):
        perform(model, Read(partition, "", LAST, None, False), stores)
        perform(model, Read(partition, "\x00", LAST, None, True), stores)
    for place in model.sets:
        perform(model, Marks(*place), stores)
    perform(model, Due(1 << 60, 1_000), stores)


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """What a call came to. Only errors that a store may raise are an outcome; others fail the test."""
    try:
        answer = call()
    except OnwardError as error:
        return "raised", type(error).__name__
    if isinstance(answer, Refused):
        return "refused", answer.standing
    return "returned", answer


# --------------------------------------------------------------------------------------------------------- stores
class FaultyWire(Wire):
    """A wire on which the next request can be told to go wrong: `fault` is "" or one of `FAULTS`."""

    fault = ""

    def _attempt(self, call: Request) -> tuple[Reply, dict[str, Any] | None]:
        fault, self.fault = self.fault, ""
        if fault == "not sent":
            raise Broken("the connection was cut before the request was through")
        if fault == "throttled":
            body = json.dumps({"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"})
            return Reply(400, {}, body.encode(), True, len(body)), None
        answer = super()._attempt(call)
        self.heard(call, answer[0])
        if fault:
            raise Broken("the reply was lost")
        return answer

    def heard(self, call: Request, reply: Reply) -> None:
        """For who listens."""


class Simulated(FaultyWire, SimulatedWire):
    """The engine's own wire, over a calm simulated cloud."""

    def __init__(self) -> None:
        world = World()
        SimulatedWire.__init__(self, Cloud(world, Chance(0, {}), Table(lambda: world.now_ms)))


def simulated_store() -> DynamoStore:
    return DynamoStore(Simulated(), ENVIRONMENT["ONWARD_TABLE"])


class Mirror(FaultyWire):
    """A wire to a server, which puts each request to a simulated table too, and compares the two replies.

    `compared`: requests. `differences`: those that are explained, by name, each with its first example.
    """

    def __init__(self, url: str) -> None:
        super().__init__(endpoint_url=url, environ=KEYS, sleep=lambda _: None, meter=lambda *_: None)
        self.compared = 0
        self.differences: dict[str, str] = {}
        self._table = Table()
        self._tokens: set[str] = set()

    def heard(self, call: Request, reply: Reply) -> None:
        if call.operation == "CreateTable":
            return
        request = json.loads(call.body)
        answer = self._table.call(call.operation, request)
        theirs, ours = plain(call.operation, json.loads(reply.body)), plain(call.operation, answer.body)
        if call.operation == "Query" and "IndexName" in request:
            theirs, ours = without_ties(theirs), without_ties(ours)
        self.compared += 1
        token = request.get("ClientRequestToken", "")
        if (reply.status, theirs) != (answer.status, ours):
            text = f"real: {reply.status} {told(theirs)}\nfake: {answer.status} {told(ours)}"
            name = difference(request, theirs, ours, again=token in self._tokens)
            if name is None:
                raise AssertionError(f"{call.operation} {told(request)}\n{text}")
            self.differences.setdefault(name, text)
        self._tokens.add(token)


def open_table(wire: Wire, name: str) -> DynamoStore:
    """A fresh table, without the item that says its layout."""
    wire.json("dynamodb", "CreateTable", {"TableName": name, **SCHEMA}, name)
    return DynamoStore(wire, name)


# ------------------------------------------------------------------------------------------------- requests, replies
PAGE = "a page of a megabyte ends one item earlier"
UNITS = "other capacity units"
TOKEN = "a transaction that is sent again is performed again"


def difference(request: Mapping[str, Any], theirs: dict[str, Any], ours: dict[str, Any], *, again: bool) -> str | None:
    """What explains that two replies are not the same, if something does."""
    if without(ours, "units") == without(theirs, "units"):
        return UNITS
    if is_other_page(request, theirs, ours):
        return PAGE
    if again and theirs.get("error") == "TransactionCanceledException" and "error" not in ours:
        return TOKEN
    return None


def without(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


def plain(operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """A reply without what nobody may lean on: messages, the order of members and of what BatchGetItem brings, and the
    names of tables."""
    plain_body = without(body, "message", "Message", "__type", "ScannedCount", "ItemCollectionMetrics")
    if "__type" in body:
        plain_body["error"] = body["__type"].rpartition("#")[2]
    for reason in plain_body.get("CancellationReasons", ()):
        reason.pop("Message", None)
    used = plain_body.pop("ConsumedCapacity", None)
    if used is not None:
        plain_body["units"] = sum(one["CapacityUnits"] for one in (used if isinstance(used, list) else [used]))
    if operation == "BatchGetItem" and "Responses" in body:
        found = [item for items in body["Responses"].values() for item in items]
        plain_body["Responses"] = sorted(found, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))
        plain_body["UnprocessedKeys"] = [one["Keys"] for one in body.get("UnprocessedKeys", {}).values()]
    for item in (plain_body.get("Attributes"), plain_body.get("Item"), *plain_body.get("Items", ())):
        for typed in (item or {}).values():
            if "SS" in typed:
                typed["SS"] = sorted(typed["SS"])
    return plain_body


def is_other_page(request: Mapping[str, Any], theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether a page of a megabyte has one item more here than there, and nothing else is different."""
    mine, other = ours.get("Items", []), theirs.get("Items", [])
    bytes_there = sum(len(json.dumps(item, ensure_ascii=False).encode()) for item in mine)
    return (
        len(mine) == len(other) + 1
        and mine[:-1] == other
        and "LastEvaluatedKey" in theirs
        and bytes_there > PAGE_BYTES
        and len(other) < request.get("Limit", len(mine) + 1)
    )


def without_ties(body: dict[str, Any]) -> dict[str, Any]:
    """What stands at one time in the index has no order: only the times are compared, and where nothing was cut off
    also what stands there."""
    items = sorted(body.get("Items", []), key=lambda item: (int(item["due"]["N"]), item["pk"]["S"], item["sk"]["S"]))
    times = [item["due"] for item in body.get("Items", [])]
    last = body.pop("LastEvaluatedKey", None)
    return {**body, "Items": items if last is None else None, "times": times, "cut": last and last["due"]}
