"""Delays to the second, batches, redelivery of what failed, dead letters; and the SQS API through boto3."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from onward.local.lambda_service import LocalLambda

from .conftest import Make

Notes = Callable[[], list[Any]]


@contextmanager
def sqs(service: LocalLambda) -> Iterator[Any]:
    client = boto3.client(
        "sqs",
        endpoint_url=service.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    with closing(client):
        yield client


def test_a_message_arrives_as_a_real_sqs_event(make: Make, notes: Notes) -> None:
    service = make()
    with sqs(service) as client:
        attributes = {"kind": {"DataType": "String", "StringValue": "wake"}}
        system = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-00000000-000000000000000000000000"}}
        sent = client.send_message(
            QueueUrl=service.queue_url,
            MessageBody='"hello"',
            MessageAttributes=attributes,
            MessageSystemAttributes=system,
        )
    assert service.drain(5)
    (note,) = notes()
    record = note["record"]
    assert record["messageId"] == sent["MessageId"]
    assert record["md5OfBody"] == sent["MD5OfMessageBody"]
    assert record["body"] == '"hello"'
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == "arn:aws:sqs:us-east-1:123456789012:onward"
    assert record["awsRegion"] == "us-east-1"
    assert record["attributes"]["AWSTraceHeader"].startswith("Root=1-0000")
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert set(record["attributes"]) >= {"SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp"}
    assert record["messageAttributes"]["kind"]["stringValue"] == "wake"
    assert record["messageAttributes"]["kind"]["dataType"] == "String"


def test_a_delayed_message_is_not_early(make: Make, notes: Notes) -> None:
    service = make()
    with sqs(service) as client:
        sent_s = time.time()
        client.send_message(QueueUrl=service.queue_url, MessageBody="1", DelaySeconds=1)
    assert service.drain(5)
    assert 1.0 <= notes()[0]["at"] - sent_s < 2.0


def test_delays_can_be_shortened_for_tests(make: Make, notes: Notes) -> None:
    service = make(time_scale=0.001)
    with sqs(service) as client:
        client.send_message(QueueUrl=service.queue_url, MessageBody="1", DelaySeconds=900)
    assert service.drain(5)
    assert len(notes()) == 1


def test_a_delay_over_fifteen_minutes_is_refused(make: Make) -> None:
    service = make()
    with sqs(service) as client, pytest.raises(ClientError) as caught:
        client.send_message(QueueUrl=service.queue_url, MessageBody="1", DelaySeconds=901)
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValue"
    assert "DelaySeconds must be >= 0 and <= 900" in str(caught.value)
    assert service.stats.messages == 0


def test_only_the_messages_that_failed_are_redelivered(make: Make, notes: Notes) -> None:
    service = make(visibility_timeout_s=0.3, max_receive_count=2)
    with sqs(service) as client:
        entries = [{"Id": str(n), "MessageBody": json.dumps(body)} for n, body in enumerate(["good", "bad", "fine"])]
        answer = client.send_message_batch(QueueUrl=service.queue_url, Entries=entries)
        assert len(answer["Successful"]) == 3 and not answer.get("Failed")
    assert service.drain(10)
    seen = [(note["body"], note["receives"]) for note in notes()]
    assert sorted(seen) == [("bad", "1"), ("bad", "2"), ("fine", "1"), ("good", "1")]
    (letter,) = service.dead_letters
    assert (letter["body"], letter["receives"], letter["queue"]) == ('"bad"', 2, "onward")


def test_an_answer_that_names_no_message_of_the_batch_brings_all_of_it_back(make: Make, notes: Notes) -> None:
    service = make(visibility_timeout_s=0.2, max_receive_count=2)
    service.send('"nonsense"')
    assert service.drain(10)
    assert [note["receives"] for note in notes()] == ["1", "2"]
    assert len(service.dead_letters) == 1


def test_a_message_that_outlasts_its_visibility_is_delivered_again(make: Make) -> None:
    service = make(handler="example.slowly", visibility_timeout_s=0.3)
    path = service.function.cwd / "example.py"
    path.write_text(path.read_text() + "\n\ndef slowly(event, context):\n    note(1)\n    time.sleep(0.5)\n")
    service.send('"x"')
    assert service.drain(10)
    assert service.stats.invocations >= 2


def test_a_batch_holds_at_most_what_was_asked_for(make: Make, notes: Notes) -> None:
    service = make(batch_size=2, concurrency=1)
    service.invoke_async({"do": "sleep", "seconds": 0.3})
    for n in range(5):
        service.send(str(n))
    assert service.drain(10)
    assert max(note["batch"] for note in notes()) == 2
    assert sorted(note["body"] for note in notes()) == [0, 1, 2, 3, 4]


def test_a_batch_call_reports_each_entry(make: Make, notes: Notes) -> None:
    service = make()
    with sqs(service) as client:
        entries = [{"Id": "a", "MessageBody": "1"}, {"Id": "b", "MessageBody": "2", "DelaySeconds": 901}]
        answer = client.send_message_batch(QueueUrl=service.queue_url, Entries=entries)
        assert [entry["Id"] for entry in answer["Successful"]] == ["a"]
        assert [(entry["Id"], entry["Code"]) for entry in answer["Failed"]] == [("b", "InvalidParameterValue")]
        with pytest.raises(client.exceptions.TooManyEntriesInBatchRequest):
            many = [{"Id": str(n), "MessageBody": "1"} for n in range(11)]
            client.send_message_batch(QueueUrl=service.queue_url, Entries=many)
        with pytest.raises(client.exceptions.BatchEntryIdsNotDistinct):
            client.send_message_batch(QueueUrl=service.queue_url, Entries=[entries[0], entries[0]])
    assert service.drain(5)
    assert len(notes()) == 1


def test_a_queue_is_found_by_name_and_no_other_is(make: Make) -> None:
    service = make()
    with sqs(service) as client:
        assert client.get_queue_url(QueueName="onward")["QueueUrl"] == service.queue_url
        with pytest.raises(client.exceptions.QueueDoesNotExist):
            client.get_queue_url(QueueName="other")
        with pytest.raises(client.exceptions.QueueDoesNotExist):
            client.send_message(QueueUrl=service.queue_url + "x", MessageBody="1")


def test_a_message_over_one_mebibyte_is_refused(make: Make) -> None:
    service = make()
    with sqs(service) as client, pytest.raises(ClientError, match="Message must be shorter than 1048576 bytes"):
        client.send_message(QueueUrl=service.queue_url, MessageBody="x" * 1_048_577)


def test_ten_messages_of_a_mebibyte_go_in_batches_that_lambda_takes(make: Make, notes: Notes) -> None:
    service = make(concurrency=1, throttle_backoff_s=None)
    service.invoke_async({"do": "sleep", "seconds": 0.5})
    for _ in range(7):
        service.send(json.dumps("x" * 1_000_000))
    assert service.drain(20)
    assert len(notes()) == 7
    assert max(note["batch"] for note in notes()) <= 5
