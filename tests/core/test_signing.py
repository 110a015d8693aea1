"""A request is believed when a key of the door has signed it as it arrived, lately, and never else."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from onward.core import signing
from onward.core.errors import Misconfigured

NOW_S = 1_790_000_000
OLD, NEW = "o" * 32, "n" * 40
KEYS = {"new": NEW, "old": OLD}
BODY = b'[{"name":"price/changed"}]'


def signed(keys: dict[str, str] = KEYS, time_s: int = NOW_S) -> dict[str, str]:
    headers = signing.signed_headers(keys, "POST", "/e?x=1", time_s, BODY)
    return {name.lower(): value for name, value in headers.items()}


def trouble(
    headers: dict[str, str], keys: dict[str, str] = KEYS, now_s: float = NOW_S, **changed: object
) -> str | None:
    request = {"method": "POST", "target": "/e?x=1", "body": BODY, **changed}
    return signing.trouble_with(keys, headers, now_s=now_s, **request)  # type: ignore[arg-type]


def test_a_signature_is_an_hmac_over_all_that_the_door_acts_on() -> None:
    text = f"onward-1\nPOST\n/e?x=1\n{NOW_S}\n{hashlib.sha256(BODY).hexdigest()}"
    wanted = hmac.new(NEW.encode(), text.encode(), hashlib.sha256).hexdigest()
    assert signed() == {"onward-key": "new", "onward-time": str(NOW_S), "onward-signature": wanted}
    assert trouble(signed()) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"},
        {"target": "/e?x=2"},
        {"target": "/e"},
        {"target": "/E?x=1"},
        {"body": BODY + b" "},
        {"body": b""},
    ],
)
def test_a_request_that_was_changed_on_the_way_is_not_believed(changed: dict[str, object]) -> None:
    assert trouble(signed(), **changed) == "no key of this door has signed this request as it arrived"


@pytest.mark.parametrize("digit", [0, 31, 63])
def test_a_signature_with_one_other_digit_is_not_believed(digit: int) -> None:
    headers = signed()
    right = headers["onward-signature"]
    headers["onward-signature"] = right[:digit] + ("0" if right[digit] != "0" else "1") + right[digit + 1 :]
    assert trouble(headers)
    assert trouble(headers | {"onward-signature": right[:-1]})
    assert trouble(headers | {"onward-signature": "é" * 64})


def test_a_changed_time_is_not_believed() -> None:
    assert trouble(signed() | {"onward-time": str(NOW_S + 1)})
    assert trouble(signed() | {"onward-time": f"0{NOW_S}"})


@pytest.mark.parametrize("time_text", ["", "soon", "-1", "1e9", "9" * 5000, "١٢٣"])
def test_a_time_that_is_none_is_refused(time_text: str) -> None:
    assert trouble(signed() | {"onward-time": time_text})


@pytest.mark.parametrize("apart_s", [-300, 0, 300])
def test_a_request_is_believed_within_the_window(apart_s: int) -> None:
    assert trouble(signed(), now_s=NOW_S + apart_s) is None


@pytest.mark.parametrize("apart_s", [-301, 301, 86_400])
def test_a_replay_after_the_window_is_not_believed(apart_s: int) -> None:
    assert "check the sender's clock" in (trouble(signed(), now_s=NOW_S + apart_s) or "")


def test_a_wrong_or_unknown_key_is_not_believed_and_the_two_are_told_alike() -> None:
    wrong = trouble(signed({"new": "w" * 32}))
    unknown = trouble(signed({"other": NEW}))
    assert wrong == unknown == "no key of this door has signed this request as it arrived"


def test_a_request_that_is_not_signed_is_told_how_it_would_be() -> None:
    for name in ("onward-key", "onward-time", "onward-signature"):
        headers = signed()
        del headers[name]
        assert "Onward-Signature are needed" in (trouble(headers) or "")


def test_a_key_is_changed_without_a_moment_in_which_nobody_is_believed() -> None:
    """The door learns the new key, the senders change to it, the door forgets the old one."""
    before, after = signed({"old": OLD}), signed({"new": NEW})
    assert trouble(before, {"old": OLD}) is None
    assert trouble(before, KEYS) is None
    assert trouble(after, KEYS) is None
    assert trouble(after, {"new": NEW}) is None
    assert trouble(before, {"new": NEW}) is not None


def test_keys_are_read_in_order() -> None:
    assert list(signing.parse_keys(f" new:{NEW}, old:{OLD},")) == ["new", "old"]
    assert signing.parse_keys("") == {}
    assert signing.parse_keys(f"a:{NEW}:with colons")["a"] == f"{NEW}:with colons"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OLD, "signing key 1 is not written as id:secret"),
        (f"a:{OLD},b", "signing key 2 is not written"),
        ("a:short-secret", "openssl rand -hex 32"),
        (f"a:{OLD},a:{NEW}", "two signing keys with the id 'a'"),
        (f"{'i' * 65}:{OLD}", "the id of signing key 1"),
        (",".join(f"k{n}:{OLD}" for n in range(11)), "checks 10 at most"),
    ],
)
def test_keys_that_cannot_be_are_refused_without_telling_them(text: str, told: str) -> None:
    with pytest.raises(Misconfigured, match=told) as raised:
        signing.parse_keys(text)
    assert OLD not in str(raised.value)
    assert "short-secret" not in str(raised.value)
