"""Event patterns match as EventBridge matches: the examples of its user guide and of aws/event-ruler, a second opinion
from moto where it has the operator, and events that want to take long."""

import copy
import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.events.models import EventPattern

from onward.core.errors import InvalidEvent, InvalidOption
from onward.core.pattern import MAX_COMBINATIONS, MAX_PATTERN_BYTES, check_pattern, matches
from tests.lines import within

LINES = 300_000  # several times of what the dearest of these takes; far below what trying every way would take
EVENTS = Path(__file__).parents[3] / "shared" / "events"

CREATED = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "account": "111122223333",
    "time": "2021-11-12T00:00:00Z",
    "region": "ca-central-1",
    "resources": ["arn:aws:s3:::shop-uploads"],
    "detail": {
        "version": "0",
        "bucket": {"name": "shop-uploads"},
        "object": {"key": "in/Orders 2021*.CSV", "size": 5, "etag": "b1946ac9", "version-id": None},
        "request-id": "N4N7GDK58NMKJ12R",
        "source-ip-address": "10.0.0.33",
        "reason": "PutObject",
        "multipart": False,
        "ratio": 301.8,
    },
}


def ask(pattern, event=CREATED):
    check_pattern(pattern)
    before = copy.deepcopy((pattern, event))
    answer = matches(pattern, event)
    assert (pattern, event) == before, "matching changes nothing"
    return answer


def on(field, *wanted):
    return {"detail": {field: list(wanted)}}


def of(field, value):
    return {**CREATED, "detail": {field: value}}


