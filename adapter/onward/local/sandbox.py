"""The runtime client inside a sandbox: asks the Lambda Runtime API for work, calls the handler, posts the answer.

    python -P sandbox.py module.attribute          (or: python -m onward.local.sandbox module.attribute)

It does what AWS's own client for Python (awslambdaric) does, with the same answers, and imports next to nothing,
because what a cold start imports is measured in it: `json` and the C halves of `socket` and `time`. It is run as
a file, so that neither `runpy` nor this package is imported before the handler asks for it.

The process lives as long as its connection: when the Runtime API is gone, so is the sandbox.
"""

from __future__ import annotations

import json
import os
import sys
import time
from _socket import socket  # `socket` would import selectors, enum and the address families' names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

API = "/2018-06-01/runtime"
READ_BYTES = 65_536
MAX_HEAD_BYTES = 65_536
LOG_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(message)s"


class GoneError(Exception):
    """The Runtime API has closed the connection."""


class FaultError(Exception):
    """The handler, its event or its answer cannot be used. `type`: the name that Lambda gives to it."""

    def __init__(self, type: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.trace = trace or []


class Connection:
    """One kept-alive HTTP/1.1 connection to the Runtime API."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.host = address
        self.socket = socket()
        self.socket.connect((host, int(port)))
        self.rest = b""

    def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json", error: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request and wait for its answer: status, headers by lower-case name, body."""
        head = f"{method} {API}{path} HTTP/1.1\r\nHost: {self.host}\r\n"
        if method == "POST":
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        if error:
            head += f"Lambda-Runtime-Function-Error-Type: {error}\r\n"
        self.socket.sendall(head.encode() + b"\r\n" + body)
        return self.answer()

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        data = self.rest
        while (end := data.find(b"\r\n\r\n")) < 0 and len(data) <= MAX_HEAD_BYTES:
            data += self.more()
        if end < 0:
            raise GoneError
        lines = data[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        chunks = [data[end + 4 :]]
        missing = length - len(chunks[0])
        while missing > 0:
            chunks.append(self.more())
            missing -= len(chunks[-1])
        content = b"".join(chunks)
        self.rest = content[length:]
        return int(lines[0].split(" ", 2)[1]), headers, content[:length]

    def more(self) -> bytes:
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise GoneError
        return data


class Context:
    """What a handler gets as its second argument; the names of AWS's `LambdaContext`."""

    def __init__(self, headers: dict[str, str]) -> None:
        environ = os.environ
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn")
        self.function_name = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.function_version = environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.memory_limit_in_mb = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.log_group_name = environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.identity = None
        self.client_context = None
        self.tenant_id = None
        self._deadline_ms = int(headers.get("lambda-runtime-deadline-ms", "0"))

    def get_remaining_time_in_millis(self) -> int:
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, message: object) -> None:
        sys.stdout.write(str(message))

    def __repr__(self) -> str:
        return f"Context(aws_request_id={self.aws_request_id!r}, function_name={self.function_name!r})"


def find_handler(name: str) -> Callable[[Any, Context], Any]:
    """Import what `module.attribute` names."""
    module_name, dot, attribute = name.rpartition(".")
    if not dot:
        raise FaultError("Runtime.MalformedHandlerName", f"Bad handler '{name}': no dot between module and attribute")
    module_name = module_name.replace("/", ".")
    try:
        __import__(module_name)
    except ImportError as error:
        raise FaultError("Runtime.ImportModuleError", f"Unable to import module '{module_name}': {error}") from None
    except SyntaxError as error:
        where = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        message = f"Syntax error in module '{module_name}': {error}"
        raise FaultError("Runtime.UserCodeSyntaxError", message, where) from None
    try:
        handler: Callable[[Any, Context], Any] = getattr(sys.modules[module_name], attribute)
    except AttributeError:
        message = f"Handler '{attribute}' missing on module '{module_name}'"
        raise FaultError("Runtime.HandlerNotFound", message) from None
    return handler


def give_logging_a_handler() -> None:
    """Lambda's root logger writes to stdout. Ours does too, if the function uses logging at all."""
    logging: Any = sys.modules.get("logging")
    if logging is None or logging.getLogger().handlers:
        return
    formatter = logging.Formatter(LOG_FORMAT, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.getLogger().addHandler(handler)


def number(value: object) -> float:
    """JSON for a Decimal, which AWS's client writes as a number too."""
    decimal: Any = sys.modules.get("decimal")
    if decimal is None or not isinstance(value, decimal.Decimal):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return float(value)


def encode(result: object) -> tuple[bytes, str]:
    if isinstance(result, bytes):
        return result, "application/unknown"
    try:
        return json.dumps(result, default=number).encode(), "application/json"
    except (TypeError, ValueError, RecursionError) as error:
        raise FaultError("Runtime.MarshalError", f"Unable to marshal response: {error}") from None


def perform(handler: Callable[[Any, Context], Any], headers: dict[str, str], body: bytes) -> tuple[bytes, str]:
    """One call of the handler: the encoded result and its content type."""
    trace_header = headers.get("lambda-runtime-trace-id")
    if trace_header is None:
        os.environ.pop("_X_AMZN_TRACE_ID", None)
    else:
        os.environ["_X_AMZN_TRACE_ID"] = trace_header
    try:
        event = json.loads(body)
    except ValueError as error:
        raise FaultError("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from None
    return encode(handler(event, Context(headers)))


def describe(error: Exception, request_id: str) -> tuple[bytes, str]:
    """The error object that Lambda gives to the caller, logged on the way: its JSON, and its type."""
    if isinstance(error, FaultError):
        kind, trace = error.type, error.trace
    else:
        kind, trace = type(error).__name__, frames(error.__traceback__)
    report = {"errorMessage": str(error), "errorType": kind, "requestId": request_id, "stackTrace": trace}
    print(f"[ERROR] {kind}: {error}\nTraceback (most recent call last):\n" + "".join(trace).rstrip("\n"))  # noqa: T201
    return json.dumps(report).encode(), kind


def frames(traceback: TracebackType | None) -> list[str]:
    """The lines of a traceback, without this file's own."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    from traceback import extract_tb, format_list

    return format_list([(frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in extract_tb(traceback)])


def flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def serve(connection: Connection, handler: Callable[[Any, Context], Any]) -> None:
    """Ask, perform, answer. Ends by `GoneError` only: how often a sandbox is used is the service's decision."""
    while True:
        _, headers, body = connection.ask("GET", "/invocation/next")
        request_id = headers["lambda-runtime-aws-request-id"]
        try:
            answer, kind = perform(handler, headers, body)
        except Exception as error:
            answer, kind = describe(error, request_id)
            flush()
            connection.ask("POST", f"/invocation/{request_id}/error", answer, error=kind)
        else:
            flush()
            connection.ask("POST", f"/invocation/{request_id}/response", answer, kind)


def main() -> int:
    """Runs until the Runtime API goes away (0) or the handler cannot be loaded (1)."""
    sys.path.insert(0, os.environ.get("LAMBDA_TASK_ROOT") or os.getcwd())  # noqa: PTH109  (pathlib is not imported)
    connection = Connection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    try:
        handler = find_handler(sys.argv[1] if len(sys.argv) > 1 else os.environ["_HANDLER"])
    except Exception as error:
        answer, kind = describe(error, "")
        flush()
        connection.ask("POST", "/init/error", answer, error=kind)
        return 1
    give_logging_a_handler()
    try:
        serve(connection, handler)
    except (GoneError, ConnectionError):
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
