"""The servers that stand in for AWS, each started once, when a test first asks for it."""

from collections.abc import Iterator

import pytest

from tests import servers


@pytest.fixture(scope="session")
def dynoxide_url() -> Iterator[str]:
    """DynamoDB, faithful also under concurrent requests."""
    with servers.dynoxide() as url:
        yield url


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """S3, SQS, EventBridge, and a second opinion on DynamoDB."""
    with servers.moto() as url:
        yield url
