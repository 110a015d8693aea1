"""A listener in front of DynamoDB that writes down who knocks, and a service that runs the bare handler behind it."""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.clock import SystemClock
from onward.core.codec import encode
from onward.core.ids import run_id
from onward.core.log import LOG_END, log_key, partition_of
from onward.core.values import Event
from onward.engine.ledger import Ledger
from onward.local import fleet, sandbox
from onward.local.lambda_service import LocalLambda
from tests import servers

REPOSITORY = Path(__file__).parents[2]
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
WAIT_S = 20.0
_numbers = itertools.count()


class Listener:
    """Passes connections on to `port`, one thread for each. `timeline`: each connection, and each mark that the
    handler sets over one of its own, in the order in which they knocked."""

    def __init__(self, port: int) -> None:
        self.timeline: list[str] = []
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._spawn(self._accept)

    def _spawn(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            place = len(self.timeline)
            self.timeline.append("connection")
            self._open.append(client)
            self._spawn(self._serve, client, place)

    def _serve(self, client: socket.socket, place: int) -> None:
        """A client that has nothing to say yet is a connection that was opened early."""
        first = client.recv(65_536)
        if first.startswith(b"MARK "):
            self.timeline[place] = first.decode().split()[1]
            client.sendall(b".")
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self._port))
        self._open.append(server)
        self._spawn(_pump, server, client)
        if first:
            server.sendall(first)
            _pump(client, server)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for opened in self._open:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for opened in self._open:
            opened.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
    except OSError:
        return


class Taken(BaseHTTPRequestHandler):
    """Takes an asynchronous Invoke, and does nothing about it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def wakes_taken() -> Iterator[str]:
    """The URL of such a function."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Taken) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(5)


class Cold:
    """A function with the bare handler and one run that waits for its first step."""

    def __init__(self, service: LocalLambda, ledger: Ledger, listener: Listener) -> None:
        self.service = service
        self.timeline = listener.timeline
        self.ledger = ledger
        event = Event("hot/go", {"a": 1}, "event-1", ledger.clock.now_ms())
        self.run = run_id("hot", event.id)
        ledger.store.write(ledger.birth(self.run, "hot", event, event.at_ms + 60_000, encode(event.data, "")))

    def advance(self, seq: int) -> dict[str, Any]:
        """Perform the step that stands at that place of the log: what the handler saw."""
        answer, error = self.service.invoke({"onward": 1, "do": "advance", "run": self.run, "seq": seq})
        assert error is None, "\n".join(self.service.log_lines)
        return answer

    def records(self) -> int:
        return len(self.ledger.store.read(partition_of(self.run), log_key(0), LOG_END))


@pytest.fixture(scope="session")
def dynoxide_url() -> Iterator[str]:
    with servers.dynoxide() as url:
        yield url


@pytest.fixture
def cold(dynoxide_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cold]:
    """No sandbox has started yet. The interpreter knows the standard library and our sources, and nothing else;
    wakes go to a function that only takes them, so that the test alone says what is invoked and when."""
    command = [sys.executable, "-S", "-P", sandbox.__file__]
    monkeypatch.setattr(fleet.Function, "command", lambda self: [*command, self.handler])
    wire = Wire(endpoint_url=dynoxide_url, environ=KEYS)
    table = f"hot-{next(_numbers)}"
    create_table(wire, table)
    listener = Listener(int(dynoxide_url.rpartition(":")[2]))
    env = {"ONWARD_TABLE": table, "AWS_ENDPOINT_URL_DYNAMODB": listener.url}
    with wakes_taken() as url:
        env["AWS_ENDPOINT_URL_LAMBDA"] = url
        handler = "tests.hot_path.bare_handler.handler"
        with LocalLambda(handler, env=env, cwd=REPOSITORY, timeout_s=WAIT_S) as service:
            yield Cold(service, Ledger(DynamoStore(wire, table), None, SystemClock()), listener)
    listener.close()
    wire.close()
