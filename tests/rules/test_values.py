"""The value of a step: what its first performance returns is what every replay sees."""

import datetime
from decimal import Decimal

import pytest

from onward import StepError
from onward.core.errors import NotEncodable, Unavailable
from onward.local.blobs import FolderBlobs
from onward.testing import Rehearsal
from tests.core.shapes import Color, Item, Line, Order, Price
from tests.rules.acting import SYNC, both, failed_with

BIG = "ž" * 50_000  # 100,000 bytes: over the 64 KiB that a record takes


@both
@pytest.mark.parametrize("fill", [False, True])
def test_changing_what_a_step_returned_does_not_leak_into_what_is_kept(kind, fill):
    original = {"items": [1]}

    async def work(event, step):
        first = await step.run("fetch", lambda: original)
        first["items"].append(2)
        await step.run("other", lambda: None)
        return [first, original]

    assert kind.go(work, fill=fill)["result"] == [{"items": [1, 2]}, {"items": [1]}]


@both
@pytest.mark.parametrize("fill", [False, True])
def test_the_first_run_returns_what_replays_see(kind, fill):
    value = (1, Price("a", Decimal("0.85"), ("x",)), datetime.date(2026, 1, 1), Color.RED, {"$": b"\x00"})
    seen = []

    async def work(event, step):
        seen.append(await step.run("make", lambda: value))
        await step.run("other", lambda: None)

    kind.go(work, fill=fill)
    assert seen and all(entry == value and entry is not value for entry in seen)


@both
@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize(
    ("value", "output_type"),
    [
        (Item(sku="a", amount=Decimal("0.85")), Item),
        ([Order(orderId=1)], list[Order]),
        ({"a": Line("a", 1)}, dict[str, Line]),
        (None, Item | None),
    ],
    ids=str,
)
def test_a_model_comes_back_through_output_type(kind, fill, value, output_type):
    seen = []

    async def work(event, step):
        seen.append(await step.run("make", lambda: value, output_type=output_type))
        await step.run("other", lambda: None)

    run = kind.go(work, fill=fill)
    assert run["status"] == "completed" and all(entry == value for entry in seen)


@both
@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ({"rows": [1, {2}]}, {}, "the result of step 'fetch' has a value of type set at $.rows[1]"),
        (Item(sku="a", amount=1), {}, "pass output_type=Item to the step"),
        ({"sku": 1}, {"output_type": Item}, "the result of step 'fetch' does not fit its output_type="),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_kept_fails_the_step_at_once_and_says_why(kind, value, options, message):
    async def work(event, step):
        try:
            await step.run("fetch", lambda: value, **options)
        except StepError as error:
            return [error.type, error.attempts, error.message]

    type, attempts, said = kind.go(work)["result"]
    assert (type, attempts) == ("NotEncodable", 1) and message in said


@both
def test_a_result_of_the_workflow_that_cannot_be_kept_fails_the_run(kind):
    async def work(event, step):
        return {1: 2}

    with failed_with(kind.go(work), "NotEncodable") as message:
        assert message.startswith("the result of workflow 'work' has a key of type int at $: 1.")


def test_event_data_that_cannot_be_kept_starts_no_run():
    with Rehearsal(SYNC.app(lambda event, step: None)) as stage:
        with pytest.raises(NotEncodable, match="the data of event 'go' has a value of type set at"):
            stage.start("go", {"a": {1}})
        assert not list(stage.open_heads()) and not stage.queue.sent


# --------------------------------------------------------------------------------------------------- spilled values
class Stormy(FolderBlobs):
    """Blobs that do not answer the first `failures` calls of `get`."""

    failures = 0

    def get(self, reference):
        if self.failures:
            self.failures -= 1
            raise Unavailable("the blobs do not answer")
        return super().get(reference)


def spilled(kind, blobs, **options):
    async def work(event, step):
        big = await step.run("big", lambda: BIG)
        await step.run("other", lambda: None)
        return len(big) + len(event.data.get("text", ""))

    return Rehearsal(kind.app(work, **options), blobs=blobs, fresh=True)


@both
def test_a_value_over_64_kib_goes_to_the_blobs_and_comes_back(kind, tmp_path):
    blobs = FolderBlobs(tmp_path)
    with spilled(kind, blobs) as stage:
        run = stage.send("go", {"text": BIG})
        assert run["result"] == 100_000, run["error"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2, "one for the event's data, one for the step's value"


@both
def test_a_value_of_64_kib_stands_in_its_record(kind, tmp_path):
    async def work(event, step):
        return await step.run("edge", lambda: "x" * (64 * 1024 - 2))  # and two quotes

    with Rehearsal(kind.app(work), blobs=FolderBlobs(tmp_path)) as stage:
        assert stage.send("go")["status"] == "completed"
    assert not list(tmp_path.iterdir())


@both
@pytest.mark.parametrize("damage", ["tampered", "gone"])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("which", ["event", "step"])
def test_a_spilled_value_that_was_damaged_fails_the_run_and_says_so(kind, damage, told, which, tmp_path):
    heard = []
    options = {"on_failure": lambda event, step: heard.append(event.data["error"]["type"])} if told else {}
    with spilled(kind, FolderBlobs(tmp_path), **options) as stage:
        [run] = stage.start("go", {"text": BIG} if which == "event" else {})
        if which == "step":
            stage.step()
        [path] = [path for path in tmp_path.rglob("*") if path.is_file()]
        if damage == "tampered":
            path.write_bytes(path.read_bytes()[:-2] + b'x"')
        else:
            path.unlink()
        stage.drain()
        view = stage.view(run)
        assert not list(stage.open_heads())
    with failed_with(view, "BlobCorrupt" if damage == "tampered" else "BlobMissing") as message:
        assert str(path) in message if damage == "tampered" else path.name in message
    assert heard == ([view["error"]["type"]] if told else [])


@both
@pytest.mark.parametrize("which", ["event", "step"])
def test_blobs_that_do_not_answer_are_no_fault_of_the_run(kind, which, tmp_path):
    blobs = Stormy(tmp_path)
    with spilled(kind, blobs) as stage:
        [run] = stage.start("go", {"text": BIG} if which == "event" else {})
        if which == "step":
            stage.step()
        blobs.failures = 1
        with pytest.raises(Unavailable):
            stage.step()
        assert stage.view(run)["status"] in ("queued", "running"), "it stands, and the sweep or a redelivery goes on"
        stage.drain()
        assert stage.view(run)["status"] == "completed"


@both
def test_a_value_too_large_for_the_table_says_what_to_set_where_there_are_no_blobs(kind):
    async def work(event, step):
        await step.run("big", lambda: "x" * 400_000)

    run = kind.go(work)
    with failed_with(run, "StepError") as message:
        assert "ItemTooLarge: a value of 400,002 bytes does not fit the table's items: set ONWARD_BUCKET" in message
    assert run["attempts"] == 1
