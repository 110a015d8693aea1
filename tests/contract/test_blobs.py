"""What every keeper of blobs promises (`onward.ports.Blobs`), held against a folder and S3 (moto's server)."""

import hashlib

import pytest

from onward.aws.blobs import S3Blobs
from onward.aws.wire import Wire
from onward.core.errors import BlobCorrupt, BlobMissing
from onward.local.blobs import FolderBlobs

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture(params=["folder", "s3"])
def kept(request, tmp_path):
    """(blobs, tamper): `tamper(digest, content)` changes what is kept behind their back; None deletes it."""
    if request.param == "folder":
        folder = tmp_path / "blobs"

        def tamper(digest, content):
            path = folder / digest[:2] / digest
            path.unlink() if content is None else path.write_bytes(content)

        yield FolderBlobs(folder), tamper
        return
    import boto3

    url = request.getfixturevalue("moto_url")
    names = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, **names)
    client.create_bucket(Bucket="onward-blobs")

    def tamper_s3(digest, content):
        where = {"Bucket": "onward-blobs", "Key": f"app/{digest}"}
        client.delete_object(**where) if content is None else client.put_object(Body=content, **where)

    wire = Wire(endpoint_url=url, environ=KEYS)
    yield S3Blobs(wire, "onward-blobs", "app/"), tamper_s3
    wire.close()
    client.close()


@pytest.mark.parametrize("content", [b"", b"{}", bytes(range(256)) * 8_000], ids=len)
def test_a_blob_comes_back_as_it_was_put_under_its_digest(kept, content):
    blobs, _ = kept
    reference = blobs.put(content)
    assert reference == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert blobs.put(content) == reference
    assert blobs.get(reference) == content


def test_a_blob_that_was_changed_is_an_error(kept):
    blobs, tamper = kept
    reference = blobs.put(b"the truth")
    tamper(reference[7:], b"the lie !")
    with pytest.raises(BlobCorrupt, match="changed"):
        blobs.get(reference)


def test_a_blob_that_is_gone_is_an_error_that_says_where_it_was(kept):
    blobs, tamper = kept
    reference = blobs.put(b"here today")
    tamper(reference[7:], None)
    with pytest.raises(BlobMissing, match=r"was the folder moved|lifecycle"):
        blobs.get(reference)


@pytest.mark.parametrize(
    "reference", ["", "sha256:", "sha256:../../etc/passwd", "md5:" + "0" * 64, "sha256:" + "Z" * 64]
)
def test_what_is_no_reference_is_refused(kept, reference):
    with pytest.raises(BlobMissing, match="no reference"):
        kept[0].get(reference)
