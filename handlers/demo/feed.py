"""Makes a feed like the real one (UCI's Online Retail data set), with the dirt that real exports have.

    python -m handlers.demo.feed prices --count 4000 --seed 1 --out prices.jsonl.gz
    python -m handlers.demo.feed orders --count 95000 --seed 1 --out orders.csv.gz

The same kind, count and seed make the same bytes. Among the products there are codes that are none (POST, BANK
CHARGES), SKUs that differ only in case, names in upper and lower case with stray spaces, quotes and commas; among the
orders cancelled invoices, negative quantities, missing customers and descriptions, and lines that come twice.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from argparse import ArgumentParser
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from .reading import ORDER_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEED = 1
COUNTS = {"prices": 3_938, "orders": 95_000}  # as many as the real feeds have
NO_PRODUCTS = (
    ("POST", "POSTAGE", 18.0),
    ("DOT", "DOTCOM POSTAGE", 1714.17),
    ("M", "Manual", 224.69),
    ("m", "Manual", 2.55),
    ("C2", "CARRIAGE", 50.0),
    ("D", "Discount", 28.68),
    ("BANK CHARGES", "Bank Charges", 15.0),
    ("AMAZONFEE", "AMAZON FEE", 17836.46),
    ("PADS", "PADS TO MATCH ALL CUSHIONS", 0.0),
    ("gift_0001_20", "Dotcomgiftshop Gift Voucher £20.00", 16.67),
    ("DCGS0004", "HAYNES CAMPER SHOULDER BAG", 16.63),
)
COLOURS = ("RED", "WHITE", "IVORY", "PINK", "BLUE POLKADOT", "VINTAGE", "SILVER", "GREEN", "RETROSPOT", "BLACK")
THINGS = ("HEART", "LANTERN", "MUG", "CUSHION COVER", "T-LIGHT HOLDER", "CAKE TIN", "UMBRELLA", "WALL CLOCK", "BOWL")
EXTRAS = ("", "", "", " LARGE", " SMALL", "  SET OF 4", ",SINGLE HOOK", ' "EXTREMELY BUSY"', " 45x45cm ", " No ")
CENTS = (39, 42, 85, 125, 165, 208, 255, 339, 413, 495, 829, 1246, 1663)
COUNTRIES = ("Germany", "France", "EIRE", "Spain", "Netherlands", "Belgium", "Australia", "Norway", "Cyprus")
OPENED = datetime(2010, 12, 1, 8, 26)


def products(count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different SKUs with name and price, sorted by SKU."""
    chance = Random(seed)
    found = {sku: (name, price) for sku, name, price in NO_PRODUCTS[:count]}
    while len(found) < count:
        number = str(chance.randint(10_000, 99_999))
        letter = chance.choice(("", "", "", "A", "B", "C", "S"))
        name = f"{chance.choice(COLOURS)} {chance.choice(THINGS)}{chance.choice(EXTRAS)}"
        price = chance.choice(CENTS) / 100
        found.setdefault(number + letter, (name, price))
        if letter and chance.random() < 0.05 and len(found) < count:
            found.setdefault(number + letter.lower(), (name.title(), price))
    return [{"sku": sku, "name": name, "price": price} for sku, (name, price) in sorted(found.items())]


def order_lines(count: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """`count` order lines in time order, in the columns of `ORDER_COLUMNS`."""
    chance = Random(seed)
    shelf = products(COUNTS["prices"], seed)
    invoice, at, left = 536_365, OPENED, 0
    line: tuple[Any, ...] = ()
    for _ in range(count):
        if left == 0:  # the next invoice
            left = chance.randint(1, 41)
            invoice += 1
            at += timedelta(minutes=chance.randint(0, 25))
            cancelled = chance.random() < 0.02
            customer = f"{chance.randint(12_346, 18_287)}.0" if chance.random() > 0.35 else ""
            country = chance.choice(COUNTRIES) if chance.random() < 0.08 else "United Kingdom"
        left -= 1
        if chance.random() < 0.01 and line and line[0] == name_of(invoice, cancelled):
            yield line  # the same line once more, as it happens
            continue
        product = chance.choice(shelf) if chance.random() > 0.005 else shelf[-chance.randint(1, 9)]
        quantity = chance.choice((1, 1, 2, 3, 6, 12, 24, 48))
        description, price = product["name"], product["price"]
        if chance.random() < 0.003:
            description, price = "", 0.0
        line = (
            name_of(invoice, cancelled),
            product["sku"],
            description,
            -quantity if cancelled or chance.random() < 0.002 else quantity,
            at,
            price,
            customer,
            country,
        )
        yield line


def name_of(invoice: int, cancelled: bool) -> str:
    return f"C{invoice}" if cancelled else str(invoice)


def price_lines(count: int, seed: int) -> Iterator[str]:
    for product in products(count, seed):
        yield json.dumps(product, ensure_ascii=False) + "\n"


def csv_lines(count: int, seed: int) -> Iterator[str]:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(ORDER_COLUMNS)
    for line in order_lines(count, seed):
        writer.writerow(line)
        if text.tell() > 65_536:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


LINES = {"prices": price_lines, "orders": csv_lines}


def write(lines: Iterable[str], file: Path) -> None:
    """Write the lines, compressed if the name ends in .gz. The file is there when it is whole, and not before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    with draft.open("wb") as raw:
        if file.suffix == ".gz":  # no name and no time inside, so that the same lines are the same bytes
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                packed.writelines(line.encode() for line in lines)
        else:
            raw.writelines(line.encode() for line in lines)
    draft.replace(file)


def demo_event(event_name: str) -> dict[str, Any]:
    """Data for each event of the demo, with a feed that is made in `.onward/demo` when it is not there yet."""
    if event_name == "pricing/sync.requested":
        return {"feed": demo_feed("prices", "jsonl"), "batch": 50}
    if event_name == "migration/requested":
        return {"feed": demo_feed("orders", "csv"), "batch": 1_000}
    if event_name == "inventory/update.requested":
        return {"sku": "85123A", "change": 24}
    return {}


def demo_feed(kind: str, suffix: str) -> str:
    file = Path(f".onward/demo/{kind}-{COUNTS[kind]}-{SEED}.{suffix}.gz").absolute()
    if not file.exists():
        write(LINES[kind](COUNTS[kind], SEED), file)
    return str(file)


def main() -> int:
    parser = ArgumentParser(prog="python -m handlers.demo.feed", description="Makes a feed like the real one.")
    parser.add_argument("kind", choices=sorted(LINES))
    parser.add_argument("--count", type=int, metavar="N", help="SKUs or rows (default: as many as the real feed has)")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="compressed if it ends in .gz")
    chosen = parser.parse_args()
    count = COUNTS[chosen.kind] if chosen.count is None else chosen.count
    if not 0 <= count <= 1_000_000:
        parser.error("--count takes 0 to 1,000,000")
    try:
        write(LINES[chosen.kind](count, chosen.seed), chosen.out)
    except OSError as error:
        sys.stderr.write(f"{chosen.out} cannot be written: {error}\n")
        return 2
    sys.stdout.write(f"{chosen.out}: {count} {chosen.kind}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
