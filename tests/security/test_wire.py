"""The wire: no name writes a header of its own, no secret reaches an error or a log line, and TLS is checked."""

from __future__ import annotations

import json
import ssl
import traceback
from typing import Any

import pytest

from onward.aws.blobs import S3Blobs
from onward.aws.bus import EventBridgeBus
from onward.aws.connection import _context
from onward.aws.credentials import Credentials
from onward.aws.dynamodb import DynamoStore
from onward.aws.wakes import LambdaWakes
from onward.aws.wire import Wire
from onward.core.errors import Misconfigured, NoCredentials, OnwardError
from onward.entry.aws import Door
from onward.ports import Item, Put
from tests.aws.scripted import Request, refusal, reply, scripted
from tests.rules.acting import SYNC

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEXAMPLETOKEN+" * 8,
    "AWS_REGION": "eu-central-1",
}
INJECTED = [
    *("x\r\nX-Injected: 1", "x\nX-Injected: 1", "x\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"),
    *("x\x00y", "xü", "x\u2028y", "x\ud800"),
]


def all_calls(wire: Wire, name: str) -> list[Any]:
    """Every call of the wing that puts a name from outside into a request."""
    item = Item("p", "s", "t", "{}")
    return [
        lambda: DynamoStore(wire, name).write([Put(item)]),
        lambda: DynamoStore(wire, "table").read(name, "", "z"),
        lambda: LambdaWakes(wire, name).send({"do": "advance"}),
        lambda: LambdaWakes(wire, "f", name).send({"do": "advance"}, 1 << 42),
        lambda: LambdaWakes(wire, "f", name).send({"do": name}),
        lambda: EventBridgeBus(wire, name).put([{"Source": name, "DetailType": name, "Detail": "{}"}]),
        lambda: S3Blobs(wire, name).put(b"x"),
        lambda: S3Blobs(wire, "bucket", name).put(b"x"),
        lambda: wire.get_object(f"{name}.dotted", "key"),
    ]


@pytest.mark.parametrize("name", INJECTED, ids=ascii)
def test_no_name_writes_a_line_of_the_request(name: str) -> None:
    with scripted(reply(200, {"FailedEntryCount": 0, "Items": []})) as server:
        wire = Wire(endpoint_url=server.url, environ=SECRETS, sleep=lambda _: None)
        for call in all_calls(wire, name):
            try:
                call()
            except (OnwardError, UnicodeEncodeError) as refused:
                assert isinstance(refused, OnwardError), refused
        wire.close()
    assert server.requests
    for request in server.requests:
        assert "x-injected" not in request.headers
        assert request.path.isascii() and request.path.isprintable() and not request.path.startswith("/evil")
        assert request.method in ("POST", "PUT", "GET")


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize("value", INJECTED, ids=ascii)
def test_no_credential_writes_a_line_of_the_request_and_the_refusal_does_not_tell_it(variable: str, value: str) -> None:
    with scripted(reply()) as server:
        wire = Wire(endpoint_url=server.url, environ={**SECRETS, variable: value}, sleep=lambda _: None)
        with pytest.raises(Misconfigured) as refused:
            wire.json("dynamodb", "GetItem", {}, "runs")
        wire.close()
    assert not server.requests
    assert "Injected" not in str(refused.value) and str(refused.value).isprintable()


def echo(request: Request) -> bytes:
    """AWS's answer to a wrong signature: the request as it was read."""
    read = "\n".join(f"{name}:{value}" for name, value in sorted(request.headers.items(), reverse=True))
    message = f"The request signature does not match. The Canonical String should have been {read}"
    return refusal("InvalidSignatureException", message, 403)


def told_everywhere(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + json.dumps(vars(error), default=repr)


def test_a_failing_request_tells_no_secret_in_its_error_its_causes_or_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = {"id": "e", "detail-type": "go", "source": "s", "detail": {}, "time": "2026-01-01T00:00:00Z"}
    queue = {"Records": [{"eventSource": "aws:sqs", "messageId": "m", "body": json.dumps(event)}]}
    with scripted(echo) as server:
        settings = {**SECRETS, "AWS_ENDPOINT_URL": server.url, "ONWARD_TABLE": "runs"}
        door = Door(SYNC.app(lambda event, step: None), settings, wire=Wire(environ=settings, sleep=lambda _: None))
        with pytest.raises(NoCredentials) as refused:
            door.handle(event, None)
        door.handle(queue, None)
        door.wire.close()
    said = told_everywhere(refused.value) + capsys.readouterr().out
    assert "does not match" in said and "x-amz-security-token:***" in said
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert SECRETS[name] not in said and SECRETS[name][:20] not in said


def test_credentials_are_not_shown_by_repr() -> None:
    assert "secret" not in repr(Credentials("id", "secret", "secret token"))
    wire = Wire(environ=SECRETS)
    assert SECRETS["AWS_SECRET_ACCESS_KEY"] not in f"{wire!r}{wire.credentials!r}{vars(wire.credentials)!r}".replace(
        repr(SECRETS), ""
    )


def test_a_reply_that_is_no_json_object_is_broken() -> None:
    for body in (b"[]", b"5", b"null", b"[" * 100_000, b"{" * 10, b"\xff"):
        with scripted(reply(200, body)) as server:
            wire = Wire(endpoint_url=server.url, environ=SECRETS, sleep=lambda _: None)
            with pytest.raises(OnwardError, match="no JSON"):
                wire.json("dynamodb", "GetItem", {}, "runs")
            wire.close()


def test_tls_checks_the_name_and_the_chain_and_knows_no_old_version() -> None:
    for roots in (None, __import__("onward.aws.connection").aws.connection._AMAZON_ROOTS):
        context = _context(roots)
        assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_every_regional_host_is_reached_by_tls() -> None:
    wire = Wire(environ=SECRETS)
    for service in ("dynamodb", "lambda", "sqs", "events", "s3"):
        assert wire._route(service, "bucket" if service == "s3" else "")[0].secure
