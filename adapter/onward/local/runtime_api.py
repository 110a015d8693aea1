"""One sandbox: a process that runs the handler, and the Lambda Runtime API that feeds it.

    start ──▶ initialising ──/next──▶ idle ──invocation──▶ busy ──/response, then /next──▶ idle ...
                   │                   │                     │
                   └──── init error ───┴── exit, kill ───────┴──▶ ended

Each sandbox has a loopback port of its own, so that whoever calls there is that sandbox. Everything here runs in
one event loop; nothing blocks it.

No sandbox outlives its service. `close()` kills its process group by the group's id. When the service itself is
killed, the kernel closes the write end of a pipe that only the service holds, and signals the group that was made
the owner of the read end (`F_SETOWN`); that needs no code in the sandbox, so it holds for any runtime. Where the
kernel has no such signal, the end of the connection to the Runtime API does it, at the next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .loopback import Loopback, Request, Response

API = "/2018-06-01/runtime"
MAX_RESPONSE_BYTES = 6_291_556  # Lambda's own bound on a synchronous answer
READ_BYTES = 65_536
MAX_READS = 64  # of a log pipe at one go: 4 MB, then the loop has its turn
MAX_LINE_BYTES = 262_144  # one log event of CloudWatch
POLL_EXIT_S = 0.02  # where the kernel has no pidfd
JSON = {"Content-Type": "application/json"}


class Invocation(NamedTuple):
    """One call of the function. `payload`: JSON as bytes."""

    request_id: str
    payload: bytes
    arn: str
    trace_header: str


class Answered(NamedTuple):
    """The handler returned `payload`."""

    payload: bytes


class Failed(NamedTuple):
    """The function failed; `payload` is the error object. `cause`: error (the handler raised), init, timeout, crash."""

    payload: bytes
    cause: str


Outcome = Answered | Failed


def timed_out(request_id: str, timeout_s: float) -> Failed:
    """As Lambda puts it since 2024; the log line keeps the older form, `<time> <request id> Task timed out ...`."""
    message = f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds"
    return Failed(_error("Sandbox.Timedout", message), "timeout")


def exited(request_id: str, returncode: int) -> Failed:
    if returncode < 0:
        name = (signal.strsignal(-returncode) or str(-returncode)).lower()
        reason = f"Runtime exited with error: signal: {name}"
    elif returncode > 0:
        reason = f"Runtime exited with error: exit status {returncode}"
    else:
        reason = "Runtime exited without providing a reason"
    return Failed(_error("Runtime.ExitError", f"RequestId: {request_id} Error: {reason}"), "crash")


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


class Sandbox:
    """One process of the function, for one invocation at a time.

    `on_line` gets each line that the process writes to stdout or stderr.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path, on_line: Callable[[str], None]
    ) -> None:
        self.name = name
        self.served = 0
        self.idle_since_s = 0.0
        self._command = list(command)
        self._env = dict(env)
        self._cwd = cwd
        self._on_line = on_line
        self._loop = asyncio.get_running_loop()
        self._door = Loopback(self._answer)
        self._work: asyncio.Queue[Invocation] = asyncio.Queue(1)
        self._asked: asyncio.Future[None] = self._loop.create_future()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._init_error: asyncio.Future[Failed] = self._loop.create_future()
        self._reply: asyncio.Future[Outcome] | None = None
        self._request_id = ""
        self._deadline_ms = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._pidfd = -1
        self._lifeline = -1
        self._log = -1
        self._partial = b""

    # ---------------------------------------------------------------------------------------- its life
    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def ended(self) -> bool:
        return self._exit.done()

    @property
    def doomed(self) -> bool:
        """It was killed or has ended, and serves no more."""
        return self._killed or self._exit.done()

    async def start(self) -> None:
        """Open the Runtime API and start the process. Returns before the handler is imported."""
        await self._door.open()
        env = self._env | {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._door.port}"}
        self._log, log_in = os.pipe()
        life_out, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                self._command,
                env=env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log_in,
                stderr=log_in,
                pass_fds=[life_out],
                start_new_session=True,
            )
            _die_with_the_pipe(life_out, self._process.pid)
        finally:
            os.close(log_in)
            os.close(life_out)
        os.set_blocking(self._log, False)
        self._loop.add_reader(self._log, self._read_log)
        self._watch_exit()

    async def initialise(self, request_id: str, within_s: float) -> Failed | None:
        """Wait for the handler to be imported; None when the sandbox is ready. On failure it is killed."""
        self._request_id = request_id
        await _first(within_s, self._asked, self._init_error, self._exit)
        if self._init_error.done():
            failed = self._init_error.result()
        elif self._exit.done():
            failed = exited(self._request_id, self._exit.result())._replace(cause="init")
        elif self._asked.done():
            return None
        else:
            failed = timed_out(self._request_id, within_s)
        self.kill()
        return failed

    async def perform(self, invocation: Invocation, within_s: float, timeout_s: float) -> Outcome:
        """One invocation on a sandbox that is ready. It ends when the process asks for the next one; a process that
        has not asked `within_s` seconds from now is killed. `timeout_s`: the function's timeout, for the message."""
        self.served += 1
        self._request_id = invocation.request_id
        reply: asyncio.Future[Outcome] = self._loop.create_future()
        self._reply = reply
        self._asked = self._loop.create_future()
        self._deadline_ms = int((time.time() + within_s) * 1000)
        ends_s = self._loop.time() + within_s
        self._work.put_nowait(invocation)
        await _first(within_s, reply, self._exit)
        if reply.done():
            left_s = max(0.0, ends_s - self._loop.time())
            await _first(left_s, self._asked, self._exit)
            if not self._asked.done():
                self.kill()
        elif not self._exit.done():
            self.kill()
        self._read_log()
        self._reply = None
        if reply.done():
            return reply.result()
        if self._exit.done():
            return exited(invocation.request_id, self._exit.result())
        await self._exit
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        self._on_line(f"{now}.000Z {invocation.request_id} Task timed out after {timeout_s:.2f} seconds")
        return timed_out(invocation.request_id, timeout_s)

    def kill(self) -> None:
        """End the process and all that it started: its own group, by id. The exit is seen a moment later."""
        self._killed = True
        if self._process is not None and not self._exit.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Kill what still runs, and leave nothing open."""
        self.kill()
        if self._process is not None:
            await self._exit
            self._read_log()
            self._loop.remove_reader(self._log)
            if self._partial:
                self._on_line(self._partial.decode("utf-8", "replace"))
        for descriptor in (self._log, self._lifeline):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self._lifeline = -1
        await self._door.close()

    # ------------------------------------------------------------------------------------ its process
    def _watch_exit(self) -> None:
        assert self._process is not None
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self._process.pid)
            self._loop.add_reader(self._pidfd, self._exited)
        else:
            self._loop.call_later(POLL_EXIT_S, self._poll_exit)

    def _poll_exit(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._loop.call_later(POLL_EXIT_S, self._poll_exit)
        else:
            self._exit.set_result(self._process.returncode)

    def _exited(self) -> None:
        """The process has ended and is not reaped yet, so its group's id is still its own: end the others in it."""
        assert self._process is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.kill()
        self._exit.set_result(self._process.wait())

    def _read_log(self) -> None:
        if self._log < 0:
            return
        for _ in range(MAX_READS):
            try:
                data = os.read(self._log, READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._loop.remove_reader(self._log)
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            if len(self._partial) > MAX_LINE_BYTES:
                lines.append(self._partial)
                self._partial = b""
            for line in lines:
                self._on_line(line.decode("utf-8", "replace"))

    # -------------------------------------------------------------------------------- its Runtime API
    async def _answer(self, request: Request) -> Response:
        if request.method == "GET" and request.path == f"{API}/invocation/next":
            return await self._next()
        kind = request.headers.get("lambda-runtime-function-error-type", "Unhandled")
        if request.method == "POST" and request.path == f"{API}/init/error":
            if not self._init_error.done():
                self._init_error.set_result(Failed(request.body or _error(kind, "init failed"), "init"))
            return _accepted()
        return self._take(request, kind)

    def _take(self, request: Request, kind: str) -> Response:
        """What the handler answered, or that it raised."""
        if self._reply is None or self._reply.done():
            return _refusal(403, "InvalidStateTransition", "no invocation is under way")
        if request.path == f"{API}/invocation/{self._request_id}/response":
            return self._respond(request.body)
        if request.path == f"{API}/invocation/{self._request_id}/error":
            self._reply.set_result(Failed(request.body or _error(kind, ""), "error"))
            return _accepted()
        return _refusal(400, "InvalidRequestID", "that is not the invocation under way")

    async def _next(self) -> Response:
        if self._reply is not None and not self._reply.done():
            return _refusal(403, "InvalidStateTransition", "the invocation under way has no response yet")
        if not self._asked.done():
            self._asked.set_result(None)
        invocation = await self._work.get()
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(self._deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": invocation.arn,
            "Lambda-Runtime-Trace-Id": invocation.trace_header,
        }
        return Response(200, headers, invocation.payload)

    def _respond(self, body: bytes) -> Response:
        assert self._reply is not None
        if len(body) > MAX_RESPONSE_BYTES:
            message = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
            self._reply.set_result(Failed(_error("Function.ResponseSizeTooLarge", message), "error"))
            return _refusal(413, "RequestEntityTooLarge", message)
        self._reply.set_result(Answered(body))
        return _accepted()


async def _first(within_s: float, *futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done, but not longer."""
    await asyncio.wait(futures, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)


def _accepted() -> Response:
    return Response(202, JSON, b'{"status":"OK"}\n')


def _refusal(status: int, kind: str, message: str) -> Response:
    return Response(status, JSON, _error(kind, message))


def _die_with_the_pipe(read_end: int, group: int) -> None:
    """Have the kernel kill this process group when the last write end of the pipe is closed."""
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(read_end, fcntl.F_SETOWN, -group)
    fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) | os.O_ASYNC)
