"""Every payload that a function of ours is configured for is known for what it is, and every other one is refused."""

from __future__ import annotations

import json

import pytest

from onward.aws.envelopes import Arrived, Batch, CameToNothing, OwnWake, parse_body, recognise
from onward.core.errors import UnknownPayload

from .deployment import EVENTS, fixture

REFUSED = ["api_gateway_v2", "alb", "s3_notification", "sns_notification"]


def test_an_own_wake() -> None:
    wake = {"onward": 1, "do": "step", "run": "r", "plan": 1, "index": 0, "attempt": 1}
    envelope = recognise(wake)
    assert isinstance(envelope, OwnWake) and envelope.wake == wake


def test_an_event_of_a_bus() -> None:
    envelope = recognise(fixture("eventbridge_event"))
    assert isinstance(envelope, Arrived)
    (event,) = envelope.events
    assert (event.name, event.data) == ("pricing/sync.requested", {"clientId": "c-42", "feed": "prices.jsonl"})
    assert event.id == "17793124-05d4-b198-2fde-7ededc63b103"
    assert event.at.isoformat() == "2026-11-12T13:14:15+00:00"


def test_a_batch_of_events_of_a_custom_bus() -> None:
    envelope = recognise(fixture("custom_bus_batch"))
    assert isinstance(envelope, Arrived)
    assert [event.data["clientId"] for event in envelope.events] == ["c-1", "c-2"]
    assert len({event.id for event in envelope.events}) == 2


@pytest.mark.parametrize("name", ["scheduled_event", "scheduler_event"])
def test_the_minute_tick(name: str) -> None:
    envelope = recognise(fixture(name))
    assert isinstance(envelope, OwnWake) and envelope.wake == {"do": "sweep"}


def test_a_batch_of_a_queue() -> None:
    envelope = recognise(fixture("sqs_batch"))
    assert isinstance(envelope, Batch)
    (first, body), (second, other) = envelope.messages
    assert (first, second) == ("059f36b4-87a3-44ab-83d2-661975830a7d", "2e1424d4-f796-459a-8184-9c92662be6da")
    assert isinstance(recognise(parse_body(body)), OwnWake)
    with pytest.raises(UnknownPayload, match="no JSON: 'not for us'"):
        parse_body(other)


@pytest.mark.parametrize(
    ("name", "killed", "reason"),
    [
        ("on_failure_timeout", True, "Sandbox.Timedout: RequestId: .* Task timed out after 3.00 seconds"),
        ("on_failure_timeout_before_2024", True, "Task timed out after 3.00 seconds"),
        ("on_failure_exit", True, "Runtime.ExitError: .* signal: killed"),
        ("on_failure_exception", False, "Unavailable: dynamodb did not answer"),
        ("on_failure_age_exceeded", False, "EventAgeExceeded"),
        ("on_failure_recursion", False, "RetriesExhausted"),
    ],
)
def test_an_on_failure_record_tells_whether_the_process_died(name: str, killed: bool, reason: str) -> None:
    import re

    envelope = recognise(fixture(name))
    assert isinstance(envelope, CameToNothing)
    assert envelope.killed is killed
    assert re.search(reason, envelope.reason)
    assert envelope.request == "e4b46cbf-b738-4880-8ae2-f5d0b0b4d0c5"
    inner = recognise(envelope.payload)
    assert isinstance(inner, OwnWake) and inner.wake["run"] == "0123456789abcdefghjkmnpq"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_for_a_workflow_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UnknownPayload) as refused:
        recognise(fixture(name))
    (line,) = str(refused.value).splitlines()
    assert line.startswith("the handler was given something that is no wake, SQS batch, EventBridge event")
    assert len(line) < 400 and line.endswith("...")


@pytest.mark.parametrize(
    "payload",
    [None, 1, "text", [], {}, [1], [{}], {"Records": []}, {"Records": {}}, {"Records": [1]}, {"onward": 1},
     {"onward": 2, "do": "sweep"}, {"onward": 1, "do": 1}, {"requestContext": {"condition": "x"}}],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused(payload: object) -> None:
    with pytest.raises(UnknownPayload):
        recognise(payload)


@pytest.mark.parametrize("change", [{"time": "yesterday"}, {"time": None}, {"time": 5}], ids=str)
def test_an_event_without_a_usable_time_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UnknownPayload, match="no usable"):
        recognise(fixture("eventbridge_event") | change)


@pytest.mark.parametrize("missing", ["time", "id", "detail"])
def test_an_event_in_a_list_that_lacks_something_is_refused(missing: str) -> None:
    event = fixture("eventbridge_event")
    del event[missing]
    with pytest.raises(UnknownPayload):
        recognise([event])


def test_every_fixture_is_asked_for_somewhere() -> None:
    here = "".join(path.read_text() for path in EVENTS.parent.joinpath("end_to_end").glob("*.py"))
    for path in EVENTS.glob("*.json"):
        assert f'"{path.stem}"' in here, f"{path} is used by no test"
        json.loads(path.read_text())
