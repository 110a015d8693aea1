"""Who signs: the first of the doors below that opens.

Theory. Credentials are three strings that somebody else renews. Whoever keeps them keeps them too long, so each
door has its own rule for looking again:

    environment   AWS_ACCESS_KEY_ID ...                     read at every request; a change counts at once
    container     AWS_CONTAINER_CREDENTIALS_FULL_URI (the   fetched again `REFRESH_BEFORE_S` before they expire; while
                  door of SnapStart) or _RELATIVE_URI       that fails and the old ones are valid, the old ones serve
    botocore      a profile, SSO, an instance role ...      botocore renews its own

As in botocore, keys in the environment win over AWS_PROFILE, and AWS_PROFILE wins over the container. botocore
is imported when its door is tried and not before: it costs a cold start four times our own.
"""

from __future__ import annotations

import json
import os
import time
from _thread import allocate_lock

from onward.aws.connection import Broken
from onward.aws.endpoints import parse_url
from onward.core.errors import NoCredentials, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from onward.aws.connection import Pool

REFRESH_BEFORE_S = 600.0
REFRESH_AGAIN_S = 30.0  # after a refresh that failed while the old credentials are still valid
CONTAINER_ATTEMPTS = 3
CONTAINER_PAUSE_S = 0.2
CONTAINER_HOST = "169.254.170.2"
CONTAINER_HOSTS = frozenset({CONTAINER_HOST, "169.254.170.23", "fd00:ec2::23", "localhost"})

_ADVICE = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; on Lambda, give the function a role."


class Credentials:
    """`expires_at`: epoch seconds, or None where whoever renews them does not say."""

    __slots__ = ("access_key", "expires_at", "secret_key", "session_token")

    def __init__(
        self, access_key: str, secret_key: str, session_token: str | None = None, expires_at: float | None = None
    ) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.session_token = session_token
        self.expires_at = expires_at


