"""What every store promises of the user's own writes that stand in one transaction with its own."""

import pytest

from onward.ports import Item, Put, Swap


class Users:
    """A table of the user's beside the store's, in its own words."""

    def __init__(self, opened, store):
        self.store = store
        self.is_sqlite = opened.kind == "sqlite"
        self.name = f"users-{opened.table.replace('-', '')}"
        if self.is_sqlite:
            with store.transaction() as db:
                db.execute("CREATE TABLE users (id TEXT PRIMARY KEY)")
            return
        key = {"AttributeName": "id"}
        schema = {"KeySchema": [{**key, "KeyType": "HASH"}], "AttributeDefinitions": [{**key, "AttributeType": "S"}]}
        self._call("CreateTable", BillingMode="PAY_PER_REQUEST", **schema)

    def _call(self, operation, **request):
        return self.store.wire.json("dynamodb", operation, {"TableName": self.name, **request}, self.name)

    def put(self, id):
        """A write that is refused where that id is."""
        if self.is_sqlite:
            return "INSERT INTO users VALUES (?)", (id,)
        return {
            "Put": {
                "TableName": self.name,
                "Item": {"id": {"S": id}},
                "ConditionExpression": "attribute_not_exists(id)",
            }
        }

    def all(self):
        if self.is_sqlite:
            return sorted(id for (id,) in self.store.rows("SELECT id FROM users", ()))
        return sorted(item["id"]["S"] for item in self._call("Scan", ConsistentRead=True)["Items"])


@pytest.fixture
def users(opened, store):
    return Users(opened, store)


def item(token, sort="a"):
    return Item("p", sort, token, "{}")


def test_both_are_written(store, users):
    assert store.write([Put(item("t1"))], [users.put("x"), users.put("y")]) is None
    assert store.get([("p", "a")]) == [item("t1")] and users.all() == ["x", "y"]


def test_one_of_the_stores_own_is_refused_and_nothing_of_the_users_is_written(store, users):
    store.write([Put(item("t1"))])
    refused = store.write([Put(item("t2", "b")), Put(item("t2"))], [users.put("x")])
    assert (refused.standing, refused.why) == ((None, item("t1")), "")
    assert users.all() == [] and store.get([("p", "b")]) == [None]


def test_one_of_the_users_is_refused_and_named_and_nothing_is_written(store, users):
    store.write([Put(item("t1"))], [users.put("x")])
    refused = store.write([Swap(item("t2"), "t1")], [users.put("y"), users.put("x")])
    assert refused.standing == (None,) and refused.why.startswith("write 2 of 2 (")
    assert users.all() == ["x"] and store.get([("p", "a")]) == [item("t1")]


def test_where_both_are_refused_it_shows_what_stands(store, users):
    """As whoever comes second for a step that was performed: that is a lost race, and no failure."""
    store.write([Put(item("t1"))], [users.put("x")])
    refused = store.write([Put(item("t2"))], [users.put("x")])
    assert refused.standing == (item("t1"),) and users.all() == ["x"]


def test_a_write_that_is_sent_again_is_the_same_write(store, users):
    """Its reply was lost, and the server has forgotten the request: the writer's own token stands."""
    first = [Put(item("t1"))]
    assert store.write(first, [users.put("x")]) is None
    answer = store.write(first, [users.put("x")])
    assert users.all() == ["x"] and (answer is None or answer.standing == (item("t1"),))
