"""What is deployed is what was tested: the template, standing on this machine with the zips that would be uploaded."""

from __future__ import annotations

import os
import signal
import time
from http.client import HTTPConnection
from typing import Any

import pytest

from handlers.demo import app
from handlers.demo.shop import Shop
from onward.core.errors import AccessRefused
from onward.core.ids import run_id
from onward.entry import send

from .conftest import Deploy, ended, look
from .front import function_url
from .stack import Stack

BATCH = 50
HORIZON_S = 10
STANDS_S = 1.0  # without progress; a step takes a few hundredths
TIMEOUT_S = 5  # of the step function where it is killed
KEYS = "first:" + "k" * 40


@pytest.fixture(autouse=True)
def _no_way_is_kept() -> Any:
    send.forget()
    yield
    send.forget()


def start(stack: Stack, prices: tuple[str, int], shop: Shop, id: str) -> str:
    """Send the event to the bus, as a program of the user's would."""
    data = {"feed": prices[0], "shop": shop.url, "batch": BATCH}
    assert app.send("pricing/sync.requested", data, id=id, to=stack.output("BusName")) == id
    return run_id("sync_pricing", id)


def assert_synced(view: dict[str, Any], shop: Shop, prices: tuple[str, int]) -> None:
    assert view["status"] == "completed", view
    table = shop.stats()["tables"]["prices"]
    assert (table["rows"], table["applied"], table["applied_twice_or_more"]) == (prices[1], prices[1], 0)
    assert view["steps_done"] == 1 + -(-prices[1] // BATCH)


def test_an_event_on_the_bus_starts_the_price_sync_and_it_goes_on_by_itself_to_the_end(
    deploy: Deploy, prices: tuple[str, int]
) -> None:
    stack = deploy()
    with Shop(misbehave=0.05, rate_per_s=0) as shop:
        view = ended(stack, start(stack, prices, shop, "price-sync"))
        assert_synced(view, shop, prices)
    stats = stack.functions["Step"].stats
    assert stats.invocations >= view["steps_done"], "one step for each"
    assert not stack.failures
    assert stack.sweeps == 0
    assert stats.timeouts + stats.crashes + stats.errors == 0


def kill_in_the_middle(stack: Stack, run: str) -> int:
    """Kill the processes that perform, until one dies in an invocation; how many steps were done before."""
    service = stack.functions["Step"]
    with stack.ledger() as ledger:
        while (view := look(ledger, run)) is None or view["steps_done"] < 10:
            time.sleep(0.02)
        for _ in range(200):
            for pid in service.pids:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
            if stack.failures:
                break
        assert stack.failures, "no invocation was killed"
        done: int = view["steps_done"]
    return done


def strand(stack: Stack, run: str) -> dict[str, Any]:
    """Kill until the run stands: who dies may have sent the next wake already. The view of the run as it stands."""
    with stack.ledger() as ledger:
        while True:
            kill_in_the_middle(stack, run)
            before = look(ledger, run)
            time.sleep(STANDS_S)
            after = look(ledger, run)
            assert before is not None and after is not None
            assert after["status"] == "running", "it ended before it could be killed"
            if after["steps_done"] == before["steps_done"]:
                return after
            stack.failures.clear()


def test_a_kill_in_the_middle_is_told_by_the_on_failure_record(deploy: Deploy, prices: tuple[str, int]) -> None:
    stack = deploy("--timeout", str(TIMEOUT_S))
    with Shop(misbehave=0, rate_per_s=40) as shop:
        run = start(stack, prices, shop, "killed")
        done = kill_in_the_middle(stack, run)
        view = ended(stack, run)
        assert_synced(view, shop, prices)
    assert view["steps_done"] > done
    assert stack.sweeps == 0, "no sweep helped"
    assert any(told["run_id"] == run for told in stack.lines("invocation died"))


def test_a_kill_that_nobody_tells_of_is_found_by_the_sweep_within_its_bound(
    deploy: Deploy, prices: tuple[str, int]
) -> None:
    """With the destination switched off, and a horizon of 10 seconds instead of 40 minutes."""
    stack = deploy("--timeout", str(TIMEOUT_S), "--env", f"ONWARD_CHAOS=horizon={HORIZON_S}", destination=False)
    with Shop(misbehave=0, rate_per_s=40) as shop:
        run = start(stack, prices, shop, "lost")
        standing = strand(stack, run)
        with stack.ledger() as ledger:
            assert standing["due_ms"] <= ledger.clock.now_ms() + HORIZON_S * 1000, "the bound: what the sweep goes by"
        view = ended(stack, run, meanwhile=lambda: (stack.tell_time(), time.sleep(1))[0])
        assert_synced(view, shop, prices)
    assert any(told["run_id"] == run for told in stack.lines("run woken by the sweep"))
    assert not stack.lines("invocation died")


def ask(url: str, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_the_door_starts_runs_for_those_who_sign_with_its_key(
    deploy: Deploy, prices: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = deploy(parameters={"DoorKeys": KEYS})
    auth = stack.values.attributes["DoorUrl"]["AuthType"]
    monkeypatch.setenv("ONWARD_KEYS", KEYS)
    with function_url(stack.functions["Door"], auth) as url, Shop(misbehave=0, rate_per_s=0) as shop:
        assert auth == "NONE"
        assert ask(url, "GET", "/openapi.json") == 401, stack.functions["Door"].log_lines
        data = {"feed": prices[0], "shop": shop.url, "batch": 1_000}
        app.send("pricing/sync.requested", data, id="by-door", to=url)
        view = ended(stack, run_id("sync_pricing", "by-door"))
        assert (view["status"], shop.stats()["tables"]["prices"]["rows"]) == ("completed", prices[1])
        monkeypatch.setenv("ONWARD_KEYS", "first:" + "w" * 40)
        send.forget()
        with pytest.raises(AccessRefused, match="Check ONWARD_KEYS"):
            app.send("pricing/sync.requested", data, id="by-nobody", to=url)
    told = "\n".join([*stack.functions["Door"].log_lines, *stack.functions["Step"].log_lines])
    assert "k" * 40 not in told


def test_the_door_is_behind_iam_unless_it_has_keys(deploy: Deploy) -> None:
    stack = deploy()
    auth = stack.values.attributes["DoorUrl"]["AuthType"]
    with function_url(stack.functions["Door"], auth) as url:
        assert auth == "AWS_IAM"
        assert ask(url, "GET", "/openapi.json") == 403
        assert ask(url, "GET", "/openapi.json", {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}) == 200


def test_an_event_that_no_trigger_names_is_brought_as_well(deploy: Deploy) -> None:
    """A run may wait for it. The demo has none that does; that it was taken in is on record."""
    from onward.engine.event_views import event_view

    stack = deploy()
    app.send("order/paid", {"id": 1}, id="somebody-waits", to=stack.output("BusName"))
    with stack.ledger() as ledger:
        until_s = time.monotonic() + 60
        while (found := event_view(ledger, "somebody-waits")) is None:
            assert time.monotonic() < until_s, stack.functions["Step"].log_lines
            time.sleep(0.1)
    assert (found["name"], found["runs"]) == ("order/paid", [])
