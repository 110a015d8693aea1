"""Signature Version 4, in the header form, for requests whose whole body is at hand.

Theory. AWS keeps the same secret as the caller. Both reduce the request to one canonical text (method, path,
query, headers in order, digest of the body), both derive a key from the secret by four rounds of HMAC (date,
region, service, a constant), and both sign the digest of the text with it. Equal signatures prove that the
request came from a holder of the secret and was not changed on the way.

What makes a signer right is the canonical form alone:

    path       as sent for S3; for every other service dot segments removed, then percent-encoded once more
    query      empty: no call of Onward has one
    headers    names in lower case, sorted; values trimmed, inner white space folded to one space
    body       SHA-256 in hex; S3 wants it as a header too

Headers that a proxy may touch are sent unsigned. The signing key changes with the day only, so it is kept.

Reference: «Create a signed AWS API request», IAM User Guide. Checked byte for byte against botocore's signer.
"""

from __future__ import annotations

import hashlib
import hmac
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_HEADERS = frozenset({"connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})
MAX_KEPT_KEYS = 16  # one per service, day and set of credentials; a warm sandbox needs five

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_kept_keys: dict[tuple[str, str, str, str], bytes] = {}


def percent_encode(text: str, safe: bytes = b"") -> str:
    """`text` as UTF-8 with every byte percent-encoded that is neither unreserved (RFC 3986) nor in `safe`."""
    return "".join(
        chr(byte) if byte in _UNRESERVED or byte in safe else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


def timestamp(epoch_s: float | None = None) -> str:
    """The moment of signing as `20261123T014538Z`; now by default."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(epoch_s))


def canonical_path(path: str, service: str) -> str:
    """`path` starts with a slash and is already percent-encoded, as it will be sent."""
    if service == "s3":
        return path
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    closing = "/" if kept and path.endswith("/") else ""
    return percent_encode("/" + "/".join(kept) + closing, b"/")


def canonical_request(method: str, path: str, headers: Mapping[str, str], digest: str, service: str) -> tuple[str, str]:
    """The text that is signed, and the names of the headers in it. Header names in any case, each once."""
    signed = sorted(
        (name.lower(), " ".join(value.split()))
        for name, value in headers.items()
        if name.lower() not in UNSIGNED_HEADERS
    )
    names = ";".join(name for name, _ in signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed)
    return f"{method}\n{canonical_path(path, service)}\n\n{lines}\n{names}\n{digest}", names


def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """The key of one day, region and service."""
    kept = _kept_keys.get((secret, day, region, service))
    if kept is not None:
        return kept
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    if len(_kept_keys) >= MAX_KEPT_KEYS:
        _kept_keys.clear()
    _kept_keys[secret, day, region, service] = key
    return key


def sign(
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    *,
    access_key: str,
    secret_key: str,
    session_token: str | None,
    region: str,
    service: str,
    moment: str | None = None,
) -> None:
    """Add `X-Amz-Date`, the session token, for S3 the body's digest, and `Authorization` to `headers`, which
    already hold `Host` and whatever else is to be signed."""
    moment = moment or timestamp()
    digest = hashlib.sha256(body).hexdigest()
    headers["X-Amz-Date"] = moment
    if session_token:
        headers["X-Amz-Security-Token"] = session_token
    if service == "s3":
        headers["X-Amz-Content-SHA256"] = digest
    text, names = canonical_request(method, path, headers, digest, service)
    day = moment[:8]
    scope = f"{day}/{region}/{service}/aws4_request"
    to_sign = f"{ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(text.encode()).hexdigest()}"
    key = signing_key(secret_key, day, region, service)
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    headers["Authorization"] = (
        f"{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
