"""What `app.send` sends is what the deployed app hears: the same event, however often it is sent."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pytest

from onward import App
from onward.aws.bus import EventBridgeBus
from onward.aws.envelopes import Arrived, recognise
from onward.aws.wire import Wire
from onward.core.errors import AccessRefused, InvalidEvent, Misconfigured, NotEncodable, OnwardError, Unavailable
from onward.core.values import Event
from onward.entry import send
from onward.entry.to_door import ToDoor
from tests.aws.scripted import Request, reply, scripted

SOURCE = Path(__file__).parents[2] / "adapter"
BUS_EVENT = json.loads((Path(__file__).parents[1] / "events" / "eventbridge_event.json").read_text())
KEYS = {"ONWARD_KEYS": "blue:" + "b" * 40 + ",green:" + "g" * 40}
app = App("catalog")


@pytest.fixture(autouse=True)
def _no_way_is_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ONWARD_URL", "ONWARD_BUS", "ONWARD_KEYS", "AWS_LAMBDA_FUNCTION_NAME"):
        monkeypatch.delenv(name, raising=False)
    send.forget()
    yield
    send.forget()


def taken(request: Request) -> bytes:
    results = [{"EventId": "of-eventbridge"} for _ in request.json["Entries"]]
    return reply(200, {"FailedEntryCount": 0, "Entries": results})


def delivered(entry: dict[str, Any]) -> Event:
    """The event that a function is handed for an entry of PutEvents, by EventBridge's rules."""
    payload = BUS_EVENT | {
        "source": entry["Source"],
        "detail-type": entry["DetailType"],
        "detail": json.loads(entry["Detail"]),
        "resources": entry.get("Resources", []),
        "id": "of-eventbridge",
    }
    arrived = recognise(payload)
    assert isinstance(arrived, Arrived)
    return arrived.events[0]


