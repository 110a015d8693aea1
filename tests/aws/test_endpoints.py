"""Where a request goes is what the environment says, in the order that the AWS SDKs keep."""

from __future__ import annotations

from collections.abc import Callable

import boto3
import pytest
from botocore.config import Config

from onward.aws.endpoints import VARIABLES, configured_url, find_region, parse_url, regional_host
from onward.aws.wire import Wire
from onward.core.errors import Misconfigured, NoRegion
from tests.aws.scripted import reply, scripted

REGIONS = """us-east-1 eu-central-1 ap-southeast-5 mx-central-1 il-central-1 cn-north-1 cn-northwest-1 us-gov-west-1
us-iso-east-1 us-isob-east-1 eu-isoe-west-1 us-isof-south-1 eusc-de-east-1"""


@pytest.mark.parametrize("service", VARIABLES)
def test_every_region_has_the_host_that_botocore_gives_it(service: str) -> None:
    session = boto3.Session()
    for region in REGIONS.split():
        config = Config(s3={"us_east_1_regional_endpoint": "regional"}, account_id_endpoint_mode="disabled")
        client = session.client(service, region_name=region, config=config)
        told = client.meta.endpoint_url.removeprefix("https://")
        ours = regional_host(service, region)
        assert ours == told, (service, region)


@pytest.mark.parametrize("service", VARIABLES)
def test_the_variables_count_in_botocores_order(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"AWS_ENDPOINT_URL_{VARIABLES[service]}"

    def told() -> str:
        return boto3.Session().client(service, region_name="eu-central-1").meta.endpoint_url

    assert configured_url(service) is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://everything:1")
    assert configured_url(service) == (told(), "AWS_ENDPOINT_URL")
    monkeypatch.setenv(own, "http://only-this:2")
    assert configured_url(service) == (told(), own)
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert configured_url(service) is None
    assert "amazonaws.com" in told()


def test_the_region_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_region({"AWS_REGION": "a-1", "AWS_DEFAULT_REGION": "b-1"}) == "a-1"
    assert find_region({"AWS_REGION": "", "AWS_DEFAULT_REGION": "b-1"}) == "b-1"
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(NoRegion, match="Set AWS_REGION"):
        Wire()
    with pytest.raises(NoRegion, match="is no AWS region"):
        find_region({"AWS_REGION": "evil.example/"})


@pytest.mark.parametrize(
    ("url", "address", "path"),
    [
        ("http://localhost:8000", "http://localhost:8000", ""),
        ("https://Example.com/", "https://example.com", ""),
        ("http://127.0.0.1:80/a/b/", "http://127.0.0.1", "/a/b"),
        ("https://[::1]:4566", "https://[::1]:4566", ""),
        ("http://[fd00:ec2::23]/v1/credentials", "http://[fd00:ec2::23]", "/v1/credentials"),
    ],
)
def test_a_url_is_taken_apart(url: str, address: str, path: str) -> None:
    found, rest = parse_url(url, "it")
    assert (repr(found), rest) == (address, path)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "http://a:b",
        "http://u:p@x",
        "http://x?y",
        "http://x y",
        "http://x:99999",
    ],
)
def test_what_is_no_url_is_told_with_the_name_of_its_variable(
    url: str, wire_to: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
    with pytest.raises(Misconfigured, match=r"AWS_ENDPOINT_URL_DYNAMODB is .* no URL"):
        wire_to().connect()


def test_a_configured_endpoint_may_have_a_path(wire_to: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(reply()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"{server.url}/behind/a/gateway/")
        wire_to().json("dynamodb", "GetItem", {}, "runs")
        assert server.requests[0].path == "/behind/a/gateway/"


def test_a_bucket_is_in_the_host_unless_its_name_has_dots_or_the_endpoint_is_configured(
    wire_to: Callable[..., Wire],
) -> None:
    def route(wire: Wire, bucket: str) -> tuple[str, str]:
        address, prefix = wire._route("s3", bucket)
        return repr(address), prefix

    host = "s3.eu-central-1.amazonaws.com"
    assert route(wire_to(), "bucket") == (f"https://bucket.{host}", "")
    assert route(wire_to(), "my.bucket") == (f"https://{host}", "/my.bucket")
    assert route(wire_to("http://localhost:9"), "bucket") == ("http://localhost:9", "/bucket")
