"""Servers of a few lines that misbehave on purpose, on loopback.

`ScriptedServer` answers the n-th request with the n-th line of its script, byte for byte, and keeps what it was
asked. `Proxy` stands between a client and a real server and loses what it is told to lose.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def reply(status: int = 200, body: bytes | str | dict[str, Any] = b"{}", **headers: str) -> bytes:
    """A well-framed reply. A header's underscores stand for hyphens."""
    if isinstance(body, dict):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def refusal(code: str, message: str = "", status: int = 400, **more: Any) -> bytes:
    """An error in DynamoDB's dialect."""
    return reply(status, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message, **more})


class Cut(NamedTuple):
    """Send these bytes, then close."""

    content: bytes


class Hang(NamedTuple):
    """Send these bytes, then nothing until the client gives up."""

    content: bytes = b""


class Listener:
    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.port: int = self._listening.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.connections = 0
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                number = self.connections
                self._open.append(client)
            self._start(self._attend, client, number)

    def _attend(self, client: socket.socket, number: int) -> None:
        with suppress(OSError, ValueError), client, client.makefile("rb") as stream:
            while not self._ended.is_set() and (request := _read_request(stream, number)) is not None:
                if not self.answer(client, request):
                    with suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)
                    return

    def answer(self, client: socket.socket, request: Request) -> bool:
        """Whether the connection stays open."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Close every connection, as a peer does while a sandbox is frozen."""
        with self._lock:
            clients, self._open = self._open, []
        for client in clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(5)


class ScriptedServer(Listener):
    def __init__(self, script: tuple[Any, ...]) -> None:
        self.script = list(script)
        self.requests: list[Request] = []
        super().__init__()

    def answer(self, client: socket.socket, request: Request) -> bool:
        with self._lock:
            line = self.script[len(self.requests)] if len(self.requests) < len(self.script) else self.script[-1]
            self.requests.append(request)
        if callable(line):
            line = line(request)
        if isinstance(line, Hang):
            client.sendall(line.content)
            self._ended.wait(10)
            return False
        client.sendall(line.content if isinstance(line, Cut) else line)
        return not isinstance(line, Cut)


class Proxy(Listener):
    """`plan`: given the number of a request (from 0) and the request, one of

    "pass"            hand it on, and the reply back
    "lose reply"      hand it on, and hang up instead of replying
    "lose request"    hang up at once
    bytes             answer with these
    """

    def __init__(self, upstream: str, plan: Callable[[int, Request], str | bytes]) -> None:
        self._upstream = urlsplit(upstream)
        self._plan = plan
        self.requests: list[Request] = []
        super().__init__()

    def answer(self, client: socket.socket, request: Request) -> bool:
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        action = self._plan(number, request)
        if isinstance(action, bytes):
            client.sendall(action)
            return True
        if action == "lose request":
            return False
        upstream = http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=30)
        try:
            upstream.request(request.method, request.path, request.body, request.headers)
            answer = upstream.getresponse()
            body = answer.read()
        finally:
            upstream.close()
        if action == "lose reply":
            return False
        client.sendall(f"HTTP/1.1 {answer.status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return True


@contextmanager
def scripted(*script: Any) -> Iterator[ScriptedServer]:
    server = ScriptedServer(script)
    try:
        yield server
    finally:
        server.end()


@contextmanager
def proxied(upstream: str, plan: Callable[[int, Request], str | bytes]) -> Iterator[Proxy]:
    proxy = Proxy(upstream, plan)
    try:
        yield proxy
    finally:
        proxy.end()


def _read_request(stream: Any, connection: int) -> Request | None:
    line = stream.readline().decode("latin-1").strip()
    if not line:
        return None
    method, path, _ = line.split(" ")
    headers: dict[str, str] = {}
    while header := stream.readline().decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, path, headers, stream.read(int(headers.get("content-length", "0"))), connection)
