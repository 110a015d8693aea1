"""A blob comes back byte for byte, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator

import boto3
import pytest

from onward.aws import blobs as module
from onward.aws.blobs import S3Blobs
from onward.aws.wire import Wire
from onward.core.errors import BlobCorrupt, BlobMissing, ItemTooLarge, Misconfigured, Unavailable
from tests.aws.scripted import reply, scripted

MakeWire = Callable[..., Wire]


@pytest.fixture
def bucket(moto_url: str) -> Iterator[tuple[str, str]]:
    name = f"values-{os.urandom(4).hex()}"
    boto3.Session().client("s3", endpoint_url=moto_url, region_name="us-east-1").create_bucket(Bucket=name)
    yield moto_url, name


@pytest.mark.parametrize("prefix", ["", "onward/", "a b/ü+/"])
@pytest.mark.parametrize("size_bytes", [0, 1, 65_535, 3_000_000])
def test_a_blob_comes_back_as_it_was(bucket: tuple[str, str], wire_to: MakeWire, prefix: str, size_bytes: int) -> None:
    url, name = bucket
    blobs = S3Blobs(wire_to(url), name, prefix)
    content = os.urandom(size_bytes)
    reference = blobs.put(content)
    assert reference == "sha256:" + hashlib.sha256(content).hexdigest()
    assert blobs.put(content) == reference
    assert blobs.get(reference) == content
    client = boto3.Session().client("s3", endpoint_url=url)
    listed = client.list_objects_v2(Bucket=name)["Contents"]
    assert [entry["Key"] for entry in listed] == [prefix + reference.removeprefix("sha256:")]


def test_a_blob_that_is_gone_is_told(bucket: tuple[str, str], wire_to: MakeWire) -> None:
    url, name = bucket
    with pytest.raises(BlobMissing, match=r"no longer in the bucket .* lifecycle"):
        S3Blobs(wire_to(url), name).get("sha256:" + "0" * 64)
    with pytest.raises(Misconfigured, match="no bucket"):
        S3Blobs(wire_to(url), name + "-gone").put(b"x")


def test_a_blob_that_was_changed_is_told(bucket: tuple[str, str], wire_to: MakeWire) -> None:
    url, name = bucket
    blobs = S3Blobs(wire_to(url), name)
    reference = blobs.put(b"true")
    boto3.Session().client("s3", endpoint_url=url).put_object(Bucket=name, Key=reference[7:], Body=b"false")
    with pytest.raises(BlobCorrupt, match="digest differs"):
        blobs.get(reference)


@pytest.mark.parametrize("reference", ["", "sha256:", "md5:" + "0" * 64, "sha256:" + "g" * 64, "0" * 64])
def test_what_is_no_reference_is_never_asked_for(wire_to: MakeWire, reference: str) -> None:
    with pytest.raises(BlobMissing, match="is no reference"):
        S3Blobs(wire_to("http://127.0.0.1:1"), "bucket").get(reference)


def test_a_blob_too_large_to_read_back_is_not_kept(wire_to: MakeWire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BLOB_BYTES", 10)
    with pytest.raises(ItemTooLarge, match="11 bytes"):
        S3Blobs(wire_to("http://127.0.0.1:1"), "bucket").put(b"x" * 11)


def test_what_is_put_carries_its_digest_and_is_tried_again(wire_to: MakeWire) -> None:
    slow = reply(503, b"<Error><Code>SlowDown</Code><Message>less</Message></Error>")
    with scripted(slow, reply(200, b"")) as server:
        reference = S3Blobs(wire_to(server.url), "bucket", "p/").put(b"content")
        request = server.requests[1]
    assert request.headers["x-amz-content-sha256"] == reference.removeprefix("sha256:")
    assert (request.method, request.path) == ("PUT", "/bucket/p/" + reference.removeprefix("sha256:"))
    with scripted(slow) as server, pytest.raises(Unavailable, match="SlowDown: less"):
        S3Blobs(wire_to(server.url), "bucket").get(reference)
