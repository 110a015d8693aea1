"""Blobs in a folder: one file each, named by the digest of its content."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from ..core.errors import BlobCorrupt, BlobMissing, Unavailable

MAX_BLOB_BYTES = 128 * 1024 * 1024  # read at once; the engine keeps nothing as large


class FolderBlobs:
    """Keeps blobs under `folder`, which is made on first use. A file is written under another name and renamed, so
    that no reader ever sees half of it."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def _path(self, reference: str) -> Path:
        kind, _, digest = reference.partition(":")
        if kind != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise BlobMissing(f"{reference!r:.100} is no reference of a blob (sha256: and 64 hex digits)")
        return self.folder / digest[:2] / digest

    def put(self, content: bytes) -> str:
        reference = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = self._path(reference)
        try:
            if path.exists() and path.stat().st_size == len(content):
                return reference
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError as error:
            raise Unavailable(f"cannot write the blob {path}: {error.strerror}") from error
        return reference

    def get(self, reference: str) -> bytes:
        path = self._path(reference)
        try:
            if path.stat().st_size > MAX_BLOB_BYTES:
                raise BlobCorrupt(f"the file {path} is larger than any value that was kept: it was changed")
            content = path.read_bytes()
        except FileNotFoundError:
            raise BlobMissing(
                f"the value {reference} is not in {self.folder}: was the folder moved or cleaned?"
            ) from None
        except OSError as error:
            raise Unavailable(f"cannot read the blob {path}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != reference[7:]:
            raise BlobCorrupt(f"the file {path} does not have the content that its name says: it was changed")
        return content
