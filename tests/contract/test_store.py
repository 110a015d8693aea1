"""What every store promises (`onward.ports.Store`), held against SQLite, dynoxide and moto's server."""

import random
import threading

import pytest

from onward.core.errors import ItemTooLarge
from onward.ports import MAX_ITEM_BYTES, MAX_WRITE_BYTES, Drop, Item, Put, Refused, Swap, item_bytes


def item(sort="a", token="t1", body="{}", value=None, due_ms=None, partition="p"):
    return Item(partition, sort, token, body, value, due_ms)


def read_all(store, partition="p"):
    return store.read(partition, "\x01", "\U0010ffff")


def test_an_item_comes_back_as_it_was_put(store):
    written = item("L#1", "tok", '{"k":"done"}', '"výsledek 🛒 \\u0000 \x7f"', 1_764_000_000_000)
    assert store.write([Put(written)]) is None
    assert store.read("p", "L#1", "L#1") == [written]
    assert store.get([("p", "L#1")]) == [written]


def test_an_empty_place_is_none_and_order_is_kept(store):
    store.write([Put(item("b")), Put(item("a"))])
    found = store.get([("p", "x"), ("p", "b"), ("q", "a"), ("p", "a")])
    assert [one and one.sort for one in found] == [None, "b", None, "a"]


def test_hundreds_of_items_are_got_at_once(store):
    sorts = [f"S#{n:04d}" for n in range(230)]
    for start in range(0, 230, 100):
        store.write([Put(item(sort)) for sort in sorts[start : start + 100]])
    random.Random(1).shuffle(sorts)
    assert [one.sort for one in store.get([("p", sort) for sort in sorts])] == sorts


def test_a_range_is_read_in_the_order_of_bytes_and_both_ends_belong_to_it(store):
    for sort in ["H", "L#1", "L#10", "L#2", "L~", "S#1", "é", "Z", "z", "🛒"]:
        store.write([Put(item(sort))])
    assert [one.sort for one in read_all(store)] == ["H", "L#1", "L#10", "L#2", "L~", "S#1", "Z", "z", "é", "🛒"]
    assert [one.sort for one in store.read("p", "L#1", "L#2")] == ["L#1", "L#10", "L#2"]
    assert store.read("p", "M", "N") == []
    assert store.read("nobody", "A", "Z") == []


def test_a_range_can_be_limited_and_read_backwards(store):
    store.write([Put(item(f"L#{n}")) for n in range(10)])
    assert [one.sort for one in store.read("p", "L#0", "L~", limit=1, newest_first=True)] == ["L#9"]
    assert [one.sort for one in store.read("p", "L#0", "L~", limit=3)] == ["L#0", "L#1", "L#2"]


def test_a_put_where_an_item_is_is_refused_and_shows_it(store):
    first = item(token="t1", body='{"by":1}', value="1")
    assert store.write([Put(first)]) is None
    refused = store.write([Put(item(token="t2", body='{"by":2}'))])
    assert isinstance(refused, Refused)
    assert refused.standing == (first,)
    assert read_all(store) == [first]


def test_a_swap_replaces_the_whole_item_that_was_seen(store):
    store.write([Put(item(token="t1", value="1", due_ms=5))])
    new = item(token="t2", body='{"n":2}')
    assert store.write([Swap(new, "t1")]) is None
    assert read_all(store) == [new]


def test_a_swap_of_what_has_changed_is_refused_and_shows_it(store):
    store.write([Put(item(token="t1"))])
    store.write([Swap(item(token="t2", body='{"n":2}'), "t1")])
    refused = store.write([Swap(item(token="t3"), "t1")])
    assert refused is not None and refused.standing == (item(token="t2", body='{"n":2}'),)


def test_a_swap_of_nothing_is_refused(store):
    refused = store.write([Swap(item(token="t3"), "t1")])
    assert refused is not None and refused.standing == (None,)
    assert read_all(store) == []


def test_many_writes_are_applied_together(store):
    store.write([Put(item("head", "t1", due_ms=5))])
    assert store.write([Put(item("L#1", "t2")), Put(item("L#2", "t3")), Swap(item("head", "t4"), "t1")]) is None
    assert {one.sort: one.token for one in read_all(store)} == {"head": "t4", "L#1": "t2", "L#2": "t3"}


