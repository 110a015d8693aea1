"""Every decoder of foreign bytes returns, or raises an error of ours: whatever the bytes are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from onward.aws import connection
from onward.aws.connection import Broken, Connection, Dead, Reply
from onward.aws.credentials import _parse_container_reply
from onward.aws.endpoints import parse_url
from onward.aws.envelopes import parse_body, recognise
from onward.aws.failures import is_worth_a_retry, parse_error, translate, wait_s
from onward.core import status
from onward.core.codec import decode, encode
from onward.core.errors import Misconfigured, NotEncodable, OnwardError, RetryAfter, Unavailable, UnknownPayload
from onward.core.log import Fold, attempt_of, head_of, lane_of, log_key
from onward.engine.engine import check_wake
from onward.entry.aws import Door
from onward.local.event_source import unfinished
from onward.local.lineage import fields, function_hash, hops
from onward.local.loopback import RequestError, read_request
from onward.local.queue_service import QueueApi
from onward.local.wakes import process_lives
from onward.ports import Item
from tests.rules.acting import SYNC
from tests.security import HOSTILE_TEXTS, NUMBERS, TEXT, TREES, both_parts, mutated

EVENTS = [json.loads(path.read_text()) for path in sorted((Path(__file__).parents[1] / "events").glob("*.json"))]
PAYLOADS = st.one_of(TREES, st.sampled_from(EVENTS).flatmap(mutated))
WAKES = [
    {"onward": 1, "do": "advance", "run": "r", "seq": 1},
    {"onward": 1, "do": "step", "run": "r", "plan": 1, "index": 0, "attempt": 1},
    {"onward": 1, "do": "fan", "run": "r", "plan": 1, "first": 0, "end": 32},
    {"onward": 1, "do": "collect", "run": "r", "look": [1, 2]},
    {"onward": 1, "do": "recover", "run": "r", "again": 1},
]
RECORDS = [
    {"k": "started", "layout": 1, "workflow": "w", "event": {"name": "e", "id": "i", "at": 1}, "at": 1},
    {"k": "done", "s": "a", "n": 1, "a": 1, "at": 2},
    {"k": "retrying", "s": "b", "n": 1, "a": 1, "at": 2, "until": 5, "e": {"type": "T", "message": "m"}},
    {"k": "broken", "s": "b", "n": 1, "a": 2, "at": 2, "e": {"type": "T", "message": "m", "traceback": ""}},
    {"k": "slept", "s": "z", "n": 1, "a": 1, "at": 3, "until": 9},
    {"k": "planned", "seen": [], "count": 2, "digest": "d", "names": [["p", 1], ["q", 1]], "sleeps": {"1": 7}, "at": 4},
    {"k": "planned", "seen": [[5, 0]], "count": 0, "digest": "", "names": [], "at": 4},
    {"k": "run_completed", "at": 5},
]
DEEP = "[" * 100_000
DIGITS = "9" * 1_000_000


def texts_of_json() -> st.SearchStrategy[str]:
    """JSON, nearly JSON, and what is none."""
    tagged = st.sampled_from(
        ["dict", "tuple", "float", "bytes", "datetime", "date", "decimal", "uuid", "enum", "dataclass"]
    )
    tags = st.fixed_dictionaries({"$": st.one_of(tagged, TREES), "v": TREES}, optional={"t": st.one_of(TEXT, TREES)})
    trees = st.one_of(TREES, tags, st.lists(tags, max_size=2))
    return st.one_of(
        trees.map(json.dumps), TEXT, st.sampled_from([DEEP, DIGITS, '{"$":' * 50_000, '{"$":1}', "[1,", "NaN"])
    )


@both_parts(text=texts_of_json())
def test_a_text_that_stands_for_a_value_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(NotEncodable):
        decode(text)


@both_parts(tree=TREES)
def test_what_a_stranger_sends_comes_back_as_it_was_and_never_as_an_object(tree: Any) -> None:
    try:
        text = encode(tree, "it")
    except NotEncodable:
        return
    back = decode(text)
    assert repr(back) == repr(tree)  # NaN included; no tag was taken for what it names


@both_parts(payload=PAYLOADS)
def test_a_payload_is_known_or_refused(payload: Any) -> None:
    with contextlib.suppress(UnknownPayload):
        recognise(payload)


GOOD = {"messageId": "m", "body": "{}", "eventSource": "aws:sqs"}


@pytest.mark.parametrize(
    "record", [{**GOOD, "messageId": None}, {**GOOD, "body": {}}, {"eventSource": "aws:sqs"}, 5, None], ids=str
)
def test_a_record_of_a_batch_that_lacks_something_is_refused(record: Any) -> None:
    assert len(recognise({"Records": [GOOD, GOOD]}).messages) == 2  # type: ignore[union-attr]
    with pytest.raises(UnknownPayload):
        recognise({"Records": [GOOD, record]})


@both_parts(body=texts_of_json())
def test_the_body_of_a_message_is_json_or_refused(body: str) -> None:
    with contextlib.suppress(UnknownPayload):
        parse_body(body)


class Nowhere:
    """Wakes that go nowhere."""

    reach_ms = 900_000

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, wake: Any, at_ms: int | None = None) -> None:
        self.sent.append(wake)


@pytest.fixture(scope="module")
def door() -> Any:
    made = Door(
        SYNC.app(lambda event, step: step.run("one", lambda: 1), on="pricing/sync.requested"),
        {"ONWARD_STORE": ":memory:", "AWS_REGION": "eu-central-1"},
        note=lambda *_, **__: None,
    )
    made.engine.wakes = Nowhere()
    _kept["door"] = made
    yield made
    made.engine.store.close()  # type: ignore[attr-defined]


_kept: dict[str, Door] = {}


@pytest.mark.usefixtures("door")
@both_parts(payload=st.one_of(PAYLOADS, st.sampled_from(WAKES).flatmap(mutated)))
def test_a_deployed_handler_takes_in_or_refuses_whatever_it_is_handed(payload: Any) -> None:
    with contextlib.suppress(OnwardError):
        _kept["door"].handle(payload, None)


@pytest.mark.usefixtures("door")
@both_parts(
    payload=st.sampled_from(WAKES).flatmap(mutated),
    exit=st.sampled_from(["Sandbox.Timedout", "Unhandled"]),
    extra=TREES,
)
def test_a_record_of_a_failure_is_taken_in_or_refused_whatever_it_is_about(payload: Any, exit: str, extra: Any) -> None:
    record = {
        "requestContext": {"condition": "RetriesExhausted", "requestId": extra},
        "requestPayload": payload,
        "responseContext": {"statusCode": 200},
        "responsePayload": {"errorType": exit, "errorMessage": extra},
    }
    with contextlib.suppress(OnwardError):
        _kept["door"].handle(record, None)


@both_parts(wake=st.one_of(st.dictionaries(TEXT, TREES), st.sampled_from(WAKES).flatmap(mutated)))
def test_a_wake_is_ours_or_refused(wake: Any) -> None:
    if not isinstance(wake, dict):
        return
    try:
        check_wake(wake)
    except UnknownPayload as error:
        assert len(str(error)) < 400


@both_parts(bodies=mutated(RECORDS), value=st.one_of(st.none(), TEXT))
def test_a_log_that_was_edited_is_folded_or_refused(bodies: Any, value: str | None) -> None:
    fold = Fold("r")
    with contextlib.suppress(OnwardError):
        for seq, body in enumerate(bodies if isinstance(bodies, list) else [bodies]):
            fold.apply(Item("run#r", log_key(seq), "token", json.dumps(body), value))
        assert all(type(trouble.until_ms) is int for trouble in fold.trouble.values())
        assert all(type(until_ms) is int for until_ms in fold.slept.values())


@both_parts(body=texts_of_json(), sort=TEXT)
def test_the_items_beside_a_log_are_read_or_refused(body: str, sort: str) -> None:
    item = Item("run#r", sort, "token", body)
    for read in (Fold("r").apply_lane, head_of, attempt_of, lane_of):
        with contextlib.suppress(status.IllegalRecord):
            read(item)


# ------------------------------------------------------------------------------------------------------- the wire
def exchanged(content: bytes, max_reply_bytes: int = 10_000) -> Reply | None:
    """What a connection makes of a peer that sends these bytes and hangs up; None where it refused them."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        try:
            return Connection(ours, 1.0).exchange([b"GET / HTTP/1.1\r\n\r\n"], max_reply_bytes)
        except (Broken, Dead):
            return None