class CredentialSource:
    """Finds the credentials for each request. Safe for several threads."""

    def __init__(
        self,
        pool: Pool,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pool = pool
        self._environ = environ
        self._now = now
        self._sleep = sleep
        self._lock = allocate_lock()
        self._kept: Credentials | None = None
        self._look_again_at = 0.0
        self._botocore: Any = None

    def current(self) -> Credentials:
        """The credentials to sign with now. Raises `NoCredentials`, or `Unavailable` if a door is stuck."""
        environ = self._environ
        access_key = environ.get("AWS_ACCESS_KEY_ID", "").strip()
        secret_key = environ.get("AWS_SECRET_ACCESS_KEY", "").strip()
        if access_key and secret_key:
            return Credentials(access_key, secret_key, environ.get("AWS_SESSION_TOKEN", "").strip() or None)
        if not environ.get("AWS_PROFILE"):
            relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            url = (
                f"http://{CONTAINER_HOST}{relative}" if relative else environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
            )
            if url:
                return self._from_container(url)
        return self._from_botocore()

    def forget(self) -> None:
        """AWS says that these credentials have expired: look again, whatever their date."""
        with self._lock:
            self._kept = None
            self._botocore = None

    # ---------------------------------------------------------------------------------- the container's door
    def _from_container(self, url: str) -> Credentials:
        with self._lock:
            kept = self._kept
            now = self._now()
            valid = kept is not None and (kept.expires_at is None or now < kept.expires_at)
            fresh = (
                valid
                and kept is not None
                and (kept.expires_at is None or now < max(kept.expires_at - REFRESH_BEFORE_S, self._look_again_at))
            )
            if kept is not None and fresh:
                return kept
            try:
                self._kept = self._fetch(url)
            except Unavailable:
                if kept is None or not valid:
                    raise
                self._look_again_at = now + REFRESH_AGAIN_S
            return self._kept or kept  # type: ignore[return-value]

    def _fetch(self, url: str) -> Credentials:
        address, path = parse_url(url, "AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if not address.secure and address.host not in CONTAINER_HOSTS and not _is_loopback(address.host):
            raise NoCredentials(
                f"AWS_CONTAINER_CREDENTIALS_FULL_URI names {address.host!r}: without https it must be this machine "
                f"or one of AWS's own addresses, lest the token leaks."
            )
        token = self._container_token()
        authorization = f"Authorization: {token}\r\n" if token else ""
        head = f"GET {path or '/'} HTTP/1.1\r\nHost: {address.name}\r\nAccept: application/json\r\n{authorization}\r\n"
        trouble = ""
        for attempt in range(CONTAINER_ATTEMPTS):
            if attempt:
                self._sleep(CONTAINER_PAUSE_S)
            try:
                reply = self._pool.exchange(address, [head.encode("latin-1")])
            except Broken as error:
                trouble = str(error)
                continue
            if reply.status == 200:
                return _parse_container_reply(reply.body)
            trouble = f"HTTP status {reply.status}"
            if reply.status < 500:
                raise NoCredentials(f"The container's credential endpoint refused: {trouble}. Check the role.")
        raise Unavailable(f"The container's credential endpoint does not answer: {trouble}. Try again later.")

    def _container_token(self) -> str | None:
        file = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        if file:
            try:
                with open(file, encoding="utf-8") as opened:  # noqa: PTH123  (pathlib is 5 ms)
                    token: str | None = opened.read()
            except OSError as error:
                raise NoCredentials(f"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE cannot be read: {error}.") from error
        else:
            token = self._environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        if token and ("\r" in token or "\n" in token or not token.isascii()):
            raise NoCredentials("The container's authorization token has a line break or is not ASCII. Check its file.")
        return token

    # ------------------------------------------------------------------------------------- botocore's door
    def _from_botocore(self) -> Credentials:
        with self._lock:
            if self._botocore is None:
                self._botocore = _open_botocore()
            found = self._botocore
        try:
            frozen = found.get_frozen_credentials()
        except Exception as error:  # an expired SSO session, a role that may not be assumed: botocore says which
            raise NoCredentials(f"botocore could not renew the credentials: {error}") from error
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _open_botocore() -> Any:
    try:
        from botocore.session import Session
    except ImportError as error:
        raise NoCredentials(
            f"No AWS credentials in the environment. {_ADVICE} (Profiles need botocore: pip install 'onward[dev]'.)"
        ) from error
    try:
        found = Session().get_credentials()
    except Exception as error:  # a profile that does not exist, a broken file
        raise NoCredentials(f"botocore could not load credentials: {error}") from error
    if found is None:
        raise NoCredentials(f"No AWS credentials were found. {_ADVICE}")
    return found


def _is_loopback(host: str) -> bool:
    parts = host.split(".")
    return host == "::1" or (parts[0] == "127" and len(parts) == 4 and all(part.isdigit() for part in parts))


def _parse_container_reply(body: bytes) -> Credentials:
    try:
        fields = json.loads(body)
        access_key, secret_key, token = (fields[name] for name in ("AccessKeyId", "SecretAccessKey", "Token"))
        if not all(type(text) is str for text in (access_key, secret_key, token)):
            raise TypeError("a credential is no string")
        return Credentials(access_key, secret_key, token, _parse_moment(fields["Expiration"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unavailable("The container's credential endpoint gave an answer without credentials.") from error


def _parse_moment(text: str) -> float:
    """`2026-11-23T01:45:38Z` (a fraction may follow the seconds) as epoch seconds. Hand-made, because
    `strptime` and `calendar` would import half of `datetime`. Days by Howard Hinnant's `days_from_civil`."""
    if len(text) < 20 or not text.endswith("Z") or text[10] != "T":
        raise ValueError(f"not a moment in UTC: {text!r}")
    year, month, day = int(text[0:4]), int(text[5:7]), int(text[8:10])
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468
    return days * 86_400 + int(text[11:13]) * 3_600 + int(text[14:16]) * 60 + float(text[17:-1])
