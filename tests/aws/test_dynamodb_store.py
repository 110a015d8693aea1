"""What the DynamoDB store keeps of its port's promises when replies are lost, requests throttled and writers race.

The contract that every store passes is in `tests/contract`; here is what only this one can meet.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.aws import dynamodb
from onward.aws.dynamodb import DynamoStore, item_bytes, shard_of
from onward.aws.wire import Wire
from onward.clock import SystemClock
from onward.core.errors import ItemTooLarge, RequestRefused, TableMissing, Unavailable
from onward.ports import MAX_ITEM_BYTES, Item, Put, Refused, Swap
from tests.aws.scripted import Proxy, Request, proxied, refusal, reply, scripted

MakeWire = Callable[..., Wire]
token = SystemClock().token


def item(sort: str = "1", partition: str = "run", **more: Any) -> Item:
    return Item(partition, sort, more.pop("token", None) or token(), more.pop("body", "{}"), **more)


def behind(
    store: DynamoStore, wire_to: MakeWire, plan: Callable[[int, Request], str | bytes], **options: Any
) -> tuple[Any, Callable[[Proxy], DynamoStore]]:
    """A proxy in front of the store's server, and the same table through it."""
    url = store.wire._endpoint_url
    assert url is not None
    return proxied(url, plan), lambda proxy: DynamoStore(wire_to(proxy.url, **options), store.table)


def first(action: str | bytes, times: int = 1) -> Callable[[int, Request], str | bytes]:
    return lambda number, _: action if number < times else "pass"


def cancelled(*codes: str, **standing: Any) -> bytes:
    reasons: list[dict[str, Any]] = [{"Code": code} for code in codes]
    return refusal("TransactionCanceledException", "Transaction cancelled", CancellationReasons=reasons)


# ------------------------------------------------------------------------------------------------- lost replies
@pytest.mark.parametrize("action", ["lose reply", "lose request", refusal("InternalServerError", "", 500)])
def test_a_put_whose_reply_was_lost_is_applied_and_not_refused(
    any_store: DynamoStore, wire_to: MakeWire, action: str | bytes
) -> None:
    proxy, through = behind(any_store, wire_to, first(action))
    written = item(value='"v"', due_ms=5)
    with proxy as server:
        assert through(server).write([Put(written)]) is None
        assert len(server.requests) == 2
    assert any_store.get([("run", "1")]) == [written]


def test_a_put_that_another_had_won_is_refused_though_its_own_reply_was_lost(
    any_store: DynamoStore, wire_to: MakeWire
) -> None:
    winner = item()
    any_store.write([Put(winner)])
    proxy, through = behind(any_store, wire_to, first("lose reply"))
    with proxy as server:
        refused = through(server).write([Put(item())])
    assert isinstance(refused, Refused)
    assert refused.standing == (winner,)


def test_a_swap_whose_reply_was_lost_is_applied(any_store: DynamoStore, wire_to: MakeWire) -> None:
    old, new = item(due_ms=7, value="1"), item(body='{"new":1}')
    any_store.write([Put(old)])
    proxy, through = behind(any_store, wire_to, first("lose reply"))
    with proxy as server:
        assert through(server).write([Swap(new, old.token)]) is None
    assert any_store.get([("run", "1")]) == [new]
    assert any_store.due(100, 10) == []


@pytest.mark.parametrize("shared", [True, False])
def test_a_transaction_whose_reply_was_lost_is_applied_as_a_whole(
    any_store: DynamoStore, wire_to: MakeWire, shared: bool
) -> None:
    """dynoxide knows the client request token, moto does not, and there our own token must tell."""
    old = item("2")
    any_store.write([Put(old)])
    one, two = item("1"), item("2")
    if shared:
        two.token = one.token
    proxy, through = behind(any_store, wire_to, first("lose reply"))
    with proxy as server:
        assert through(server).write([Put(one), Swap(two, old.token)]) is None
        assert len(server.requests) == 2
    assert any_store.read("run", "0", "9") == [one, two]


