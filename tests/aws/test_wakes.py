"""A wake goes through Lambda now and through SQS later, in the shape that boto3 would send."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from onward.aws.wakes import LambdaWakes
from onward.aws.wire import Wire
from onward.core.errors import Misconfigured, RequestRefused, Unavailable
from tests.aws.scripted import Request, reply, scripted

MakeWire = Callable[..., Wire]
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:advance:live"
QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/wakes"
NOW = 1_800_000_000_000
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a:1|b:2"


class Stopped:
    def now_ms(self) -> int:
        return NOW

    def random(self) -> float:
        return 0.5

    def token(self) -> str:
        return "0" * 16


def sent_by_boto3(call: Callable[[Callable[[str], Any]], object]) -> Request:
    with scripted(reply(202, {})) as server:
        call(lambda service: boto3.Session().client(service, endpoint_url=server.url))
        return server.requests[0]


@pytest.mark.parametrize("function", ["advance", "advance:live", ARN])
@pytest.mark.parametrize("at_ms", [None, NOW, NOW - 5])
def test_a_wake_for_now_is_an_asynchronous_invocation(wire_to: MakeWire, function: str, at_ms: int | None) -> None:
    with scripted(reply(202, b"")) as server:
        LambdaWakes(wire_to(server.url), function, QUEUE, Stopped()).send({"run": "r", "text": "ü\u2028"}, at_ms)
        (ours,) = server.requests
    theirs = sent_by_boto3(
        lambda client: client("lambda").invoke(FunctionName=function, InvocationType="Event", Payload=ours.body)
    )
    assert (ours.method, ours.path, ours.body) == (theirs.method, theirs.path, theirs.body)
    assert ours.headers["x-amz-invocation-type"] == theirs.headers["x-amz-invocation-type"] == "Event"
    assert ours.json == {"run": "r", "text": "ü\u2028"}


@pytest.mark.parametrize(("ahead_ms", "delay_s"), [(1, 1), (1000, 1), (1001, 2), (60_000, 60), (900_000, 900)])
def test_a_wake_for_later_is_a_delayed_message(wire_to: MakeWire, ahead_ms: int, delay_s: int) -> None:
    with scripted(reply(200, {"MessageId": "m"})) as server:
        LambdaWakes(wire_to(server.url), ARN, QUEUE, Stopped()).send({"run": "r"}, NOW + ahead_ms)
        (ours,) = server.requests
    theirs = sent_by_boto3(
        lambda client: client("sqs").send_message(QueueUrl=QUEUE, MessageBody='{"run":"r"}', DelaySeconds=delay_s)
    )
    assert ours.json == theirs.json
    for name in ("content-type", "x-amz-target"):
        assert ours.headers[name] == theirs.headers[name]


def test_the_trace_is_handed_on_as_botocore_does(wire_to: MakeWire, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(reply(202, {})) as server:
        wakes = LambdaWakes(wire_to(server.url), ARN, QUEUE, Stopped())
        monkeypatch.setenv("_X_AMZN_TRACE_ID", TRACE)
        wakes.send({})
        wakes.send({}, NOW + 1)
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "advance")
        theirs = sent_by_boto3(
            lambda client: client("lambda").invoke(FunctionName="f", InvocationType="Event", Payload=b"{}")
        )
        wakes.send({})
        wakes.send({}, NOW + 1)
        monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-2")
        wakes.send({})
        off_lambda, off_lambda_later, now, later, changed = server.requests
    assert "x-amzn-trace-id" not in off_lambda.headers
    assert "MessageSystemAttributes" not in off_lambda_later.json
    assert now.headers["x-amzn-trace-id"] == theirs.headers["x-amzn-trace-id"]
    assert "x-amzn-trace-id" not in now.headers["authorization"]
    assert later.json["MessageSystemAttributes"] == {"AWSTraceHeader": {"DataType": "String", "StringValue": TRACE}}
    assert changed.headers["x-amzn-trace-id"] == "Root=1-2"


def test_the_reach_is_that_of_the_queue(wire_to: MakeWire) -> None:
    assert LambdaWakes(wire_to(), ARN, QUEUE).reach_ms == 900_000
    assert LambdaWakes(wire_to(), ARN).reach_ms == 0
    with pytest.raises(Misconfigured, match="needs an SQS queue"):
        LambdaWakes(wire_to(), ARN, None, Stopped()).send({}, NOW + 1)
    with pytest.raises(RequestRefused, match="beyond SQS's 900 s"):
        LambdaWakes(wire_to(), ARN, QUEUE, Stopped()).send({}, NOW + 900_001)


def test_a_throttled_invocation_is_tried_again_and_then_unavailable(wire_to: MakeWire) -> None:
    busy = reply(429, {"Type": "User", "message": "Rate exceeded"}, x_amzn_ErrorType="TooManyRequestsException")
    with scripted(busy, reply(202, b"")) as server:
        LambdaWakes(wire_to(server.url), ARN).send({})
    with scripted(busy) as server, pytest.raises(Unavailable, match="Rate exceeded"):
        LambdaWakes(wire_to(server.url), ARN).send({})


def test_a_queue_of_moto_takes_and_delays_the_message(moto_url: str, wire_to: MakeWire) -> None:
    sqs = boto3.Session().client("sqs", endpoint_url=moto_url)
    url = sqs.create_queue(QueueName="wakes")["QueueUrl"]
    wakes = LambdaWakes(wire_to(moto_url), "advance", url)
    from onward.clock import SystemClock

    wakes.send({"run": "r1", "text": "ü\u0000"}, SystemClock().now_ms() + 900)
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    assert json.loads(message["Body"]) == {"run": "r1", "text": "ü\u0000"}
    with pytest.raises(Misconfigured, match="no queue"):
        LambdaWakes(wire_to(moto_url), "advance", url + "-gone").send({}, SystemClock().now_ms() + 5000)