# ------------------------------------------------------------------------------------------------------- operators
@pytest.mark.parametrize(
    ("wanted", "met", "unmet"),
    [
        ("a", ["a"], ["A", "ab", "", 1, None, True]),
        ("", [""], [" ", None, 0, False]),
        ("1", ["1"], [1, "1.0", True]),
        (1, [1, 1.0], ["1", True, 2]),
        (3.018e2, [301.8], [301, "301.8"]),
        (True, [True], [1, "true", False]),
        (False, [False], [0, "", None, True]),
        (None, [None], ["null", 0, False, ""]),
        (2**53 + 1, [2**53 + 1], [2**53, 2.0**53]),
        (111122223333, [111122223333], ["111122223333"]),
        ({"prefix": "in/"}, ["in/", "in/a"], ["In/a", "a/in/", "", 5, None]),
        ({"prefix": ""}, ["", "a"], [5, None, True]),
        ({"prefix": {"equals-ignore-case": "EventB"}}, ["eventb", "EVENTBridge"], ["event", 5]),
        ({"suffix": ".png"}, ["a.png", ".png"], ["a.PNG", "png", "a.png ", 5]),
        ({"suffix": {"equals-ignore-case": ".Png"}}, ["a.PNG", ".png"], ["png", 5]),
        ({"suffix": {"equals-ignore-case": "straße"}}, ["Hauptstraße", "HAUPTSTRASSE"], ["Hauptstrase"]),
        ({"equals-ignore-case": "aBc"}, ["abc", "ABC"], ["ab", "abcd", "", 5]),
        ({"equals-ignore-case": "ÉTÉ"}, ["été", "ÉtÉ"], ["ete"]),
        ({"equals-ignore-case": ""}, [""], ["a"]),
        ({"wildcard": "dir/*.png"}, ["dir/a.png", "dir/.png", "dir/a/b.png"], ["dir/png", "a/dir/a.png", 5]),
        ({"wildcard": "*"}, ["", "a", "a\nb"], [5, None]),
        ({"wildcard": "a*b*a"}, ["aba", "abxa", "axbxbxa"], ["aa", "ab", "abab"]),
        ({"wildcard": "a*b*ba"}, ["abba"], ["aba"]),
        ({"wildcard": "aba*aba"}, ["abaaba", "abaxaba"], ["aba", "ababa"]),
        ({"wildcard": r"a\*b\\c"}, [r"a*b\c"], [r"axb\c", r"a\*b\\c"]),
        ({"wildcard": "abc"}, ["abc"], ["abcd", "ab"]),
        ({"anything-but": "a"}, ["b", "A", "", 5, None, True], ["a"]),
        ({"anything-but": ["a", "b"]}, ["c", 5], ["a", "b"]),
        ({"anything-but": 1}, ["1", 2, True, None], [1, 1.0]),
        ({"anything-but": [100, 200.5]}, [100.5, "100"], [100, 200.5]),
        ({"anything-but": {"prefix": "init"}}, ["Init", "", 5, None], ["init", "initial"]),
        ({"anything-but": {"prefix": ["init", "err"]}}, ["done"], ["init", "error"]),
        ({"anything-but": {"suffix": ".png"}}, ["a.jpg", False], [".png"]),
        ({"anything-but": {"suffix": ["1", "2"]}}, ["a3"], ["a1", "a2"]),
        ({"anything-but": {"equals-ignore-case": "Done"}}, ["doner", 5], ["done", "DONE"]),
        ({"anything-but": {"equals-ignore-case": ["a", "b"]}}, ["c"], ["A", "B"]),
        ({"anything-but": {"wildcard": "*/lib/*"}}, ["/library", 5], ["/lib/", "a/lib/b"]),
        ({"anything-but": {"wildcard": ["*/bin/*.jar", "*.class"]}}, ["/bin/a"], ["/bin/a.jar", "a.class"]),
        ({"numeric": [">", 0, "<=", 5]}, [0.1, 5, 5.0], [0, 5.1, "3", None, True]),
        ({"numeric": ["<", 10]}, [-1e300, 9], [10, "9"]),
        ({"numeric": ["=", 3.018e2]}, [301.8], [301]),
        ({"numeric": [">=", -1.5]}, [-1.5, 0], [-1.6]),
        ({"numeric": [">", 0]}, [2**53, 10**15], [2**63 + 1, 10**400, float("inf"), float("nan")]),
        ({"exists": True}, ["", None, 0, False, "a"], []),
        ({"exists": False}, [], ["", None, 0, False, "a"]),
        ({"cidr": "10.0.0.0/24"}, ["10.0.0.0", "10.0.0.255"], ["10.0.1.0", "10.0.0", "a", "::a00:1", 167772161]),
        ({"cidr": "10.0.0.77/24"}, ["10.0.0.5"], ["10.0.1.5"]),
        ({"cidr": "0.0.0.0/0"}, ["1.2.3.4"], ["::1", "host"]),
        ({"cidr": "2001:db8::/32"}, ["2001:db8::1", "2001:0DB8:ffff::"], ["2001:db9::", "10.0.0.1"]),
        ("2001:db8::1", ["2001:db8::1", "2001:0DB8:0:0:0:0:0:1"], ["2001:db8::2", "2001:db8::1 "]),
        ("10.0.0.1", ["10.0.0.1", "::ffff:a00:1"], ["10.0.0.10", "10.0.0.1/32"]),
    ],
    ids=str,
)
def test_an_operator_is_met_by_these_values_and_not_by_those(wanted, met, unmet):
    assert [value for value in met if not ask(on("x", wanted), of("x", value))] == []
    assert [value for value in unmet if ask(on("x", wanted), of("x", value))] == []


def test_every_field_must_be_met_and_any_value_of_its_list_will_do():
    assert ask({"source": ["aws.ec2", "aws.s3"], "detail": {"bucket": {"name": [{"prefix": "shop-"}]}}})
    assert not ask({"source": ["aws.s3"], "detail": {"bucket": {"name": ["other"]}}})
    assert not ask({"source": ["aws.s3"], "detail": {"nothing": ["other"]}})


def test_the_envelope_is_matched_like_the_detail():
    pattern = {
        "source": ["aws.s3"],
        "detail-type": [{"prefix": "Object "}],
        "account": ["111122223333"],
        "region": [{"anything-but": {"prefix": "us-"}}],
        "resources": [{"wildcard": "arn:aws:s3:::shop-*"}],
        "time": [{"prefix": "2021-11-12"}],
        "id": [{"exists": True}],
        "detail": {
            "object": {"key": [{"suffix": {"equals-ignore-case": ".csv"}}], "size": [{"numeric": ["<", 10]}]},
            "source-ip-address": [{"cidr": "10.0.0.0/8"}],
            "deletion-type": [{"exists": False}],
            "multipart": [False],
        },
    }
    assert ask(pattern)
    assert not ask({**pattern, "account": [111122223333]})


