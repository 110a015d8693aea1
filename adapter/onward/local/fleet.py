"""The sandboxes of one function: at most `concurrency` of them, cold at first and warm after.

Who wants to invoke claims a place, and performs in it; the place is free again when the performance has ended.
A sandbox that failed to start, was killed or died is replaced by a fresh process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from . import sandbox as runtime_client
from .chaos import Chaos, Stats
from .runtime_api import Failed, Invocation, Outcome, Sandbox, timed_out

ACCOUNT = "123456789012"
VERSION = "$LATEST"
INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")  # all that a laptop passes on
SOURCE_ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Function:
    """What is deployed. `env` is read at each cold start. `init_s`: how long an INIT may take."""

    handler: str
    env: Mapping[str, str]
    cwd: Path
    name: str
    timeout_s: float
    memory_mb: int
    concurrency: int
    runtime: str
    region: str
    init_s: float
    idle_s: float

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{self.region}:{ACCOUNT}:function:{self.name}"

    def command(self) -> list[str]:
        if self.runtime == "awslambdaric":
            return [sys.executable, "-m", "awslambdaric", self.handler]
        return [sys.executable, "-P", runtime_client.__file__, self.handler]

    def environment(self, number: int) -> dict[str, str]:
        """The environment of a sandbox: what Lambda sets, and what the function is configured with; of the laptop's
        own environment next to nothing, since a deployed function would not have it either."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        lambdas = {
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": VERSION,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"local/[{VERSION}]{number:032x}",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{python}",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
            "LAMBDA_TASK_ROOT": str(self.cwd),
            "_HANDLER": self.handler,
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PYTHONUTF8": "1",
        }
        path = [str(self.cwd), str(SOURCE_ROOT), *filter(None, [self.env.get("PYTHONPATH")])]
        return inherited | lambdas | dict(self.env) | {"PYTHONPATH": os.pathsep.join(path)}


