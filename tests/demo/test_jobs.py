"""The three jobs, walked through over a real shop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import handlers.demo
from handlers.demo.feed import LINES, write
from handlers.demo.jobs import app, migrate_orders, money, shelf_price, sync_pricing, tidy, update_inventory
from handlers.demo.shop import Shop
from onward import NonRetriable, StepError

EVENTS = {"pricing/sync.requested", "migration/requested", "inventory/update.requested"}


def event(name, data):
    return SimpleNamespace(name=name, data=data)


def once_each(shop, table):
    """How many rows a table has, when each was applied exactly once."""
    totals = shop.stats()["tables"][table]
    assert totals["applied"] == totals["rows"]
    assert totals["applied_twice_or_more"] == 0
    return totals["rows"]


def test_each_event_starts_one_job():
    assert {name for workflow in app for name in workflow.on} == EVENTS


def test_every_price_arrives_exactly_once_though_the_shop_misbehaves(tmp_path, steps):
    write(LINES["prices"](420, 1), tmp_path / "prices.jsonl.gz")
    with Shop(misbehave=0.5, rate_per_s=0) as shop:
        data = {"feed": str(tmp_path / "prices.jsonl.gz"), "batch": 20, "shop": shop.url}
        steps.max_attempts = 50
        assert sync_pricing(event("pricing/sync.requested", data), steps) == {"skus": 420, "batches": 21}
        assert once_each(shop, "prices") == 420
        counted = shop.stats()["endpoints"]["/prices"]
    assert list(steps.attempts)[:2] == ["fetch-feed", "load-batch-001"]
    assert counted["lost"] > 0 and counted["failed"] > 0
    assert counted["requests"] == sum(steps.attempts.values()) - steps.attempts["fetch-feed"]
    assert counted["applied"] == 21


def test_every_order_arrives_exactly_once_though_the_shop_misbehaves(tmp_path, steps):
    write(LINES["orders"](2_050, 1), tmp_path / "orders.csv")
    with Shop(misbehave=0.5, rate_per_s=0) as shop:
        data = {"feed": str(tmp_path / "orders.csv"), "batch": 100, "shop": shop.url}
        steps.max_attempts = 50
        assert migrate_orders(event("migration/requested", data), steps) == {"rows": 2_050, "batches": 21}
        assert once_each(shop, "orders") == shop.get("/orders/count")["count"] == 2_050
    assert list(steps.attempts)[:2] == ["index-orders", "move-rows-from-000001"]


def test_a_job_waits_when_the_shop_asks_it_to(tmp_path, steps):
    write(LINES["prices"](25, 1), tmp_path / "prices.jsonl")
    with Shop(misbehave=0, rate_per_s=20) as shop:
        data = {"feed": str(tmp_path / "prices.jsonl"), "batch": 1, "shop": shop.url}
        sync_pricing(event("pricing/sync.requested", data), steps)
        assert once_each(shop, "prices") == 25
        assert shop.stats()["endpoints"]["/prices"]["rejected"] >= 1


def test_the_real_price_feed_arrives(real, steps, honest_shop):
    data = {"feed": real("prices.jsonl.gz"), "shop": honest_shop.url}
    assert sync_pricing(event("pricing/sync.requested", data), steps) == {"skus": 3_938, "batches": 79}
    assert once_each(honest_shop, "prices") == 3_938


def test_the_real_orders_arrive(real, steps, honest_shop):
    data = {"feed": real("orders.csv.gz"), "batch": 10_000, "shop": honest_shop.url}
    assert migrate_orders(event("migration/requested", data), steps) == {"rows": 95_000, "batches": 10}
    assert once_each(honest_shop, "orders") == 95_000


def test_stock_is_booked_with_all_three_services(steps, honest_shop):
    data = {"sku": "85123A", "change": 24, "shop": honest_shop.url}
    output = update_inventory(event("inventory/update.requested", data), steps)
    assert output == {"sku": "85123A", "stock": 124, "listed": True}
    assert honest_shop.get("/stock/85123A") == {"warehouse": 124, "storefront": 124, "marketplace": 124}


def test_what_the_last_service_refuses_is_taken_back(steps, honest_shop):
    data = {"sku": "POST", "change": -3, "shop": honest_shop.url}
    output = update_inventory(event("inventory/update.requested", data), steps)
    assert (output["listed"], output["stock"]) == (False, 100)
    assert "lists products only" in output["reason"]
    assert honest_shop.get("/stock/POST") == {"warehouse": 100, "storefront": 100, "marketplace": 100}
    assert list(steps.attempts)[-2:] == ["take-back-in-warehouse", "take-back-in-storefront"]


def test_what_the_first_service_refuses_fails_the_run(steps, honest_shop):
    data = {"sku": "85123A", "change": -101, "shop": honest_shop.url}
    with pytest.raises(StepError, match="the warehouse has only 100 of 85123A"):
        update_inventory(event("inventory/update.requested", data), steps)
    assert steps.attempts == {"move-in-warehouse": 1}


@pytest.mark.parametrize(
    ("workflow", "data", "message"),
    [
        (sync_pricing, None, "test needs data that is a JSON object, and has None"),
        (sync_pricing, {}, 'test needs "feed", the path of a file, and has None'),
        (sync_pricing, {"feed": 7}, 'test needs "feed", the path of a file, and has 7'),
        (migrate_orders, {"feed": "x", "batch": 0}, 'test takes a "batch" of 1 to 10000 rows, and has 0'),
        (migrate_orders, {"feed": "x", "batch": "5"}, "test takes a \"batch\" of 1 to 10000 rows, and has '5'"),
        (update_inventory, {"sku": "1"}, 'test needs "sku", a text, and "change", a whole number'),
        (update_inventory, {"sku": "1", "change": True}, 'test needs "sku", a text, and "change", a whole number'),
    ],
)
def test_data_that_cannot_work_fails_the_run_with_one_line(steps, workflow, data, message):
    with pytest.raises(NonRetriable) as raised:
        workflow(event("test", data), steps)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert steps.attempts == {}


def test_names_are_tidied_and_prices_rounded():
    assert tidy(" 3 TRADITIONAl  BISCUIT CUTTERS ") == "3 TRADITIONAL BISCUIT CUTTERS"
    assert [money(amount) for amount in (2.675, "2.665", 0, 17836.46, -0.005, 1e8)] == [
        "2.68", "2.67", "0.00", "17836.46", "-0.01", "100000000.00",
    ]  # fmt: skip
    assert shelf_price({"sku": "POST", "name": "Postage", "price": 18}) == {
        "sku": "POST",
        "name": "POSTAGE",
        "price": "18.00",
        "product": False,
    }


def test_a_cold_start_imports_nothing_that_only_a_step_needs():
    heavy = {
        "csv",
        "gzip",
        "decimal",
        "http.client",
        "urllib",
        "sqlite3",
        "subprocess",
        "starlette",
        "uvicorn",
        "random",
    }
    heavy |= {"pathlib", "threading", "argparse", "tempfile", "handlers.demo.shop", "handlers.demo.feed"}
    root = Path(handlers.demo.__file__).parents[2]
    code = (
        f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'adapter')!r}]; before = set(sys.modules)\n"
        "import handlers.demo; print(*set(sys.modules) - before)"
    )
    # -I -S: what the environment of this test brings along is not the demo's doing
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert heavy & set(ran.stdout.split()) == set()
    assert "handlers.demo.jobs" in ran.stdout.split()
