"""Good feeds are read whole and in slices; bad ones are named by file and line."""

from __future__ import annotations

import gzip

import pytest

from handlers.demo.reading import ORDER_COLUMNS, index_orders, read_orders, read_prices
from onward import NonRetriable

HEADER = ",".join(ORDER_COLUMNS)
ROW = "536365,85123A,WHITE HEART,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom"


@pytest.fixture
def file(tmp_path):
    def write(name, *lines, end="\r\n"):
        path = tmp_path / name
        content = "".join(line + end for line in lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    return write


def all_orders(path, batch):
    index = index_orders(path, batch)
    slices = [read_orders(path, place, batch) for place in index["slices"]]
    assert [len(rows) for rows in slices[:-1]] == [batch] * (len(slices) - 1)
    orders = [order for rows in slices for order in rows]
    assert [order["row"] for order in orders] == list(range(1, index["rows"] + 1))
    return orders


def test_a_price_feed_is_read_in_order_and_its_skus_letter_for_letter(file):
    path = file(
        "prices.jsonl", '{"sku": "a", "name": "Mug £", "price": 2}', "", '{"sku": "A", "name": "X", "price": 0.85}'
    )
    assert read_prices(path) == [
        {"sku": "a", "name": "Mug £", "price": 2},
        {"sku": "A", "name": "X", "price": 0.85},
    ]


def test_of_a_sku_that_comes_twice_the_last_price_counts(file):
    lines = [f'{{"sku": "{sku}", "name": "X", "price": {price}}}' for sku, price in (("a", 1), ("b", 2), ("a", 3))]
    assert [(item["sku"], item["price"]) for item in read_prices(file("p.jsonl.gz", *lines))] == [("a", 3), ("b", 2)]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"name": "X", "price": 1}', "has no 'sku'"),
        ('{"sku": " ", "name": "X", "price": 1}', "has no 'sku'"),
        ('{"sku": "a", "name": 1, "price": 1}', "has no 'name'"),
        ('{"sku": "a", "name": "X"}', "has no price: None"),
        ('{"sku": "a", "name": "X", "price": "1"}', "has no price: '1'"),
        ('{"sku": "a", "name": "X", "price": true}', "has no price: True"),
        ('{"sku": "a", "name": "X", "price": NaN}', "has no price: nan"),
        ('{"sku": "a", "name": "X", "price": 1e30}', "has no price: 1e+30"),
    ],
)
def test_a_bad_price_line_is_named(file, line, what):
    path = file("prices.jsonl", '{"sku": "a", "name": "X", "price": 1}', line)
    with pytest.raises(NonRetriable) as raised:
        read_prices(path)
    assert str(raised.value).startswith(f"{path}, line 2 {what}")


def test_an_order_keeps_its_dirt(file):
    path = file("orders.csv", HEADER, 'C536379,D,"Discount, ""big""",-1,2010-12-01 09:41:00,27.5,,EIRE')
    assert all_orders(path, 10) == [
        {
            "row": 1,
            "invoice": "C536379",
            "sku": "D",
            "description": 'Discount, "big"',
            "quantity": -1,
            "at": "2010-12-01T09:41:00",
            "price": "27.5",
            "customer": "",
            "country": "EIRE",
            "cancelled": True,
        }
    ]


@pytest.mark.parametrize("name", ["orders.csv", "orders.csv.gz"])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_slices_are_the_whole_whatever_their_size(file, name, batch):
    two_lines = ROW.replace("WHITE HEART", '"WHITE\r\nHEART £"')
    path = file(name, HEADER, ROW, two_lines, "", ROW, two_lines, ROW, ROW, ROW)
    found = [order["description"] for order in all_orders(path, batch)]
    white = "WHITE HEART"
    assert found == [white, "WHITE\r\nHEART £", white, "WHITE\r\nHEART £", white, white, white]


def test_an_order_feed_without_rows_has_no_slices(file):
    assert index_orders(file("orders.csv", HEADER), 10) == {"rows": 0, "slices": []}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("536365,85123A", "has 2 columns and not 8"),
        (ROW.replace(",6,", ",six,"), "does not fit: invalid literal for int"),
        (ROW.replace("2.55", "cheap"), "has no price: 'cheap'"),
        (ROW.replace("2.55", "NaN"), "has no price: 'NaN'"),
        (ROW.replace("2010-12-01", "1 December"), "does not fit: Invalid isoformat string"),
        (ROW.replace("536365", ""), "has no InvoiceNo or no StockCode"),
    ],
)
def test_a_bad_order_is_named_by_its_line_in_the_file(file, row, what):
    path = file("orders.csv", HEADER, ROW, '5,6,"two\r\nlines",1,2010-12-01,1,,EIRE', "", ROW, row, ROW)
    with pytest.raises(NonRetriable) as raised:
        all_orders(path, 2)
    assert str(raised.value).startswith(f"{path}, line 7 {what}")


def test_a_file_that_is_no_order_feed_is_refused(file):
    with pytest.raises(NonRetriable, match="line 1 must be the header InvoiceNo,"):
        index_orders(file("orders.csv", "a,b,c", ROW), 10)
    with pytest.raises(NonRetriable, match="line 1 must be the header"):
        index_orders(file("empty.csv"), 10)
    with pytest.raises(NonRetriable, match="line 3 is no CSV"):
        index_orders(file("quote.csv", HEADER, ROW, '"never closed', ROW), 10)


def test_bytes_that_are_no_utf_8_are_named(tmp_path):
    (tmp_path / "orders.csv").write_bytes(f"{HEADER}\n{ROW}\n".encode() + b"\xa3\n")
    with pytest.raises(NonRetriable, match=r"orders\.csv, line 3 is not UTF-8"):
        index_orders(str(tmp_path / "orders.csv"), 10)


@pytest.mark.parametrize("read", [read_prices, lambda path: index_orders(path, 10)])
@pytest.mark.parametrize("name", ["nothing", "nothing.gz", "."])
def test_a_missing_feed_says_what_to_do(tmp_path, read, name):
    path = str(tmp_path / name)
    with pytest.raises(NonRetriable, match=r"there is no \w+ feed at .*: give the path of one, or make one: python -m"):
        read(path)


def test_a_broken_gzip_file_is_named(file, tmp_path):
    (tmp_path / "plain.gz").write_text(HEADER)
    with pytest.raises(NonRetriable, match=r"plain\.gz is no whole gzip file"):
        index_orders(str(tmp_path / "plain.gz"), 10)
    whole = file("whole.csv.gz", HEADER, *[f"{ROW} {number}" for number in range(1000)])
    (tmp_path / "half.csv.gz").write_bytes((tmp_path / "whole.csv.gz").read_bytes()[:2000])
    assert index_orders(whole, 10)["rows"] == 1000
    with pytest.raises(NonRetriable, match=r"half\.csv\.gz is no whole gzip file"):
        index_orders(str(tmp_path / "half.csv.gz"), 10)


def test_the_real_price_feed_is_read(real):
    items = read_prices(real("prices.jsonl.gz"))
    assert len(items) == len({item["sku"] for item in items}) == 3_938


def test_the_real_orders_are_read_in_slices(real):
    orders = all_orders(real("orders.csv.gz"), 20_000)
    assert len(orders) == 95_000
    assert sum(order["cancelled"] for order in orders) == 1_783
    assert sum(not order["customer"] for order in orders) == 33_595
