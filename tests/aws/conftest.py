"""What the AWS tests stand on: servers for a session, credentials for each test, and a wire that does not wait."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what the developer's own shell says about AWS."""
    import os

    for name in list(os.environ):
        if name.startswith("AWS_") or name in ("_X_AMZN_TRACE_ID", "SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")  # which is the one that boto3 reads
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "no-such-file")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "no-such-file")


@pytest.fixture
def wire_to() -> Iterator[Callable[..., Wire]]:
    """Makes wires to a URL, which sleep not at all and are closed at the end."""
    made: list[Wire] = []

    def make(url: str | None = None, **options: object) -> Wire:
        options.setdefault("sleep", lambda _: None)
        made.append(Wire(endpoint_url=url, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for wire in made:
        wire.close()


@pytest.fixture(params=["dynoxide", "moto"])
def any_store(request: pytest.FixtureRequest, wire_to: Callable[..., Wire]) -> DynamoStore:
    return fresh_store(wire_to(request.getfixturevalue(f"{request.param}_url")))


@pytest.fixture
def store(dynoxide_url: str, wire_to: Callable[..., Wire]) -> DynamoStore:
    return fresh_store(wire_to(dynoxide_url))


def fresh_store(wire: Wire) -> DynamoStore:
    name = f"runs-{next(_numbers)}"
    create_table(wire, name, sleep=lambda _: None)
    return DynamoStore(wire, name)
