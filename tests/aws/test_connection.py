"""A reply is read whole or not at all, and a connection that died unseen is replaced once."""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from onward.aws import connection
from onward.aws.connection import Address, Broken, Pool
from onward.aws.wire import Wire
from onward.core.errors import Unavailable
from tests.aws.scripted import Cut, Hang, ScriptedServer, reply, scripted

MakeWire = Callable[..., Wire]


def ask(wire: Wire, **request: Any) -> dict[str, Any]:
    return wire.json("dynamodb", "GetItem", request, "runs")


def exchange(server: ScriptedServer, pool: Pool | None = None) -> connection.Reply:
    pool = pool or Pool(read_timeout_s=0.3)
    try:
        return pool.exchange(Address(False, "127.0.0.1", server.port), [b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"])
    finally:
        pool.close()


def test_one_connection_serves_many_calls(wire_to: MakeWire) -> None:
    with scripted(reply(200, {"a": 1})) as server:
        wire = wire_to(server.url)
        assert [ask(wire) for _ in range(5)] == [{"a": 1}] * 5
        assert server.connections == wire.pool.opened == 1


def test_a_connection_opened_ahead_is_the_one_that_is_used(wire_to: MakeWire) -> None:
    with scripted(reply()) as server:
        wire = wire_to(server.url)
        wire.connect()
        wire.connect()
        ask(wire)
        assert server.connections == 1


def test_a_connection_that_died_in_the_freeze_is_replaced_and_it_counts_as_no_retry(wire_to: MakeWire) -> None:
    with scripted(reply()) as server:
        wire = wire_to(server.url, attempts=1)
        ask(wire)
        server.hang_up()
        time.sleep(0.05)
        ask(wire)
        assert server.connections == 2


def test_a_peer_that_hangs_up_on_the_request_is_asked_again_over_a_new_connection(wire_to: MakeWire) -> None:
    with scripted(reply(), Cut(b""), reply(200, {"a": 2})) as server:
        wire = wire_to(server.url, attempts=1)
        ask(wire)
        assert ask(wire) == {"a": 2}
        assert [request.connection for request in server.requests] == [1, 1, 2]


def test_a_reset_instead_of_a_reply_is_a_dead_connection_too(wire_to: MakeWire) -> None:
    def reset(_: Any) -> bytes:
        raise OSError

    with scripted(reply(), reset, reply(200, {"a": 3})) as server:
        wire = wire_to(server.url, attempts=1)
        ask(wire)
        assert ask(wire) == {"a": 3}


def test_a_new_connection_that_dies_is_a_failed_attempt(wire_to: MakeWire) -> None:
    with scripted(Cut(b""), reply(200, {"a": 1})) as server:
        with pytest.raises(Unavailable, match="closed before the reply"):
            ask(wire_to(server.url, attempts=1))
        assert ask(wire_to(server.url, attempts=2)) == {"a": 1}


def test_all_idle_connections_are_dropped_when_one_is_dead(wire_to: MakeWire) -> None:
    with scripted(reply()) as server:
        wire = wire_to(server.url, attempts=1)
        address = Address(False, "127.0.0.1", server.port)
        kept = [wire.pool._open(address) for _ in range(3)]
        for one in kept:
            wire.pool._keep(address, one)
        while server.connections < 3:
            time.sleep(0.01)
        server.hang_up()
        time.sleep(0.05)
        ask(wire)
        assert wire.pool.opened == 4


def test_a_reply_in_chunks_is_joined() -> None:
    chunks = b"5;name=value\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n"
    with scripted(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) as server:
        answer = exchange(server)
        assert answer.body == b"hello, world"
        assert answer.reusable


def test_interim_replies_are_passed_over() -> None:
    with scripted(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + reply(200, b"done")
    ) as server:
        assert exchange(server).body == b"done"


def test_interim_replies_are_bounded() -> None:
    with scripted(b"HTTP/1.1 100 Continue\r\n\r\n" * 20) as server:
        with pytest.raises(Broken, match="interim"):
            exchange(server)


def test_a_reply_without_a_length_ends_with_its_connection() -> None:
    with scripted(Cut(b"HTTP/1.1 200 OK\r\n\r\nall of it")) as server:
        answer = exchange(server)
        assert answer.body == b"all of it"
        assert not answer.reusable


def test_a_reply_that_has_no_body_needs_no_length() -> None:
    with scripted(b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        answer = exchange(server)
        assert (answer.status, answer.body, answer.reusable) == (204, b"", True)


def test_a_peer_that_says_close_is_not_asked_again_over_that_connection(wire_to: MakeWire) -> None:
    with scripted(reply(200, {}, Connection="close"), reply(200, {"a": 1})) as server:
        wire = wire_to(server.url)
        ask(wire)
        assert ask(wire) == {"a": 1}
        assert server.connections == 2


def test_the_old_version_of_http_closes_unless_it_says_otherwise() -> None:
    with scripted(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok") as server:
        assert not exchange(server).reusable
    with scripted(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok") as server:
        assert exchange(server).reusable


def test_bytes_after_a_reply_are_never_read_as_the_next_one(wire_to: MakeWire) -> None:
    with scripted(reply(200, {"a": 1}) + reply(200, {"a": "forged"}), reply(200, {"a": 2})) as server:
        wire = wire_to(server.url)
        assert ask(wire) == {"a": 1}
        assert ask(wire) == {"a": 2}


def test_a_word_said_to_nobody_is_not_taken_for_the_reply_to_the_next_request(wire_to: MakeWire) -> None:
    """As a load balancer's «408 Request Timeout» before it hangs up on an idle connection."""
    with scripted(reply(200, {"a": 1}), reply(200, {"a": 2})) as server:
        wire = wire_to(server.url, attempts=1)
        ask(wire)
        server._open[0].sendall(reply(408, b"<html>Request Timeout</html>", Connection="close"))
        time.sleep(0.05)
        assert ask(wire) == {"a": 2}
        assert server.connections == 2


def test_a_reply_that_comes_byte_by_byte_is_one_reply() -> None:
    content = reply(200, b"slowly")

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(1000)
                for byte in content:
                    client.sendall(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        pool = Pool()
        address = Address(False, "127.0.0.1", listening.getsockname()[1])
        assert pool.exchange(address, [b"GET / HTTP/1.1\r\n\r\n"]).body == b"slowly"
        thread.join(5)
        pool.close()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", "ill-framed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", "ill-formed length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "ill-formed length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "unknown transfer encoding"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", "ill-formed length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "two lengths"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "ill-formed"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1.1"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 OK\r\n\r\n", "not HTTP/1.1"),
        (b"x" * 70_000, "too long"),
    ],
)
def test_a_reply_that_is_ill_framed_is_no_reply(content: bytes, told: str) -> None:
    with scripted(Cut(content)) as server:
        with pytest.raises(Broken, match=told):
            exchange(server)


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n" + b"x" * 50 + b"\r\n33\r\n" + b"x" * 51,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101,
    ],
)
def test_a_reply_over_the_bound_is_refused(content: bytes) -> None:
    with scripted(Cut(content)) as server:
        with pytest.raises(Broken, match="larger than we take"):
            exchange(server, Pool(max_reply_bytes=100))


def test_a_peer_that_falls_silent_is_given_up_after_the_read_timeout(wire_to: MakeWire) -> None:
    for hang in (Hang(), Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")):
        with scripted(hang, reply(200, {"a": 1})) as server:
            begun = time.monotonic()
            assert ask(wire_to(server.url, read_timeout_s=0.2, attempts=2)) == {"a": 1}
            assert 0.2 <= time.monotonic() - begun < 30


def test_a_reply_that_never_ends_is_given_up_though_it_never_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "EXCHANGE_TIMEOUT_S", 0.3)

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(1000)
                try:
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                    for _ in range(100):
                        client.sendall(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(Broken, match=r"within 0\.3 s|timed out"):
            Pool().exchange(Address(False, "127.0.0.1", listening.getsockname()[1]), [b"GET / HTTP/1.1\r\n\r\n"])
        thread.join(5)


def test_nobody_listening_is_told_with_the_address(wire_to: MakeWire) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"DynamoDB GetItem: cannot connect to {url}.*tried 4 times"):
            ask(wire_to(url))
        with pytest.raises(Unavailable, match="DynamoDB connect: cannot connect"):
            wire_to(url).connect()


def test_a_reply_that_does_not_fit_its_checksum_is_asked_for_again(wire_to: MakeWire) -> None:
    body = b'{"a": 1}'
    right = reply(200, body, x_amz_crc32=str(zlib.crc32(body)))
    wrong = reply(200, b'{"a": 2}', x_amz_crc32=str(zlib.crc32(body)))
    with scripted(wrong, right) as server:
        assert ask(wire_to(server.url)) == {"a": 1}
    with scripted(wrong) as server:
        with pytest.raises(Unavailable, match="checksum"):
            ask(wire_to(server.url))
        assert len(server.requests) == 4


def test_a_reply_that_is_no_json_is_asked_for_again(wire_to: MakeWire) -> None:
    with scripted(reply(200, b"<html>captive portal</html>"), reply(200, {"a": 1})) as server:
        assert ask(wire_to(server.url)) == {"a": 1}


def test_threads_share_a_wire_and_never_a_connection(wire_to: MakeWire) -> None:
    def echo(request: Any) -> bytes:
        time.sleep(0.002)
        return reply(200, request.body)

    with scripted(echo) as server:
        wire = wire_to(server.url)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda number: ask(wire, number=number), range(200)))
        assert answers == [{"number": number} for number in range(200)]
        assert server.connections <= 8