@pytest.mark.parametrize("on_lambda", [True, False])
@pytest.mark.parametrize("data", [{"sku": "A-1", "price": 1.5}, [1, 2], "text", 7, None, {"$": "no tag"}, {}])
def test_an_event_that_is_sent_to_a_bus_arrives_as_it_was(
    on_lambda: bool, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = dt.datetime(2026, 11, 24, 10, 0, 0, 250_000, tzinfo=dt.UTC)
    if on_lambda:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    with scripted(taken) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", server.url)
        id = app.send("price/changed", data, id="change-1", at=at, to="orders")
        (request,) = server.requests
    assert id == "change-1"
    (entry,) = request.json["Entries"]
    assert (entry["EventBusName"], entry["Source"]) == ("orders", "onward.catalog")
    event = delivered(entry)
    assert (event.name, event.data, event.id, event.at) == ("price/changed", data, "change-1", at)


def test_without_an_id_each_event_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_BUS", "orders")
    with scripted(taken) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", server.url)
        ids = [app.send("price/changed", {}), app.send("price/changed", {})]
        sent = [delivered(request.json["Entries"][0]) for request in server.requests]
    assert len(set(ids)) == 2
    assert [event.id for event in sent] == ids
    assert all("onward:at" not in str(request.json) for request in server.requests)


def test_only_what_app_send_has_sent_is_read_from_resources() -> None:
    """Whoever else names resources has ids of EventBridge's."""
    told = {"resources": ["onward:id:mine", "onward:value", "arn:aws:s3:::bucket"]}
    (event,) = recognise(BUS_EVENT | told | {"source": "aws.s3"}).events  # type: ignore[union-attr]
    assert (event.id, event.data) == (BUS_EVENT["id"], BUS_EVENT["detail"])
    (event,) = recognise(BUS_EVENT | {"resources": "onward:id:mine", "source": "onward.x"}).events  # type: ignore[union-attr]
    assert event.id == BUS_EVENT["id"]


@pytest.mark.parametrize("told", ["onward:at:soon", "onward:value"])
def test_what_app_send_would_never_tell_is_refused(told: str) -> None:
    with pytest.raises(OnwardError, match="an EventBridge event has no usable"):
        recognise(BUS_EVENT | {"source": "onward.x", "resources": [told]})


def test_many_events_go_in_as_few_requests_as_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_BUS", "orders")
    with scripted(taken) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", server.url)
        ids = app.send_many({"name": "price/changed", "data": {"n": n}, "id": f"n-{n}"} for n in range(23))
        sent = [delivered(entry) for request in server.requests for entry in request.json["Entries"]]
        requests = len(server.requests)
    assert ids == [event.id for event in sent] == [f"n-{n}" for n in range(23)]
    assert [event.data["n"] for event in sent] == list(range(23))
    assert requests == 3


@pytest.mark.parametrize(
    ("event", "kind", "told"),
    [
        ({"name": ""}, InvalidEvent, "the name of an event is a string of 1 to 256"),
        ({"name": "onward/run.failed"}, InvalidEvent, "those are Onward's own"),
        ({"name": "x", "id": "onward/1"}, InvalidEvent, "those are Onward's own"),
        ({"name": "x", "id": 7}, InvalidEvent, "the id of an event is a string"),
        ({"name": "x", "at": "tomorrow"}, InvalidEvent, "at= takes a datetime"),
        ({"name": "x", "at": float("inf")}, InvalidEvent, "at= takes a datetime"),
        ({"name": "x", "data": {"price": Decimal("1.5")}}, NotEncodable, "a Decimal in 'price', .*convert it first"),
        ({"name": "x", "data": {1: "x"}}, NotEncodable, "in JSON a key is a string"),
        ({"name": "x", "data": float("nan")}, NotEncodable, "cannot be written as JSON"),
        ({"name": "x", "data": "\ud800"}, NotEncodable, "cannot be written as JSON"),
        ({"name": "x", "data": "y" * 1_000_000}, InvalidEvent, "take less than 1,000,000"),
        ({"name": "n" * 200}, InvalidEvent, "a bus takes names of up to 128"),
        ({"data": {}}, InvalidEvent, "an event to send is"),
        ({"name": "x", "payload": {}}, InvalidEvent, "an event to send is"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is_sent(
    event: dict[str, Any], kind: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(taken) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", server.url)
        with pytest.raises(kind, match=told) as raised:
            app.send_many([{"name": "good"}, event], to="orders")
        assert not server.requests
    assert "\n" not in str(raised.value)


def test_nested_too_deeply_is_refused_here() -> None:
    data: Any = None
    for _ in range(200):
        data = [data]
    with pytest.raises(NotEncodable, match="nested more than 100 deep"):
        app.send("x", data, to="orders")


def test_without_a_way_the_error_says_which_there_are() -> None:
    with pytest.raises(Misconfigured, match=r"Set ONWARD_BUS .* or ONWARD_URL .*step\.send_event"):
        app.send("x")


def test_without_credentials_boto3s_user_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Misconfigured, match="aws configure"):
        app.send("x", to="orders")


def test_eventbridges_refusals_are_the_same_through_boto3_and_over_the_wire() -> None:
    refused = reply(400, {"__type": "ResourceNotFoundException", "message": "Event bus nope does not exist."})
    told = []
    for on_lambda in (True, False):
        with scripted(refused) as server:
            wire: Any = Wire(endpoint_url=server.url) if on_lambda else send.Boto3Wire()
            if not on_lambda:
                wire.close()
                wire._client = boto3.Session().client("events", endpoint_url=server.url)
            with pytest.raises(Misconfigured) as raised:
                EventBridgeBus(wire, "nope").put([{"Source": "s", "DetailType": "d", "Detail": "{}"}])
            wire.close()
            told.append(str(raised.value))
    assert told[0] == told[1]
    assert "there is no event bus 'nope'" in told[0]


def test_on_lambda_neither_boto3_nor_botocore_is_imported() -> None:
    with scripted(taken, accepted) as server:
        code = (
            "import sys; from onward import App; app = App('a'); "
            "app.send('x', {}, to='orders'); "
            f"app.send('x', {{}}, to={server.url!r}); "
            "print([name for name in sys.modules if name.startswith('boto')])"
        )
        environ = {
            "PYTHONPATH": str(SOURCE),
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_ENDPOINT_URL_EVENTBRIDGE": server.url,
        }
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


# -------------------------------------------------------------------------------------------------------- the door
def accepted(request: Request) -> bytes:
    return reply(200, {"events": [{"id": event["id"]} for event in request.json]})


def test_the_door_is_handed_events_in_its_own_words_signed_with_the_first_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from onward.core import signing

    monkeypatch.setenv("ONWARD_KEYS", KEYS["ONWARD_KEYS"])
    with scripted(accepted) as server:
        id = app.send("price/changed", {"sku": "A-1"}, at=1_790_000_000.5, to=f"{server.url}/stage/")
        (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/stage/e")
    assert request.headers["content-type"] == "application/json"
    assert request.json == [{"name": "price/changed", "data": {"sku": "A-1"}, "id": id, "at": 1_790_000_000_500}]
    assert request.headers["onward-key"] == "blue"
    time_s = int(request.headers["onward-time"])
    wanted = signing.sign("b" * 40, "POST", "/stage/e", time_s, request.body)
    assert request.headers["onward-signature"] == wanted


def test_a_door_of_awss_is_signed_for_as_botocore_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    url = "https://abc.lambda-url.eu-west-3.on.aws"
    door = ToDoor(url, {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"})
    headers = {"Host": "abc.lambda-url.eu-west-3.on.aws", "Content-Type": "application/json"}
    door._sign(headers, b"[]")
    theirs = AWSRequest("POST", f"{url}/e", data=b"[]", headers={"Content-Type": "application/json"})
    signer = SigV4Auth(Credentials("AKID", "secret", "token"), "lambda", "eu-west-3")
    theirs.context["timestamp"] = headers["X-Amz-Date"]
    theirs.headers["X-Amz-Date"] = headers["X-Amz-Date"]
    theirs.headers["X-Amz-Security-Token"] = "token"
    text = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    assert headers["Authorization"].endswith(signer.signature(text, theirs))


def test_a_request_that_was_not_answered_is_sent_again_under_the_same_ids() -> None:
    waits: list[float] = []
    with scripted(reply(503, {"message": "busy"}), b"", accepted) as server:
        door = ToDoor(server.url, {}, sleep=waits.append)
        door.put([send.Outgoing("catalog", "x", {}, None, None)])
        bodies = [request.body for request in server.requests]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert len(waits) == 2


def test_a_door_that_never_answers_is_unavailable() -> None:
    with scripted(lambda request: reply(503, {"message": "busy"})) as server:
        with pytest.raises(Unavailable, match=r"HTTP status 503: busy \(tried 4 times\)"):
            ToDoor(server.url, {}, sleep=lambda _: None).put([send.Outgoing("catalog", "x", {}, None, None)])
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (400, InvalidEvent, "took none of them: HTTP status 400: event 0 is bad"),
        (403, AccessRefused, "Check ONWARD_KEYS"),
        (404, Misconfigured, "there is no door at"),
    ],
)
def test_a_refusal_of_the_door_is_final(status: int, kind: type[Exception], told: str) -> None:
    with scripted(reply(status, {"error": "bad", "message": "event 0 is bad"})) as server:
        with pytest.raises(kind, match=told):
            app.send("x", to=server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("url", "environ", "told"),
    [
        ("https://", {}, "no URL of an HTTP door"),
        ("ftp://example.com", {}, "no URL of an HTTP door"),
        ("https://example.com?x=1", {}, "no URL of an HTTP door"),
        ("https://example.com:port", {}, "no URL of an HTTP door"),
        ("http://example.com", {}, "is not encrypted"),
        ("https://example.com", {"ONWARD_KEYS": "secret-only"}, "not written as id:secret"),
    ],
)
def test_a_door_that_cannot_be_is_refused_with_what_to_do(url: str, environ: dict[str, str], told: str) -> None:
    with pytest.raises(Misconfigured, match=told) as raised:
        ToDoor(url, environ)
    assert "secret-only" not in str(raised.value)


def test_requests_to_a_door_hold_ten_events_and_less_than_a_megabyte() -> None:
    with scripted(accepted) as server:
        app.send_many([{"name": "x", "data": {"n": n}} for n in range(12)], to=server.url)
        app.send_many([{"name": "x", "data": "y" * 600_000} for n in range(2)], to=server.url)
        assert [len(request.json) for request in server.requests] == [10, 2, 1, 1]
