"""What the shop promises, and in which ways it fails to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from handlers.demo import shop as shop_module
from handlers.demo.shop import Bucket, Shop

MUG = {"sku": "85123A", "name": "MUG", "price": "2.55", "product": True}
BOWL = {"sku": "85123a", "name": "BOWL", "price": "6.63", "product": True}


def seed_of(least, most):
    """A seed whose first draw lies between the two."""
    return next(seed for seed in range(1_000) if least <= Random(seed).random() < most)


def counts(shop, endpoint="/prices"):
    return {what: number for what, number in shop.stats()["endpoints"][endpoint].items() if number}


def test_what_is_put_is_there(honest_shop, ask):
    assert ask(honest_shop, "/prices", [MUG, BOWL], method="PUT")[2] == {"loaded": 2}
    assert [(price["sku"], price["price"]) for price in honest_shop.get("/prices")] == [
        ("85123A", "2.55"),
        ("85123a", "6.63"),
    ]


def test_a_repeated_key_is_answered_from_memory_and_not_applied_again(honest_shop, ask):
    first = ask(honest_shop, "/warehouse/stock", {"sku": "85123A", "change": -6}, key="k")
    again = ask(honest_shop, "/warehouse/stock", {"sku": "85123A", "change": -6}, key="k")
    assert first[2] == again[2] == {"sku": "85123A", "stock": 94}
    assert honest_shop.get("/stock/85123A")["warehouse"] == 94
    assert counts(honest_shop, "/warehouse/stock") == {"requests": 2, "applied": 1, "repeated": 1}


def test_a_row_tells_how_often_it_was_delivered_and_applied(honest_shop, ask):
    for key in ("k", "k", "another", None):
        ask(honest_shop, "/prices", [MUG], key)
    (price,) = honest_shop.get("/prices")
    assert (price["delivered"], price["applied"]) == (4, 3)
    assert honest_shop.stats()["tables"]["prices"] == {
        "rows": 1,
        "applied": 3,
        "delivered": 4,
        "applied_twice_or_more": 1,
    }


def test_a_key_of_another_request_is_refused(honest_shop, ask):
    ask(honest_shop, "/prices", [MUG], "k")
    status, _, reply = ask(honest_shop, "/prices", [BOWL], "k")
    assert (status, reply) == (422, {"error": "the Idempotency-Key was used for another request"})
    assert len(honest_shop.get("/prices")) == 1


def test_when_the_reply_is_lost_the_request_was_applied_and_its_repetition_is_not(tmp_path, ask):
    with Shop(tmp_path / "shop.db", misbehave=1, seed=seed_of(0.5, 1), rate_per_s=0) as shop:
        with pytest.raises(ConnectionError):
            ask(shop, "/prices", [MUG], "k")
        assert counts(shop) == {"requests": 1, "applied": 1, "lost": 1}
    with Shop(tmp_path / "shop.db", misbehave=0, rate_per_s=0) as shop:
        assert ask(shop, "/prices", [MUG], "k")[2] == {"loaded": 1}
        assert shop.get("/prices")[0]["applied"] == 1


def test_when_it_stumbles_nothing_was_applied(ask):
    with Shop(misbehave=1, seed=seed_of(0, 0.5), rate_per_s=0) as shop:
        assert ask(shop, "/prices", [MUG], "k")[0] == 500
        assert shop.get("/prices") == []
        assert counts(shop) == {"requests": 1, "failed": 1}


def test_too_many_requests_are_rejected_and_told_when_to_come_back(ask):
    with Shop(misbehave=0, rate_per_s=2) as shop:
        answers = [ask(shop, "/prices", [MUG])[:2] for _ in range(8)]
        rejected = [headers["Retry-After"] for status, headers in answers if status == 429]
        assert rejected and set(rejected) == {"1"}
        assert counts(shop) == {"requests": 8, "applied": 8 - len(rejected), "rejected": len(rejected)}


def test_the_bucket_fills_with_time():
    bucket = Bucket(rate=2, now_s=0.0)
    assert [bucket.wait_s(0.0) for _ in range(3)] == [0, 0, 1]
    assert [bucket.wait_s(1.0) for _ in range(3)] == [0, 0, 1]
    assert Bucket(rate=0.25, now_s=0.0).wait_s(0.0) == 3
    assert [bucket.wait_s(60.0) for _ in range(3)] == [0, 0, 1]


def test_the_same_seed_brings_the_same_bad_luck(ask):
    def story():
        with Shop(misbehave=0.7, seed=11, rate_per_s=0) as shop:
            for _ in range(20):
                try:
                    yield ask(shop, "/prices", [MUG])[0]
                except ConnectionError:
                    yield "lost"

    first = list(story())
    assert set(first) == {200, 500, "lost"}
    assert first == list(story())


@pytest.mark.parametrize(
    ("endpoint", "body", "status", "error"),
    [
        ("/prices", b"{", 400, "the body is no JSON"),
        ("/prices", {"sku": "1"}, 400, "the body must be a list"),
        ("/prices", [MUG, {"sku": "1"}], 400, "row 2 of the body has no name, price, product"),
        ("/prices", [{**MUG, "price": {}}], 400, "the body has a value that the table does not take"),
        ("/warehouse/stock", {"sku": "1"}, 400, "the body must be an object with 'change' (int)"),
        ("/warehouse/stock", {"sku": "1", "change": -101}, 409, "the warehouse has only 100 of 1"),
        ("/marketplace/listing", {"sku": "POST", "stock": 1}, 422, "the marketplace lists products only"),
    ],
)
def test_what_the_shop_does_not_take_is_refused_with_the_reason(honest_shop, ask, endpoint, body, status, error):
    answered, _, reply = ask(honest_shop, endpoint, body)
    assert answered == status
    assert error in reply["error"]
    assert honest_shop.get("/prices") == []
    assert counts(honest_shop, endpoint) == {"requests": 1, "refused": 1}


def test_the_table_outlives_a_shop_that_is_killed(tmp_path, ask):
    with Shop(tmp_path / "shop.db", misbehave=0) as shop:
        ask(shop, "/prices", [MUG], "k")
        os.kill(shop.pid, 9)
    with Shop(tmp_path / "shop.db", misbehave=0) as shop:
        ask(shop, "/prices", [MUG], "k")
        assert counts(shop) == {"requests": 2, "applied": 1, "repeated": 1}


def test_two_shops_on_one_file_are_one_shop(tmp_path, ask):
    with Shop(tmp_path / "shop.db", misbehave=0) as one, Shop(tmp_path / "shop.db", misbehave=0) as other:
        ask(one, "/prices", [MUG], "k")
        ask(other, "/prices", [MUG], "k")
        assert one.stats() == other.stats()
        assert counts(one) == {"requests": 2, "applied": 1, "repeated": 1}


def test_the_shop_ends_with_the_process_that_started_it(tmp_path):
    job = (
        "from handlers.demo.shop import own_shop; import os\n"
        f"print(own_shop({str(tmp_path / 'shop.db')!r}).pid, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(shop_module.__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "adapter")])
    killed = subprocess.run([sys.executable, "-c", job], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == -9
    deadline = time.monotonic() + 10
    while alive(int(killed.stdout)):
        assert time.monotonic() < deadline, "the shop outlived its process"
        time.sleep(0.02)


def alive(pid):
    """Whether that process runs; one that has ended and that nobody has waited for yet does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_shop_that_cannot_open_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="the demo shop cannot open: unable to open database file"):
        Shop(tmp_path / "no such folder" / "shop.db").start()
