"""`ports.Blobs` in an S3 bucket.

A blob is kept under its own digest, so a put that is repeated writes the same bytes under the same key, and no
condition is needed. What comes back is digested again: a bucket is a place that others can write to.
"""

from __future__ import annotations

import hashlib

from onward.aws.connection import Oversized
from onward.aws.failures import AwsError
from onward.core.errors import BlobCorrupt, BlobMissing, ItemTooLarge, Misconfigured, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from onward.aws.wire import Wire

MAX_BLOB_BYTES = 64 * 1024 * 1024  # what a small function can hold twice
MAX_BUCKET_CHARS = 255  # of the oldest buckets; 63 since 2018
_BUCKET_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
_SCHEME = "sha256:"


class S3Blobs:
    """`prefix`: put before the 64 hex digits of each key, for example `onward/`."""

    def __init__(self, wire: Wire, bucket: str, prefix: str = "") -> None:
        if not 1 <= len(bucket) <= MAX_BUCKET_CHARS or not set(bucket) <= _BUCKET_CHARS:
            raise Misconfigured(f"{bucket!r:.100} cannot be the name of a bucket. Check ONWARD_BUCKET.")
        self._wire = wire
        self._bucket = bucket
        self._prefix = prefix

    def put(self, content: bytes) -> str:
        if len(content) > MAX_BLOB_BYTES:
            raise ItemTooLarge(f"A value has {len(content):,} bytes; at most {MAX_BLOB_BYTES:,} can be kept in S3.")
        digest = hashlib.sha256(content).hexdigest()
        self._wire.put_object(self._bucket, self._prefix + digest, content)
        return _SCHEME + digest

    def get(self, reference: str) -> bytes:
        digest = reference.removeprefix(_SCHEME)
        if len(digest) != 64 or not reference.startswith(_SCHEME) or not set(digest) <= set("0123456789abcdef"):
            raise BlobMissing(f"{reference!r:.100} is no reference to a kept value.")
        key = self._prefix + digest
        try:
            content = self._wire.get_object(self._bucket, key)
        except AwsError as error:
            raise BlobMissing(
                f"The object {key!r} is no longer in the bucket {self._bucket!r}. Check its lifecycle rules."
            ) from error
        except Unavailable as error:
            if isinstance(error.__cause__, Oversized):  # nothing that was put here is as large
                raise BlobCorrupt(
                    f"The object {key!r} in the bucket {self._bucket!r} was changed: it is larger than any value."
                ) from error
            raise
        if hashlib.sha256(content).hexdigest() != digest:
            raise BlobCorrupt(f"The object {key!r} in the bucket {self._bucket!r} was changed: its digest differs.")
        return content