def test_of_many_writes_one_reason_to_refuse_stops_all(store):
    store.write([Put(item("taken", "t1"))])
    before = read_all(store)
    refused = store.write([Put(item("free", "t2")), Put(item("taken", "t3")), Put(item("free2", "t4"))])
    assert refused is not None and refused.standing == (None, before[0], None)
    assert read_all(store) == before


def test_writing_the_same_again_counts_as_applied_or_shows_the_writers_own_token(store):
    """A reply that was lost is repeated by the store itself; a caller that repeats sees its own token."""
    mine = item(token="mine")
    assert store.write([Put(mine)]) is None
    again = store.write([Put(mine)])
    assert again is None or again.standing[0].token == "mine"


def test_of_many_writers_of_one_place_exactly_one_wins(opened):
    if opened.kind == "moto":
        pytest.skip("moto's server is not atomic under concurrent requests (measured: several winners)")
    stores = [opened() for _ in range(8)]
    for round_ in range(10):
        winners = race(
            [
                lambda s=s, n=n: s.write([Put(item(f"L#{round_}", f"w{n}", f'{{"by":{n}}}'))])
                for n, s in enumerate(stores)
            ]
        )
        outcomes = [refused is None for refused in winners]
        assert sum(outcomes) == 1
        [standing] = stores[0].get([("p", f"L#{round_}")])
        assert standing.token == f"w{outcomes.index(True)}"
        assert {refused.standing[0].token for refused in winners if refused is not None} == {standing.token}


def test_of_many_transactions_that_share_a_place_exactly_one_wins(opened):
    if opened.kind == "moto":
        pytest.skip(
            "moto's server is not atomic under concurrent requests (15 transactions by 8 threads had 21 winners)"
        )
    stores = [opened() for _ in range(6)]
    stores[0].write([Put(item("head", "h0"))])
    for round_ in range(6):
        outcomes = race(
            [
                lambda s=s, n=n: s.write(
                    [Put(item(f"L#{round_}", f"l{round_}.{n}")), Swap(item("head", f"h{round_ + 1}.{n}"), head)]
                )
                for head in [stores[0].get([("p", "head")])[0].token]
                for n, s in enumerate(stores)
            ]
        )
        assert sum(refused is None for refused in outcomes) == 1
        record, head_item = stores[0].get([("p", f"L#{round_}"), ("p", "head")])
        assert record.token.split(".")[1] == head_item.token.split(".")[1]


def race(calls):
    """Run the calls in threads that start together; their results in order."""
    results = [None] * len(calls)
    errors = []
    gate = threading.Barrier(len(calls))

    def run(place, call):
        try:
            gate.wait()
            results[place] = call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return results


def test_a_partition_of_more_than_one_megabyte_is_read_whole(store):
    values = {f"L#{n:03d}": '"' + "x" * 90_000 + '"' for n in range(30)}
    for sort, value in values.items():
        store.write([Put(item(sort, value=value))])
    assert {one.sort: one.value for one in read_all(store)} == values
    assert [one.sort for one in store.read("p", "L#", "L~", limit=25)] == list(values)[:25]


def test_an_item_over_the_limit_is_an_error_and_is_not_written(store):
    with pytest.raises(ItemTooLarge):
        store.write([Put(item(value='"' + "x" * 410_000 + '"'))])
    assert read_all(store) == []
    assert store.write([Put(item(value='"' + "x" * 400_000 + '"'))]) is None


@pytest.mark.parametrize("due_ms", [None, 1_764_547_200_001])
def test_the_limit_of_an_item_is_the_same_in_every_store_to_the_byte(opened, due_ms):
    if opened.kind == "moto":
        pytest.skip("moto's server measures items by another rule, and refuses the largest")
    store = opened()
    largest, larger = item("a", value="é", due_ms=due_ms), item("b", value="é", due_ms=due_ms)
    largest.body = "x" * (MAX_ITEM_BYTES - item_bytes(largest) + len(largest.body))
    larger.body = largest.body + "x"
    with pytest.raises(ItemTooLarge):
        store.write([Put(larger)])
    assert store.write([Put(largest)]) is None
    assert read_all(store) == [largest]