# ------------------------------------------------------------------------------------------------ absence and shape
def test_only_leaves_exist():
    assert ask(on("bucket", {"exists": False})), "a field that holds an object is absent"
    assert not ask(on("bucket", {"exists": True}))
    assert ask({"detail": {"bucket": {"name": [{"exists": True}]}}})
    assert ask(on("x", {"exists": False}), of("x", [])), "and so is one that holds nothing"
    assert ask(on("x", {"exists": False}), of("x", {}))
    assert ask({"detail": {"x": {"y": [{"exists": False}]}}}, of("x", 5))


def test_what_is_absent_meets_only_that_it_is():
    for wanted in ("a", None, False, {"prefix": ""}, {"anything-but": "a"}, {"wildcard": "*"}, {"exists": True}):
        assert not ask(on("absent", wanted))
    assert ask(on("absent", {"exists": False}))
    assert ask(on("absent", "a", {"exists": False})), "in a list, either will do"
    assert ask(on("reason", "PutObject", {"exists": False}))
    assert not ask(on("reason", "Copy", {"exists": False}))


def test_a_name_with_a_dot_is_a_path():
    """EventBridge knows a field by its path, names joined by dots, in the pattern and in the event."""
    assert ask({"detail.bucket.name": ["shop-uploads"]})
    assert ask({"detail": {"bucket.name": ["shop-uploads"]}})
    assert ask({"detail": {"a": {"b": ["c"]}}}, of("a.b", "c"))
    pattern = {"detail": {"a": {"b": [1], "c": [1], "d": [1]}}}
    assert ask(pattern, {"detail": {"a": [{"b": 0}, {"b": 1, "d": 1}], "a.c": 1}})
    assert not ask(pattern, {"detail": {"a": [{"b": 1}, {"d": 1}], "a.c": 1}}), "the object of b is still that of d"


# ----------------------------------------------------------------------------------------------------------- arrays
def test_an_array_is_met_by_any_of_its_elements():
    assert ask({"resources": ["other", "arn:aws:s3:::shop-uploads"]})
    assert ask(on("x", 2), of("x", [1, [2, "a"]])), "arrays in arrays too"
    assert not ask(on("x", 3), of("x", [1, [2, "a"]]))
    assert ask(on("x", {"anything-but": "a"}), of("x", ["a", "b"]))
    assert not ask(on("x", {"anything-but": "a"}), of("x", ["a", "a"]))
    assert not ask(on("x", {"exists": False}), of("x", [None]))


def test_fields_of_objects_in_an_array_are_met_by_one_object():
    both = {"detail": {"items": {"sku": ["a"], "count": [{"numeric": [">", 1]}]}}}
    assert ask(both, of("items", [{"sku": "b", "count": 1}, {"sku": "a", "count": 2}]))
    assert not ask(both, of("items", [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]))
    assert ask(both, of("items", {"sku": "a", "count": 2})), "an object that is in no array is one object"
    assert ask(both, of("items", [[{"sku": "a", "count": 1}], [{"sku": "a", "count": 2}]]))
    assert not ask(both, of("items", [[{"sku": "a"}], [{"count": 2}]]))


def test_arrays_beside_each_other_choose_on_their_own():
    pattern = {"detail": {"a": {"x": [1], "y": [2]}, "b": {"x": [1], "y": [2]}}}
    halves = [{"x": 1, "y": 0}, {"x": 0, "y": 2}]
    whole = [{"x": 0}, {"x": 1, "y": 2}]
    assert ask(pattern, {"detail": {"a": whole, "b": whole[::-1]}})
    assert not ask(pattern, {"detail": {"a": whole, "b": halves}})


