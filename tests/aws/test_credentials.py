"""Credentials come from the first door that opens, and are looked for again before they are too old."""

from __future__ import annotations

import builtins
import calendar
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.aws import credentials
from onward.aws.connection import Pool
from onward.aws.credentials import CredentialSource
from onward.aws.wire import Wire
from onward.core.errors import NoCredentials, Unavailable
from tests.aws.scripted import reply, scripted

NOW = 1_800_000_000.0


def moment(epoch_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_s))


def answer(key: str, expires_s: float = NOW + 3600) -> bytes:
    return reply(
        200, {"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": moment(expires_s), "Code": "x"}
    )


class Hands:
    """A source whose clock and environment are in the test's hands."""

    pools: ClassVar[list[Pool]] = []

    def __init__(self, **environ: str) -> None:
        self.now = NOW
        self.slept: list[float] = []
        self.environ = environ
        self.pool = Pool()
        self.source = CredentialSource(self.pool, self.environ, lambda: self.now, self.slept.append)
        Hands.pools.append(self.pool)

    def key(self) -> str:
        return self.source.current().access_key


@pytest.fixture(autouse=True)
def _close_pools() -> Iterator[None]:
    yield
    while Hands.pools:
        Hands.pools.pop().close()


def test_the_environment_is_read_at_every_request() -> None:
    hands = Hands(AWS_ACCESS_KEY_ID=" first ", AWS_SECRET_ACCESS_KEY="s\n")
    found = hands.source.current()
    assert (found.access_key, found.secret_key, found.session_token) == ("first", "s", None)
    hands.environ.update(AWS_ACCESS_KEY_ID="second", AWS_SESSION_TOKEN="token")
    found = hands.source.current()
    assert (found.access_key, found.session_token) == ("second", "token")


def test_keys_in_the_environment_win_over_a_profile_as_in_botocore() -> None:
    assert Hands(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_PROFILE="p").key() == "k"


def test_the_container_is_asked_with_its_token_and_once() -> None:
    with scripted(answer("container")) as server:
        hands = Hands(
            AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{server.url}/v1/credentials",
            AWS_CONTAINER_AUTHORIZATION_TOKEN="secret",
        )
        assert [hands.key() for _ in range(5)] == ["container"] * 5
        assert len(server.requests) == 1
        assert server.requests[0].path == "/v1/credentials"
        assert server.requests[0].headers["authorization"] == "secret"


def test_the_token_may_stand_in_a_file_that_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    with scripted(answer("a", NOW + 100), answer("b")) as server:
        hands = Hands(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=str(file))
        hands.key()
        file.write_text("two")
        hands.key()
        assert [request.headers["authorization"] for request in server.requests] == ["one", "two"]
    file.write_text("no\r\nInjected: header")
    with pytest.raises(NoCredentials, match="line break"):
        Hands(**hands.environ).key()
    file.unlink()
    with pytest.raises(NoCredentials, match="cannot be read"):
        Hands(**hands.environ).key()


def test_credentials_of_the_container_are_renewed_before_they_expire() -> None:
    with scripted(answer("first"), answer("second", NOW + 7200)) as server:
        hands = Hands(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url)
        assert hands.key() == "first"
        hands.now = NOW + 3600 - credentials.REFRESH_BEFORE_S - 1
        assert hands.key() == "first"
        hands.now += 2
        assert hands.key() == "second"
        assert len(server.requests) == 2


def test_while_the_container_is_silent_the_old_ones_serve_until_they_expire() -> None:
    with scripted(answer("first"), *[reply(500)] * 3, answer("second", NOW + 7200)) as server:
        hands = Hands(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url)
        hands.key()
        hands.now = NOW + 3100
        assert [hands.key() for _ in range(5)] == ["first"] * 5
        asked = len(server.requests)
        hands.now += credentials.REFRESH_AGAIN_S
        assert hands.key() == "second"
        assert len(server.requests) == asked + 1
    with scripted(answer("first"), reply(500)) as server:
        hands = Hands(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url)
        hands.key()
        hands.now = NOW + 3601
        with pytest.raises(Unavailable, match="does not answer: HTTP status 500"):
            hands.key()
        assert len(server.requests) == 1 + credentials.CONTAINER_ATTEMPTS


def test_what_aws_calls_expired_is_fetched_anew(wire_to: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    expired = reply(400, {"__type": "ExpiredTokenException"})
    far = time.time() + 36_000
    with scripted(answer("old", far), answer("new", far)) as container, scripted(expired, reply()) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url)
        wire_to(server.url).json("dynamodb", "GetItem", {}, "runs")
        first, second = (request.headers["authorization"] for request in server.requests)
    assert "Credential=old/" in first
    assert "Credential=new/" in second


def test_the_token_never_goes_to_a_stranger() -> None:
    for url in ("http://evil.example/", "http://169.254.170.3/", "http://127.0.0.1.evil.example/"):
        with pytest.raises(NoCredentials, match="lest the token leaks"):
            Hands(AWS_CONTAINER_CREDENTIALS_FULL_URI=url, AWS_CONTAINER_AUTHORIZATION_TOKEN="secret").key()


def test_a_container_that_refuses_is_told() -> None:
    with scripted(reply(403)) as server:
        with pytest.raises(NoCredentials, match="refused: HTTP status 403"):
            Hands(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url).key()
    with scripted(reply(200, {"AccessKeyId": "no secret"})) as server:
        with pytest.raises(Unavailable, match="without credentials"):
            Hands(AWS_CONTAINER_CREDENTIALS_FULL_URI=server.url).key()


def test_a_profile_comes_through_botocore_and_wins_over_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[mine]\naws_access_key_id = from-profile\naws_secret_access_key = s\naws_session_token = t\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    found = Hands(AWS_PROFILE="mine", AWS_CONTAINER_CREDENTIALS_FULL_URI="http://localhost:1").source.current()
    assert (found.access_key, found.secret_key, found.session_token) == ("from-profile", "s", "t")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(NoCredentials, match="nobody"):
        Hands(AWS_PROFILE="nobody").key()


def test_no_credentials_at_all_is_told_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(NoCredentials, match=r"Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"):
        Hands().key()


def test_without_botocore_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("botocore"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(NoCredentials, match="pip install"):
        Hands().key()


@given(st.integers(0, 4_000_000_000))
def test_a_moment_is_read_as_the_calendar_has_it(epoch_s: int) -> None:
    text = moment(epoch_s)
    assert credentials._parse_moment(text) == calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) == epoch_s
    assert credentials._parse_moment(text[:-1] + ".250Z") == epoch_s + 0.25


@pytest.mark.parametrize("text", ["", "2026-11-23", "2026-11-23T01:45:38", "2026-11-23 01:45:38Z", "x" * 20])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        credentials._parse_moment(text)
