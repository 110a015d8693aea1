"""What grows with foreign input has a bound with a name, and its largest lawful size fits where it is kept."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from onward.core import status
from onward.core.errors import MAX_MESSAGE_CHARS, MAX_RETRY_AFTER_S, MAX_TRACEBACK_CHARS, RetryAfter
from onward.core.log import NAMES_IN_PLAN, Fold, lane_key, partition_of
from onward.core.values import MAX_NAME_CHARS, Failure
from onward.engine import advance, ledger
from onward.engine.advance import MAX_IN_FLIGHT
from onward.engine.ledger import Ledger
from onward.engine.perform import describe
from onward.local.store import SqliteStore
from onward.ports import MAX_ITEM_BYTES, key_of
from onward.step import MAX_SLEEP_MS
from onward.testing import Rehearsal
from onward.testing.rehearsal import FakeClock
from tests.rules.acting import SYNC, failed_with

LONGEST_NAME = "\U0001f469" * MAX_NAME_CHARS  # four bytes each in UTF-8, twelve as JSON in ASCII
NOW = 1_764_547_200_000


def size(body: dict[str, Any]) -> int:
    return len(json.dumps(body, ensure_ascii=True, separators=(",", ":")))


def test_the_largest_records_fit_an_item() -> None:
    names = [[LONGEST_NAME, number] for number in range(NAMES_IN_PLAN)]
    plan = {"k": status.PLANNED, "seen": [], "count": MAX_IN_FLIGHT, "digest": "x" * 12, "names": names, "at": NOW}
    sleeps = {str(index): NOW + MAX_SLEEP_MS for index in range(MAX_IN_FLIGHT)}
    seen = [[10_000, index] for index in range(MAX_IN_FLIGHT)]
    room = MAX_ITEM_BYTES - 1_000
    assert size({**plan, "sleeps": sleeps, "wide": True}) < room
    assert size({**plan, "seen": seen}) < room
    failure = Failure(
        "\U0001f469" * MAX_NAME_CHARS, "\U0001f469" * MAX_MESSAGE_CHARS, "\U0001f469" * MAX_TRACEBACK_CHARS
    )
    assert size({"k": status.BROKEN, "s": LONGEST_NAME, "n": 1, "a": 1, "at": NOW, "e": failure.to_json()}) < room
    event = {"name": LONGEST_NAME, "id": LONGEST_NAME, "at": NOW}
    assert (
        size({"k": status.STARTED, "layout": 1, "workflow": LONGEST_NAME, "event": event}) < room - ledger.INLINE_BYTES
    )


def test_the_keys_of_a_run_hold_no_name_and_are_short() -> None:
    """DynamoDB takes 2,048 and 1,024 bytes; no name of a step, an event or a workflow stands in a key."""
    keys: list[tuple[str, str]] = []

    class Watched(SqliteStore):
        def write(self, writes: Any, also: Any = ()) -> Any:
            keys.extend(map(key_of, writes))
            return super().write(writes, also)

    def work(event: Any, step: Any) -> Any:
        step.run(LONGEST_NAME, lambda: 1)
        return step.parallel(*[lambda: step.run(LONGEST_NAME, lambda: 2) for _ in range(2)])

    store = Watched(":memory:")
    with Rehearsal(SYNC.app(work, on=LONGEST_NAME, name=LONGEST_NAME), store=store) as stage:
        assert stage.send(LONGEST_NAME, id=LONGEST_NAME)["status"] == "completed"
    store.close()
    assert keys and all(len(partition) <= 64 and len(sort) <= 64 and partition.isascii() for partition, sort in keys)


def test_more_steps_beside_each_other_than_one_record_holds_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advance, "MAX_IN_FLIGHT", 20)

    def work(event: Any, step: Any) -> Any:
        return step.parallel(*[lambda n=n: step.run(f"s{n}", lambda: n) for n in range(event.data)])

    with Rehearsal(SYNC.app(work)) as stage:
        assert stage.send("go", 20)["status"] == "completed"
        with failed_with(stage.send("go", 21), "OnwardError") as message:
            assert "more than 20 steps in flight at once" in message


@pytest.mark.parametrize("days", [367, 3_000_000])
def test_a_date_from_an_event_makes_no_run_sleep_for_longer_than_is_said(days: int) -> None:
    def alone(event: Any, step: Any) -> None:
        step.sleep_until("rest", event.at + datetime.timedelta(days=event.data))

    def beside(event: Any, step: Any) -> None:
        step.parallel(lambda: alone(event, step), lambda: step.run("other", lambda: 1))

    for work in (alone, beside):
        with Rehearsal(SYNC.app(work)) as stage:
            with failed_with(stage.send("go", min(days, 2_900_000)), "InvalidOption") as message:
                assert "within 366 days" in message
            assert stage.send("go", 300)["status"] == "completed"


def test_a_date_that_a_service_gave_makes_no_step_wait_for_longer_than_is_said() -> None:
    for when in (datetime.datetime.max, datetime.datetime(9000, 1, 1, tzinfo=datetime.UTC)):
        failure = describe(RetryAfter(when), NOW)
        assert failure.retry_at_ms == NOW + MAX_RETRY_AFTER_S * 1000


def test_an_error_is_kept_in_bounds_whatever_it_says() -> None:
    hostile = type("X" * 1_000_000, (Exception,), {})("m\x1b" * 5_000_000)
    failure = describe(hostile, NOW)
    assert len(failure.type) <= MAX_NAME_CHARS
    assert len(failure.message) <= MAX_MESSAGE_CHARS and len(failure.traceback) <= MAX_TRACEBACK_CHARS


def test_what_is_kept_warm_is_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(":memory:")
    kept = Ledger(store, None, FakeClock())
    for number in range(200):
        kept.keep(Fold(f"r{number}"))
    assert len(kept._warm) == ledger.MAX_WARM_FOLDS
    monkeypatch.setattr(ledger, "MAX_WARM_BYTES", 1_000)

    class Texts:
        def get(self, reference: str) -> bytes:
            return b"x" * 400

    kept.blobs = Texts()  # type: ignore[assignment]
    for number in range(50):
        kept.text(None, f"sha256:{number}", "")
        assert sum(map(len, kept._texts.values())) <= 1_000
    heavy = Fold("heavy")
    heavy.size_bytes = 2_000
    kept.keep(heavy)
    assert not kept._warm
    store.close()


def test_a_value_beyond_the_bound_is_refused_and_nothing_is_kept() -> None:
    with Rehearsal(SYNC.app(lambda event, step: step.run("large", lambda: "x" * 400_000))) as stage:
        run = stage.send("go")
        assert run["status"] == "failed" and "does not fit the table's items" in run["error"]["message"]
        assert stage.store.get([(partition_of(run["run_id"]), lane_key((1, 0)))]) == [None]


def test_every_wake_is_far_smaller_than_a_message_may_be() -> None:
    """Wakes carry a place and no data: SQS takes 1,048,576 bytes, an asynchronous invocation a million."""

    def work(event: Any, step: Any) -> Any:
        branches = [lambda n=n: step.run(f"{LONGEST_NAME[:-3]}{n}", lambda: "x" * 50_000) for n in range(40)]
        return len(step.parallel(*branches))

    sent: list[int] = []
    with Rehearsal(SYNC.app(work)) as stage:
        send = stage.queue.send

        def measured(wake: Any, at_ms: int | None = None) -> None:
            sent.append(len(json.dumps(wake)))
            send(wake, at_ms)

        stage.queue.send = measured  # type: ignore[method-assign]
        assert stage.send("go", "x" * 100_000)["status"] == "completed"
    assert len(sent) > 40 and max(sent) < 300