def test_an_inner_array_stays_within_the_object_of_the_outer_one():
    pattern = {"detail": {"orders": {"id": [7], "lines": {"sku": ["a"], "count": [1]}, "paid": [True]}}}
    line, other = {"sku": "a", "count": 1}, {"sku": "b", "count": 1}
    assert ask(pattern, of("orders", [{"id": 6}, {"id": 7, "paid": True, "lines": [other, line]}]))
    assert not ask(pattern, of("orders", [{"id": 7, "paid": True, "lines": [other]}, {"id": 6, "lines": [line]}]))
    assert not ask(pattern, of("orders", [{"id": 7, "lines": [line]}, {"id": 7, "paid": True, "lines": [other]}]))


def test_absence_is_asked_of_the_object_that_was_chosen():
    pattern = {"detail": {"items": {"a": ["x"], "b": [{"exists": False}]}}}
    assert ask(pattern, of("items", [{"a": "x"}, {"b": 1}]))
    assert not ask(pattern, of("items", [{"a": "x", "b": 1}, {"c": 1}]))
    assert not ask({"detail": {"items": {"b": [{"exists": False}]}}}, of("items", [{"a": 1}, {"b": 1}]))


# --------------------------------------------------------------------------------------------------------------- or
def test_or_is_met_by_either_of_its_ways():
    pattern = {
        "source": ["aws.s3"],
        "$or": [
            {"detail": {"reason": ["Copy"]}},
            {"region": ["ca-central-1"], "$or": [{"account": ["1"]}, {"detail": {"ratio": [{"numeric": [">", 300]}]}}]},
        ],
    }
    assert ask(pattern)
    assert not ask(pattern, {**CREATED, "source": "aws.ec2"})
    assert not ask(pattern, {**CREATED, "region": "us-east-1"})
    assert ask(pattern, {**CREATED, "region": "us-east-1", "detail": {"reason": "Copy"}})
    assert ask({"detail": {"$or": [{"nothing": [1]}, {"reason": ["PutObject"]}], "multipart": [False]}})


def test_each_way_of_or_is_met_within_one_object_of_an_array():
    pattern = {"detail": {"items": {"a": [1], "$or": [{"b": [1]}, {"c": [1]}]}}}
    assert ask(pattern, of("items", [{"a": 1, "c": 1}]))
    assert not ask(pattern, of("items", [{"a": 1}, {"b": 1, "c": 1}]))