def test_writes_of_more_than_four_megabytes_together_are_an_error_and_none_is_written(store):
    tenth = "x" * 400_000
    rest = item("z", body="x" * (MAX_WRITE_BYTES - 10 * item_bytes(item("0", body=tenth)) - item_bytes(item(body=""))))
    writes = [*(Put(item(str(n), body=tenth)) for n in range(10)), Put(rest)]
    rest.body += "x"
    with pytest.raises(ItemTooLarge):
        store.write(writes)
    assert read_all(store) == []
    rest.body = rest.body[:-1]
    assert store.write(writes) is None


def test_marks_gather_and_are_idempotent(store):
    assert store.marks("p", "M#1") == {}
    assert store.mark("p", "M#1", {"done": ["3"]}) == {"done": {"3"}}
    assert store.mark("p", "M#1", {"done": ["3"], "visible": ["3"]}) == {"done": {"3"}, "visible": {"3"}}
    assert store.mark("p", "M#1", {"done": ["4", "5"]}) == {"done": {"3", "4", "5"}, "visible": {"3"}}
    assert store.marks("p", "M#1") == {"done": {"3", "4", "5"}, "visible": {"3"}}
    assert store.marks("p", "M#2") == {}


def test_of_many_that_mark_one_sees_the_set_complete(opened):
    if opened.kind == "moto":
        pytest.skip("moto's server is not atomic under concurrent requests")
    stores = [opened() for _ in range(8)]
    for round_ in range(5):
        sets = race([lambda s=s, n=n: s.mark("p", f"M#{round_}", {"done": [str(n)]}) for n, s in enumerate(stores)])
        sizes = sorted(len(one["done"]) for one in sets)
        assert sizes == list(range(1, 9))


def test_what_is_due_is_found_the_earliest_first_and_nothing_else(store):
    for n in range(6):
        store.write([Put(item("H", f"t{n}", due_ms=1_000 + n, partition=f"run#{n}"))])
    store.write([Put(item("L#0", "x", partition="run#0"))])
    found = store.due(1_003, 100)
    assert sorted(found) == [(f"run#{n}", "H", 1_000 + n) for n in range(4)]
    assert [due for _, _, due in found] == sorted(due for _, _, due in found)
    assert len(store.due(2_000, 2)) == 2
    store.write([Swap(item("H", "ended", partition="run#1"), "t1")])
    assert [partition for partition, _, _ in store.due(1_003, 100) if partition == "run#1"] == []
    assert store.due(0, 100) == []


def test_hostile_names_are_only_names(store):
    names = ["'; DROP TABLE items; --", "../../etc/passwd", "a b\tc\n", "%s{}${x}", "ſ", "\u202eevil", "a" * 1000]
    for name in names:
        assert store.write([Put(item(name, partition=f"run#{name}"))]) is None
        assert store.read(f"run#{name}", name, name) == [item(name, partition=f"run#{name}")]


def test_what_was_seen_can_be_dropped_and_its_place_is_free_again(store):
    store.write([Put(item(token="t1", due_ms=5))])
    assert store.write([Drop("p", "a", "t1")]) is None
    assert read_all(store) == [] and store.get([("p", "a")]) == [None] and store.due(10, 10) == []
    assert store.write([Put(item(token="t2"))]) is None


def test_what_has_changed_is_not_dropped_and_is_shown(store):
    store.write([Put(item(token="t1"))])
    refused = store.write([Drop("p", "a", "t0")])
    assert refused is not None and refused.standing == (item(token="t1"),)
    refused = store.write([Put(item("b")), Drop("p", "a", "t0")])
    assert refused is not None and refused.standing == (None, item(token="t1"))
    assert read_all(store) == [item(token="t1")]


def test_a_drop_may_be_repeated_or_find_nothing(store):
    assert store.write([Drop("p", "a", "t1")]) is None
    assert store.write([Drop("p", "a")]) is None
    assert store.write([Put(item("b")), Drop("p", "a", "t1")]) is None
    assert [one.sort for one in read_all(store)] == ["b"]


def test_a_drop_without_a_token_removes_whatever_is_there(store):
    store.write([Put(item(token="t1"))])
    assert store.write([Drop("p", "a"), Put(item("b"))]) is None
    assert [one.sort for one in read_all(store)] == ["b"]
