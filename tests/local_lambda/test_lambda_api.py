"""The Lambda API, through boto3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from onward.local.lambda_service import LocalLambda

from .conftest import Make

Notes = Callable[[], list[Any]]
ARN = "arn:aws:lambda:us-east-1:123456789012:function:onward"


@contextmanager
def lambda_client(service: LocalLambda) -> Iterator[Any]:
    client = boto3.client(
        "lambda",
        endpoint_url=service.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with closing(client):
        yield client


def test_a_synchronous_invocation_answers_with_the_payload(make: Make) -> None:
    with lambda_client(make()) as client:
        answer = client.invoke(FunctionName="onward", Payload=b'{"n": 1}')
        assert answer["StatusCode"] == 200 and answer["ExecutedVersion"] == "$LATEST"
        assert "FunctionError" not in answer
        assert json.load(answer["Payload"])["event"] == {"n": 1}
        assert json.load(client.invoke(FunctionName="onward")["Payload"])["event"] == {}


def test_a_function_error_is_an_answer_of_200_with_a_header(make: Make) -> None:
    with lambda_client(make()) as client:
        answer = client.invoke(FunctionName=ARN, Payload=b'{"do": "raise"}')
        assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
        error = json.load(answer["Payload"])
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "not today")
    assert error["requestId"] == answer["ResponseMetadata"]["RequestId"]


def test_an_event_is_accepted_with_202_and_nothing_else(make: Make, notes: Notes) -> None:
    service = make()
    with lambda_client(service) as client:
        answer = client.invoke(FunctionName="onward", InvocationType="Event", Payload=b'{"do": "note"}')
        assert answer["StatusCode"] == 202 and answer["Payload"].read() == b""
    assert service.drain(5)
    assert notes() == [{"do": "note"}]


def test_a_dry_run_performs_nothing(make: Make) -> None:
    service = make()
    with lambda_client(service) as client:
        assert client.invoke(FunctionName="onward", InvocationType="DryRun")["StatusCode"] == 204
    assert service.stats.invocations == 0


@pytest.mark.parametrize("name", ["onward", ARN, "123456789012:function:onward", "onward:live", f"{ARN}:$LATEST"])
def test_a_function_is_known_by_its_name_and_its_arns(make: Make, name: str) -> None:
    with lambda_client(make()) as client:
        answer = client.invoke(FunctionName=name, Payload=b'{"do": "context"}')
        context = json.load(answer["Payload"])
    qualifier = name.rpartition(":")[2] if name.endswith((":live", ":$LATEST")) else ""
    assert context["invoked_function_arn"] == (f"{ARN}:{qualifier}" if qualifier else ARN)


@pytest.mark.parametrize("name", ["other", "onward2", "arn:aws:lambda:us-east-1:123456789012:function:other"])
def test_another_function_is_not_found(make: Make, name: str) -> None:
    with lambda_client(make()) as client, pytest.raises(client.exceptions.ResourceNotFoundException) as caught:
        client.invoke(FunctionName=name)
    assert "Function not found: arn:aws:lambda:us-east-1:123456789012:function:" in str(caught.value)


def test_a_full_house_answers_429_with_its_reason(make: Make) -> None:
    service = make(concurrency=1)
    service.invoke_async({"do": "sleep", "seconds": 0.5})
    with lambda_client(service) as client, pytest.raises(client.exceptions.TooManyRequestsException) as caught:
        client.invoke(FunctionName="onward")
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert response["retryAfterSeconds"] == "1"


def test_payloads_over_the_limits_are_refused(make: Make) -> None:
    service = make()
    with lambda_client(service) as client:
        large = json.dumps("x" * 1_048_576).encode()
        with pytest.raises(client.exceptions.RequestTooLargeException):
            client.invoke(FunctionName="onward", InvocationType="Event", Payload=large)
        with pytest.raises(client.exceptions.RequestTooLargeException):
            client.invoke(FunctionName="onward", Payload=json.dumps("x" * 6_291_456).encode())
        assert client.invoke(FunctionName="onward", Payload=b'{"n": "' + b"x" * 2_000_000 + b'"}')["StatusCode"] == 200
    assert service.stats.invocations == 1


def test_a_payload_that_is_not_json_is_refused(make: Make) -> None:
    with lambda_client(make()) as client:
        for kind in ("Event", "RequestResponse"):
            with pytest.raises(client.exceptions.InvalidRequestContentException):
                client.invoke(FunctionName="onward", InvocationType=kind, Payload=b"not json")


def test_what_the_service_does_not_know_is_refused(make: Make) -> None:
    with lambda_client(make()) as client, pytest.raises(ClientError, match="UnknownOperation"):
        client.list_functions()