HEAD_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Content-Length: 5",
                b"Content-Length: \xb2",
                b"Content-Length: -1",
                b"Content-Length: 99999999999999999999",
                b"Content-Length: " + b"9" * 5_000,
                b"Transfer-Encoding: chunked",
                b"Transfer-Encoding: gzip",
                b"Connection: close",
                b" folded",
                b":",
                b"x-amz-crc32: 1",
            ]
        ),
        st.binary(max_size=20),
    ),
    max_size=4,
)
STATUS_LINES = st.one_of(
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 100 C", b"HTTP/1.0 204 N", b"HTTP/1.1 \xb2\xb2\xb2 X"]),
    st.binary(max_size=20),
)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"1\r\nab"]
    ),
)


@both_parts(first=STATUS_LINES, lines=HEAD_LINES, body=BODIES)
def test_a_reply_is_read_or_the_connection_is_broken(first: bytes, lines: list[bytes], body: bytes) -> None:
    reply = exchanged(b"\r\n".join([first, *lines]) + b"\r\n\r\n" + body)
    assert reply is None or len(reply.body) <= 10_000


def test_a_reply_is_bounded_in_its_head_its_body_its_chunks_and_its_trailer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_HEAD_BYTES", 1_000)
    monkeypatch.setattr(connection, "RECEIVE_BYTES", 100)  # the bounds are looked at after each piece
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchanged(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 3_000 + b"\r\n\r\n") is None
    assert exchanged(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_001) is None
    assert exchanged(b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n" + b"x" * 10_001) is None
    assert exchanged(chunked + b"1\r\nx\r\n" * 10_001 + b"0\r\n\r\n") is None
    assert exchanged(chunked + b"0\r\n" + b"X: y\r\n" * 1_000 + b"\r\n") is None
    fine = exchanged(chunked + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    assert fine is not None and fine.body == b"x" * 10_000


CONTENTS = st.one_of(st.binary(max_size=60), texts_of_json().map(lambda text: text.encode("utf-8", "surrogatepass")))


@both_parts(
    content=CONTENTS,
    kind=st.one_of(TEXT, st.just("x" * 60_000)),
    retry_after=st.one_of(TEXT, st.sampled_from(["9" * 5_000, "\xb2", "-1", "5"])),
    code=NUMBERS,
)
def test_an_error_of_aws_is_told_in_bounds(content: bytes, kind: str, retry_after: str, code: Any) -> None:
    for headers in ({}, {"x-amzn-errortype": kind}, {"x-amzn-query-error": f"{kind};Sender"}):
        for number in (400, 403, 503):
            error = parse_error(Reply(number, headers, content, True, len(content)))
            told = translate(error, "dynamodb", "PutItem", "runs", 1)
            assert isinstance(told, OnwardError) and len(str(told)) < 1_000
            is_worth_a_retry(error)
    assert 0 <= wait_s("sqs", 1, False, 0.5, retry_after) <= 30


@both_parts(content=CONTENTS)
def test_an_answer_about_credentials_holds_some_or_is_refused(content: bytes) -> None:
    with contextlib.suppress(Unavailable):
        _parse_container_reply(content)


@both_parts(
    url=st.one_of(
        TEXT,
        st.builds("http://{}:{}/{}".format, TEXT, st.one_of(TEXT, st.sampled_from(["9" * 5_000, "80", "\xb2"])), TEXT),
    )
)
def test_a_url_is_an_address_or_refused(url: str) -> None:
    with contextlib.suppress(Misconfigured):
        address, path = parse_url(url, "AWS_ENDPOINT_URL")
        assert 0 <= address.port < 65_536
        assert f"{address.name}{path}".isprintable() and path.isascii()


@pytest.mark.parametrize(
    "url", [f"http://h:{port}/" for port in ("9" * 5_000, "65536", "\xb2", "-1")] + ["http://h\x00/", "http://h/\xfc"]
)
def test_a_url_that_cannot_be_reached_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured):
        parse_url(url, "AWS_ENDPOINT_URL")


@both_parts(when=st.one_of(NUMBERS, TEXT, st.sampled_from([10**400, -(10**400), "9" * 5_000])))
def test_the_time_of_a_retry_is_in_reach_or_refused(when: Any) -> None:
    with contextlib.suppress(OnwardError):
        assert abs(float(RetryAfter(when).when)) <= 366 * 24 * 3600  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- the local services
class Sink:
    def write(self, data: bytes) -> None:
        """Nobody listens."""


async def requested(content: bytes) -> Any:
    reader = asyncio.StreamReader(limit=4_096)
    reader.feed_data(content)
    reader.feed_eof()
    return await read_request(reader, Sink())  # type: ignore[arg-type]


@both_parts(first=st.one_of(st.just(b"POST / HTTP/1.1"), st.binary(max_size=20)), lines=HEAD_LINES, body=BODIES)
def test_a_request_to_a_local_service_is_read_or_refused(first: bytes, lines: list[bytes], body: bytes) -> None:
    with contextlib.suppress(RequestError, asyncio.IncompleteReadError):
        asyncio.run(requested(b"\r\n".join([first, *lines]) + b"\r\n\r\n" + body))


def test_a_page_in_a_browser_reaches_no_local_service() -> None:
    page = b"POST /invocations HTTP/1.1\r\nOrigin: https://evil.example\r\nContent-Length: 2\r\n\r\n{}"
    with pytest.raises(RequestError, match="browser"):
        asyncio.run(requested(page))
    assert asyncio.run(requested(page.replace(b"Origin", b"X-Other"))).body == b"{}"


MESSAGES = {
    "QueueUrl": "http://127.0.0.1/000000000000/q",
    "MessageBody": "{}",
    "DelaySeconds": 1,
    "Entries": [{"Id": "1", "MessageBody": "{}"}],
    "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}},
}


@both_parts(
    asked=st.one_of(mutated(MESSAGES).map(json.dumps), texts_of_json()),
    verb=st.sampled_from(["SendMessage", "SendMessageBatch", "GetQueueUrl", "Other"]),
)
def test_a_request_to_the_local_queue_is_done_or_refused(asked: str, verb: str) -> None:
    from onward.local.loopback import Request

    api = QueueApi({"q": object()}, str, lambda *_: "id")  # type: ignore[dict-item]
    body = asked.encode("utf-8", "surrogatepass")
    assert api.answer(Request("POST", "/", {"x-amz-target": f"AmazonSQS.{verb}"}, body)).status in (200, 400)


@both_parts(text=st.one_of(TEXT, st.builds("Lineage={}:{}:{}".format, TEXT, st.just(function_hash("arn")), TEXT)))
def test_a_trace_header_is_read_whatever_it_holds(text: str) -> None:
    fields(text)
    assert hops(text, "arn") >= 0
    for count in ("9" * 5_000, "\xb2", "-1"):
        assert hops(f"Lineage=1:{function_hash('arn')}:{count}", "arn") >= 0


@both_parts(content=CONTENTS)
def test_an_answer_to_a_batch_that_makes_no_sense_brings_all_of_it_back(content: bytes) -> None:
    assert unfinished(content, {"a", "b"}) <= {"a", "b"}


@both_parts(owner=st.one_of(TEXT, st.builds("{}:{}".format, NUMBERS, TEXT)))
def test_an_owner_of_a_wake_that_is_none_is_no_living_process(owner: str) -> None:
    assert process_lives(owner) in (True, False)


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=ascii)
def test_a_hostile_text_is_no_id_of_a_run(text: str) -> None:
    from onward.core.ids import is_run_id

    assert is_run_id(text) is (text in ("H",))
