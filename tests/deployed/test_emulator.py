"""The price sync under AWS's own Runtime Interface Emulator and AWS's own runtime client, as it was packed."""

from __future__ import annotations

import json
import queue
import zipfile
from pathlib import Path

from handlers.demo.shop import Shop
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.clock import SystemClock
from onward.core.ids import run_id
from onward.engine.ledger import Ledger
from onward.engine.views import run_view

from .emulator import Relay, emulated
from .stack import KEYS

EVENTS = Path(__file__).parents[1] / "events"
BATCH = 200


def test_the_price_sync_goes_to_its_end_under_awss_own_emulator(
    packed: dict[str, Path], dynoxide_url: str, prices: tuple[str, int], tmp_path: Path
) -> None:
    with zipfile.ZipFile(packed["Step"]) as archive:
        archive.extractall(tmp_path / "function")
    wire = Wire(endpoint_url=dynoxide_url, environ=KEYS)
    create_table(wire, "emulated")
    relay = Relay()
    env = KEYS | {
        "AWS_LAMBDA_FUNCTION_NAME": "step",
        "AWS_ENDPOINT_URL_DYNAMODB": dynoxide_url,
        "AWS_ENDPOINT_URL_LAMBDA": relay.url,
        "ONWARD_APP": "handlers.demo:app",
        "ONWARD_TABLE": "emulated",
        "ONWARD_QUEUE_URL": f"{relay.url}/none",
    }
    event = json.loads((EVENTS / "eventbridge_event.json").read_text())
    invocations = 0
    try:
        with (
            Shop(misbehave=0, rate_per_s=0) as shop,
            emulated("onward.entry.function.handler", tmp_path / "function", env, tmp_path) as function,
        ):
            event |= {"detail-type": "pricing/sync.requested"}
            event |= {"detail": {"feed": prices[0], "shop": shop.url, "batch": BATCH}}
            assert function.invoke(event) == {"runs": [run_id("sync_pricing", event["id"])]}
            while True:
                try:
                    wake = relay.waiting.get_nowait()
                except queue.Empty:
                    break
                assert function.invoke(json.loads(wake)) is None
                invocations += 1
            rows = shop.stats()["tables"]["prices"]["rows"]
        view = run_view(Ledger(DynamoStore(wire, "emulated"), None, SystemClock()), run_id("sync_pricing", event["id"]))
    finally:
        relay.close()
        wire.close()
    assert (view["status"], rows) == ("completed", prices[1])
    assert invocations >= view["steps_done"] == 1 + -(-prices[1] // BATCH)
