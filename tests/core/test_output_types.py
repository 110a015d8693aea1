"""`output_type=` brings back what the log keeps as plain fields."""

import datetime
from decimal import Decimal
from typing import Optional, Union
from uuid import UUID

import pydantic
import pytest

from onward.core.codec import decode, encode
from onward.core.errors import NotEncodable
from tests.core.shapes import Basket, Color, Frozen, Item, Level, Line, Order, Price

NOW = datetime.datetime(2026, 3, 29, 2, 30, tzinfo=datetime.UTC)
ITEM = Item(sku="a", amount=Decimal("0.85"), seen=NOW)
PRICE = Price("a", Decimal("0.85"), ("x",))


def there_and_back(value, output_type):
    return decode(encode(value, "the value", output_type), output_type)


@pytest.mark.parametrize(
    ("value", "output_type"),
    [
        (ITEM, Item),
        ([ITEM, ITEM], list[Item]),
        ([], list[Item]),
        ({"a": ITEM}, dict[str, Item]),
        ({"a": PRICE}, dict[str, Price]),
        ({"a": [ITEM]}, dict[str, list[Item]]),
        ((ITEM, 1), tuple[Item, int]),
        ((ITEM, ITEM, ITEM), tuple[Item, ...]),
        (ITEM, Optional[Item]),  # noqa: UP045
        (None, Optional[Item]),  # noqa: UP045
        (None, Item | None),
        (PRICE, Union[Item, Price]),  # noqa: UP007
        (PRICE, Price),
        (Color.PAIR, Color),
        (Level.HIGH, Level),
        (Frozen(key=UUID(int=1), at=NOW), Frozen),
        (Basket([Line("a", 1)]), Basket),
        (Order(orderId=1, lineItems=[ITEM]), Order),
        ([Order(orderId=2)], list[Order]),
        ("5", int | str),
        (5, str | int),
        (0.5, float),
        (Decimal("0.1"), Decimal),
        (NOW, datetime.datetime),
        ({"any": [1]}, dict),
    ],
    ids=str,
)
def test_a_value_comes_back_as_its_type(value, output_type):
    back = there_and_back(value, output_type)
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(
    ("plain", "output_type", "value"),
    [
        ({"sku": "a", "amount": "0.85"}, Item, Item(sku="a", amount=Decimal("0.85"))),
        ({"lines": [{"sku": "a", "count": 1}], "color": "red"}, Basket, Basket([Line("a", 1)])),
        ([{"sku": "a", "count": 1}], list[Line], [Line("a", 1)]),
        ("red", Color, Color.RED),
        ("0.10", Decimal, Decimal("0.10")),
        ("00000000-0000-0000-0000-000000000001", UUID, UUID(int=1)),
        (1, float, 1.0),
        ({"orderId": 1}, Order, Order(orderId=1)),
    ],
    ids=str,
)
def test_plain_data_of_an_api_becomes_its_type(plain, output_type, value):
    back = there_and_back(plain, output_type)
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize(
    ("value", "output_type"),
    [
        ({"sku": "a"}, Item),
        (ITEM, list[Item]),
        ({"a": ITEM}, list[Item]),
        ([ITEM], dict[str, Item]),
        ("abc", dict[str, str]),
        ("green", Color),
        ([1, 2, 3], tuple[int, int]),
        ("x", int),
        (1.5, int),
        ([1], Line),
        ("x", Item | int),
        (None, Item),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_refused(value, output_type):
    with pytest.raises((NotEncodable, ValueError, pydantic.ValidationError)):
        there_and_back(value, output_type)


def test_what_a_model_holds_must_be_encodable_too():
    class Tags(pydantic.BaseModel):
        tags: set[str]

    with pytest.raises(NotEncodable, match=r"a value of type set at \$\[0\]\.tags"):
        encode([Tags(tags={"a"})], "the value", list[Tags])
