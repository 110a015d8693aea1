"""Every event is published, though PutEvents takes some and leaves others in one reply."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from onward.aws.bus import EventBridgeBus
from onward.aws.wire import Wire
from onward.core.errors import AccessRefused, RequestRefused, Unavailable
from tests.aws.scripted import Request, reply, scripted

MakeWire = Callable[..., Wire]


def entry(name: str, size: int = 2) -> dict[str, Any]:
    return {"Source": "onward", "DetailType": name, "Detail": json.dumps({"x": "y" * size})}


def names(request: Request) -> list[str]:
    return [sent["DetailType"] for sent in request.json["Entries"]]


def answer(*codes: str | None) -> bytes:
    results = [{"ErrorCode": code, "ErrorMessage": "because"} if code else {"EventId": "e"} for code in codes]
    return reply(200, {"FailedEntryCount": sum(code is not None for code in codes), "Entries": results})


def accept(request: Request) -> bytes:
    return answer(*[None] * len(request.json["Entries"]))


def test_events_are_sent_as_boto3_sends_them(wire_to: MakeWire) -> None:
    with scripted(accept) as server:
        EventBridgeBus(wire_to(server.url), "orders").put([entry("a")])
        boto3.Session().client("events", endpoint_url=server.url).put_events(
            Entries=[{**entry("a"), "EventBusName": "orders"}]
        )
        ours, theirs = server.requests
    assert ours.json == theirs.json
    for name in ("content-type", "x-amz-target"):
        assert ours.headers[name] == theirs.headers[name]


def test_only_the_entries_that_were_left_are_sent_again(wire_to: MakeWire) -> None:
    waits: list[float] = []
    script = answer(None, "ThrottlingException", None, "InternalFailure"), answer("InternalException", None), accept
    with scripted(*script) as server:
        EventBridgeBus(wire_to(server.url, sleep=waits.append)).put([entry(name) for name in "abcd"])
    assert [names(request) for request in server.requests] == [["a", "b", "c", "d"], ["b", "d"], ["b"]]
    assert len(waits) == 2


def test_entries_that_are_never_taken_are_unavailable(wire_to: MakeWire) -> None:
    def refuse_second(request: Request) -> bytes:
        return answer(*["InternalFailure" if name == "b" else None for name in names(request)])

    with scripted(refuse_second) as server:
        with pytest.raises(Unavailable, match="EventBridge PutEvents: 1 events not taken: InternalFailure"):
            EventBridgeBus(wire_to(server.url)).put([entry("a"), entry("b")])
        assert [names(request) for request in server.requests] == [["a", "b"], ["b"], ["b"], ["b"]]


@pytest.mark.parametrize(("code", "kind"), [("MalformedDetail", RequestRefused), ("NotAuthorized", AccessRefused)])
def test_an_entry_that_is_refused_is_told_after_the_others_had_their_chance(
    wire_to: MakeWire, code: str, kind: type[Exception]
) -> None:
    with scripted(answer(code, "ThrottlingException", None), accept) as server:
        with pytest.raises(kind, match="because"):
            EventBridgeBus(wire_to(server.url)).put([entry(name) for name in "abc"])
        assert [names(request) for request in server.requests] == [["a", "b", "c"], ["b"]]


def test_calls_hold_ten_entries_and_less_than_a_megabyte(wire_to: MakeWire) -> None:
    with scripted(accept) as server:
        EventBridgeBus(wire_to(server.url)).put([entry(str(number)) for number in range(23)])
        EventBridgeBus(wire_to(server.url)).put([entry(str(number), 400_000) for number in range(5)])
        EventBridgeBus(wire_to(server.url)).put([])
        assert [len(names(request)) for request in server.requests] == [10, 10, 3, 2, 2, 1]


def test_the_trace_is_handed_on(wire_to: MakeWire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-2;Sampled=1")
    with scripted(accept) as server:
        EventBridgeBus(wire_to(server.url)).put([entry("a")])
        assert server.requests[0].json["Entries"][0]["TraceHeader"] == "Root=1-2;Sampled=1"


def test_a_rule_of_moto_sees_the_event(moto_url: str, wire_to: MakeWire) -> None:
    events = boto3.Session().client("events", endpoint_url=moto_url)
    sqs = boto3.Session().client("sqs", endpoint_url=moto_url)
    queue = sqs.create_queue(QueueName="seen")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.create_event_bus(Name="orders")
    events.put_rule(Name="all", EventBusName="orders", EventPattern='{"source": ["onward"]}')
    events.put_targets(Rule="all", EventBusName="orders", Targets=[{"Id": "1", "Arn": arn}])
    EventBridgeBus(wire_to(moto_url), "orders").put([entry("order/paid")])
    (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    seen = json.loads(message["Body"])
    assert (seen["detail-type"], seen["detail"]) == ("order/paid", {"x": "yy"})
