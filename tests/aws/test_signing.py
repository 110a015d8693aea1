"""The signer signs as botocore does, byte for byte."""

from __future__ import annotations

import datetime
from typing import Any
from unittest.mock import patch

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.aws import signing

SERVICES = ["dynamodb", "lambda", "sqs", "s3", "events"]
text = st.text(st.characters(codec="utf-8"), max_size=20)
visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
segments = st.one_of(
    st.sampled_from(["", ".", "..", "a b", "~", "2015-03-31", "arn:aws:lambda:eu-central-1:1:function:f:live"]), text
).map(signing.percent_encode)
header_names = st.sampled_from(
    ["Content-Type", "X-Amz-Target", "X-Amz-Invocation-Type", "x-amz-meta-b", "X-Amzn-Trace-Id", "User-Agent", "Expect"]
)


@settings(max_examples=400, deadline=None)
@given(
    method=st.sampled_from(["GET", "PUT", "POST"]),
    path=st.lists(segments, max_size=6).map(lambda parts: "/" + "/".join(parts)),
    headers=st.dictionaries(header_names, visible),
    body=st.binary(max_size=200),
    service=st.sampled_from(SERVICES),
    region=st.sampled_from(["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1"]),
    host=st.sampled_from(["dynamodb.eu-central-1.amazonaws.com", "localhost:8000", "[::1]:4566"]),
    secret=visible,
    token=st.none() | visible.map(str.strip).filter(bool),
    moment=st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2099, 1, 1)),
)
def test_every_signature_is_the_one_that_botocore_makes(
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    service: str,
    region: str,
    host: str,
    secret: str,
    token: str | None,
    moment: datetime.datetime,
) -> None:
    theirs, their_text = _signed_by_botocore(method, path, headers, body, service, region, host, secret, token, moment)
    ours = {**headers, "Host": host}
    signing.sign(
        method,
        path,
        ours,
        body,
        access_key="AKIDEXAMPLE",
        secret_key=secret,
        session_token=token,
        region=region,
        service=service,
        moment=moment.strftime("%Y%m%dT%H%M%SZ"),
    )
    signed = {name: value for name, value in ours.items() if name != "Authorization"}
    digest = their_text.rsplit("\n", 1)[1]
    assert signing.canonical_request(method, path, signed, digest, service)[0] == their_text
    assert ours["Authorization"] == theirs["Authorization"]
    assert {name.lower(): value for name, value in ours.items()} == {
        name.lower(): value for name, value in theirs.items()
    }


def _signed_by_botocore(
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    service: str,
    region: str,
    host: str,
    secret: str,
    token: str | None,
    moment: datetime.datetime,
) -> tuple[dict[str, str], str]:
    kind: Any = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    auth = kind(Credentials("AKIDEXAMPLE", secret, token), service, region)
    request = AWSRequest(method, f"http://{host}{path}", {**headers, "Host": host}, body)
    texts: list[str] = []
    string_to_sign = auth.string_to_sign

    def listen(request: Any, canonical: str) -> Any:
        texts.append(canonical)
        return string_to_sign(request, canonical)

    auth.string_to_sign = listen
    with patch.object(botocore.auth, "get_current_datetime", lambda: moment):
        auth.add_auth(request)
    return dict(request.headers.items()), texts[0]


def test_the_kept_keys_are_bounded() -> None:
    for number in range(5 * signing.MAX_KEPT_KEYS):
        signing.signing_key("secret", f"day {number}", "region", "service")
    assert len(signing._kept_keys) <= signing.MAX_KEPT_KEYS


@given(text, st.binary(max_size=6))
def test_percent_encoding_is_that_of_urllib(content: str, safe: bytes) -> None:
    from urllib.parse import quote

    safe = bytes(byte for byte in safe if 0x20 < byte < 0x7F)
    assert signing.percent_encode(content, safe) == quote(content, safe=safe.decode() + "-._~")
