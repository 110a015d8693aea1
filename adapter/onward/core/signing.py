"""How a request to the HTTP door is signed with a key, and how the signature is checked.

Theory. Sender and door share a secret that never travels. The sender puts an HMAC beside the request, over all that the
door acts on: a request with a changed method, path, query, body or time has another one, and only who knows the
secret can make it. The time bounds for how long a request that somebody has recorded can be sent again; within
that window it is the same request, and what it asks for is done once (events have ids, commands are idempotent).

    Onward-Key: <id of the key>           which secret
    Onward-Time: <epoch seconds>          at most `WINDOW_S` from the door's clock, either way
    Onward-Signature: <64 hex digits>     HMAC-SHA256 of

        onward-1 \\n METHOD \\n path?query \\n time \\n SHA-256 of the body in hex

Path and query are signed in one spelling (`canonical_target`), because load balancers and gateways hand them on in
theirs: percent-encoded as RFC 3986 has it, and the pairs of the query in order.

A door knows several keys at once, so a key is changed in three steps, and nobody is locked out: the door learns the new
one, senders change to it, the door forgets the old one. In a text they stand as `id:secret,id:secret`, and
who signs takes the first.

Reference: RFC 2104 (HMAC). Pure: the time is handed in.
"""

from __future__ import annotations

import hashlib
import hmac

from .errors import Misconfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEME = "onward-1"
WINDOW_S = 300
MIN_SECRET_CHARS = 32
MAX_KEYS = 10
MAX_ID_CHARS = 64
MAX_TIME_DIGITS = 12


def parse_keys(text: str) -> dict[str, str]:
    """The secrets by their ids, in order, of `id:secret,id:secret`; {} for an empty text. Raises `Misconfigured`, whose
    message has no secret in it."""
    keys: dict[str, str] = {}
    for number, part in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        id, colon, secret = part.partition(":")
        if not colon or not id or not secret:
            raise Misconfigured(f"signing key {number} is not written as id:secret (several stand with commas between)")
        if len(id) > MAX_ID_CHARS or not id.isascii() or not id.isprintable():
            raise Misconfigured(f"the id of signing key {number} is no text of 1 to {MAX_ID_CHARS} ASCII characters")
        if len(secret) < MIN_SECRET_CHARS:
            raise Misconfigured(
                f"the secret of signing key {id!r} has fewer than {MIN_SECRET_CHARS} characters: "
                f"make one with `openssl rand -hex 32`"
            )
        if id in keys:
            raise Misconfigured(f"there are two signing keys with the id {id!r}: give each its own")
        keys[id] = secret
    if len(keys) > MAX_KEYS:
        raise Misconfigured(
            f"there are {len(keys)} signing keys, and a door checks {MAX_KEYS} at most: remove old ones"
        )
    return keys


def sign(secret: str, method: str, target: str, time_s: int, body: bytes) -> str:
    """The signature, in hex. `target`: path and query as in the request line."""
    digest = hashlib.sha256(body).hexdigest()
    text = f"{SCHEME}\n{method.upper()}\n{canonical_target(target)}\n{time_s}\n{digest}"
    return hmac.digest(secret.encode("utf-8"), text.encode("utf-8", "surrogatepass"), "sha256").hex()


def canonical_target(target: str) -> str:
    """Path and query in the one spelling that is signed. (Fields of a query that are empty count.)"""
    from urllib.parse import parse_qsl, quote, unquote, urlencode

    path, _, query = target.partition("?")
    pairs = sorted(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    spelled = quote(unquote(path, errors="surrogateescape"), safe="/", errors="surrogateescape")
    return f"{spelled}?{urlencode(pairs, quote_via=quote, errors='surrogateescape')}" if pairs else spelled


def signed_headers(keys: Mapping[str, str], method: str, target: str, time_s: int, body: bytes) -> dict[str, str]:
    """The three headers of a request, signed with the first key."""
    id, secret = next(iter(keys.items()))
    signature = sign(secret, method, target, time_s, body)
    return {"Onward-Key": id, "Onward-Time": str(time_s), "Onward-Signature": signature}


def trouble_with(
    keys: Mapping[str, str], headers: Mapping[str, str], method: str, target: str, body: bytes, now_s: float
) -> str | None:
    """Why a request is not believed, or None where it is. `headers`: with names in lower case. The time that it takes
    does not depend on how much of a signature is right, nor on whether there is such a key."""
    id, time_text = headers.get("onward-key", ""), headers.get("onward-time", "")
    signature = headers.get("onward-signature", "")
    if not id or not time_text or not signature:
        return "it is not signed: Onward-Key, Onward-Time and Onward-Signature are needed"
    if not (time_text.isascii() and time_text.isdigit() and len(time_text) <= MAX_TIME_DIGITS):
        return "Onward-Time is no number of epoch seconds"
    time_s = int(time_text)
    known = keys.get(id)
    wanted = sign(known or "no such key", method, target, time_s, body)
    is_right = hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "surrogatepass"))
    if known is None or not is_right or time_text != str(time_s):
        return "no key of this door has signed this request as it arrived"
    if abs(now_s - time_s) > WINDOW_S:
        return f"it was signed more than {WINDOW_S} seconds from now: check the sender's clock, or sign it again"
    return None
