"""What AWS's SDKs repeat is repeated, after the wait that they would draw; the rest is said once, in one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import botocore.parsers
import botocore.session
import pytest
from botocore.retries import standard
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.aws import failures, wire
from onward.aws.connection import Reply
from onward.aws.failures import AwsError
from onward.aws.wire import Wire
from onward.core import errors
from onward.core.errors import OnwardError, RequestRefused, Unavailable
from tests.aws.scripted import refusal, reply, scripted

MakeWire = Callable[..., Wire]
OPERATIONS = {
    "dynamodb": "PutItem",
    "lambda": "Invoke",
    "sqs": "SendMessage",
    "s3": "PutObject",
    "events": "PutEvents",
}
session = botocore.session.Session()
MODELS = {service: session.get_service_model(service) for service in OPERATIONS}
CODES = sorted(
    failures.THROTTLED
    | failures.TRANSIENT
    | failures.UNKNOWN_IDENTITY
    | {"ConditionalCheckFailedException", "TransactionConflictException", "InternalServerError", "Whatever", ""}
)


def context(service: str, code: str, status: int, retry_after: str | None = None) -> standard.RetryContext:
    class Answer:
        status_code = status
        headers = {"x-amz-retry-after": retry_after} if retry_after else {}
        content = b""

    return standard.RetryContext(
        attempt_number=1,
        operation_model=MODELS[service].operation_model(OPERATIONS[service]),
        http_response=Answer(),
        parsed_response={"Error": {"Code": code or str(status)}},
    )


@pytest.mark.parametrize("service", OPERATIONS)
@pytest.mark.parametrize("status", [301, 400, 403, 404, 413, 429, 500, 501, 502, 503, 504])
def test_what_is_worth_a_retry_is_what_the_standard_mode_of_botocore_retries(service: str, status: int) -> None:
    for code in CODES:
        error = AwsError(code or str(status), status, "", {})
        told = standard.StandardRetryConditions(max_attempts=4).is_retryable(context(service, code, status))
        if status == 429 or code == "ReplicatedWriteConflictException":
            continue  # botocore looks the code up in the operation's model; see the two tests below
        assert failures.is_worth_a_retry(error) == told, (service, code, status)


def test_too_many_requests_is_throttling_whatever_its_code() -> None:
    assert failures.is_worth_a_retry(AwsError("Whatever", 429, "", {}))
    assert failures.is_throttled("429", 429)


def test_a_conflict_between_replicas_of_a_global_table_is_transient() -> None:
    error = AwsError("ReplicatedWriteConflictException", 400, "", {})
    told = standard.StandardRetryConditions(4).is_retryable(context("dynamodb", error.code, 400))
    assert failures.is_worth_a_retry(error) and told
    assert not failures.is_throttled(error.code, error.status)


@given(
    service=st.sampled_from(["dynamodb", "lambda"]),
    code=st.sampled_from(["ThrottlingException", "InternalServerError"]),
    attempt=st.integers(0, 12),
    chance=st.floats(0, 1, exclude_max=True),
    retry_after=st.none() | st.sampled_from(["0", "250", "4000", "99999", "soon", "-5"]),
)
def test_every_wait_is_the_one_that_botocore_draws(
    service: str, code: str, attempt: int, chance: float, retry_after: str | None
) -> None:
    seen = context(service, code, 500, retry_after)
    seen.attempt_number = attempt + 1
    theirs = standard.ExponentialBackoff(
        random=lambda: chance,
        service_name=service,
        throttling_detector=standard.ThrottlingErrorDetector(standard.RetryEventAdapter()),
    )
    ours = failures.wait_s(service, attempt, failures.is_throttled(code, 500), chance, retry_after)
    assert ours == pytest.approx(theirs.delay_amount(seen))


def test_attempts_are_four_with_growing_waits_and_then_it_is_unavailable(wire_to: MakeWire) -> None:
    waits: list[float] = []
    with scripted(refusal("ProvisionedThroughputExceededException", "too fast")) as server, chance(0.5):
        with pytest.raises(Unavailable) as caught:
            wire_to(server.url, sleep=waits.append).json("dynamodb", "PutItem", {}, "runs")
    assert len(server.requests) == 4
    assert waits == [0.5, 1.0, 2.0]
    assert str(caught.value) == (
        "DynamoDB PutItem: ProvisionedThroughputExceededException: too fast (tried 4 times). Try again later."
    )
    assert isinstance(caught.value.__cause__, AwsError)


def test_attempts_and_the_service_s_own_wish_are_respected(wire_to: MakeWire) -> None:
    waits: list[float] = []
    busy = reply(503, b"", x_amz_retry_after="1500")
    with scripted(busy, busy, reply(202, b"")) as server, chance(0.5):
        wire_to(server.url, sleep=waits.append, attempts=3).invoke("advance", b"{}")
    assert waits == [1.5, 1.5]


def test_each_attempt_is_signed_with_the_credentials_of_its_time(
    wire_to: MakeWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(_: float) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "SECOND")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "fresh")

    with scripted(reply(500), reply()) as server:
        wire_to(server.url, sleep=change).json("dynamodb", "PutItem", {}, "runs")
    first, second = server.requests
    assert "Credential=AKIDEXAMPLE/" in first.headers["authorization"]
    assert "x-amz-security-token" not in first.headers
    assert "Credential=SECOND/" in second.headers["authorization"]
    assert second.headers["x-amz-security-token"] == "fresh"


def test_a_code_that_the_caller_expects_reaches_it_as_it_is(wire_to: MakeWire) -> None:
    item = {"pk": {"S": "a"}}
    with scripted(refusal("ConditionalCheckFailedException", "no", Item=item)) as server:
        with pytest.raises(AwsError) as caught:
            wire_to(server.url).json("dynamodb", "PutItem", {}, "runs", ("ConditionalCheckFailedException",))
    assert (caught.value.code, caught.value.status) == ("ConditionalCheckFailedException", 400)
    assert caught.value.body["Item"] == item


@pytest.mark.parametrize(
    ("service", "status", "code", "kind", "told"),
    [
        ("dynamodb", 400, "ResourceNotFoundException", errors.TableMissing, "there is no table 'it'.*Create it"),
        ("dynamodb", 400, "AccessDeniedException", errors.AccessRefused, "access to 'it'.*dynamodb:PutItem to this"),
        ("dynamodb", 400, "UnrecognizedClientException", errors.NoCredentials, "must belong together"),
        ("dynamodb", 400, "ExpiredTokenException", errors.NoCredentials, "renew them"),
        ("dynamodb", 400, "InvalidSignatureException", errors.NoCredentials, "clock of this machine"),
        ("dynamodb", 400, "MissingAuthenticationTokenException", errors.NoCredentials, "credentials"),
        ("dynamodb", 400, "ValidationException", errors.RequestRefused, "a bug in Onward"),
        ("dynamodb", 400, "", errors.RequestRefused, "HTTP status 400"),
        ("dynamodb", 500, "InternalServerError", errors.Unavailable, "tried 4 times"),
        ("dynamodb", 400, "ThrottlingException", errors.Unavailable, "Try again later"),
        ("lambda", 404, "ResourceNotFoundException", errors.Misconfigured, "no function 'it'"),
        ("lambda", 403, "AccessDeniedException", errors.AccessRefused, "lambda:InvokeFunction"),
        ("lambda", 429, "TooManyRequestsException", errors.Unavailable, "Try again later"),
        ("lambda", 400, "RecursiveInvocationException", errors.Misconfigured, "RecursiveLoop: Allow"),
        ("lambda", 413, "RequestTooLargeException", errors.RequestRefused, "RequestTooLarge"),
        ("lambda", 403, "SignatureDoesNotMatch", errors.NoCredentials, "secret key"),
        ("sqs", 400, "QueueDoesNotExist", errors.Misconfigured, "no queue 'it'"),
        ("sqs", 400, "RequestThrottled", errors.Unavailable, "Try again later"),
        ("s3", 404, "NoSuchBucket", errors.Misconfigured, "no bucket 'it'"),
        ("s3", 403, "AccessDenied", errors.AccessRefused, "s3:PutObject"),
        ("s3", 403, "", errors.AccessRefused, "HTTP status 403"),
        ("s3", 301, "PermanentRedirect", errors.Misconfigured, "another region"),
        ("s3", 400, "AuthorizationHeaderMalformed", errors.Misconfigured, "another region"),
        ("s3", 503, "SlowDown", errors.Unavailable, "Try again later"),
        ("events", 400, "ResourceNotFoundException", errors.Misconfigured, "no event bus 'it'"),
    ],
)
def test_every_refusal_becomes_one_clear_line(
    service: str, status: int, code: str, kind: type[OnwardError], told: str
) -> None:
    error = AwsError(code or str(status), status, "AWS's own\n words", {})
    made = failures.translate(error, service, OPERATIONS[service], "it", 4)
    assert type(made) is kind
    with pytest.raises(kind, match=told):
        raise made
    assert "\n" not in str(made)
    assert OPERATIONS[service] in str(made)


@pytest.mark.parametrize(
    "message",
    [
        "Item size has exceeded the maximum allowed size",
        "Item size to update has exceeded the maximum allowed size",
    ],
)
def test_an_item_over_the_limit_is_told_as_such(message: str) -> None:
    error = AwsError("ValidationException", 400, message, {})
    assert type(failures.translate(error, "dynamodb", "UpdateItem", "runs", 1)) is errors.ItemTooLarge


def test_a_long_message_is_cut() -> None:
    error = AwsError("Whatever", 400, "x" * 10_000, {})
    assert len(str(failures.translate(error, "dynamodb", "PutItem", "runs", 1))) < 700


def test_what_is_final_is_tried_once(wire_to: MakeWire) -> None:
    with scripted(refusal("ValidationException", "nonsense")) as server:
        with pytest.raises(RequestRefused):
            wire_to(server.url).json("dynamodb", "PutItem", {}, "runs")
        assert len(server.requests) == 1


def test_credentials_that_expired_are_looked_up_again_once(wire_to: MakeWire) -> None:
    expired = refusal("ExpiredTokenException")
    with scripted(expired, reply(200, {"a": 1})) as server:
        assert wire_to(server.url).json("dynamodb", "PutItem", {}, "runs") == {"a": 1}
    with scripted(expired) as server:
        with pytest.raises(errors.NoCredentials, match="expired"):
            wire_to(server.url).json("dynamodb", "PutItem", {}, "runs")
        assert len(server.requests) == 2


# --------------------------------------------------------------------------------- the dialects, beside botocore
names = st.sampled_from(["ThrottlingException", "com.amazonaws.dynamodb.v20120810#Whatever", "a#b:http://x/", "Sender"])
sentences = st.text(st.characters(codec="utf-8", exclude_characters="<>&\r"), max_size=30)


@settings(deadline=None)
@given(
    service=st.sampled_from(["dynamodb", "sqs", "events"]),
    body=st.one_of(
        st.fixed_dictionaries({}, optional={"__type": names, "message": sentences}),
        st.fixed_dictionaries({}, optional={"__type": names, "Message": sentences}),
    ),
    former=st.none() | st.sampled_from(["AWS.SimpleQueueService.NonExistentQueue;Sender", "ill-formed", ";Sender"]),
)
def test_json_errors_are_read_as_botocore_reads_them(service: str, body: dict[str, Any], former: str | None) -> None:
    headers = {"x-amzn-query-error": former} if former is not None else {}
    _compare(service, 400, headers, json.dumps(body).encode())


@settings(deadline=None)
@given(
    body=st.fixed_dictionaries({}, optional={"Message": sentences, "Type": names, "code": names}),
    header=st.none() | names,
)
def test_lambdas_errors_are_read_as_botocore_reads_them(body: dict[str, Any], header: str | None) -> None:
    if header is None and "code" not in body:
        return  # botocore then names no code at all, we the status
    _compare("lambda", 404, {"x-amzn-errortype": header} if header else {}, json.dumps(body).encode())


@settings(deadline=None)
@given(message=sentences)
def test_s3s_errors_are_read_as_botocore_reads_them(message: str) -> None:
    if any(ord(character) < 0x20 for character in message):
        return  # no XML
    body = f'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code><Message>{message} &lt;&amp;gt;</Message></Error>'
    _compare("s3", 404, {}, body.encode())


def _compare(service: str, status: int, headers: dict[str, str], body: bytes) -> None:
    model = MODELS[service]
    parser = botocore.parsers.create_parser(model.metadata["protocol"])
    shape = model.operation_model(OPERATIONS[service]).output_shape
    told = parser.parse({"status_code": status, "headers": headers, "body": body}, shape)["Error"]
    ours = failures.parse_error(Reply(status, headers, body, True, 0))
    assert ours.code == told["Code"]
    assert ours.message.strip() == (told.get("Message") or "").strip()


@pytest.mark.parametrize("body", [b"", b"{", b"<html>Bad gateway</html>", b"<Code>", b"\xff\xfe", b"[]"])
def test_an_error_that_is_nobodys_dialect_is_named_by_its_status(body: bytes) -> None:
    error = failures.parse_error(Reply(502, {}, body, True, 0))
    assert (error.code, error.message, error.body) == ("502", "", {})


def chance(value: float) -> Any:
    return patch.object(wire, "_chance", lambda: value)
