"""What stands in one transaction, or is decided by one: whatever call of the run or of the answerer is made to fail,
the user's own writes are there once, and an answer that was accepted is what the callback returns.
"""

from __future__ import annotations

import itertools

import pytest

from onward import StepError
from onward.core.errors import Unavailable
from onward.engine import callbacks
from onward.local.blobs import FolderBlobs
from tests.faults import MODES, Faulty, Killed, Trip
from tests.rules.acting import ASYNC, both
from tests.rules.test_transact import DynamoShop, SqliteShop

from .test_crash_at_every_call import Survivor

_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "dynamodb"])
def make_shop(request):
    shops = []

    def make():
        shops.append(SqliteShop() if request.param == "sqlite" else DynamoShop(request.getfixturevalue("dynoxide_url")))
        return shops[-1]

    yield make
    for shop in shops:
        shop.close()


def survive(app, shop, folder, at, mode, noticed):
    trip = Trip(at, mode)
    survivor = Survivor(app, shop.store, FolderBlobs(folder), trip, noticed)
    [run] = survivor.start_whatever_happens({}, f"{mode}-{next(_numbers)}")
    survivor.drain()
    survivor.close()
    return trip, survivor.look(run)


@pytest.mark.parametrize("beside", [False, True])
def test_the_users_own_writes_are_there_once(make_shop, tmp_path, beside):
    async def work(event, step):
        async def pay():
            return await step.transact("pay", [shop.add("a"), shop.add("b")])

        if not beside:
            return [await pay(), None]
        import asyncio

        return await asyncio.gather(pay(), step.sleep("rest", 5))

    shop = make_shop()
    calls = survive(ASYNC.app(work), shop, tmp_path, 0, "before", True)[0].calls
    for mode, noticed, at in itertools.product(MODES, (True, False), range(1, calls + 1)):
        before = shop.count("a")
        if before:  # the counter goes no further than 2
            shop = make_shop()
        trip, run = survive(ASYNC.app(work), shop, tmp_path, at, mode, noticed)
        where = f"{mode} call {at} of {calls} ({trip.tripped}), noticed={noticed}"
        assert run["result"] == [2, None], (where, run["error"])
        assert (shop.count("a"), shop.count("b")) == (1, 1), where


@both
@pytest.mark.parametrize("late_s", [10, 65], ids=["in time", "at the last moment"])
def test_an_answer_that_was_accepted_is_what_the_callback_returns(kind, make_shop, tmp_path, late_s):
    """The answerer dies at each of its calls, and gives its answer again; meanwhile the wait may have ended."""
    shop = make_shop()

    def told(at, mode):
        tokens = []

        async def work(event, step):
            try:
                return await step.callback("approve", tokens.append, timeout=60)
            except StepError as error:
                return error.type

        trip = Trip()
        survivor = Survivor(kind.app(work), shop.store, FolderBlobs(tmp_path), trip, True)
        [run] = survivor.start_whatever_happens({}, f"answers-{next(_numbers)}")
        while len(tokens) == 0 or survivor.look(run)["status"] != "waiting":
            survivor.step()
        while (at_ms := survivor.queue.next_ms()) is not None and at_ms <= survivor.clock.now_ms() + 1_000:
            survivor.step()
        survivor.clock.turn(survivor.clock.now_ms() + late_s * 1000)
        answerer = survivor.new_engine()
        dying = Trip(at, mode)
        answerer.store = answerer.ledger.store = Faulty(shop.store, dying)
        answerer.wakes = Faulty(survivor.queue, dying)
        try:
            first = callbacks.complete(answerer, tokens[0], "yes")
        except (Killed, Unavailable):
            first = None
        survivor.drain()
        again = callbacks.complete(survivor.new_engine(), tokens[0], "later")
        survivor.close()
        return dying, first, again, survivor.look(run)["result"]

    calls = told(0, "before")[0].calls
    for mode, at in itertools.product(MODES, range(1, calls + 1)):
        dying, first, again, result = told(at, mode)
        where = f"{mode} call {at} of {calls} ({dying.tripped})"
        assert first in (None, callbacks.ACCEPTED), where
        expected = {callbacks.ANSWERED: "yes", callbacks.TOO_LATE: "StepTimeout"}
        assert result == expected[again], where
    assert told(0, "before")[1:] == (callbacks.ACCEPTED, callbacks.ANSWERED, "yes")
