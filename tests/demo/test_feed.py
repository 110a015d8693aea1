"""The generator: the same seed makes the same bytes, in the shape and with the dirt of the real feeds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import handlers.demo
from handlers.demo import sample_data
from handlers.demo.feed import LINES, order_lines, products, write
from handlers.demo.reading import index_orders, read_orders, read_prices

PRODUCT = re.compile(r"\d{5}[A-Za-z]*")


@pytest.mark.parametrize("name", ["feed", "feed.gz"])
@pytest.mark.parametrize("kind", ["prices", "orders"])
def test_the_same_seed_makes_the_same_bytes(tmp_path, kind, name):
    made = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(LINES[kind](500, seed), tmp_path / folder / name)
        made.append((tmp_path / folder / name).read_bytes())
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("count", [0, 1, 10, 11, 12, 5_000])
def test_there_are_as_many_skus_as_asked_for(tmp_path, count):
    write(LINES["prices"](count, 1), tmp_path / "prices.jsonl")
    assert len(read_prices(str(tmp_path / "prices.jsonl"))) == count


def test_prices_have_the_dirt_of_the_real_ones():
    assert_dirty_prices(products(3_938, seed=1))


def test_the_real_prices_have_it(real):
    assert_dirty_prices(read_prices(real("prices.jsonl.gz")))


def assert_dirty_prices(items):
    skus = [item["sku"] for item in items]
    assert len(skus) == len(set(skus)) == 3_938
    assert skus == sorted(skus)
    assert {"POST", "BANK CHARGES", "M", "m"} < set(skus)
    assert len(skus) - 200 < len({sku.upper() for sku in skus}) < len(skus) - 50
    assert 5 < sum(not PRODUCT.fullmatch(sku) for sku in skus) < 50
    assert any(item["name"] != item["name"].upper() for item in items)
    assert min(item["price"] for item in items) == 0
    assert max(item["price"] for item in items) > 10_000


def test_orders_have_the_dirt_of_the_real_ones(tmp_path):
    write(LINES["orders"](20_000, 1), tmp_path / "orders.csv.gz")
    assert_dirty_orders(str(tmp_path / "orders.csv.gz"))


def test_the_real_orders_have_it(real):
    assert_dirty_orders(real("orders.csv.gz"))


def assert_dirty_orders(path):
    index = index_orders(path, 20_000)
    orders = read_orders(path, index["slices"][0], 20_000)
    assert len(orders) == 20_000

    def share(condition):
        return sum(map(condition, orders)) / len(orders)

    assert 0.005 < share(lambda order: order["cancelled"]) < 0.04
    assert share(lambda order: order["quantity"] < 0) > share(lambda order: order["cancelled"])
    assert 0.2 < share(lambda order: not order["customer"]) < 0.5
    assert 0.0005 < share(lambda order: not order["description"]) < 0.01
    assert 0.0005 < share(lambda order: not order["sku"][0].isdigit()) < 0.02
    assert 0.8 < share(lambda order: order["country"] == "United Kingdom") < 0.99
    assert 0 < len(orders) - len({tuple(list(order.values())[1:]) for order in orders}) < 600
    assert [order["at"] for order in orders] == sorted(order["at"] for order in orders)


def test_an_order_feed_may_have_any_number_of_rows():
    assert [len(list(order_lines(count, 1))) for count in (0, 1, 41, 1_000)] == [0, 1, 41, 1_000]


def test_sample_data_makes_its_own_feed_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    data = sample_data("pricing/sync.requested")
    assert data["batch"] == 50
    assert Path(data["feed"]).is_relative_to(tmp_path / ".onward")
    assert len(read_prices(data["feed"])) == 3_938
    made = Path(data["feed"]).stat().st_mtime_ns
    assert sample_data("pricing/sync.requested") == data
    assert Path(data["feed"]).stat().st_mtime_ns == made
    data = sample_data("migration/requested")
    assert index_orders(data["feed"], 1_000)["rows"] == 95_000
    assert sample_data("inventory/update.requested") == {"sku": "85123A", "change": 24}
    assert sample_data("of another app") == {}


def demo(*arguments):
    root = Path(handlers.demo.__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "adapter")])
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_a_feed_is_made_on_the_command_line(tmp_path):
    made = demo("handlers.demo.feed", "prices", "--count", "40", "--seed", "1", "--out", str(tmp_path / "p.jsonl.gz"))
    assert (made.returncode, made.stdout, made.stderr) == (0, f"{tmp_path / 'p.jsonl.gz'}: 40 prices\n", "")
    assert len(read_prices(str(tmp_path / "p.jsonl.gz"))) == 40
    assert list(tmp_path.iterdir()) == [tmp_path / "p.jsonl.gz"]


def test_bad_options_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").touch()
    refused = demo("handlers.demo.feed", "prices", "--out", str(tmp_path / "file" / "p.jsonl"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert demo("handlers.demo.feed", "prices", "--count", "-1", "--out", "x").returncode == 2
    refused = demo("handlers.demo.shop", "--db", str(tmp_path / "file" / "shop.db"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