# -------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ([], "at its top: fields stand in an object (dict), not in []"),
        ("{}", "at its top: fields stand in an object"),
        ({}, "at its top: an object names at least one field"),
        ({"detail": {}}, "at detail: an object names at least one field"),
        ({"source": "aws.s3"}, "at source: what a field may be stands in a list: ['aws.s3']"),
        ({"source": []}, "at source: the list of what a field may be is empty"),
        ({"source": [["aws.s3"]]}, "at source: a value is a string, a number, True, False, None or an operator"),
        ({"source": [float("nan")]}, "at source: a value is a string, a number"),
        ({"source": [object()]}, "at source: a value is a string, a number"),
        ({1: ["a"]}, "at its top: the name of a field is a string, not 1"),
        (on("x", {}), "at detail.x: an operator is an object with one name, not {}"),
        (on("x", {"prefix": "a", "suffix": "b"}), "at detail.x: an operator is an object with one name"),
        (on("x", {"contains": "a"}), "at detail.x: there is no operator 'contains'; there are prefix, suffix"),
        (on("x", {"prefix": 5}), "at detail.x: 'prefix' takes one string, not 5"),
        (on("x", {"prefix": ["a", "b"]}), "'prefix' takes one string, not ['a', 'b']; write several as several"),
        (on("x", {"suffix": {"prefix": "a"}}), "'suffix' takes a string or {'equals-ignore-case': string}"),
        (on("x", {"equals-ignore-case": ["a"]}), "'equals-ignore-case' takes one string"),
        (on("x", {"wildcard": "a**"}), "'wildcard' 'a**': it has two wildcards side by side"),
        (on("x", {"wildcard": "a\\b"}), "a backslash stands before * or another backslash"),
        (on("x", {"wildcard": "a\\"}), "a backslash stands before * or another backslash"),
        (on("x", {"anything-but": None}), "'anything-but' takes a string, a number, a list of strings"),
        (on("x", {"anything-but": True}), "'anything-but' takes a string, a number, a list of strings"),
        (on("x", {"anything-but": []}), "'anything-but' takes a string, a number, a list of strings"),
        (on("x", {"anything-but": ["a", 1]}), "'anything-but' takes a string, a number, a list of strings"),
        (on("x", {"anything-but": {"numeric": ["<", 1]}}), "'anything-but' takes one of the operators prefix, suffix"),
        (on("x", {"anything-but": {"prefix": ""}}), "'anything-but' of an empty prefix"),
        (on("x", {"anything-but": {"suffix": []}}), "'anything-but' takes no empty list"),
        (on("x", {"anything-but": {"prefix": {"equals-ignore-case": "a"}}}), "'prefix' takes one string"),
        (on("x", {"anything-but": {"wildcard": ["a", "**"]}}), "two wildcards side by side"),
        (on("x", {"numeric": 5}), "'numeric' takes a list such as ['>', 0]"),
        (on("x", {"numeric": [">", 1, "<"]}), "'numeric' takes a list such as ['>', 0]"),
        (on("x", {"numeric": ["!=", 1]}), "'numeric' compares with =, <, <=, >, >=, not with '!='"),
        (on("x", {"numeric": [">", "1"]}), "'numeric' compares with numbers that a double can hold, not with '1'"),
        (on("x", {"numeric": [">", 2**63 + 1]}), "'numeric' compares with numbers that a double can hold"),
        (on("x", {"numeric": ["<", 1, ">", 5]}), "a range of 'numeric' is > or >= one number and < or <= another"),
        (on("x", {"numeric": [">=", 5, "<=", 5]}), "goes from a lower number to a higher one"),
        (on("x", {"exists": "true"}), "'exists' takes True or False, not 'true'"),
        (on("x", {"cidr": "10.0.0.0"}), "'cidr' takes a block of addresses such as '10.0.0.0/24'"),
        (on("x", {"cidr": "10.0.0.0/255.0.0.0"}), "'cidr' takes a block of addresses"),
        (on("x", {"cidr": "10.0.0.0/32"}), "'cidr' takes at most 31 bits here: a single address is a plain value"),
        (on("x", {"cidr": "host/8"}), "'cidr' takes a block of addresses"),
        (on("x", {"cidr": 8}), "'cidr' takes a block of addresses"),
        ({"$or": [{"a": [1]}]}, "at $or: '$or' takes a list of at least two objects"),
        ({"$or": {"a": [1], "b": [1]}}, "at $or: '$or' takes a list of at least two objects"),
        ({"detail": {"$or": [{"a": [1]}, 5]}}, "at detail.$or: '$or' takes a list of objects, not of 5"),
        (
            {"$or": [{"a": [1]}, {"prefix": ["b"]}]},
            "at prefix: EventBridge takes no field called 'prefix' inside '$or'",
        ),
        ({"a": [1], "$or": [{"a": [2]}, {"b": [1]}]}, "at a: a field is named once, and this one is named again"),
        ({"a": {"b": [1]}, "a.b": [2]}, "at a.b: a field is named once, and this one is named again"),
    ],
    ids=lambda given: str(given).split(" at 0x")[0],
)
def test_what_eventbridge_would_refuse_is_refused_with_its_path(pattern, message):
    with pytest.raises(InvalidOption) as caught:
        check_pattern(pattern)
    assert message in str(caught.value)
    assert str(caught.value).startswith("event pattern, at ")


# --------------------------------------------------------------------------------------------------- hostile input
def nested(depth, end):
    for _ in range(depth):
        end = {"a": end}
    return end


def laughs():
    """A small object that is huge when it is written out."""
    fields = {"a": [1]}
    for _ in range(64):
        fields = {"a": fields, "b": fields}
    return fields