def test_one_item_of_ours_proves_the_whole_transaction(any_store: DynamoStore) -> None:
    """The other was swapped before the repetition."""
    one, two = item("1"), item("2")
    any_store.write([Put(one), Put(two)])
    any_store.write([Swap(item("2", body='{"later":1}'), two.token)])
    assert any_store.write([Put(one), Put(two)]) is None


def test_a_repeated_transaction_is_known_by_its_request_token(store: DynamoStore, wire_to: MakeWire) -> None:
    """Even where all its items were swapped before the repetition."""
    one, two = item("1"), item("2")

    def swap_behind_its_back(number: int, request: Request) -> str | bytes:
        if number == 1:
            store.write([Swap(item("1"), one.token), Swap(item("2"), two.token)])
        return "lose reply" if number == 0 else "pass"

    proxy, through = behind(store, wire_to, swap_behind_its_back)
    with proxy as server:
        assert through(server).write([Put(one), Put(two)]) is None


def test_a_lost_write_that_nobody_answers_is_unavailable(any_store: DynamoStore, wire_to: MakeWire) -> None:
    proxy, through = behind(any_store, wire_to, lambda number, request: "lose reply")
    with proxy as server, pytest.raises(Unavailable, match=r"DynamoDB PutItem.*tried 4 times"):
        through(server).write([Put(item())])


# --------------------------------------------------------------------------------------- refusals and conflicts
def test_each_refused_write_names_what_stood_in_its_way(any_store: DynamoStore) -> None:
    there, other = item("1", value="null", due_ms=12), item("2")
    any_store.write([Put(there), Put(other)])
    refused = any_store.write([Put(item("1")), Put(item("3")), Swap(item("2"), "another"), Swap(item("4"), "nobody")])
    assert isinstance(refused, Refused)
    assert refused.standing == (there, None, other, None)
    assert any_store.read("run", "0", "9") == [there, other]
    alone = any_store.write([Swap(item("4"), "nobody")])
    assert isinstance(alone, Refused)
    assert alone.standing == (None,)


def test_a_put_on_marks_is_refused(any_store: DynamoStore) -> None:
    any_store.mark("run", "marks", {"done": ["a"]})
    refused = any_store.write([Put(item("marks"))])
    assert isinstance(refused, Refused)
    assert refused.standing[0] is not None
    assert refused.standing[0].token == ""


@pytest.mark.parametrize(
    "reasons",
    [
        ("TransactionConflict", "None"),
        ("None", "ThrottlingError"),
        ("ProvisionedThroughputExceeded", "TransactionConflict"),
    ],
)
def test_a_transaction_in_conflict_is_tried_again_and_not_refused(
    store: DynamoStore, wire_to: MakeWire, reasons: tuple[str, ...]
) -> None:
    waits: list[float] = []
    proxy, through = behind(store, wire_to, first(cancelled(*reasons), 3), sleep=waits.append)
    one, two = item("1"), item("2")
    with proxy as server:
        assert through(server).write([Put(one), Put(two)]) is None
        assert len(server.requests) == 4
        assert len({request.json["ClientRequestToken"] for request in server.requests}) == 1
    assert len(waits) == 3
    assert store.read("run", "0", "9") == [one, two]


@pytest.mark.parametrize("count", [1, 2])
def test_conflicts_without_end_are_unavailable(store: DynamoStore, wire_to: MakeWire, count: int) -> None:
    conflict = (
        refusal("TransactionConflictException", "busy") if count == 1 else cancelled("TransactionConflict", "None")
    )
    proxy, through = behind(store, wire_to, lambda number, request: conflict)
    with proxy as server:
        with pytest.raises(Unavailable, match=r"TransactionConflict|another transaction"):
            through(server).write([Put(item(str(number))) for number in range(count)])
        assert len(server.requests) == dynamodb.CONFLICT_ATTEMPTS


