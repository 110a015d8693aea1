"""What the door takes, and what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from onward.core.ids import run_id
from onward.core.log import partition_of

from .app import tokens
from .conftest import Client, MakeClient
from .fronts import FRONTS, WRITTEN_BY_CLIENT


@pytest.mark.parametrize("encoded", [False, True], ids=["plain", "base64"])
@pytest.mark.parametrize("front", FRONTS)
def test_an_event_starts_its_run_whatever_stands_in_front(client: Client, front: str, encoded: bool) -> None:
    prefix = WRITTEN_BY_CLIENT.get(front, "")
    event = {"name": "order/paid", "data": {"note": "Grüße"}, "id": f"{front}-{encoded}"}
    status, answer = client.signed("POST", "/e", event, front=front, prefix=prefix, encoded=encoded)
    assert (status, answer) == (200, {"events": [{"id": event["id"], "runs": [run_id("ship", event["id"])]}]})
    (wake,) = client.lambda_wakes  # type: ignore[attr-defined]
    assert wake == {"onward": 1, "do": "advance", "run": run_id("ship", event["id"]), "seq": 1}
    run = f"/api/runs/{run_id('ship', event['id'])}"
    status, view = client.signed("GET", run, front=front, prefix=prefix)
    assert (status, view["workflow"], view["waits"][0]["kind"]) == (200, "ship", view["waits"][0]["kind"])
    query = "name=order%2Fpaid&limit=5"
    status, listed = client.signed("GET", "/api/events", front=front, prefix=prefix, query=query)
    assert (status, [one["id"] for one in listed["events"]]) == (200, [event["id"]])


@pytest.mark.parametrize("front", [front for front in FRONTS if front != "load balancer"])
def test_whom_iam_has_authorized_may_come_in(client: Client, front: str) -> None:
    status, answer = client.send("POST", "/e", {"name": "nothing/hears.it"}, front=front, iam=True)
    assert (status, answer["events"][0]["runs"]) == (200, [])


def test_a_custom_domain_may_put_the_door_somewhere(make_client: MakeClient) -> None:
    client = make_client(ONWARD_AUTH="iam", ONWARD_BASE_PATH="/catalog/")
    assert client.send("GET", "/catalog/openapi.json", iam=True)[0] == 200
    assert client.send("GET", "/catalogue/openapi.json", iam=True)[0] == 404


def test_a_run_is_told_with_its_steps_and_its_event(client: Client) -> None:
    client.send("POST", "/e", {"name": "order/paid", "data": {"n": 1}, "id": "told"}, iam=True)
    run = run_id("ship", "told")
    client.engine.handle({"do": "advance", "run": run, "seq": 1})
    client.work()
    status, view = client.send("GET", f"/api/runs/{run}", iam=True)
    assert (status, view["status"], view["output"]) == (200, "completed", {"n": 1})
    assert [(step["name"], step["status"]) for step in view["steps"]] == [("pack", "completed")]
    status, event = client.send("GET", "/api/events/told", iam=True)
    assert (status, event["runs"], event["data"], event["name"]) == (200, [run], {"n": 1}, "order/paid")
    assert client.send("GET", "/api/runs", iam=True)[1] == {"runs": [], "more": False}


def failed_run(client: Client, id: str = "fails") -> str:
    client.send("POST", "/e", {"name": "order/paid", "data": {"broken": True}, "id": id}, iam=True)
    run = run_id("ship", id)
    client.engine.handle({"do": "advance", "run": run, "seq": 1})
    client.work()
    return run


def test_open_and_failed_runs_are_listed_page_by_page(client: Client) -> None:
    client.send("POST", "/e", [{"name": "order/paid", "id": f"open-{n}"} for n in range(3)], iam=True)
    failed = failed_run(client)
    status, answer = client.send("GET", "/api/runs", query="limit=2", iam=True)
    assert (status, len(answer["runs"]), answer["more"]) == (200, 2, True)
    assert not client.send("GET", "/api/runs", query="workflow=approve", iam=True)[1]["runs"]
    status, answer = client.send("GET", "/api/runs", query="status=failed", iam=True)
    assert (status, [one["run_id"] for one in answer["runs"]]) == (200, [failed])


def test_a_failed_run_is_retried_once_however_often_that_is_asked(client: Client) -> None:
    run = failed_run(client)
    first, again = (client.send("POST", f"/api/runs/{run}/retry", {}, iam=True) for _ in range(2))
    assert first == again
    assert first[0] == 200
    other = client.send("POST", f"/api/runs/{run}/retry", {"request": "another"}, iam=True)
    assert other[1]["run_id"] != first[1]["run_id"]


def test_a_run_is_done_again_with_other_data(client: Client) -> None:
    run = failed_run(client)
    status, answer = client.send("POST", f"/api/runs/{run}/rerun", {"data": {"mended": True}}, iam=True)
    assert status == 200
    client.engine.handle({"do": "advance", "run": answer["run_id"], "seq": 1})
    client.work()
    assert client.send("GET", f"/api/runs/{answer['run_id']}", iam=True)[1]["output"] == {"mended": True}
    status, answer = client.send(
        "POST", f"/api/runs/{run}/rerun", {"from": "pack", "input": [{"by": "hand"}]}, iam=True
    )
    assert status == 200
    client.engine.handle({"do": "advance", "run": answer["run_id"], "seq": 1})
    client.work()
    assert client.send("GET", f"/api/runs/{answer['run_id']}", iam=True)[1]["output"] == {"by": "hand"}


def test_a_run_is_cancelled_and_a_second_cancel_says_that_it_had_ended(client: Client) -> None:
    client.send("POST", "/e", {"name": "order/paid", "id": "unwanted"}, iam=True)
    run = run_id("ship", "unwanted")
    assert client.send("POST", f"/api/runs/{run}/cancel", iam=True) == (200, {"run_id": run, "cancelled": True})
    assert client.send("POST", f"/api/runs/{run}/cancel", iam=True) == (200, {"run_id": run, "cancelled": False})
    assert client.send("GET", f"/api/runs/{run}", iam=True)[1]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("command", "content", "output"),
    [("complete", {"data": {"yes": 1}}, {"yes": 1}), ("fail", {"error": "no", "type": "Refused"}, None)],
)
def test_a_callback_is_answered_once(client: Client, command: str, content: Any, output: Any) -> None:
    tokens.clear()
    client.send("POST", "/e", {"name": "order/approved", "data": {"amount": 5}, "id": "ask"}, iam=True)
    run = run_id("approve", "ask")
    client.engine.handle({"do": "advance", "run": run, "seq": 1})
    client.work()
    (token,) = tokens
    assert client.send("POST", f"/api/callbacks/{token}/beat", iam=True) == (200, {"answer": "accepted"})
    client.work()
    assert client.send("POST", f"/api/callbacks/{token}/{command}", content, iam=True) == (200, {"answer": "accepted"})
    assert client.send("POST", f"/api/callbacks/{token}/complete", iam=True)[1] == {"answer": "answered before"}
    for wake in list(client.lambda_wakes):  # type: ignore[attr-defined]
        client.engine.handle(wake)
    client.work()
    view = client.send("GET", f"/api/runs/{run}", iam=True)[1]
    assert (view["status"], view["output"]) == ("completed" if output else "failed", output)
    assert client.send("POST", f"/api/callbacks/{run}.wrong/complete", iam=True)[0] == 404


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({}, 'event 1: "name" is a string of 1 to 128'),
        ({"name": "n" * 129}, "1 to 128"),
        ({"name": "onward/run.failed"}, "those are Onward's own"),
        ({"name": "x", "id": ""}, '"id" is a string'),
        ({"name": "x", "id": 7}, '"id" is a string'),
        ({"name": "x", "id": "good"}, "its id 'good' is that of event 0"),
        ({"name": "x", "at": "soon"}, '"at" is a time'),
        ({"name": "x", "at": -1}, '"at" is a time'),
        ({"name": "x", "at": "2999-01-01T00:00:00Z"}, "up to 366 days ahead"),
        ({"name": "x", "payload": 1}, "it has 'payload'"),
        ("x", "an event is an object"),
        ({"name": "x", "data": {"deep": json.loads("[" * 150 + "]" * 150)}}, "event 1"),
    ],
)
def test_one_bad_event_keeps_all_of_its_request_out(client: Client, bad: Any, told: str) -> None:
    good = {"name": "order/paid", "id": "good"}
    status, answer = client.send("POST", "/e", [good, bad], iam=True)
    assert (status, answer["error"], answer["event"]) == (400, "bad-request", 1)
    assert told in answer["message"]
    assert client.send("GET", "/api/events/good", iam=True)[0] == 404
    assert not client.engine.store.read(partition_of(run_id("ship", "good")), "", "~")
    assert not client.lambda_wakes  # type: ignore[attr-defined]


def test_every_bad_event_is_told(client: Client) -> None:
    answer = client.send("POST", "/e", [{"name": ""}, {"name": "x"}, {"id": "1"}], iam=True)[1]
    assert "event 0:" in answer["message"]
    assert "event 2:" in answer["message"]
    assert "event 1:" not in answer["message"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "no JSON"),
        (b"{", 400, "no JSON"),
        (b"\xff\xfe", 400, "no UTF-8"),
        (b'{"name": "x", "data": NaN}', 400, "NaN"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b"[]", 400, "1 to 10 events"),
        (json.dumps([{"name": "x"}] * 11).encode(), 400, "1 to 10 events"),
        (b'{"name": "x", "data": ' + b"1" * 10_000 + b"}", 400, ""),
        (b'"' + b"x" * 1_000_000 + b'"', 413, "less than 1,000,000"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_with_what_to_do(
    client: Client, body: bytes, status: int, told: str
) -> None:
    found, answer = client.send("POST", "/e", body=body, encoded=True, iam=True)
    assert found == status
    assert told in answer["message"]


def test_sizes_are_bounded(client: Client) -> None:
    assert client.send("GET", "/api/runs", query="x=" + "y" * 5_000, iam=True)[0] == 414
    many = {f"x-{n}": "y" for n in range(120)}
    assert client.send("GET", "/api/runs", headers=many, iam=True)[0] == 431
    for limit in ("0", "201", "x", "-1", "9" * 30):
        assert client.send("GET", "/api/runs", query=f"limit={limit}", iam=True)[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/e", 405),
        ("POST", "/api/runs", 405),
        ("GET", "/api/runs/nothing", 404),
        ("POST", "/api/runs/nothing/cancel", 404),
        ("POST", "/api/runs/0000000000000000000000000/retry", 404),
        ("GET", "/api/events/none", 404),
        ("POST", "/api/callbacks/none/beat", 404),
        ("GET", "/api/events", 400),
    ],
)
def test_what_is_not_there_is_told_in_one_shape(client: Client, method: str, path: str, status: int) -> None:
    found, answer = client.send(method, path, iam=True)
    assert (found, set(answer)) == (status, {"error", "message"})


def test_an_answer_is_not_kept_framed_or_guessed_at_by_a_browser(client: Client) -> None:
    from .conftest import Context

    reply = client.handle(FRONTS["function URL"]("GET", "/openapi.json", iam=True), Context())
    assert reply["headers"]["cache-control"] == "no-store"
    assert reply["headers"]["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in reply["headers"]["content-security-policy"]
    assert not [name for name in reply["headers"] if name.startswith("access-control")]


def test_where_the_store_does_not_answer_the_request_can_be_sent_again(make_client: MakeClient) -> None:
    client = make_client(
        ONWARD_AUTH="iam", ONWARD_STORE="", ONWARD_TABLE="none", AWS_ENDPOINT_URL_DYNAMODB="http://127.0.0.1:9"
    )
    status, answer = client.send("POST", "/e", {"name": "order/paid", "id": "1"}, iam=True)
    assert (status, answer["error"]) == (503, "unavailable")
    assert "send it again" in answer["message"]