def itself():
    fields = {}
    fields["a"] = fields
    return fields


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ({"source": ["a" * MAX_PATTERN_BYTES]}, "at most 4096 bytes"),
        ({"source": [{"prefix": "é" * (MAX_PATTERN_BYTES // 2)}]}, "at most 4096 bytes"),
        ({f"field{number}": [number] for number in range(1_000_000)}, "at most 4096 bytes"),
        (laughs(), "at most 4096 bytes"),
        (itself(), "it contains itself"),
        (nested(65, [1]), "it nests at most 64 objects"),
        (nested(650, [1]), "it nests at most 64 objects"),
        (nested(100_000, [1]), "at most 4096 bytes|it nests at most 64 objects"),
        ({f"f{number}": {"$or": [{"a": [1]}, {"b": [1]}]} for number in range(80)}, "at most 1000 combinations"),
    ],
    ids=["long", "wide characters", "many fields", "laughs", "itself", "deep", "deeper", "deepest", "or"],
)
def test_a_hostile_pattern_is_refused_at_once(pattern, message):
    with pytest.raises(InvalidOption, match=message):
        within(LINES, lambda: check_pattern(pattern))


def test_the_limits_themselves_are_allowed():
    room = MAX_PATTERN_BYTES - len(json.dumps({"source": [""]}, separators=(",", ":")))
    assert ask({"source": ["a" * room]}, {"source": "a" * room})
    assert ask(nested(63, {"b": [1]}), nested(63, {"b": 1}))
    ways = {f"f{n}": {"$or": [{f"w{way}": [1]} for way in range(10)]} for n in range(3)}
    assert MAX_COMBINATIONS == 10**3
    assert ask(ways, {f"f{n}": {"w9": 1} for n in range(3)})
    assert not ask(ways, {f"f{n}": {"w9": 1} for n in range(2)})


@pytest.mark.parametrize("operator", ["wildcard", "anything-but"])
def test_a_catastrophic_wildcard_takes_no_time(operator):
    text = "*".join(["a"] * 1_900) + "*b"
    pattern = on("x", {"wildcard": text} if operator == "wildcard" else {"anything-but": {"wildcard": text}})
    assert within(LINES, lambda: ask(pattern, of("x", "a" * 1_000_000))) is (operator == "anything-but")


def test_case_that_is_ignored_in_a_long_text_takes_no_time():
    for operation in ({"prefix": {}}, {"suffix": {}}):
        [operator] = operation
        pattern = on("x", {operator: {"equals-ignore-case": "ß" * 1_900}})
        assert within(LINES, lambda pattern=pattern: ask(pattern, of("x", "S" * 1_000_000)))


def test_thousands_of_objects_in_an_array_take_no_time():
    lines = 10_000_000  # a tenth of what holding each object against each would take
    items = [{"a": number, "b": -number, "lines": [{"c": number}, {"d": number}]} for number in range(10_000)]
    pattern = {
        "detail": {"items": {name: [{"exists": True}] for name in "ab"}, "others": {"a": [1], "b": [-2]}},
    }
    assert not within(lines, lambda: ask(pattern, {"detail": {"items": items, "others": items}}))
    pattern = {"detail": {"items": {"a": [9_999], "lines": {"c": [{"exists": True}], "d": [{"exists": False}]}}}}
    assert within(lines, lambda: ask(pattern, of("items", items)))


def test_an_event_that_entangles_its_arrays_is_refused(monkeypatch):
    """Dots in names make arrays that no object holds together: what they choose multiplies."""
    monkeypatch.setattr("onward.core.pattern.MAX_PAIRS", 10_000)
    half = [{"c": number, "d": number, "e": number} for number in range(200)]
    event = {"a": [{"b": one} for one in half], "a.b": half}
    pattern = {"a": {"b": {"c": [{"exists": True}], "d": [{"exists": True}], "e": ["none"]}}}
    with pytest.raises(InvalidEvent, match="more than 10000 pairs of array elements"):
        ask(pattern, event)


def test_an_event_of_any_depth_is_looked_at():
    deep = []
    for _ in range(50_000):
        deep = [deep]
    event = of("x", 1)
    event["detail"]["y"] = deep
    check_pattern(on("x", 1))
    assert matches(on("x", 1), event), "what the pattern does not name is not looked into"
    with pytest.raises(InvalidEvent, match=r"nests more than 64 arrays at detail\.y"):
        matches(on("y", 1), event)


# ------------------------------------------------------------------------------------------------- second opinions
LETTERS = st.text("abAB*.", max_size=4)
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, -2.5]) | LETTERS
NAMES = st.sampled_from(["a", "b", "c"])
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.9.1", "192.168.1.1", "2001:db8::1", "nowhere"])
OPERATIONS = st.one_of(
    st.builds(lambda text: {"prefix": text}, LETTERS),
    st.builds(lambda text: {"suffix": text}, LETTERS),
    st.builds(lambda text: {"prefix": {"equals-ignore-case": text}}, LETTERS),
    st.builds(lambda text: {"suffix": {"equals-ignore-case": text}}, LETTERS),
    st.builds(lambda text: {"equals-ignore-case": text}, LETTERS),
    st.builds(lambda text: {"wildcard": text}, LETTERS.filter(lambda text: "**" not in text)),
    st.builds(lambda text: {"anything-but": text}, LETTERS),
    st.builds(lambda texts: {"anything-but": texts}, st.lists(LETTERS, min_size=1, max_size=3)),
    st.builds(lambda text: {"anything-but": {"prefix": text}}, LETTERS.filter(bool)),
    st.builds(
        lambda texts: {"anything-but": {"suffix": texts}}, st.lists(LETTERS.filter(bool), min_size=1, max_size=2)
    ),
    st.builds(
        lambda sign, number: {"numeric": [sign, number]},
        st.sampled_from(["=", "<", "<=", ">", ">="]),
        st.integers(-3, 3),
    ),
    st.builds(lambda low, size: {"numeric": [">", low, "<=", low + size]}, st.integers(-3, 3), st.integers(1, 3)),
    st.builds(lambda exists: {"exists": exists}, st.booleans()),
    st.just({"cidr": "10.0.0.0/16"}),
)
LISTS = st.lists(LEAVES | OPERATIONS, min_size=1, max_size=3)
FIELDS = st.dictionaries(NAMES, LISTS, min_size=1, max_size=3)
PATTERNS = st.builds(
    lambda top, detail, ways: {**top, "detail": detail, **({"$or": ways} if ways else {})},
    st.dictionaries(st.sampled_from(["source", "region"]), LISTS, max_size=2),
    FIELDS | st.dictionaries(NAMES, FIELDS, min_size=1, max_size=2),
    st.just([])
    | st.lists(st.dictionaries(st.sampled_from(["account", "id"]), LISTS, min_size=1), min_size=2, max_size=3),
)
FLAT = st.dictionaries(NAMES, LEAVES | ADDRESSES | st.lists(LEAVES, min_size=1, max_size=3), max_size=3)
EVENTS_MADE = st.builds(
    lambda top, detail: {**top, "detail": detail},
    st.dictionaries(st.sampled_from(["source", "region", "account", "id"]), LEAVES),
    FLAT | st.dictionaries(NAMES, FLAT, max_size=2),
)


def strict(value):
    """Numbers and booleans are one to Python, and to moto, but not to JSON: keep them apart by name."""
    if isinstance(value, dict):
        return {name: strict(one) for name, one in value.items()}
    if isinstance(value, list):
        return [strict(one) for one in value]
    return f"<{value}>" if isinstance(value, bool) else value


def strict_pattern(node):
    if isinstance(node, dict):
        return {name: one if name == "exists" else strict_pattern(one) for name, one in node.items()}
    return [strict_pattern(one) for one in node] if isinstance(node, list) else strict(node)


def says_moto(pattern, event):
    return EventPattern(None, strict_pattern(pattern)).matches_event(strict(event))


def has_empty_object(value):
    return isinstance(value, dict) and (not value or any(has_empty_object(one) for one in value.values()))


def booleans_in(value):
    if isinstance(value, dict | list):
        return any(booleans_in(one) for one in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


@given(PATTERNS, EVENTS_MADE)
def test_moto_is_of_the_same_opinion(pattern, event):
    """Where moto knows better than to ask: it takes an empty object for a value, and it has no array consistency."""
    check_pattern(pattern)
    if has_empty_object(event) or booleans_in(event):
        return
    assert matches(pattern, event) is says_moto(pattern, event)


def objects_of(node):
    """Every way to choose one element of each array."""
    if isinstance(node, dict):
        ways = [{}]
        for name, child in node.items():
            ways = [{**way, name: one} for way in ways for one in objects_of(child)]
        return ways
    if isinstance(node, list):
        return [way for child in node for way in objects_of(child)] or [{}]
    return [node]


OBJECTS = st.lists(st.dictionaries(NAMES, st.integers(0, 2), max_size=3), max_size=3)
CHOICES = st.dictionaries(NAMES, st.lists(st.integers(0, 2), min_size=1, max_size=2), min_size=1, max_size=3)


@given(
    st.dictionaries(NAMES, CHOICES | st.dictionaries(NAMES, CHOICES, min_size=1, max_size=2), min_size=1, max_size=2),
    st.dictionaries(
        NAMES,
        OBJECTS
        | st.lists(st.dictionaries(NAMES, OBJECTS | st.integers(0, 2), max_size=2), max_size=2)
        | st.lists(OBJECTS, max_size=2),
        max_size=2,
    ),
)
def test_arrays_match_if_one_choice_of_their_elements_does(fields, detail):
    """The definition: choose one element of every array, and what remains has no arrays."""
    pattern, event = {"detail": fields}, {"detail": detail}
    check_pattern(pattern)
    assert matches(pattern, event) is any(says_moto(pattern, way) for way in objects_of(event))


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 127))
def test_blocks_hold_the_addresses_that_ipaddress_says(base, address, bits):
    bits %= base.max_prefixlen
    block = ipaddress.ip_network(f"{base}/{bits}", strict=False)
    if "ipv4_mapped" in dir(address) and address.ipv4_mapped is not None:
        return
    if getattr(base, "ipv4_mapped", None) is None:
        assert ask(on("x", {"cidr": f"{base}/{bits}"}), of("x", str(address))) is (address in block)


