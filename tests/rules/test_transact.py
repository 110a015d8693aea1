"""Steps whose own writes stand in one transaction with their record."""

from __future__ import annotations

import itertools
from functools import partial

import pytest

from onward import StepError
from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.core.errors import Unavailable
from onward.local.store import SqliteStore
from onward.testing import Rehearsal

from .acting import ASYNC, both

_numbers = itertools.count()
_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class SqliteShop:
    """A counter of the user's beside Onward's own tables."""

    def __init__(self):
        self.store = SqliteStore(":memory:")
        with self.store.transaction() as db:
            db.execute("CREATE TABLE counters (id TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n <= 2))")
            db.execute("INSERT INTO counters VALUES ('a', 0), ('b', 0)")

    def add(self, id, much=1):
        return ("UPDATE counters SET n = n + ? WHERE id = ?", (much, id))

    refused = "write 2 of 2 (UPDATE counters SET n = n + ? WHERE id = ?): IntegrityError"

    def count(self, id):
        return self.store.rows("SELECT n FROM counters WHERE id = ?", (id,))[0][0]

    def close(self):
        self.store.close()


class DynamoShop:
    """The same as a table of the user's."""

    def __init__(self, url):
        self.wire = Wire(endpoint_url=url, environ=_KEYS)
        self.table, self.counters = (f"{name}-{next(_numbers)}" for name in ("transact", "counters"))
        create_table(self.wire, self.table)
        key = {"AttributeName": "id"}
        self.call(
            "CreateTable",
            KeySchema=[{**key, "KeyType": "HASH"}],
            AttributeDefinitions=[{**key, "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        for id in "ab":
            self.call("PutItem", Item={"id": {"S": id}, "n": {"N": "0"}})
        self.store = DynamoStore(self.wire, self.table)

    def call(self, operation, **request):
        return self.wire.json("dynamodb", operation, {"TableName": self.counters, **request}, self.counters)

    def add(self, id, much=1):
        update = {"UpdateExpression": "SET n = n + :n", "ConditionExpression": "n <= :most"}
        values = {":n": {"N": str(much)}, ":most": {"N": str(2 - much)}}
        key = {"TableName": self.counters, "Key": {"id": {"S": id}}}
        return {"Update": {**key, **update, "ExpressionAttributeValues": values}}

    @property
    def refused(self):
        return f"write 2 of 2 (Update on {self.counters!r}): ConditionalCheckFailed"

    def count(self, id):
        return int(self.call("GetItem", Key={"id": {"S": id}}, ConsistentRead=True)["Item"]["n"]["N"])

    def close(self):
        self.wire.close()


@pytest.fixture(params=["sqlite", "dynamodb"])
def shop(request):
    shop = SqliteShop() if request.param == "sqlite" else DynamoShop(request.getfixturevalue("dynoxide_url"))
    yield shop
    shop.close()


@both
def test_the_writes_are_made_and_counted(kind, shop):
    async def work(event, step):
        return [await step.transact("pay", [shop.add("a"), shop.add("b", 2)]), await step.transact("none", [])]

    with Rehearsal(kind.app(work), store=shop.store, fresh=True) as stage:
        assert stage.send("go")["result"] == [2, 0]
    assert (shop.count("a"), shop.count("b")) == (1, 2)


@both
def test_a_function_makes_the_writes_in_each_attempt(kind, shop):
    made = []

    def writes(id):
        made.append(id)
        if len(made) == 1:
            raise ConnectionError("not yet")
        return [shop.add(id)]

    async def work(event, step):
        return await step.transact("pay", writes, "a")

    with Rehearsal(kind.app(work), store=shop.store) as stage:
        assert stage.send("go")["result"] == 1
    assert made == ["a", "a"] and shop.count("a") == 1


@both
def test_a_write_that_is_refused_fails_the_step_at_once_and_is_named(kind, shop):
    async def work(event, step):
        try:
            await step.transact("pay", [shop.add("a"), shop.add("b", 3)])
        except StepError as error:
            return [error.type, error.message, error.attempts]

    with Rehearsal(kind.app(work), store=shop.store) as stage:
        type, message, attempts = stage.send("go")["result"]
    assert (type, attempts) == ("WriteRefused", 1) and shop.refused in message
    assert (shop.count("a"), shop.count("b")) == (0, 0), "nothing is half written"


def test_beside_other_steps_as_well(shop):
    async def work(event, step):
        import asyncio

        bad = step.transact("bad", [shop.add("b"), shop.add("b" if isinstance(shop, SqliteShop) else "a", 3)])
        return await asyncio.gather(
            step.transact("pay", [shop.add("a")]), step.run("other", str, 1), bad, return_exceptions=True
        )

    async def told(event, step):
        count, other, error = await work(event, step)
        return [count, other, error.type]

    with Rehearsal(ASYNC.app(told), store=shop.store, fresh=True) as stage:
        assert stage.send("go")["result"] == [1, "1", "WriteRefused"]
    assert (shop.count("a"), shop.count("b")) == (1, 0)


@both
@pytest.mark.parametrize("beside", [False, True])
def test_a_race_is_won_by_one_and_written_once(kind, shop, beside):
    """While one invocation makes its writes, another comes for the same step, and is faster."""
    rivals = []

    def writes():
        if not rivals:
            rivals.append(stage.new_engine())
            rivals[0].handle(wakes[-1])
        return [shop.add("a", 2)]  # a second time its condition fails as well: that is no failure of the step

    async def work(event, step):
        if not beside:
            return [await step.transact("pay", writes)]
        if kind is ASYNC:
            import asyncio

            return list(await asyncio.gather(step.transact("pay", writes), step.sleep("rest", 1)))[:1]
        sync = step._step
        return sync.parallel(partial(sync.transact, "pay", writes), partial(sync.sleep, "rest", 1))[:1]

    wakes = []
    with Rehearsal(kind.app(work), store=shop.store, fresh=True) as stage:
        deliver = stage.deliver
        stage.deliver = lambda wake: (wakes.append(wake), deliver(wake))
        assert stage.send("go")["result"] == [1]
        assert rivals and shop.count("a") == 2


class Losing:
    """A store that loses the reply of the first write with writes of the user's, after or before it was applied."""

    def __init__(self, store, applied):
        self._store, self._applied, self.lost = store, applied, False

    def __getattr__(self, name):
        return getattr(self._store, name)

    def write(self, writes, also=()):
        if not also or self.lost:
            return self._store.write(writes, also)
        self.lost = True
        if self._applied:
            self._store.write(writes, also)
        raise Unavailable("the reply was lost")


@both
@pytest.mark.parametrize("applied", [True, False])
def test_what_was_applied_and_never_heard_is_not_done_again(kind, shop, applied):
    async def work(event, step):
        return await step.transact("pay", [shop.add("a")])

    store = Losing(shop.store, applied)
    with Rehearsal(kind.app(work), store=store, fresh=True) as stage:
        [run] = stage.start("go")
        with pytest.raises(Unavailable):
            stage.drain()
        stage.drain()
        assert stage.view(run)["result"] == 1 and store.lost
    assert shop.count("a") == 1


@both
def test_too_many_writes_are_refused_and_say_how_many_there_may_be(kind, shop):
    async def work(event, step):
        try:
            await step.transact("pay", [shop.add("a")] * 100)
        except StepError as error:
            return error.message

    with Rehearsal(kind.app(work), store=shop.store) as stage:
        message = stage.send("go")["result"]
    assert "takes up to 99 writes, not 100: a transaction of DynamoDB holds 100" in message and shop.count("a") == 0


def nonsense():
    yield "sqlite", "a", "is no (sql, parameters)"
    yield "sqlite", ("UPDATE nobody SET n = 1", ()), "no such table"
    yield "sqlite", ("COMMIT", ()), "not authorized"
    yield "sqlite", ("DELETE FROM items", ()), "not authorized"
    yield "sqlite", ("PRAGMA user_version = 7", ()), "not authorized"
    yield "sqlite", ("UPDATE counters SET n = ?", ()), "ProgrammingError"
    yield "dynamodb", ("UPDATE counters SET n = 1", ()), 'is no {"Put": {"TableName": ...'
    yield "dynamodb", {"Put": {"Item": {}}}, 'is no {"Put": {"TableName": ...'
    yield "dynamodb", {"Put": {"TableName": "nobody", "Item": {"id": {"S": "x"}}}}, "ResourceNotFound"
    yield "dynamodb", {"Put": {"TableName": "COUNTERS", "Item": {"id": {"N": "1"}}}}, "Validation"
    yield "dynamodb", {"Put": {"TableName": "COUNTERS", "Item": {"id": {"S": {1}}}}}, "DynamoDB's own words"


@pytest.mark.parametrize(("where", "write", "message"), list(nonsense()))
def test_what_is_no_write_is_named(where, write, message, request):
    shop = SqliteShop() if where == "sqlite" else DynamoShop(request.getfixturevalue("dynoxide_url"))
    if isinstance(write, dict) and write["Put"].get("TableName") == "COUNTERS":
        write = {"Put": {**write["Put"], "TableName": shop.counters}}

    async def work(event, step):
        try:
            await step.transact("pay", lambda: [shop.add("a"), write])
        except StepError as error:
            return [error.type, error.message]

    with Rehearsal(ASYNC.app(work), store=shop.store) as stage:
        type, told = stage.send("go")["result"]
        assert type == "WriteRefused" and message in told, told
        assert shop.count("a") == 0
        assert stage.send("go")["status"] == "completed", "the store is as it was"
    shop.close()


@both
def test_what_is_no_list_is_refused(kind):
    async def work(event, step):
        await step.transact("pay", {"Put": {}})

    view = kind.go(work)
    assert view["status"] == "failed" and "transact takes a list of writes" in view["error"]["message"]