def test_idle_connections_are_bounded(wire_to: MakeWire) -> None:
    barrier = threading.Barrier(12)

    def together(_: Any) -> bytes:
        barrier.wait(10)
        return reply()

    with scripted(together) as server:
        wire = wire_to(server.url, read_timeout_s=15)
        with ThreadPoolExecutor(12) as threads:
            list(threads.map(lambda _: ask(wire), range(12)))
        assert [len(kept) for kept in wire.pool._idle.values()] == [connection.MAX_IDLE]


def test_a_large_body_is_sent_whole(wire_to: MakeWire) -> None:
    with scripted(reply()) as server:
        text = "ü" * 2_000_000
        ask(wire_to(server.url), text=text)
        assert server.requests[0].json == {"text": text}


def test_a_refusal_that_comes_before_the_body_was_sent_is_heard() -> None:
    """S3 refuses an upload as soon as it has read the head."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            client, _ = listening.accept()
            client.recv(100)
            client.sendall(reply(403, b"no", Connection="close"))
            client.shutdown(socket.SHUT_WR)
            time.sleep(0.2)
            client.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        pool = Pool()
        address = Address(False, "127.0.0.1", listening.getsockname()[1])
        answer = pool.exchange(address, [b"PUT / HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n", b"x" * 50_000_000])
        assert (answer.status, answer.body, answer.reusable) == (403, b"no", False)
        thread.join(5)


def test_the_meter_counts_every_reply_and_its_bytes(wire_to: MakeWire) -> None:
    seen: list[tuple[Any, ...]] = []
    busy, fine = reply(500, b"{}"), reply(200, {"ConsumedCapacity": {"CapacityUnits": 1}})
    with scripted(busy, fine) as server:
        wire = wire_to(server.url)
        wire.meter = lambda *told: seen.append(told)
        ask(wire)
    assert [entry[:2] for entry in seen] == [("dynamodb", "GetItem")] * 2
    assert [entry[3] for entry in seen] == [len(busy), len(fine)]
    assert all(entry[2] > 300 for entry in seen)
    assert [entry[4] for entry in seen] == [None, {"ConsumedCapacity": {"CapacityUnits": 1}}]
