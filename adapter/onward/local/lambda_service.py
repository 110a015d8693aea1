"""A small AWS Lambda on the laptop, with an SQS queue in front of it.

    with LocalLambda("handlers.demo.handler", env={...}, cwd=".") as service:
        payload, error = service.invoke({"hello": "world"})
        boto3.client("lambda", endpoint_url=service.url).invoke(FunctionName="onward", InvocationType="Event", ...)

It runs the same handler that is deployed, in processes that speak the real Lambda Runtime API, under Lambda's own
rules: cold and warm sandboxes, one invocation at a time, timeouts that kill, throttling, asynchronous retries, the
on-failure destination, recursion detection, queue delays and visibility, payload limits. The clients of boto3 work
against `url`; signatures are not checked.

It differs from the real one where that is slow or cannot be had: memory is not limited, sandboxes are not frozen
between invocations, a queue with several messages is read as fast as there is room, and there is one function.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import unquote

from ..core.errors import InvalidOption
from .async_events import AsyncEvents, Policy, decoded
from .chaos import Chaos, Stats
from .event_source import EventSource
from .fleet import ACCOUNT, VERSION, Fleet, Function
from .lineage import MAX_HOPS, handed_on, hops
from .loopback import Loopback, Request, Response
from .queue_service import Message, Queue, QueueApi, uuid
from .runtime_api import Failed, Invocation, Outcome

MAX_ASYNC_BYTES = 1_048_576
MAX_SYNC_BYTES = 6_291_456
MAX_LOG_LINES = 20_000
MAX_BATCH_SIZE = 10
MAX_RETRY_ATTEMPTS = 2
START_S = 10.0
STOP_S = 10.0
DRAIN_POLL_S = 0.005
PATH = re.compile(r"/2015-03-31/functions/([^/?]+)/invocations(?:\?(.*))?")

T = TypeVar("T")


class ApiError(Exception):
    """The Lambda API refuses a request. `code`: the exception's name in the SDKs."""

    def __init__(self, status: int, code: str, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.reason = reason

    def body(self) -> dict[str, str]:
        # The models of ResourceNotFound and RecursiveInvocation write `Message`, the others `message`; SDKs read both.
        content = {"Type": "User", "message": str(self), "Message": str(self)}
        return content | ({"Reason": self.reason} if self.reason else {})


class LocalLambda:
    """One function, its queue, and the endpoint of both.

    `handler`: «module.attribute». `env`: the function's own variables; the dict may be changed until a cold start
    reads it. `timeout_s`, `memory_mb`, `concurrency`, `maximum_retry_attempts`, `maximum_event_age_s`,
    `recursive_loop`: as configured on AWS. `on_failure="queue"`: a second queue, `failure_queue_url`, gets the
    record of each asynchronous event that failed for good, and delivers it to the same function. A callable is
    handed each such record instead, in the service's thread.
    `runtime`: our own client in the sandbox, or AWS's.

    `tick_s`: every so many seconds `tick_payload` is invoked asynchronously (None: what an EventBridge schedule
    sends). `retry_delays_s`, `throttle_backoff_s` (first, most; None: none): how long an event waits for its next
    offer. `batch_size`, `report_batch_item_failures`, `visibility_timeout_s` (None: six times the timeout, as AWS
    advises), `max_receive_count`: of the queues. `time_scale`: real seconds for a second of all these waits and of
    message delays; the time that code may take is not scaled.

    `init_s`: the limit of INIT. `idle_s`: after how long an unused sandbox ends. `seed`: of chance, chaos included.
    `on_line`: gets each log line, in the service's thread.
    """

    def __init__(
        self,
        handler: str,
        *,
        env: MutableMapping[str, str] | None = None,
        cwd: str | Path = ".",
        function_name: str = "onward",
        timeout_s: float = 30.0,
        memory_mb: int = 512,
        concurrency: int = 10,
        maximum_retry_attempts: int = MAX_RETRY_ATTEMPTS,
        maximum_event_age_s: float = 21_600.0,
        on_failure: Literal["none", "queue"] | Callable[[dict[str, Any]], None] = "none",
        recursive_loop: Literal["Terminate", "Allow"] = "Terminate",
        runtime: Literal["own", "awslambdaric"] = "own",
        tick_s: float | None = None,
        tick_payload: Any = None,
        retry_delays_s: Sequence[float] = (60.0, 120.0),
        throttle_backoff_s: tuple[float, float] | None = (1.0, 300.0),
        batch_size: int = MAX_BATCH_SIZE,
        report_batch_item_failures: bool = True,
        visibility_timeout_s: float | None = None,
        max_receive_count: int | None = 3,
        time_scale: float = 1.0,
        init_s: float = 10.0,
        idle_s: float = 300.0,
        region: str = "us-east-1",
        port: int = 0,
        seed: int | None = None,
        chaos: Chaos | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        _check("concurrency", concurrency, concurrency >= 1)
        _check("timeout_s", timeout_s, 0 < timeout_s <= 900)
        _check("maximum_retry_attempts", maximum_retry_attempts, 0 <= maximum_retry_attempts <= MAX_RETRY_ATTEMPTS)
        _check("batch_size", batch_size, 1 <= batch_size <= MAX_BATCH_SIZE)
        _check("time_scale", time_scale, time_scale > 0)
        _check("on_failure", on_failure, callable(on_failure) or on_failure in ("none", "queue"))
        _check("recursive_loop", recursive_loop, recursive_loop in ("Terminate", "Allow"))
        _check("runtime", runtime, runtime in ("own", "awslambdaric"))
        self.env: MutableMapping[str, str] = {} if env is None else env
        self.stats = Stats()
        self.chaos = chaos or Chaos()
        self.dead_letters: list[dict[str, Any]] = []
        self.tick_payload = tick_payload
        self._endpoints: dict[str, str] = {}
        self.function = Function(
            handler=handler,
            env=_Layers(self.env, self._endpoints),
            cwd=Path(cwd).resolve(),
            name=function_name,
            timeout_s=timeout_s,
            memory_mb=memory_mb,
            concurrency=concurrency,
            runtime=runtime,
            region=region,
            init_s=init_s,
            idle_s=idle_s,
        )
        self._policy = Policy(
            maximum_retry_attempts=maximum_retry_attempts,
            maximum_event_age_s=maximum_event_age_s,
            retry_delays_s=tuple(retry_delays_s),
            throttle_backoff_s=throttle_backoff_s,
            terminate_loops=recursive_loop == "Terminate",
            scale=time_scale,
        )
        self._tick_s = tick_s
        self._on_failure = on_failure
        self._batch_size = batch_size
        self._report_item_failures = report_batch_item_failures
        self._visibility_timeout_s = timeout_s * 6 if visibility_timeout_s is None else visibility_timeout_s
        self._max_receive_count = max_receive_count
        self._port = port
        self._random = Random(seed)
        self._chance = Random(seed)  # of chaos alone: what befalls the n-th message depends on the seed and n
        self._listener = on_line
        self._lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    # ------------------------------------------------------------------------------------ for its user
    def start(self) -> Self:
        """Open the endpoint. No sandbox is started before something is invoked."""
        if self._thread is not None:
            return self
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="local-lambda", daemon=True)
        self._thread.start()
        if not started.wait(START_S) or self._failure is not None:
            self.stop()
            raise self._failure or TimeoutError("the local Lambda did not start")
        return self

    def stop(self) -> None:
        """Kill every sandbox, drop what is queued, close the endpoint."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(STOP_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The endpoint of the Lambda API and of the SQS API."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def queue_url(self) -> str:
        return self._queue_url(self.function.name)

    @property
    def failure_queue_url(self) -> str:
        return self._queue_url(f"{self.function.name}-failures")

    @property
    def log_lines(self) -> list[str]:
        """The last `MAX_LOG_LINES` lines of all sandboxes, each with its sandbox's name before it."""
        return list(self._lines)

    @property
    def pids(self) -> list[int]:
        """The sandboxes' processes that run now."""
        return self._ask(self._pids()) if self._thread is not None else []

    def invoke(self, payload: Any, *, trace_header: str | None = None) -> tuple[Any, dict[str, Any] | None]:
        """Invoke and wait: (what the handler returned, None), or (None, the error object), which has `errorType` and
        `errorMessage`; for a refused request `errorType` is the exception's name, like TooManyRequestsException."""
        try:
            outcome = self._ask(self._invoke(_encoded(payload), self.function.arn, trace_header))
        except ApiError as refused:
            return None, {"errorType": refused.code, "errorMessage": str(refused)}
        if not isinstance(outcome, Failed):
            return decoded(outcome.payload), None
        error = decoded(outcome.payload)
        return None, error if isinstance(error, dict) else {"errorType": "Unhandled", "errorMessage": str(error)}

    def invoke_async(self, payload: Any, *, trace_header: str | None = None) -> str:
        """Queue one event, and return its request id."""
        return self._ask(self._accept(_encoded(payload), self.function.arn, trace_header))

    def send(self, body: str, *, delay_s: float = 0.0) -> str:
        """Send one message to the queue, and return its id."""
        return self._ask(self._send(body, delay_s))

    def tick(self) -> str:
        """Let the minute pass now: queue one tick, and return its request id."""
        return self._ask(self._tick())

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is queued, delayed, in flight or running; False if that took longer than `timeout_s`."""
        return self._ask(self._drain(timeout_s), timeout_s + STOP_S)

    # ----------------------------------------------------------------------------------- its own thread
    def _ask(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        if self._thread is None or self._loop is None:
            work.close()
            raise RuntimeError("the local Lambda is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def _run(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._main(started))
        except BaseException as error:  # start() raises it in the caller's thread
            self._failure = error
        finally:
            started.set()

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open()
        door = Loopback(self._answer)
        await door.open(self._port)
        self._port = door.port
        self._endpoints |= {"AWS_ENDPOINT_URL_LAMBDA": self.url, "AWS_ENDPOINT_URL_SQS": self.url}
        if self._tick_s is not None:
            self._loop.call_later(self._tick_s * self._policy.scale, self._tick_again)
        started.set()
        try:
            await self._stopping.wait()
        finally:
            for queue in self._queues.values():
                queue.clear()
            working = list(self._tasks)
            for task in working:
                task.cancel()
            self._fleet.close_door()
            await asyncio.gather(*working, return_exceptions=True)
            await self._fleet.close()
            await door.close()

    def _open(self) -> None:
        """Put the parts together."""
        function, random = self.function, self._random
        self._fleet = Fleet(
            function,
            stats=self.stats,
            chaos=self.chaos,
            random=Random(self._random.random()),
            on_line=self._log,
            freed=self._pump,
        )
        self._events = AsyncEvents(
            self._fleet,
            policy=self._policy,
            stats=self.stats,
            chaos=self.chaos,
            random=random,
            chance=self._chance,
            arn=function.arn,
            tasks=self._tasks,
            give_up=self._give_up,
        )
        self._queues = {name: self._queue(name) for name in (function.name, f"{function.name}-failures")}
        self._api = QueueApi(self._queues, self._queue_url, self._take)
        self._sources = [self._source(queue) for queue in self._queues.values()]
        self._pumps: deque[Callable[[], None]] = deque([self._events.pump, *(source.pump for source in self._sources)])

    def _queue(self, name: str) -> Queue:
        return Queue(
            name=name,
            arn=f"arn:aws:sqs:{self.function.region}:{ACCOUNT}:{name}",
            visibility_timeout_s=self._visibility_timeout_s,
            max_receive_count=self._max_receive_count,
            random=self._random,
            wake=self._pump,
            scale=self._policy.scale,
            dead=self.dead_letters,
        )

    def _source(self, queue: Queue) -> EventSource:
        return EventSource(
            queue,
            self._fleet,
            function=self.function,
            stats=self.stats,
            random=self._random,
            tasks=self._tasks,
            batch_size=self._batch_size,
            report_item_failures=self._report_item_failures,
            terminate_loops=self._policy.terminate_loops,
        )

    def _pump(self) -> None:
        """A place is free or a message visible. The sources take turns at being first, so that none starves."""
        self._pumps.rotate(1)
        for pump in tuple(self._pumps):
            pump()

    def _log(self, line: str) -> None:
        self._lines.append(line)
        if self._listener is not None:
            self._listener(line)

    def _queue_url(self, name: str) -> str:
        return f"{self.url}/{ACCOUNT}/{name}"

    async def _pids(self) -> list[int]:
        return self._fleet.pids

    async def _drain(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        while len(self._events) or self._fleet.busy or any(map(len, self._queues.values())):
            if loop.time() >= ends_s:
                return False
            await asyncio.sleep(DRAIN_POLL_S)
        return True

    # ------------------------------------------------------------------------------------------ ticks
    async def _tick(self) -> str:
        self.stats.ticks += 1
        payload = self._scheduled_event() if self.tick_payload is None else self.tick_payload
        return self._events.accept(_encoded(payload), self.function.arn, None)

    def _tick_again(self) -> None:
        assert self._loop is not None and self._tick_s is not None
        self._loop.call_later(self._tick_s * self._policy.scale, self._tick_again)
        task = self._loop.create_task(self._tick())
        task.add_done_callback(lambda done: done.exception())

    def _scheduled_event(self) -> dict[str, Any]:
        region, name = self.function.region, self.function.name
        return {
            "version": "0",
            "id": uuid(self._random),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": ACCOUNT,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": region,
            "resources": [f"arn:aws:events:{region}:{ACCOUNT}:rule/{name}-tick"],
            "detail": {},
        }

    # --------------------------------------------------------------------------------------- the queues
    def _take(
        self, queue: Queue, body: str, delay_s: float, attributes: Mapping[str, Any], trace_header: str | None
    ) -> str:
        """Put a message into a queue, as chaos wills."""
        message_id = uuid(self._random)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        self.stats.messages += 1
        fate = self.chaos.fate(self._chance.random)
        self.stats.count_fate(fate)
        for late_s in fate:
            message = Message(message_id, body, attributes, trace_header, now_ms)
            queue.send(message, delay_s + late_s / self._policy.scale)
        return message_id

    async def _send(self, body: str, delay_s: float) -> str:
        return self._take(self._queues[self.function.name], body, delay_s, {}, None)

    def _give_up(self, record: dict[str, Any]) -> None:
        if callable(self._on_failure):
            self._on_failure(record)
        elif self._on_failure == "queue":
            self._take(self._queues[f"{self.function.name}-failures"], json.dumps(record), 0, {}, None)

    # --------------------------------------------------------------------------------- the Lambda API
    async def _answer(self, request: Request) -> Response:
        if request.headers.get("x-amz-target", "").startswith("AmazonSQS."):
            return self._api.answer(request)
        request_id = uuid(self._random)
        try:
            return await self._answer_invoke(request, request_id)
        except ApiError as refused:
            headers = {"Content-Type": "application/json", "x-amzn-ErrorType": refused.code}
            if refused.status == 429:
                headers["Retry-After"] = "1"
            headers["x-amzn-RequestId"] = request_id
            return Response(refused.status, headers, json.dumps(refused.body()).encode())

    async def _answer_invoke(self, request: Request, request_id: str) -> Response:
        path = PATH.fullmatch(request.path)
        if path is None or request.method != "POST":
            raise ApiError(
                404, "UnknownOperationException", f"The local Lambda knows no {request.method} {request.path}"
            )
        arn = self._resolve(unquote(path[1]), path[2] or "")
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        trace_header = request.headers.get("x-amzn-trace-id")
        payload = request.body or b"{}"
        _check_payload(payload, MAX_ASYNC_BYTES if kind == "Event" else MAX_SYNC_BYTES)
        headers = {"x-amzn-RequestId": request_id}
        if kind == "DryRun":
            return Response(204, headers)
        if kind == "Event":
            headers["x-amzn-RequestId"] = self._events.accept(payload, arn, trace_header)
            return Response(202, headers)
        if kind != "RequestResponse":
            raise ApiError(400, "InvalidParameterValueException", f"{kind} is no invocation type")
        outcome = await self._invoke(payload, arn, trace_header, request_id)
        headers |= {"Content-Type": "application/json", "X-Amz-Executed-Version": VERSION}
        if isinstance(outcome, Failed):
            headers["X-Amz-Function-Error"] = "Unhandled"
        return Response(200, headers, outcome.payload)

    def _resolve(self, name: str, query: str) -> str:
        """The ARN that was invoked, from a name, a partial or a full ARN, each perhaps with a qualifier."""
        function = self.function
        prefixes = (function.arn, f"{ACCOUNT}:function:{function.name}", function.name)
        qualifier = next((unquote(part[10:]) for part in query.split("&") if part.startswith("Qualifier=")), "")
        for prefix in prefixes:
            if name == prefix:
                return f"{function.arn}:{qualifier}" if qualifier else function.arn
            if name.startswith(f"{prefix}:") and ":" not in name[len(prefix) + 1 :]:
                return f"{function.arn}:{name[len(prefix) + 1 :]}"
        arn = name if name.startswith("arn:") else f"arn:aws:lambda:{function.region}:{ACCOUNT}:function:{name}"
        raise ApiError(404, "ResourceNotFoundException", f"Function not found: {arn}")

    async def _invoke(self, payload: bytes, arn: str, trace_header: str | None, request_id: str = "") -> Outcome:
        _check_payload(payload, MAX_SYNC_BYTES)
        if self._policy.terminate_loops and hops(trace_header, self.function.arn) >= MAX_HOPS:
            self.stats.recursion_drops += 1
            message = "Lambda has detected your function being invoked in a recursive loop and stopped it."
            raise ApiError(400, "RecursiveInvocationException", message)
        if not self._fleet.claim():
            self.stats.throttles += 1
            reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
            raise ApiError(429, "TooManyRequestsException", "Rate Exceeded.", reason)
        header = handed_on(trace_header, self.function.arn, datetime.now(UTC).timestamp(), self._random)
        return await self._fleet.perform(Invocation(request_id or uuid(self._random), payload, arn, header))

    async def _accept(self, payload: bytes, arn: str, trace_header: str | None) -> str:
        _check_payload(payload, MAX_ASYNC_BYTES)
        return self._events.accept(payload, arn, trace_header)


class _Layers(Mapping[str, str]):
    """The function's variables over the service's endpoints, both as they are when they are read."""

    def __init__(self, env: Mapping[str, str], endpoints: Mapping[str, str]) -> None:
        self._env = env
        self._endpoints = endpoints

    def __getitem__(self, name: str) -> str:
        return self._env[name] if name in self._env else self._endpoints[name]

    def __iter__(self) -> Any:
        return iter({**self._endpoints, **self._env})

    def __len__(self) -> int:
        return len({**self._endpoints, **self._env})


def _check(name: str, value: object, good: bool) -> None:
    if not good:
        raise InvalidOption(f"{name}={value!r} makes no sense for a local Lambda")


def _check_payload(payload: bytes, limit: int) -> None:
    if len(payload) > limit:
        message = f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
        raise ApiError(413, "RequestTooLargeException", message)
    try:
        json.loads(payload)
    except (ValueError, RecursionError) as error:
        message = f"Could not parse request body into json: {error}"
        raise ApiError(400, "InvalidRequestContentException", message) from None


def _encoded(payload: Any) -> bytes:
    return json.dumps(payload).encode()
