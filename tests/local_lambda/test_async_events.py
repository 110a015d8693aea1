"""Accepted at once, retried, given up with a record, now and then delivered twice."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from onward.local.chaos import Chaos

from .conftest import Make

Notes = Callable[[], list[Any]]


def test_an_event_is_performed_once_when_all_goes_well(make: Make, notes: Notes) -> None:
    service = make()
    service.invoke_async({"do": "note", "n": 1})
    assert service.drain(5)
    assert notes() == [{"do": "note", "n": 1}]


def test_an_event_that_fails_is_retried_twice_with_the_same_request_id_and_then_given_up(
    make: Make, notes: Notes
) -> None:
    service = make(retry_delays_s=(0.2, 0.4), on_failure="queue")
    began_s = time.monotonic()
    request_id = service.invoke_async({"do": "raise"})
    assert service.drain(10)
    assert time.monotonic() - began_s >= 0.6
    raised = [note for note in notes() if isinstance(note, list)]
    assert raised == [["raise", request_id]] * 3
    assert (service.stats.retries, service.stats.dropped) == (2, 1)


def test_the_record_of_a_failed_event_reaches_the_function_in_the_form_that_aws_documents(
    make: Make, notes: Notes
) -> None:
    service = make(maximum_retry_attempts=0, on_failure="queue")
    request_id = service.invoke_async({"do": "raise"})
    assert service.drain(10)
    (message,) = [note for note in notes() if isinstance(note, dict)]
    assert message["source"] == "onward-failures"
    record = message["body"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    payload = record.pop("responsePayload")
    assert (payload["errorType"], payload["errorMessage"]) == ("ValueError", "not today")
    assert payload["stackTrace"] and "handler" in payload["stackTrace"][0]
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": request_id,
            "functionArn": "arn:aws:lambda:us-east-1:123456789012:function:onward:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"do": "raise"},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
    }


def test_a_timeout_and_a_crash_have_their_record_too(make: Make, notes: Notes) -> None:
    service = make(maximum_retry_attempts=0, on_failure="queue", timeout_s=0.5)
    service.invoke_async({"do": "sleep", "seconds": 30})
    service.invoke_async({"do": "exit", "code": 7})
    assert service.drain(10)
    records = [note["body"] for note in notes()]
    assert {record["responsePayload"]["errorType"] for record in records} == {"Sandbox.Timedout", "Runtime.ExitError"}


def test_an_event_that_is_too_old_for_its_retry_is_given_up_as_such(make: Make, notes: Notes) -> None:
    service = make(on_failure="queue", maximum_event_age_s=60, retry_delays_s=(61, 120))
    service.invoke_async({"do": "raise"})
    assert service.drain(5)
    (message,) = [note for note in notes() if isinstance(note, dict)]
    assert message["body"]["requestContext"]["condition"] == "EventAgeExceeded"


def test_an_event_that_never_found_room_is_given_up_without_a_response(make: Make, notes: Notes) -> None:
    service = make(on_failure="queue", concurrency=1, maximum_event_age_s=0.3, throttle_backoff_s=(0.1, 0.1))
    service.invoke_async({"do": "sleep", "seconds": 1})
    service.invoke_async({"do": "note"})
    assert service.drain(10)
    (message,) = notes()
    record = message["body"]
    assert record["requestContext"]["approximateInvokeCount"] == 0
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert "responseContext" not in record and "responsePayload" not in record


def test_a_throttled_event_waits_and_loses_no_retry(make: Make, notes: Notes) -> None:
    service = make(concurrency=1, maximum_retry_attempts=0, throttle_backoff_s=(0.05, 0.1))
    for n in range(5):
        service.invoke_async({"do": "note", "n": n})
    assert service.drain(10)
    assert sorted(note["n"] for note in notes()) == [0, 1, 2, 3, 4]
    assert service.stats.throttles >= 4
    assert (service.stats.retries, service.stats.dropped) == (0, 0)


def test_a_tick_is_what_a_schedule_sends(make: Make) -> None:
    service = make(handler="example.note", tick_s=0.1)
    (service.function.cwd / "example.py").write_text(
        "import json, os\n"
        "def note(event, context):\n"
        "    with open(os.environ['NOTES'], 'a') as file: file.write(json.dumps(event) + '\\n')\n"
    )
    time.sleep(0.35)
    service.tick()
    assert service.drain(5)
    events = [json.loads(line) for line in (service.function.cwd / "notes.jsonl").read_text().splitlines()]
    assert len(events) >= 3
    assert events[0]["source"] == "aws.events" and events[0]["detail-type"] == "Scheduled Event"


def test_a_tick_can_carry_any_payload(make: Make, notes: Notes) -> None:
    service = make(tick_payload={"do": "note", "sweep": True})
    service.tick()
    assert service.drain(5)
    assert notes() == [{"do": "note", "sweep": True}]


def test_duplicates_losses_and_delays_are_repeated_by_the_same_seed(make: Make, notes: Notes) -> None:
    counts = []
    for _ in range(2):
        service = make(seed=7, chaos=Chaos(duplicate=0.3, drop=0.3, delay=0.3, delay_s=0.05), throttle_backoff_s=None)
        before = len(notes())
        for n in range(30):
            service.invoke_async({"do": "note", "n": n})
        assert service.drain(20)
        stats = service.stats
        counts.append((stats.lost, stats.duplicated, stats.delayed))
        assert stats.lost and stats.duplicated and stats.delayed
        assert len(notes()) - before == 30 - stats.lost + stats.duplicated
        service.stop()
    assert counts[0] == counts[1]


def test_drain_says_when_it_was_not_enough(make: Make) -> None:
    service = make()
    service.send('"later"', delay_s=900)
    assert not service.drain(0.1)
