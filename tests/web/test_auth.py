"""Nobody comes in whom the door was not told to believe."""

from __future__ import annotations

import json
from typing import Any

import pytest

from onward.clock import SystemClock
from onward.core.signing import parse_keys, signed_headers

from .conftest import AWS, KEYS, Client, MakeClient
from .fronts import ARN, FRONTS, function_url, rest_api

EVENT = {"name": "order/paid", "id": "1"}
PATHS = [
    ("POST", "/e"),
    ("GET", "/api/runs"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("DELETE", "/e"),
    ("OPTIONS", "/e"),
]


def now_s() -> int:
    return SystemClock().now_ms() // 1000


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_door_that_nobody_has_opened_is_closed_to_all(
    make_client: MakeClient, front: str, method: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_client()
    for iam in (False, True) if front != "load balancer" else (False,):
        status, answer = client.send(method, path, front=front, iam=iam)
        assert (status, answer["error"]) == (403, "closed")
    assert client.signed(method, path)[0] == 403
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert any("Set ONWARD_AUTH=iam" in str(line.get("message")) for line in lines if line.get("level") == "ERROR")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"ONWARD_AUTH": "key"}, "ONWARD_KEYS has none"),
        ({"ONWARD_AUTH": "everybody"}, "ONWARD_AUTH takes iam, key"),
        ({"ONWARD_AUTH": "open"}, "ONWARD_AUTH takes iam, key"),
        ({"ONWARD_AUTH": "key", "ONWARD_KEYS": "a:tooshort"}, "fewer than 32"),
    ],
)
def test_a_door_that_is_opened_wrongly_is_closed_and_says_why(
    make_client: MakeClient, environ: dict[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_client(**environ)
    assert client.send("POST", "/e", EVENT, iam=True)[0] == 403
    out = capsys.readouterr().out
    assert told in out
    assert "tooshort" not in out


def test_keys_open_nothing_where_only_iam_is_believed_and_the_other_way_round(make_client: MakeClient) -> None:
    iam = make_client(ONWARD_AUTH="iam", ONWARD_KEYS=KEYS)
    assert iam.signed("POST", "/e", EVENT)[0] == 403
    assert iam.send("POST", "/e", EVENT, iam=True)[0] == 200
    key = make_client(ONWARD_AUTH="key", ONWARD_KEYS=KEYS)
    assert key.send("POST", "/e", EVENT, iam=True)[0] == 401
    assert key.signed("POST", "/e", EVENT)[0] == 200


@pytest.mark.parametrize("keys", ["blue:" + "x" * 40, "red:" + "b" * 40])
def test_a_wrong_key_is_not_believed(client: Client, keys: str) -> None:
    status, answer = client.signed("POST", "/e", EVENT, keys=keys)
    assert (status, answer["error"]) == (401, "not-believed")


def test_every_key_of_the_door_is_believed(client: Client) -> None:
    for key in KEYS.split(","):
        assert client.signed("POST", "/e", EVENT, keys=key)[0] == 200


@pytest.mark.parametrize(("apart_s", "status"), [(-299, 200), (298, 200), (-302, 401), (400, 401), (-86_400, 401)])
def test_a_replay_is_refused_after_the_window(client: Client, apart_s: int, status: int) -> None:
    assert client.signed("POST", "/e", EVENT, at_s=now_s() + apart_s)[0] == status


def test_a_replay_within_the_window_starts_nothing_again(client: Client) -> None:
    at_s = now_s()
    first, again = (client.signed("POST", "/e", EVENT, at_s=at_s) for _ in range(2))
    assert first == again


def tampered(change: str) -> dict[str, Any]:
    """A signed request in which one thing was changed on the way."""
    body = json.dumps(EVENT).encode()
    request: dict[str, Any] = {"method": "POST", "path": "/e", "query": "", "body": body}
    headers = signed_headers(parse_keys(KEYS), "POST", "/e", now_s(), body)
    if change == "body":
        request["body"] = body.replace(b"order/paid", b"order/pa1d")
    elif change == "query":
        request["query"] = "x=1"
    elif change == "path":
        request["path"] = "/api/runs/x/cancel"
    elif change == "method":
        request["method"] = "GET"
    else:
        headers[change] = {"Onward-Time": str(now_s() + 1), "Onward-Key": "green"}.get(change, "0" * 64)
    return {**request, "headers": headers}


@pytest.mark.parametrize("change", ["body", "query", "path", "method", "Onward-Time", "Onward-Key", "Onward-Signature"])
@pytest.mark.parametrize("front", FRONTS)
def test_a_request_that_was_changed_on_the_way_is_not_believed(client: Client, front: str, change: str) -> None:
    request = tampered(change)
    method, path = request.pop("method"), request.pop("path")
    status, answer = client.send(method, path, front=front, **request)
    assert (status, answer["error"]) == (401, "not-believed")


def test_the_order_of_a_query_is_not_signed_since_gateways_change_it(client: Client) -> None:
    assert client.signed("GET", "/api/runs", query="status=failed&limit=3&workflow=a%20b")[0] == 200


@pytest.mark.parametrize(
    "context",
    [
        {"authorizer": {"jwt": {"claims": {"sub": "x"}}}},
        {"authorizer": {"iam": None}},
        {"authorizer": {"iam": {"userArn": ""}}},
        {"authorizer": {"userArn": ARN}},
        {"authorizer": "iam"},
        {"identity": {"userArn": ARN}},
    ],
)
def test_what_is_not_quite_iam_is_not_believed(make_client: MakeClient, context: dict[str, Any]) -> None:
    from .conftest import Context
    from .fronts import answer_of

    client = make_client(ONWARD_AUTH="iam")
    for front in (function_url, rest_api):
        payload = front("GET", "/openapi.json")
        payload["requestContext"] |= context
        assert answer_of(client.handle(payload, Context()))[0] == 403


def test_a_client_cannot_say_in_headers_who_it_is(make_client: MakeClient) -> None:
    client = make_client(ONWARD_AUTH="iam")
    forged = {"x-amzn-iam": ARN, "authorization": "AWS4-HMAC-SHA256 Credential=AKIA", "x-amzn-request-context": "{}"}
    assert client.send("GET", "/openapi.json", headers=forged)[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_is_refused_even_with_a_believed_caller(client: Client, headers: dict[str, str]) -> None:
    status, answer = client.send("POST", "/e", EVENT, headers=headers, iam=True)
    assert (status, answer["error"]) == (403, "cross-site")


def test_a_page_of_the_doors_own_site_may_send(client: Client) -> None:
    own = {"origin": "https://abc.lambda-url.eu-central-1.on.aws", "sec-fetch-site": "same-origin"}
    assert client.send("POST", "/e", EVENT, headers=own, iam=True)[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_page_can_send_without_asking_is_not_taken(client: Client, kind: str) -> None:
    assert client.send("POST", "/e", EVENT, headers={"content-type": kind}, iam=True)[0] == 415


def test_no_secret_stands_in_a_line_or_an_answer(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [
        client.signed("POST", "/e", EVENT),
        client.signed("POST", "/e", EVENT, keys="blue:" + "x" * 40),
        client.signed("GET", "/api/runs/none"),
        client.send("POST", "/e", body=b"{", iam=True),
        client.send("GET", "/openapi.json", iam=True),
    ]
    told = capsys.readouterr().out + json.dumps(answers)
    for secret in ("b" * 40, "g" * 40, AWS["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in told
    assert "order/paid" not in capsys.readouterr().out


def test_what_is_no_http_request_is_refused_in_words(client: Client) -> None:
    from onward.core.errors import UnknownPayload

    with pytest.raises(UnknownPayload, match="call the step function"):
        client.handle({"onward": 1, "do": "sweep"}, None)
