"""What the shop's answers become for the engine, and how a job finds the shop."""

from __future__ import annotations

import pytest

from handlers.demo import client
from handlers.demo import shop as shop_module
from handlers.demo.client import ensure_shop, seconds, send
from handlers.demo.shop import Shop
from onward import NonRetriable, RetryAfter

MUG = {"sku": "85123A", "name": "MUG", "price": "2.55", "product": True}


def test_a_request_carries_the_key_of_its_step(honest_shop, in_step):
    for key in ("one", "one", "two"):
        in_step(key)
        assert send(honest_shop.url, "/prices", [MUG]) == {"loaded": 1}
    (price,) = honest_shop.get("/prices")
    assert (price["delivered"], price["applied"]) == (3, 2)


def test_429_asks_to_be_retried_when_the_shop_says(in_step):
    with Shop(misbehave=0, rate_per_s=0.25) as shop:
        with pytest.raises(RetryAfter) as raised:
            send(shop.url, "/prices", [MUG])
    assert raised.value.when == 3
    assert "/prices" in str(raised.value)


def test_a_refused_request_is_not_retried(honest_shop, in_step):
    with pytest.raises(NonRetriable, match=r"/marketplace/listing answered 422: .*lists products only"):
        send(honest_shop.url, "/marketplace/listing", {"sku": "POST", "stock": 1})
    with pytest.raises(NonRetriable, match="404"):
        send(honest_shop.url, "/nowhere", {})


def test_what_may_pass_is_an_ordinary_error(in_step):
    seen = set()
    with Shop(misbehave=1, seed=1, rate_per_s=0) as shop:
        for _ in range(12):
            with pytest.raises((RuntimeError, ConnectionError)) as raised:
                send(shop.url, "/prices", [MUG])
            seen.add(raised.type)
    assert seen == {RuntimeError, ConnectionError}
    with pytest.raises(ConnectionError, match=f"no answer from {shop.url}/prices"):
        send(shop.url, "/prices", [MUG])  # it is closed now


def test_a_url_that_is_none_is_said_to_be_none(in_step):
    with pytest.raises(NonRetriable, match="must begin with http:// or https://, and is 'localhost:8300'"):
        send("localhost:8300", "/prices", [])


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7.0), ("0", 0.0), ("-1", 1.0), (None, 1.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0), ("nan", 1.0)],
)
def test_retry_after_is_read_with_care(header, expected):
    assert seconds(header) == expected


def test_the_shop_of_the_event_comes_before_the_one_of_the_environment(monkeypatch):
    monkeypatch.setenv("ONWARD_DEMO_SHOP", "http://environment")
    assert ensure_shop({"shop": "http://event"}) == "http://event"
    assert ensure_shop({}) == "http://environment"


def test_without_any_a_shop_is_started_once_and_again_when_it_has_ended(monkeypatch, tmp_path):
    monkeypatch.delenv("ONWARD_DEMO_SHOP", raising=False)
    monkeypatch.delenv("ONWARD_DEMO_SHOP_DB", raising=False)
    monkeypatch.setattr(shop_module, "_own", None)
    monkeypatch.chdir(tmp_path)
    try:
        url = ensure_shop({})
        assert ensure_shop({}) == url
        assert (tmp_path / ".onward" / "shop.db").exists()
        shop_module._own.stop()
        assert ensure_shop({}) != ""
        assert shop_module._own.get("/health") == {"status": "open"}
    finally:
        shop_module._own.stop()


def test_when_none_can_be_started_the_step_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("ONWARD_DEMO_SHOP", raising=False)
    monkeypatch.setattr(shop_module, "_own", None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("ONWARD_DEMO_SHOP_DB", str(tmp_path / "file" / "shop.db"))
    with pytest.raises(NonRetriable, match="no shop: set ONWARD_DEMO_SHOP to the URL of one"):
        client.ensure_shop({})