def test_a_throttled_transaction_is_given_up_after_as_many_attempts_as_any_call(
    store: DynamoStore, wire_to: MakeWire
) -> None:
    proxy, through = behind(store, wire_to, lambda number, request: cancelled("ThrottlingError", "None"))
    with proxy as server:
        with pytest.raises(Unavailable, match="cancelled for ThrottlingError"):
            through(server).write([Put(item("1")), Put(item("2"))])
        assert len(server.requests) == 4


def test_a_single_write_and_a_mark_wait_for_a_transaction_that_holds_the_item(
    store: DynamoStore, wire_to: MakeWire
) -> None:
    conflict = refusal("TransactionConflictException", "busy")
    proxy, through = behind(store, wire_to, lambda number, request: conflict if number in (0, 2) else "pass")
    with proxy as server:
        assert through(server).write([Put(item())]) is None
        assert through(server).mark("run", "marks", {"done": ["a"]}) == {"done": {"a"}}
        assert len(server.requests) == 4


def test_a_transaction_that_is_cancelled_for_its_size_or_our_nonsense_is_told(
    store: DynamoStore, wire_to: MakeWire
) -> None:
    writes = [Put(item("1")), Put(item("2"))]
    for message, kind in (
        ("Item size has exceeded the maximum allowed size", ItemTooLarge),
        ("nonsense", RequestRefused),
    ):
        reasons = [{"Code": "None"}, {"Code": "ValidationError", "Message": message}]
        final = refusal("TransactionCanceledException", "Transaction cancelled", CancellationReasons=reasons)
        with scripted(final) as server, pytest.raises(kind):
            DynamoStore(wire_to(server.url), "runs").write(writes)
    with scripted(refusal("TransactionCanceledException", "no reasons at all")) as server:
        with pytest.raises(RequestRefused):
            DynamoStore(wire_to(server.url), "runs").write(writes)


def test_throttling_is_waited_out(any_store: DynamoStore, wire_to: MakeWire) -> None:
    slow = refusal("ProvisionedThroughputExceededException")
    proxy, through = behind(any_store, wire_to, lambda number, request: slow if number % 2 == 0 else "pass")
    with proxy as server:
        patient = through(server)
        patient.write([Put(item("1"))])
        patient.write([Put(item("2")), Put(item("3"))])
        patient.mark("run", "marks", {"done": ["a"]})
        assert len(patient.read("run", "1", "3")) == 3
        assert len([found for found in patient.get([("run", "1"), ("run", "2")]) if found]) == 2
        assert patient.marks("run", "marks") == {"done": {"a"}}
        assert patient.due(1, 1) == []


# ---------------------------------------------------------------------------------------------------------- races
def together(work: Callable[[int], Any], count: int = 8) -> list[Any]:
    barrier = Barrier(count)

    def begin(number: int) -> Any:
        barrier.wait(30)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


def test_of_eight_writers_of_one_key_exactly_one_wins(store: DynamoStore) -> None:
    for sort in range(25):
        answers = together(lambda number: store.write([Put(item(str(sort)))]))
        assert answers.count(None) == 1
        standing = store.get([("run", str(sort))])[0]
        assert {refused.standing[0] for refused in answers if refused} == {standing}


def test_of_eight_transactions_over_the_same_keys_exactly_one_wins(store: DynamoStore) -> None:
    for sort in range(15):
        keys = [f"{sort}-a", f"{sort}-b"]
        answers = together(lambda number: store.write([Put(item(key, body=f"{number}")) for key in keys]))
        assert answers.count(None) == 1
        bodies = {found.body for found in store.read("run", keys[0], keys[1])}
        assert bodies == {str(answers.index(None))}


