"""`kill -9` at a random moment, twenty times, then resume: no finished step is performed again but for the one that was
in flight, and the shop's table is what it would have been. With the real feeds where they are, else with made ones."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from handlers.demo.feed import LINES, write
from handlers.demo.shop import Shop

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
KILLS = 20
BATCH = 10  # small, so that the job outlasts the kills
TIMEOUT_S = 120.0


def feed(kind, real, count, folder):
    """The real file if it is there, else a made one of the same shape."""
    if (DATA / real).exists():
        return DATA / real
    path = folder / real
    write(LINES[kind](count, 1), path)
    return path


def onward(*arguments):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'adapter'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "onward", *map(str, arguments), "--json"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def finished_steps(store):
    """The steps that the log has as finished."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30) as db:
        rows = db.execute("SELECT body FROM items WHERE sort >= 'L#' AND sort < 'T'").fetchall()
    bodies = [json.loads(body) for (body,) in rows]
    return {body["s"] for body in bodies if body["k"] in ("done", "broken")}


def run_with_kills(arguments, store, seed, kills, pause_s):
    """Run, kill, resume, ...; the JSON of the last line, and for every kill how many steps were finished by then."""
    chance = random.Random(seed)
    begin, go_on = ("run", *arguments, "--store", store), ("resume", "--store", store)
    process = onward(*begin)
    finished: list[int] = []
    for _ in range(kills):
        time.sleep(chance.uniform(*pause_s))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the job ended before it could be killed: it must take longer"
        finished.append(len(finished_steps(store)) if Path(store).exists() else 0)
        process = onward(*(go_on if finished[-1] else begin))
    out, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1]), finished


def test_twenty_kills_and_the_price_sync_still_ends_with_every_sku_delivered_once(tmp_path):
    path = feed("prices", "prices.jsonl.gz", 3_938, tmp_path)
    store = tmp_path / "store.db"
    with Shop(tmp_path / "shop.db", misbehave=0.1, rate_per_s=50) as shop:
        data = json.dumps({"feed": str(path), "shop": shop.url, "batch": BATCH})
        arguments = ("handlers.demo:app", "pricing/sync.requested", "--id", "kill", "--data", data)
        result, finished = run_with_kills(arguments, store, 9, KILLS, (0.2, 0.5))
        assert result["status"] == "completed" and result["output"]["skus"] == 3_938
        assert finished == sorted(finished) and finished[-1] > 0, "progress was lost by a kill"
        prices = shop.stats()["tables"]["prices"]
        asked = shop.stats()["endpoints"]["/prices"]
    assert prices["rows"] == 3_938 and prices["applied"] == 3_938 and prices["applied_twice_or_more"] == 0
    # Repeated work is what the world explains: a lost reply, or the one step in flight at each kill.
    assert asked["repeated"] <= asked["lost"] + KILLS
    assert result["steps_done"] == 1 + -(-3_938 // BATCH)


@pytest.mark.parametrize("kills", [0, 5])
def test_every_order_row_arrives_exactly_once(tmp_path, kills):
    path = feed("orders", "orders.csv.gz", 95_000, tmp_path)
    with Shop(tmp_path / "shop.db", misbehave=0.1, rate_per_s=200) as shop:
        data = json.dumps({"feed": str(path), "shop": shop.url})
        arguments = ("handlers.demo:app", "migration/requested", "--id", "kill", "--data", data)
        result, _ = run_with_kills(arguments, tmp_path / "store.db", 4, kills, (0.5, 1.2))
        orders = shop.stats()["tables"]["orders"]
    assert result["status"] == "completed"
    assert orders["rows"] == 95_000 and orders["applied"] == 95_000 and orders["applied_twice_or_more"] == 0
