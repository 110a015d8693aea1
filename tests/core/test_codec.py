"""Whatever is kept in the log comes back as it was, or is refused where it stands."""

import datetime
import json
import subprocess
import sys
import textwrap
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict, namedtuple
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.core.codec import MAX_DEPTH, decode, encode
from onward.core.errors import DefinitionError, NotEncodable
from tests.core.shapes import Basket, Color, Derived, Frozen, Item, Level, Line, Outer, Price, Right, Word

TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included
ZONES = st.one_of(
    st.none(),
    st.just(datetime.UTC),
    st.integers(-82_800, 82_800).map(lambda seconds: datetime.timezone(datetime.timedelta(seconds=seconds))),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    TEXT,
    st.sampled_from(["$", '"$"', '{"$":1}', "\x00", "\ud800", "\U0001f469\u200d\U0001f680"]),
    st.binary(),
    st.decimals(),
    st.uuids(),
    st.dates(),
    st.datetimes(timezones=ZONES),
    st.sampled_from([*Color, *Level, *Word, Right.READ | Right.WRITE]),
    st.builds(Frozen, key=st.uuids(), at=st.datetimes(timezones=ZONES)),
)
KEYS = st.one_of(TEXT, st.sampled_from(["$", "v", "t", ""]))


def _containers(inner):
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(Price, TEXT, st.decimals(allow_nan=False), st.just(("a", "b")), inner),
    )


VALUES = st.recursive(LEAVES, _containers, max_leaves=15)


def same(one, other):
    """Equal in type and value, all the way down; NaN equals NaN, 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) is dict:
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if type(one) is Price:
        return all(same(getattr(one, name), getattr(other, name)) for name in ("sku", "amount", "tags", "extra"))
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, Decimal):
        return str(one) == str(other)
    return one == other


@given(VALUES)
def test_a_value_comes_back_as_it_was_and_its_text_is_strict_json(value):
    text = encode(value, "the value")
    text.encode("utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert same(decode(text), value)


@given(VALUES)
def test_encoding_what_was_decoded_gives_the_same_text(value):
    text = encode(value, "the value")
    assert encode(decode(text), "the value") == text


@given(st.recursive(st.none() | st.integers(), lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8))
def test_a_users_key_is_never_taken_for_a_tag(value):
    for wrapped in (value, {"$": value}, {"$": "tuple", "v": value}, {"$": {"$": "uuid", "v": value}}):
        assert decode(encode(wrapped, "the value")) == wrapped


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_of_a_named_zone_keeps_its_wall_time_and_offset(moment):
    back = decode(encode(moment, "the value"))
    assert back.isoformat() == moment.isoformat() and back.utcoffset() == moment.utcoffset()


def test_each_call_gives_a_new_object():
    text = encode({"a": [1]}, "the value")
    decode(text)["a"].append(2)
    assert decode(text) == {"a": [1]}


def test_a_bytearray_comes_back_as_bytes():
    assert decode(encode(bytearray(b"\x00\xff"), "the value")) == b"\x00\xff"


def test_a_dataclass_is_rebuilt_by_its_constructor():
    for value in (Derived(3), Outer.Inner(1), Basket([Line("a", 1)], Color.PAIR), Frozen(key=uuid.UUID(int=1))):
        back = decode(encode(value, "the value"))
        assert back == value and type(back) is type(value)


def test_a_zone_is_kept_as_its_offset():
    moment = datetime.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Prague"))
    back = decode(encode(moment, "the value"))
    assert back == moment and back.tzinfo == datetime.timezone(datetime.timedelta(hours=2))


class Scalar:
    """What NumPy's scalars and arrays have in common."""

    def tolist(self):
        return 1


Point = namedtuple("Point", "x")