def test_no_swap_is_lost_among_eight_writers(store: DynamoStore) -> None:
    store.write([Put(item("counter", body="0"))])

    def count_up(_: int) -> None:
        for _ in range(10):
            for _ in range(1000):
                (seen,) = store.get([("run", "counter")])
                assert seen is not None
                if store.write([Swap(item("counter", body=str(int(seen.body) + 1)), seen.token)]) is None:
                    break

    together(count_up)
    (seen,) = store.get([("run", "counter")])
    assert seen is not None
    assert seen.body == "80"


def test_of_eight_who_mark_exactly_one_sees_the_set_complete(store: DynamoStore) -> None:
    for round_number in range(10):
        answers = together(lambda number: store.mark("run", f"m{round_number}", {"done": [str(number)]}))
        assert sum(len(sets["done"]) == 8 for sets in answers) == 1
        assert sorted(len(sets["done"]) for sets in answers) == list(range(1, 9))


# ------------------------------------------------------------------------------------------------ reading in pages
def test_a_partition_over_a_megabyte_is_read_in_pages(any_store: DynamoStore) -> None:
    written = [item(f"{number:03}", body=json.dumps("x" * 60_000)) for number in range(40)]
    for one in written:
        any_store.write([Put(one)])
    pages: list[str] = []
    any_store.wire.meter = lambda service, operation, *rest: pages.append(operation)
    assert any_store.read("run", "000", "999") == written
    assert pages.count("Query") >= 3
    assert any_store.read("run", "000", "999", newest_first=True) == written[::-1]
    assert any_store.read("run", "000", "999", limit=25) == written[:25]
    assert any_store.read("run", "005", "030", limit=25, newest_first=True) == written[30:5:-1]


def test_pages_are_bounded(wire_to: MakeWire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamodb, "MAX_PAGES", 3)
    endless = reply(200, {"Items": [], "LastEvaluatedKey": {"pk": {"S": "a"}, "sk": {"S": "b"}}})
    with scripted(endless) as server, pytest.raises(RequestRefused, match="more than 3 pages"):
        DynamoStore(wire_to(server.url), "runs").read("run", "0", "9")


def test_more_than_a_hundred_keys_are_got_in_order(any_store: DynamoStore) -> None:
    there = [item(str(number), partition=f"p{number % 7}") for number in range(0, 130, 2)]
    for start in range(0, len(there), 50):
        any_store.write([Put(one) for one in there[start : start + 50]])
    keys = [(f"p{number % 7}", str(number)) for number in range(130)]
    found = any_store.get(keys)
    assert [one for one in found if one] == there
    assert [one is None for one in found] == [number % 2 == 1 for number in range(130)]
    assert any_store.get([]) == []


def test_keys_that_dynamodb_left_out_are_asked_for_again(wire_to: MakeWire) -> None:
    def part(request: Request) -> bytes:
        keys = request.json["RequestItems"]["runs"]["Keys"]
        fields = [{**key, "t": {"S": "t"}, "b": {"S": "{}"}} for key in keys[:1]]
        left = {"runs": {"Keys": keys[1:], "ConsistentRead": True}} if len(keys) > 1 else {}
        return reply(200, {"Responses": {"runs": fields}, "UnprocessedKeys": left})

    with scripted(part) as server:
        found = DynamoStore(wire_to(server.url), "runs").get([("run", str(number)) for number in range(20)])
    assert [one.sort for one in found if one] == [str(number) for number in range(20)]
    assert len(server.requests) == 20
    assert all(request.json["RequestItems"]["runs"]["ConsistentRead"] is True for request in server.requests)


def test_keys_that_dynamodb_leaves_out_for_ever_are_unavailable(wire_to: MakeWire) -> None:
    def nothing(request: Request) -> bytes:
        return reply(200, {"Responses": {}, "UnprocessedKeys": request.json["RequestItems"]})

    with scripted(nothing) as server:
        with pytest.raises(Unavailable, match="throttled"):
            DynamoStore(wire_to(server.url), "runs").get([("a", "b"), ("c", "d")])
        assert len(server.requests) == dynamodb.FRUITLESS_ROUNDS