class Fleet:
    """`freed` is called whenever a place has become free. `on_line` gets every log line, prefixed."""

    def __init__(
        self,
        function: Function,
        *,
        stats: Stats,
        chaos: Chaos,
        random: Random,
        on_line: Callable[[str], None],
        freed: Callable[[], None],
    ) -> None:
        self.busy = 0
        self._function = function
        self._stats = stats
        self._chaos = chaos
        self._random = random
        self._on_line = on_line
        self._freed = freed
        self._all: set[Sandbox] = set()
        self._idle: list[Sandbox] = []
        self._number = 0
        self._reaper: asyncio.TimerHandle | None = None
        self._closings: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return sorted(sandbox.pid for sandbox in self._all if sandbox.pid and not sandbox.ended)

    def claim(self) -> bool:
        """Take a place, if one is free."""
        if self._closed or self.busy >= self._function.concurrency:
            return False
        self.busy += 1
        return True

    def release(self) -> None:
        """Give a claimed place back."""
        self.busy -= 1
        self._freed()

    async def perform(self, invocation: Invocation) -> Outcome:
        """Perform in a place that was claimed, and release it."""
        try:
            outcome = await self._perform(invocation)
        finally:
            self.release()
        if isinstance(outcome, Failed):
            self._count_failure(outcome.cause)
        return outcome

    def close_door(self) -> None:
        """Give no more places."""
        self._closed = True

    async def close(self) -> None:
        """End every sandbox. What is under way has been cancelled before."""
        self.close_door()
        if self._reaper is not None:
            self._reaper.cancel()
        self._idle.clear()
        await asyncio.gather(*self._closings, *(sandbox.close() for sandbox in self._all))
        self._all.clear()

    # ------------------------------------------------------------------------------------ one invocation
    async def _perform(self, invocation: Invocation) -> Outcome:
        timeout_s = self._function.timeout_s
        sandbox, left_s = self._warm(), timeout_s
        self._stats.invocations += 1
        if sandbox is not None:
            self._stats.warm += 1
        else:
            self._stats.cold += 1
            started = await self._cold(invocation.request_id)
            if isinstance(started, Failed):
                return started
            sandbox, left_s = started
        killer = self._aim(sandbox)
        outcome = await sandbox.perform(invocation, left_s, timeout_s)
        if killer is not None:
            killer.cancel()
        self._put_back(sandbox)
        return outcome

    def _warm(self) -> Sandbox | None:
        """The sandbox that was used last, so that those not needed fall idle."""
        for _ in range(len(self._idle)):
            sandbox = self._idle.pop()
            if not sandbox.ended:
                return sandbox
            self._discard(sandbox)
        return None

    async def _cold(self, request_id: str) -> tuple[Sandbox, float] | Failed:
        """A fresh sandbox, and the time left for the invocation.

        INIT has `init_s` of its own. Where it fails, Lambda repeats it once on the function's own time."""
        first = await self._start(request_id, self._function.init_s)
        if isinstance(first, Sandbox):
            return first, self._function.timeout_s
        self._stats.init_errors += 1
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        second = await self._start(request_id, self._function.timeout_s)
        if isinstance(second, Sandbox):
            return second, max(0.0, self._function.timeout_s - (loop.time() - began_s))
        return timed_out(request_id, self._function.timeout_s) if second.cause == "timeout" else second

    async def _start(self, request_id: str, within_s: float) -> Sandbox | Failed:
        self._number += 1
        name = f"sandbox-{self._number}"
        function = self._function
        env = function.environment(self._number)
        sandbox = Sandbox(name, function.command(), env, function.cwd, lambda line: self._on_line(f"[{name}] {line}"))
        self._all.add(sandbox)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await sandbox.start()
        except OSError as error:
            self._discard(sandbox)
            report = {
                "errorType": "Runtime.InvalidEntrypoint",
                "errorMessage": f"RequestId: {request_id} Error: {error}",
            }
            return Failed(json.dumps(report).encode(), "init")
        failed = await sandbox.initialise(request_id, within_s)
        if failed is None:
            self._stats.count_init((loop.time() - began_s) * 1000)
            return sandbox
        self._discard(sandbox)
        return failed

    def _aim(self, sandbox: Sandbox) -> asyncio.TimerHandle | None:
        if not self._chaos.kill or self._random.random() >= self._chaos.kill:
            return None
        return asyncio.get_running_loop().call_later(self._random.random() * self._chaos.kill_s, self._shoot, sandbox)

    def _shoot(self, sandbox: Sandbox) -> None:
        self._stats.killed += 1
        sandbox.kill()

    def _count_failure(self, cause: str) -> None:
        self._stats.errors += cause == "error"
        self._stats.init_errors += cause == "init"
        self._stats.timeouts += cause == "timeout"
        self._stats.crashes += cause == "crash"

    # ----------------------------------------------------------------------------------- idle and ended
    def _put_back(self, sandbox: Sandbox) -> None:
        if sandbox.doomed or self._closed:
            self._discard(sandbox)
            return
        loop = asyncio.get_running_loop()
        sandbox.idle_since_s = loop.time()
        self._idle.append(sandbox)
        if self._reaper is None:
            self._reaper = loop.call_later(self._function.idle_s, self._reap)

    def _reap(self) -> None:
        """End the sandboxes that nobody has used for `idle_s`."""
        loop = asyncio.get_running_loop()
        self._reaper = None
        idle, self._idle = self._idle, []
        for sandbox in idle:
            if loop.time() - sandbox.idle_since_s >= self._function.idle_s:
                self._discard(sandbox)
            else:
                self._idle.append(sandbox)
        if self._idle:
            wait_s = self._idle[0].idle_since_s + self._function.idle_s - loop.time()
            self._reaper = loop.call_later(max(0.001, wait_s), self._reap)

    def _discard(self, sandbox: Sandbox) -> None:
        self._all.discard(sandbox)
        spawn(sandbox.close(), self._closings)


def spawn(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Start a task and keep it in `tasks` until it is done: the loop alone would not keep it alive."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
