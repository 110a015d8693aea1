"""Two workflows call one API that takes two calls at a time; eight threads perform whatever comes, over SQLite."""

import queue
import threading
import time
from functools import partial

import pytest

from onward import App, Concurrency, Event
from onward.clock import SystemClock
from onward.engine.engine import Engine
from onward.engine.ingest import ingest
from onward.engine.views import run_view
from onward.local.store import SqliteStore
from onward.loop import close_thread_loop

RUNS, THREADS, PATIENCE_S = 6, 8, 60


class Api:
    """Counts the calls that it has at a time."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now = self.most = self.calls = 0

    def call(self):
        with self.lock:
            self.now += 1
            self.calls += 1
            self.most = max(self.most, self.now)
        time.sleep(0.005)
        with self.lock:
            self.now -= 1


class Wakes:
    reach_ms = 15 * 60 * 1000

    def __init__(self):
        self.queue = queue.Queue()

    def send(self, wake, at_ms=None):
        self.queue.put(dict(wake))


@pytest.mark.timeout(120)
def test_never_more_than_two_whichever_workflow_calls(tmp_path):
    api, app, wakes = Api(), App("shop"), Wakes()
    limit = Concurrency(2, of="steps", name="api")

    @app.workflow(on="order", name="in-turn", concurrency=limit)
    def in_turn(event, step):
        for n in range(3):
            step.run(f"call-{n}", api.call)

    @app.workflow(on="order", name="beside", concurrency=limit)
    def beside(event, step):
        step.parallel(*(partial(step.run, f"call-{n}", api.call) for n in range(3)))

    store = SqliteStore(str(tmp_path / "shop.db"))
    clock = SystemClock()

    def perform():
        engine = Engine(app, store, wakes, None, clock)
        while (wake := wakes.queue.get()) is not None:
            engine.handle(wake)
        close_thread_loop()

    engine = Engine(app, store, wakes, None, clock)
    runs = [run for n in range(RUNS) for run in ingest(engine, Event("order", {}, f"order-{n}", clock.now_ms()))]
    threads = [threading.Thread(target=perform) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    ends_s = time.monotonic() + PATIENCE_S
    while any(run_view(engine.ledger, run)["status"] != "completed" for run in runs) and time.monotonic() < ends_s:
        time.sleep(0.02)
    for _ in threads:
        wakes.queue.put(None)
    for thread in threads:
        thread.join()
    assert [run_view(engine.ledger, run)["status"] for run in runs] == ["completed"] * 2 * RUNS
    assert api.most == 2 and api.calls == 6 * RUNS
    store.close()