def test_ranges_that_hold_nothing_are_empty_and_cost_no_request(any_store: DynamoStore) -> None:
    any_store.write([Put(item("1"))])
    asked: list[str] = []
    any_store.wire.meter = lambda service, operation, *rest: asked.append(operation)
    assert any_store.read("run", "2", "1") == []
    assert any_store.read("run", "0", "9", limit=0) == []
    assert any_store.read("run", "", "") == []
    assert asked == []
    assert [one.sort for one in any_store.read("run", "", "9")] == ["1"]


# ------------------------------------------------------------------------------------------------ the due index
def test_due_items_are_found_the_earliest_first_and_only_they(any_store: DynamoStore) -> None:
    for number in range(20):
        any_store.write([Put(item("head", f"run-{number}", due_ms=1000 - number))])
    any_store.write([Put(item("head", "never"))])
    found = any_store.due(995, 100)
    assert {entry[2] for entry in found} == set(range(981, 996))
    assert found == sorted(found, key=lambda entry: entry[2])
    assert all(entry == (f"run-{1000 - entry[2]}", "head", entry[2]) for entry in found)
    assert [entry[2] for entry in any_store.due(995, 4)] == [981, 982, 983, 984]
    assert any_store.due(980, 10) == []
    assert any_store.due(2000, 0) == []


def test_an_item_leaves_the_index_with_its_due_time(any_store: DynamoStore) -> None:
    old = item("head", due_ms=5)
    any_store.write([Put(old)])
    later = item("head", due_ms=50)
    any_store.write([Swap(later, old.token)])
    assert any_store.due(10, 10) == []
    assert any_store.due(50, 10) == [("run", "head", 50)]
    any_store.write([Swap(item("head"), later.token)])
    assert any_store.due(100, 10) == []


def test_shards_are_the_same_for_ever_and_evenly_used() -> None:
    assert [shard_of(name) for name in ("run-0", "run-1", "Ünï")] == ["1", "3", "0"]
    counts = [0] * dynamodb.DUE_SHARDS
    for number in range(4000):
        counts[int(shard_of(f"run-{number}"))] += 1
    assert min(counts) > 800


# ------------------------------------------------------------------------------------------------ items and sizes
text = st.text(st.characters(codec="utf-8"), max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    partition=text.filter(bool),
    sort=text.filter(bool),
    body=text,
    value=st.none() | text,
    due_ms=st.none() | st.integers(0, 10**14),
)
def test_every_item_comes_back_as_it_was(
    store: DynamoStore, partition: str, sort: str, body: str, value: str | None, due_ms: int | None
) -> None:
    written = Item("p" + token() + partition, sort, token(), body, value, due_ms)
    assert store.write([Put(written)]) is None
    assert store.get([(written.partition, sort)]) == [written]
    assert store.read(written.partition, sort, sort) == [written]


def sized(size_bytes: int, **more: Any) -> Item:
    made = item(body="", **more)
    made.body = "x" * (size_bytes - item_bytes(made))
    assert item_bytes(made) == size_bytes
    return made


