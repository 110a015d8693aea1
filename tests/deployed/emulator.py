"""A function under aws-lambda-rie, AWS's own emulator of the Runtime API, with AWS's own runtime client.

The emulator answers one request at a time, knows no asynchronous Invoke, and sends nothing on. So what is here stands
for Lambda's queue: the function's wakes come to `Relay`, and are handed to the emulator one after the other.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests import servers

PATH = "/2015-03-31/functions/function/invocations"
START_S = 60.0
STOP_S = 10.0


class Relay:
    """Lambda's API for one function: takes what is to be performed asynchronously, and keeps it in order."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[bytes] = queue.Queue()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["X-Amz-Invocation-Type"] == "Event"
                relay.waiting.put(body)
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class Emulated:
    """A function that stands. `output`: what it has written."""

    def __init__(self, port: int, output: Path) -> None:
        self._port = port
        self._output = output

    def invoke(self, payload: Any) -> Any:
        """Invoke, and wait for what it returns."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("POST", PATH, json.dumps(payload))
            answer = json.loads(connection.getresponse().read() or b"null")
        finally:
            connection.close()
        assert not (isinstance(answer, dict) and "errorType" in answer), (answer, self.output)
        return answer

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")


@contextlib.contextmanager
def emulated(handler: str, home: Path, env: Mapping[str, str], folder: Path) -> Iterator[Emulated]:
    """A function under the emulator. `home`: its unpacked zip."""
    rie = servers.find_rie()
    port, runtime_port = servers.free_port(), servers.free_port()
    command = [str(rie), "--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    command += ["--runtime-api-address", f"127.0.0.1:{runtime_port}", sys.executable, "-m", "awslambdaric", handler]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(home), "LAMBDA_TASK_ROOT": str(home), **env}
    output = folder / "rie.log"
    with (
        output.open("w") as file,
        subprocess.Popen(command, cwd=home, env=environ, stdout=file, stderr=file) as process,
    ):
        try:
            until_s = time.monotonic() + START_S
            while not _listens(port):
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < until_s, output.read_text()
                time.sleep(0.05)
            yield Emulated(port, output)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
