"""The door of a deployed handler, when something is missing or unknown: one clear line each."""

import json

import pytest

from onward.core.errors import (
    InvalidOption,
    Misconfigured,
    NoCredentials,
    NoRegion,
    TableMissing,
    Unavailable,
    UnknownPayload,
)
from tests import servers
from tests.rules.acting import SYNC

EVENT = {
    "id": "e1",
    "detail-type": "go",
    "source": "tests",
    "detail": {"n": 1},
    "time": "2026-01-01T00:00:00Z",
    "version": "0",
}
WAKE = {"onward": 1, "do": "advance", "run": "r", "seq": 1}
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def dynoxide_url():
    with servers.dynoxide() as url:
        yield url


@pytest.fixture
def handler_in(monkeypatch):
    """The handler of a small app under exactly these settings."""
    import os

    for name in list(os.environ):
        if name.startswith(("AWS_", "ONWARD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    doors = []

    def build(**environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        handle = SYNC.app(lambda event, step: None).handler()
        doors.append(handle.__self__)
        return handle

    yield build
    for door in doors:
        door.wire.close()
        getattr(door.engine.store, "close", bool)()


def one_line(error):
    text = str(error.value)
    assert text and "\n" not in text, text
    return text


def test_without_a_table(handler_in):
    with pytest.raises(Misconfigured) as error:
        handler_in(**KEYS)
    assert one_line(error) == (
        "ONWARD_TABLE is not set: name the DynamoDB table (or, for a local Lambda, ONWARD_STORE a file)"
    )


@pytest.mark.parametrize("payload", [EVENT, WAKE], ids=["event", "wake"])
def test_with_a_table_that_does_not_exist(handler_in, dynoxide_url, payload):
    handle = handler_in(**KEYS, ONWARD_TABLE="nosuch", AWS_ENDPOINT_URL=dynoxide_url)
    with pytest.raises(TableMissing) as error:
        handle(payload, None)
    assert "nosuch" in one_line(error)


@pytest.mark.parametrize("payload", [EVENT, WAKE], ids=["event", "wake"])
def test_without_credentials(handler_in, dynoxide_url, payload):
    handle = handler_in(AWS_REGION="us-east-1", ONWARD_TABLE="t", AWS_ENDPOINT_URL=dynoxide_url)
    with pytest.raises(NoCredentials) as error:
        handle(payload, None)
    assert "AWS_ACCESS_KEY_ID" in one_line(error)


def test_without_a_region(handler_in):
    with pytest.raises(NoRegion) as error:
        handler_in(**{**KEYS, "AWS_REGION": ""}, ONWARD_TABLE="t")(WAKE, None)
    assert "AWS_REGION" in one_line(error)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "text",
        5,
        [],
        {},
        {"Records": []},
        {"onward": 2, "do": "advance"},
        {"httpMethod": "GET"},
        {"x": "y" * 10_000},
    ],
    ids=lambda payload: str(payload)[:20],
)
def test_an_event_that_it_does_not_know(handler_in, payload, tmp_path):
    handle = handler_in(ONWARD_STORE=str(tmp_path / "s.db"), AWS_REGION="us-east-1")
    with pytest.raises(UnknownPayload) as error:
        handle(payload, None)
    line = one_line(error)
    assert line.startswith("the handler was given something that is no wake, SQS batch, EventBridge event")
    assert len(line) < 1_000


def test_an_event_that_starts_nothing_is_no_error(handler_in, tmp_path):
    handle = handler_in(ONWARD_STORE=str(tmp_path / "s.db"), AWS_REGION="us-east-1")
    assert handle({**EVENT, "detail-type": "unheard"}, None) == {"runs": []}


def test_of_a_batch_the_messages_that_failed_are_named_and_no_others(handler_in, tmp_path):
    bodies = {"bad": "no JSON", "good": json.dumps({**EVENT, "detail-type": "unheard"}), "unknown": '{"neither": 1}'}
    records = [{"eventSource": "aws:sqs", "messageId": name, "body": body} for name, body in bodies.items()]
    answer = handler_in(ONWARD_STORE=str(tmp_path / "s.db"), AWS_REGION="us-east-1")({"Records": records}, None)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "bad"}, {"itemIdentifier": "unknown"}]}


def test_an_option_that_makes_no_sense(handler_in):
    with pytest.raises(InvalidOption, match='steps_per_invocation= takes 1 or "fill", not 3'):
        SYNC.app(lambda event, step: None).handler(steps_per_invocation=3)


def test_a_service_that_is_not_there(handler_in):
    port = servers.free_port()
    handle = handler_in(**KEYS, ONWARD_TABLE="t", AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_MAX_ATTEMPTS="1")
    with pytest.raises(Unavailable) as error:
        handle(WAKE, None)
    one_line(error)
