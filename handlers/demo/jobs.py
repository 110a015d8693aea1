"""The three jobs of the demo. Each is an ordinary function made of steps; copy one and put your own in its place."""

from __future__ import annotations

from onward import App, NonRetriable, Retry, StepError

from .client import ensure_shop, send
from .reading import index_orders, read_orders, read_prices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from onward import Event, Step

BATCH_OF_PRICES = 50
BATCH_OF_ORDERS = 1_000
MAX_BATCH = 10_000  # what the shop takes in one request

app = App("demo")
patient = Retry(max_attempts=8, base=0.2, factor=2.0, cap=5.0)  # the shop is often in a bad mood, never for long


# --------------------------------------------------------------------------------------------------- prices
@app.workflow(on="pricing/sync.requested", retries=patient)
def sync_pricing(event: Event, step: Step) -> dict[str, Any]:
    """Bring the shop's prices up to date with a feed: {"feed": PATH, "batch": 50, "shop": URL}."""
    feed, size = wanted_feed(event), wanted_batch(event, BATCH_OF_PRICES)
    items = step.run("fetch-feed", read_prices, feed)
    starts = range(0, len(items), size)
    for number, start in enumerate(starts, start=1):
        step.run(f"load-batch-{number:03d}", load_prices, items[start : start + size], event.data)
    return {"skus": len(items), "batches": len(starts)}


def load_prices(items: list[dict[str, Any]], data: Mapping[str, Any]) -> int:
    return int(send(ensure_shop(data), "/prices", [shelf_price(item) for item in items])["loaded"])


def shelf_price(item: Mapping[str, Any]) -> dict[str, Any]:
    """A price as the shop keeps it. Postage, bank charges and the like are kept too, and marked as no product."""
    return {
        "sku": item["sku"],
        "name": tidy(item["name"]),
        "price": money(item["price"]),
        "product": item["sku"][:5].isdigit(),
    }


# --------------------------------------------------------------------------------------------------- orders
@app.workflow(on="migration/requested", retries=patient)
def migrate_orders(event: Event, step: Step) -> dict[str, Any]:
    """Move a file of order lines, however long, into the shop: {"feed": PATH, "batch": 1000, "shop": URL}.

    No step returns the rows: the first notes where each batch begins in the file, and each batch reads its own.
    """
    feed, size = wanted_feed(event), wanted_batch(event, BATCH_OF_ORDERS)
    index = step.run("index-orders", index_orders, feed, size)
    for place in index["slices"]:
        step.run(f"move-rows-from-{place['row']:06d}", move_orders, feed, place, size, event.data)
    return {"rows": index["rows"], "batches": len(index["slices"])}


def move_orders(feed: str, place: Mapping[str, int], count: int, data: Mapping[str, Any]) -> int:
    orders = read_orders(feed, place, count)
    return int(send(ensure_shop(data), "/orders", [shelf_order(order) for order in orders])["loaded"])


def shelf_order(order: Mapping[str, Any]) -> dict[str, Any]:
    return {**order, "description": tidy(order["description"]), "price": money(order["price"])}


# ------------------------------------------------------------------------------------------------ inventory
@app.workflow(on="inventory/update.requested", retries=patient)
def update_inventory(event: Event, step: Step) -> dict[str, Any]:
    """Book a change of stock with three services, one after the other: {"sku": SKU, "change": N, "shop": URL}.

    The marketplace may refuse for good (it lists products only: try the SKU "POST"). Then what the first two did is
    taken back, by steps like any other, and the run says so.
    """
    sku, change = wanted_change(event)
    left = step.run("move-in-warehouse", move_stock, sku, change, event.data)
    step.run("show-in-storefront", show_stock, sku, left, event.data)
    try:
        step.run("list-on-marketplace", list_stock, sku, left, event.data)
    except StepError as refused:
        left = step.run("take-back-in-warehouse", move_stock, sku, -change, event.data)
        step.run("take-back-in-storefront", show_stock, sku, left, event.data)
        return {"sku": sku, "stock": left, "listed": False, "reason": refused.message}
    return {"sku": sku, "stock": left, "listed": True}


def move_stock(sku: str, change: int, data: Mapping[str, Any]) -> int:
    return int(send(ensure_shop(data), "/warehouse/stock", {"sku": sku, "change": change})["stock"])


def show_stock(sku: str, stock: int, data: Mapping[str, Any]) -> int:
    return int(send(ensure_shop(data), "/storefront/stock", {"sku": sku, "stock": stock})["stock"])


def list_stock(sku: str, stock: int, data: Mapping[str, Any]) -> int:
    return int(send(ensure_shop(data), "/marketplace/listing", {"sku": sku, "stock": stock})["stock"])


# ------------------------------------------------------------------------------- what the events must bring
def data_of(event: Event) -> dict[str, Any]:
    if not isinstance(event.data, dict):
        raise NonRetriable(f"{event.name} needs data that is a JSON object, and has {event.data!r:.80}")
    return event.data


def wanted_feed(event: Event) -> str:
    feed = data_of(event).get("feed")
    if not isinstance(feed, str) or not feed:
        raise NonRetriable(f'{event.name} needs "feed", the path of a file, and has {feed!r}')
    return feed


def wanted_batch(event: Event, default: int) -> int:
    size = data_of(event).get("batch", default)
    if type(size) is not int or not 1 <= size <= MAX_BATCH:
        raise NonRetriable(f'{event.name} takes a "batch" of 1 to {MAX_BATCH} rows, and has {size!r}')
    return size


def wanted_change(event: Event) -> tuple[str, int]:
    sku, change = data_of(event).get("sku"), data_of(event).get("change")
    if not isinstance(sku, str) or not sku or type(change) is not int:
        raise NonRetriable(f'{event.name} needs "sku", a text, and "change", a whole number; it has {event.data!r:.80}')
    return sku, change


# --------------------------------------------------------------------------------------------- transforming
def tidy(name: str) -> str:
    """One case and single spaces: the feed has all kinds."""
    return " ".join(name.split()).upper()


def money(amount: float | str) -> str:
    """Two decimals, a half cent rounded up, as text: no float ever holds a price again."""
    from decimal import ROUND_HALF_UP, Decimal

    return str(Decimal(str(amount)).quantize(Decimal("0.01"), ROUND_HALF_UP))
