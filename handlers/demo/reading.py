"""Reads the two feeds, plain or `.gz`: prices (one JSON object a line) and orders (CSV with a header).

A line that does not fit is a `NonRetriable` that names the file and the line: another attempt would read it again.
Orders are read in slices. `index_orders` goes through the file once and notes where each slice begins, so that a
step that loads one slice jumps to it, and no step holds or returns the whole file.
"""

from __future__ import annotations

import json

from onward import NonRetriable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

ORDER_COLUMNS = (
    "InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"
)  # fmt: skip
MAX_PRICE = 1_000_000_000


def read_prices(path: str) -> list[dict[str, Any]]:
    """Every SKU of the feed once, in order: {"sku", "name", "price"}. Where one comes twice, its last line counts.
    SKUs are kept letter for letter: 85123A and 85123a are two."""
    found = {}
    for line, text in enumerate(lines_of(path, "prices"), start=1):
        if text.strip():
            price = price_of(text, path, line)
            found[price["sku"]] = price
    return list(found.values())


def price_of(text: bytes, path: str, line: int) -> dict[str, Any]:
    try:
        price = json.loads(text)
    except ValueError as error:  # also what is no UTF-8
        raise bad_line(path, line, f"is no JSON ({error})") from None
    if not isinstance(price, dict):
        raise bad_line(path, line, "is no JSON object")
    for name in ("sku", "name"):
        if not isinstance(price.get(name), str) or not price[name].strip():
            raise bad_line(path, line, f"has no {name!r}")
    number = price.get("price")
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < MAX_PRICE:
        raise bad_line(path, line, f"has no price: {number!r}")
    return {"sku": price["sku"], "name": price["name"], "price": number}


def index_orders(path: str, batch: int) -> dict[str, Any]:
    """{"rows": how many, "slices": [place, ...]}: where each slice of `batch` rows begins, as
    {"offset": in bytes, "line": in the file, "row": among the orders, from 1}."""
    import csv

    offset, line = 0, 1  # of the line that comes next

    def lines() -> Iterator[str]:
        nonlocal offset, line
        for text in lines_of(path, "orders"):
            offset, line = offset + len(text), line + 1
            yield decoded(text, path, line - 1)

    records = csv.reader(lines(), strict=True)
    rows, slices, begins = 0, [], (offset, line)
    try:
        if tuple(next(records, ())) != ORDER_COLUMNS:
            raise bad_line(path, 1, f"must be the header {','.join(ORDER_COLUMNS)}")
        begins = (offset, line)
        for record in records:
            if record:
                if rows % batch == 0:
                    slices.append({"offset": begins[0], "line": begins[1], "row": rows + 1})
                rows += 1
            begins = (offset, line)
    except csv.Error as error:
        raise bad_line(path, begins[1], f"is no CSV ({error})") from None
    return {"rows": rows, "slices": slices}


def read_orders(path: str, place: Mapping[str, int], count: int) -> list[dict[str, Any]]:
    """At most `count` orders from a place of the index on. An order line has no key of its own, and some come twice,
    so its row in the file is its key."""
    import csv
    from itertools import islice

    line = place["line"]
    lines = enumerate(lines_of(path, "orders", place["offset"]), start=line)
    records = csv.reader(decoded(text, path, number) for number, text in lines)
    filled = (record for record in records if record)
    return [
        order_of(record, row, path, line + records.line_num - 1)
        for row, record in enumerate(islice(filled, count), start=place["row"])
    ]


def order_of(record: list[str], row: int, path: str, line: int) -> dict[str, Any]:
    from datetime import datetime
    from decimal import Decimal, InvalidOperation

    if len(record) != len(ORDER_COLUMNS):
        raise bad_line(path, line, f"has {len(record)} columns and not {len(ORDER_COLUMNS)}")
    invoice, sku, description, quantity, at, price, customer, country = record
    if not invoice or not sku:
        raise bad_line(path, line, "has no InvoiceNo or no StockCode")
    try:
        if not -MAX_PRICE < Decimal(price) < MAX_PRICE:  # nor is NaN, which cannot be compared
            raise InvalidOperation
        return {
            "row": row,
            "invoice": invoice,
            "sku": sku,
            "description": description,
            "quantity": int(quantity),
            "at": datetime.fromisoformat(at).isoformat(),
            "price": price,
            "customer": customer.removesuffix(".0"),  # "" where nobody was asked
            "country": country,
            "cancelled": invoice.startswith("C"),
        }
    except InvalidOperation:
        raise bad_line(path, line, f"has no price: {price!r}") from None
    except ValueError as error:
        raise bad_line(path, line, f"does not fit: {error}") from None


def lines_of(path: str, kind: str, offset: int = 0) -> Iterator[bytes]:
    """The lines of a feed from that byte on. What is wrong with the file itself is said in one line."""
    import gzip
    import zlib
    from pathlib import Path

    hint = f"give the path of one, or make one: python -m handlers.demo.feed {kind} --out FILE"
    try:
        with gzip.open(path) if path.endswith(".gz") else Path(path).open("rb") as file:
            file.seek(offset)  # in a .gz this reads and forgets what lies before
            yield from file
    except (FileNotFoundError, IsADirectoryError):
        raise NonRetriable(f"there is no {kind} feed at {path}: {hint}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise NonRetriable(f"{path} is no whole gzip file ({error}): {hint}") from None


def decoded(text: bytes, path: str, line: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise bad_line(path, line, f"is not UTF-8 ({error.reason})") from None


def bad_line(path: str, line: int, what: str) -> NonRetriable:
    return NonRetriable(f"{path}, line {line} {what}")