@pytest.mark.parametrize("due_ms", [None, 5, 1_763_869_200_001])
def test_the_size_of_an_item_is_counted_as_dynamodb_counts_it(
    store: DynamoStore, due_ms: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What we let pass, the service lets pass; and one byte more neither."""
    assert store.write([Put(sized(MAX_ITEM_BYTES, due_ms=due_ms, value='"ü"'))]) is None
    too_large = sized(MAX_ITEM_BYTES + 1, due_ms=due_ms, sort="2", value='"ü"')
    with pytest.raises(ItemTooLarge, match=r"409,601 bytes, and DynamoDB allows 409,600"):
        store.write([Put(too_large)])
    with pytest.raises(ItemTooLarge):
        store.write([Put(item("3")), Put(too_large)])
    assert len(store.read("run", "0", "9")) == 1
    monkeypatch.setattr(dynamodb, "MAX_ITEM_BYTES", MAX_ITEM_BYTES * 2)
    with pytest.raises(ItemTooLarge):
        store.write([Put(too_large)])
    with pytest.raises(ItemTooLarge):
        store.write([Put(item("3")), Put(too_large)])


def test_a_hundred_items_are_written_at_once_and_a_hundred_and_one_are_not(store: DynamoStore) -> None:
    assert store.write([Put(item(f"{number:03}")) for number in range(100)]) is None
    assert len(store.read("run", "0", "9")) == 100
    with pytest.raises(RequestRefused):
        store.write([Put(item(f"b{number:03}")) for number in range(101)])
    assert store.write([]) is None


# ------------------------------------------------------------------------------------------------------------ marks
def test_marks_are_made_on_first_use_and_grow(any_store: DynamoStore) -> None:
    assert any_store.marks("run", "marks") == {}
    assert any_store.mark("run", "marks", {"done": ["b", "a", "b"], "failed": []}) == {"done": {"a", "b"}}
    assert any_store.mark("run", "marks", {"failed": ["c"], "done": ["a"]}) == {"done": {"a", "b"}, "failed": {"c"}}
    assert any_store.mark("run", "marks", {}) == {"done": {"a", "b"}, "failed": {"c"}}
    assert any_store.marks("run", "marks") == {"done": frozenset("ab"), "failed": frozenset("c")}


def test_a_mark_whose_reply_was_lost_is_made_once(any_store: DynamoStore, wire_to: MakeWire) -> None:
    proxy, through = behind(any_store, wire_to, first("lose reply"))
    with proxy as server:
        assert through(server).mark("run", "marks", {"done": ["a"]}) == {"done": {"a"}}


# ------------------------------------------------------------------------------------------------- what is asked for
def test_capacity_is_asked_for_only_while_someone_counts_it(store: DynamoStore, wire_to: MakeWire) -> None:
    proxy, through = behind(store, wire_to, lambda number, request: "pass")
    with proxy as server:
        watched = through(server)
        watched.write([Put(item("1"))])
        watched.read("run", "0", "9")
        units: list[float] = []
        watched.wire.meter = lambda service, operation, sent, received, parsed: units.append(
            (parsed or {})["ConsumedCapacity"]["CapacityUnits"]
        )
        watched.write([Put(item("2"))])
        watched.read("run", "0", "9")
        asked = ["ReturnConsumedCapacity" in request.json for request in server.requests]
    assert asked == [False, False, True, True]
    assert units == [1.0, 1.0]


def test_reads_are_strongly_consistent(store: DynamoStore, wire_to: MakeWire) -> None:
    proxy, through = behind(store, wire_to, lambda number, request: "pass")
    with proxy as server:
        watched = through(server)
        watched.read("run", "0", "9")
        watched.get([("run", "1")])
        watched.marks("run", "marks")
        assert all(request.json["ConsistentRead"] is True for request in server.requests)


def test_a_missing_table_is_told_by_every_method(any_store: DynamoStore) -> None:
    lost = DynamoStore(any_store.wire, "no-such-table")
    calls: list[Callable[[], object]] = [
        lambda: lost.read("run", "0", "9"),
        lambda: lost.get([("run", "1")]),
        lambda: lost.get([("run", "1"), ("run", "2")]),
        lambda: lost.write([Put(item())]),
        lambda: lost.write([Put(item("1")), Put(item("2"))]),
        lambda: lost.mark("run", "marks", {"done": ["a"]}),
        lambda: lost.marks("run", "marks"),
        lambda: lost.due(1, 1),
    ]
    for call in calls:
        with pytest.raises(TableMissing, match="there is no table 'no-such-table'"):
            call()
