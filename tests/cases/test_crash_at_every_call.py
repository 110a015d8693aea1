"""Every single call to the store, the wakes and the blobs is made to fail: before it was made, after it was made, and
with its reply lost. Whatever the world hears of it (Lambda's notice of the death, or nothing but the sweep), the
run comes to the same result, no run is left open, and no step was performed more often than the fault explains.
"""

import itertools

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.core.codec import decode
from onward.core.errors import Unavailable
from onward.engine import control
from onward.engine.ledger import Ledger
from onward.engine.views import due_items, run_view
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from onward.testing import FakeClock, QueuedWakes, Rehearsal
from tests.corpus import CASES, Effects
from tests.faults import MODES, Faulty, Killed, Trip

MAX_CALLS = 400
_numbers = itertools.count()
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class Survivor(Rehearsal):
    """A rehearsal whose processes die. `noticed`: Lambda's on-failure record tells of it; else only the sweep sees."""

    def __init__(self, app, store, blobs, trip, noticed):
        clock = FakeClock()
        queue = QueuedWakes(clock)
        super().__init__(
            app,
            store=Faulty(store, trip),
            wakes=Faulty(queue, trip),
            blobs=Faulty(blobs, trip),
            clock=clock,
            fresh=True,
        )
        self.queue = queue
        self.quiet = Ledger(store, blobs, clock)  # for looking, which is not part of what may fail
        self.quiet.payloads = self.engine.ledger.payloads
        self.noticed = noticed
        self.deaths = 0

    def deliver(self, wake):
        try:
            super().deliver(wake)
        except Killed:
            self.deaths += 1
            if self.noticed:
                control.died(self.new_engine(), wake, "killed")
        except Unavailable as error:
            if self.noticed:
                control.failed(self.new_engine(), wake, str(error))

    def open_heads(self):
        yield from due_items(self.quiet, 1_000)

    def look(self, run):
        view = run_view(self.quiet, run)
        return {**view, "result": None if view["output"] is None else decode(view["output"])}

    def start_whatever_happens(self, data, id):
        """Take the event in as EventBridge does: again, until the handler has returned."""
        while True:
            try:
                return self.start("go", data, id=id)
            except (Killed, Unavailable):
                self.engine = self.new_engine()

    def drain(self):
        while True:
            try:
                return super().drain()
            except (Killed, Unavailable):  # in a sweep: the next one comes in a minute
                self.deaths += 1


def survive(case, store, folder, at, mode, noticed, id):
    effects, trip = Effects(), Trip(at, mode)
    survivor = Survivor(case.build(effects), store, FolderBlobs(folder), trip, noticed)
    [run] = survivor.start_whatever_happens(case.data, id)
    survivor.drain()
    survivor.close()
    return survivor, effects, trip, survivor.look(run)


def crash_everywhere(case, store, folder):
    calm = survive(case, store, folder, 0, "before", True, f"calm-{next(_numbers)}")
    calls, usual = calm[2].calls, calm[1].counts
    assert 0 < calls <= MAX_CALLS
    for mode, noticed, at in itertools.product(MODES, (True, False), range(1, calls + 1)):
        survivor, effects, trip, run = survive(case, store, folder, at, mode, noticed, f"{mode}-{next(_numbers)}")
        where = f"{case} {mode} call {at} of {calls} ({trip.tripped}), noticed={noticed}"
        assert run["status"] == case.status, (where, run["error"])
        assert run["result"] in case.results, (where, run["result"])
        assert case.effects <= effects.counts.keys(), where
        assert not list(survivor.open_heads()), f"{where}: a run was left open"
        again = sum(max(count - usual[name], 0) for name, count in effects.counts.items())
        assert again <= 1, f"{where}: {again} steps were performed again: {effects.counts}"
        assert all(effects.counts[name] <= 1 for name in case.once), f"{where}: a once=True step ran twice"
        assert all(len(effects.keys[name]) <= max(usual[name], 1) for name in effects.keys), where


@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_sqlite(case, tmp_path):
    store = SqliteStore(":memory:")
    try:
        crash_everywhere(case, store, tmp_path)
    finally:
        store.close()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_dynamodb(case, tmp_path, dynoxide_url):
    wire = Wire(endpoint_url=dynoxide_url, environ=_KEYS)
    table = f"crash-{next(_numbers)}"
    create_table(wire, table)
    try:
        crash_everywhere(case, DynamoStore(wire, table), tmp_path)
    finally:
        wire.close()