@given(st.text("ab*\\", max_size=8), st.text("ab*\\", max_size=8))
def test_a_wildcard_means_what_the_regular_expression_means(pattern, text):
    import re

    try:
        check_pattern(on("x", {"wildcard": pattern}))
    except InvalidOption:
        return
    parts = re.findall(r"\\.|[^\\]", pattern)
    expression = "".join(".*" if part == "*" else re.escape(part[-1]) for part in parts)
    assert ask(on("x", {"wildcard": pattern}), of("x", text)) is bool(re.fullmatch(expression, text, re.DOTALL))


# -------------------------------------------------------------------------------------------------- real payloads
@pytest.mark.skipif(not EVENTS.is_dir(), reason="no real payloads beside the repository")
def test_real_events_match_the_patterns_that_are_written_for_them():
    created = json.loads((EVENTS / "s3EventBridgeNotificationObjectCreatedEvent.json").read_text())
    changed = json.loads((EVENTS / "eventBridgeEvent.json").read_text())
    on_created = {
        "source": ["aws.s3"],
        "detail-type": ["Object Created"],
        "detail": {
            "bucket": {"name": ["example-bucket"]},
            "object": {"key": [{"wildcard": "IMG_*.jpg"}], "size": [{"numeric": [">", 0, "<", 1_000_000]}]},
            "source-ip-address": [{"cidr": "34.252.0.0/16"}],
        },
    }
    on_changed = {"source": ["aws.ec2"], "resources": [{"prefix": "arn:aws:ec2:"}], "detail": {"state": ["terminated"]}}
    assert [ask(on_created, created), ask(on_changed, created)] == [True, False]
    assert [ask(on_created, changed), ask(on_changed, changed)] == [False, True]