@pytest.mark.parametrize(
    ("value", "path", "kind", "hint"),
    [
        ({"a": [1, {2}]}, "$.a[1]", "set", "sorted(...)"),
        ([frozenset()], "$[0]", "frozenset", "sorted(...)"),
        ((1, object()), "$[1]", "object", "plain data"),
        ({"when": datetime.timedelta(1)}, "$.when", "datetime.timedelta", ".total_seconds()"),
        ({"t": datetime.time(1)}, "$.t", "datetime.time", "plain data"),
        ((n for n in "ab"), "$", "generator", "list(...)"),
        ([Scalar()], "$[0]", "tests.core.test_codec.Scalar", ".tolist()"),
        ({"p": Point(1)}, "$.p", "tests.core.test_codec.Point", "plain data"),
        ([defaultdict(list)], "$[0]", "collections.defaultdict", "plain data"),
        (OrderedDict(), "$", "collections.OrderedDict", "plain data"),
        (1j, "$", "complex", "plain data"),
        (Price, "$", "type", "plain data"),
        (Price("a", Decimal(1), extra={1}), "$.extra", "set", "sorted(...)"),
        ([Item(sku="a", amount=1)], "$[0]", "tests.core.shapes.Item", "output_type=Item"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_kept_is_named_with_its_place_its_type_and_what_to_do(value, path, kind, hint):
    with pytest.raises(NotEncodable) as caught:
        encode(value, "the result of step 'fetch'")
    message = str(caught.value)
    assert message.startswith("the result of step 'fetch' has a ")
    assert f" at {path}" in message and f"{kind} " in message and hint in message


@pytest.mark.parametrize("key", [1, None, True, (1, 2), b"a", Word.YES, 1.5])
def test_a_key_that_is_no_string_is_refused(key):
    with pytest.raises(NotEncodable, match=r"has a key of type .* at \$\.rows\[0\]: .*use str\(key\)") as caught:
        encode({"rows": [{key: 1}]}, "the result of step 'fetch'")
    assert type(key).__name__ in str(caught.value)


def test_a_coroutine_is_refused_with_the_way_out():
    async def fetch():
        return 1

    coroutine = fetch()
    try:
        with pytest.raises(NotEncodable, match="await it first"):
            encode([coroutine], "the result of step 'fetch'")
    finally:
        coroutine.close()


def test_a_value_that_is_too_deep_or_holds_itself_is_refused():
    deep: list = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert decode(encode(deep, "the value")) == deep
    cycle: dict = {}
    cycle["again"] = [cycle]
    for value in ([deep], cycle):
        with pytest.raises(
            NotEncodable, match=r"the value is nested deeper than 100 levels \(or contains itself\) at \$"
        ):
            encode(value, "the value")


def test_an_integer_of_too_many_digits_is_refused():
    with pytest.raises(NotEncodable, match=r"the value cannot be written as JSON: .*digits"):
        encode([10**5000], "the value")


def test_a_class_inside_a_function_is_refused():
    import dataclasses
    import enum

    @dataclasses.dataclass
    class Here:
        n: int

    class Shade(enum.Enum):
        DARK = 1

    for value in (Here(1), Shade.DARK):
        with pytest.raises(NotEncodable, match=r"the value has a .*<locals>.* at \$\[0\], a class inside a function"):
            encode([value], "the value")


def test_a_class_that_is_gone_is_named():
    text = encode(Price("a", Decimal(1)), "the value").replace("shapes:Price", "shapes:Cost")
    with pytest.raises(NotEncodable, match=r"a value of class tests.core.shapes:Cost, which is not loaded"):
        decode(text)


@pytest.mark.parametrize(
    "name", ["builtins:dict", "subprocess:Popen", "os:system", "tests.core.shapes:Outer", ":", "x"]
)
def test_only_dataclasses_and_enums_are_ever_constructed(name):
    for tag in ("dataclass", "enum"):
        with pytest.raises(NotEncodable, match="which is not loaded"):
            decode(json.dumps({"$": tag, "t": name, "v": {}}))


def test_a_tag_of_a_newer_onward_says_so():
    with pytest.raises(NotEncodable, match="unknown kind 'matrix': it was written by a newer Onward"):
        decode('{"$":"matrix","v":[]}')


def test_reading_never_imports_a_module(tmp_path):
    (tmp_path / "sideeffect.py").write_text(
        "import dataclasses\nprint('imported')\n@dataclasses.dataclass\nclass A: pass\n"
    )
    program = """
        from onward.core.codec import decode
        from onward.core.errors import NotEncodable
        for tag in ("dataclass", "enum"):
            try:
                decode('{"$": "%s", "t": "sideeffect:A", "v": {}}' % tag)
            except NotEncodable as error:
                assert "not loaded" in str(error), error
            else:
                raise AssertionError("it was read")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": f"{tmp_path}:adapter"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_a_mistake_of_the_users_and_no_retry_helps():
    assert issubclass(NotEncodable, DefinitionError)
