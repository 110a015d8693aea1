"""Keeps the values of an app encrypted at rest: AES-256-GCM, with keys that can be rotated.

    app = App("shop", middleware=[Encryption({"2026-01": key}, current="2026-01")])

What stands in the table, in the bucket and in a store file is then ciphertext: the data of events, the results of steps
and runs, what runs hand to runs. What stays readable is what Onward itself works with: names, ids, times, and

- errors: the type, message and traceback of a failed step or run, in its log and in log lines. Keep secrets out of
  messages;
- the digests by which a wait finds its event (`match=`): unkeyed SHA-256, so a value of which there are few (a
  postcode) can be found by trying. Match by ids;
- events on their way, on the bus and in the queue of failed ones, which are as their sender wrote them. There the
  services' own encryption serves.

To rotate: deploy the new key beside the old one first, so that every sandbox can read it; then make it `current`.
Remove the old one when no run, event or result that you still read is older. A run whose key is missing stands, with an
error in the log lines, and goes on when the key is back: at its next wake, or when the sweep comes to it. One key
serves 2^32 values (NIST SP 800-38D, 8.3, for random nonces).

An encoded value reads `A256GCM.<key id>.<check>.<nonce, ciphertext and tag>`, in base64url. The check follows from the
key, and tells another key under the same id from a value that was changed. What the value is the value of (its event,
or its run and step) is authenticated with it: one that is copied to another place does not decrypt there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING

from .core.errors import InvalidOption, KeyMissing, MiddlewareFailed, Misconfigured, PayloadCorrupt
from .middleware import Middleware

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SCHEME = "A256GCM"  # its name in RFC 7518
KEY_BYTES = 32
NONCE_BYTES = 12
CHECK_CHARS = 8
MAX_KEY_ID_CHARS = 64
_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class Encryption(Middleware):
    """`keys`: 32 bytes each, by an id of up to 64 letters, digits, "-" and "_". `current`: the id of the one that
    encrypts; the others decrypt what they once did. None: nothing is encrypted any more. `reads_plain`: read values
    that were kept before the app had this middleware (always, where nothing is encrypted any more); otherwise a value
    that is not encrypted is taken for one that somebody put there."""

    def __init__(self, keys: Mapping[str, bytes], current: str | None, *, reads_plain: bool = False) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise Misconfigured(
                'Encryption needs the package cryptography: pip install "onward[encryption]"'
            ) from error
        self._keys: dict[str, tuple[str, AESGCM]] = {}
        for key_id, key in keys.items():
            if not isinstance(key_id, str) or not 1 <= len(key_id) <= MAX_KEY_ID_CHARS or not set(key_id) <= _ID_CHARS:
                raise InvalidOption(f'the id of a key is 1 to 64 letters, digits, "-" and "_", not {key_id!r:.80}')
            if not isinstance(key, bytes) or len(key) != KEY_BYTES:
                raise InvalidOption(f"key {key_id!r} must be {KEY_BYTES} random bytes, as os.urandom(32) makes them")
            self._keys[key_id] = (_check(key), AESGCM(key))
        if current is not None and current not in self._keys:
            raise InvalidOption(f"current={current!r:.80} is none of the keys: {self._known()}")
        self._current = current
        self._reads_plain = reads_plain or current is None

    def encode(self, text: str, context: str) -> str:
        """Encrypt a value, with a nonce of its own."""
        if self._current is None:
            return text
        check, cipher = self._keys[self._current]
        head = f"{SCHEME}.{self._current}.{check}"
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + cipher.encrypt(nonce, text.encode(), _associated(head, context))
        return f"{head}.{urlsafe_b64encode(sealed).decode()}"

    def decode(self, text: str, context: str) -> str:
        """Decrypt a value. Raises `KeyMissing`, and `PayloadCorrupt` for one that was changed or moved."""
        if not text.startswith(f"{SCHEME}."):
            return self.decode_plain(text, context)
        head, _, body = text.rpartition(".")
        parts = head.split(".")
        if len(parts) != 3:
            raise PayloadCorrupt(f"the value of {context!r} is no encrypted value any more: it was changed")
        _, key_id, check = parts
        known = self._keys.get(key_id)
        if known is None:
            raise KeyMissing(
                f"the value of {context!r} is encrypted with key {key_id!r:.80}, which is not here (here: "
                f"{self._known()}): add it to the keys= of Encryption, and what needs it goes on"
            )
        if check != known[0]:
            raise KeyMissing(
                f"the value of {context!r} is encrypted with another key {key_id!r} than the one that is here: give "
                f"Encryption the bytes with which it was written"
            )
        return self._decrypted(known[1], key_id, head, body, context)

    def _decrypted(self, cipher: AESGCM, key_id: str, head: str, body: str, context: str) -> str:
        from cryptography.exceptions import InvalidTag

        try:
            sealed = urlsafe_b64decode(body)
            if urlsafe_b64encode(sealed).decode() != body:  # what base64 leaves unread is changed as well
                raise ValueError
            nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
            return cipher.decrypt(nonce, ciphertext, _associated(head, context)).decode()
        except (InvalidTag, ValueError) as error:
            raise PayloadCorrupt(
                f"the value of {context!r} does not decrypt with key {key_id!r}: it was changed, or stands in another "
                f"place than the one for which it was written"
            ) from error

    def decode_plain(self, text: str, context: str) -> str:
        """A value that is not encrypted."""
        if not self._reads_plain:
            raise MiddlewareFailed(
                f"the value of {context!r} is not encrypted. If the app kept it before it had Encryption, say "
                f"Encryption(..., reads_plain=True) until the runs of that time have ended"
            )
        return text

    def _known(self) -> str:
        return ", ".join(map(repr, sorted(self._keys))) or "none"


def _check(key: bytes) -> str:
    return urlsafe_b64encode(hmac.digest(key, b"onward: which key", hashlib.sha256))[:CHECK_CHARS].decode()


def _associated(head: str, context: str) -> bytes:
    return f"{head}\0{context}".encode("utf-8", "surrogatepass")
