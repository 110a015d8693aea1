"""Ways to run the deployed handler, all with the same face, so that one test goes through all of them.

`Sandboxed`: the local Lambda, with its own runtime or AWS's. `InProcess`: this process calls the handler, one
invocation after the other, with the payloads that Lambda, SQS and EventBridge would bring.
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from onward.core.ids import run_id
from onward.core.log import LOG_END, log_key, partition_of
from onward.engine.ledger import Ledger
from onward.engine.views import run_view
from onward.local.lambda_service import LocalLambda

EVENTS = Path(__file__).parents[1] / "events"
ENDED = ("completed", "failed", "cancelled")
LONGEST_S = 60.0  # that any run is waited for
TIMEOUT_S = 10.0  # of a function in process
REACH_MS = 900_000
_numbers = itertools.count(1)


def fixture(name: str) -> Any:
    """A payload of AWS's shape."""
    return json.loads((EVENTS / f"{name}.json").read_text())


def event(name: str, data: Any, id: str | None = None) -> dict[str, Any]:
    """What EventBridge hands over."""
    return fixture("eventbridge_event") | {"detail-type": name, "detail": data, "id": id or f"event-{next(_numbers)}"}


def message(body: str, id: str | None = None) -> dict[str, Any]:
    """One record of what SQS hands over."""
    return fixture("sqs_batch")["Records"][0] | {"body": body, "messageId": id or f"message-{next(_numbers)}"}


class Service(Protocol):
    def invoke(self, payload: Any) -> tuple[Any, dict[str, Any] | None]: ...
    def invoke_async(self, payload: Any) -> str: ...


class Deployment:
    """A deployed app with its table. `notes`: what its steps wrote down."""

    sandboxed = True

    def __init__(self, service: Service, ledger: Ledger, notes_file: Path) -> None:
        self.service = service
        self.ledger = ledger
        self.notes_file = notes_file

    def start(self, workflow: str, data: Any, id: str | None = None) -> str:
        """Deliver an event, and return the id of the run that it is to start."""
        payload = event(f"story/{workflow}", data, id)
        self.service.invoke_async(payload)
        return run_id(workflow, payload["id"])

    def follow(self, run: str, within_s: float = LONGEST_S) -> dict[str, Any]:
        """The view of the run when it has ended."""
        ends_s = time.monotonic() + within_s
        while True:
            view = self.look(run)
            if view is not None and view["status"] in ENDED:
                return view
            if time.monotonic() > ends_s:
                raise AssertionError(f"run {run} did not end: {view}\n" + "\n".join(self.lines()))
            self.wait()

    def run(self, workflow: str, data: Any, within_s: float = LONGEST_S) -> dict[str, Any]:
        return self.follow(self.start(workflow, data), within_s)

    def look(self, run: str) -> dict[str, Any] | None:
        if not self.ledger.store.read(partition_of(run), log_key(0), LOG_END, limit=1):
            return None
        return run_view(self.ledger, run)

    def records(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(item.body) for item in self.ledger.store.read(partition_of(run), log_key(0), LOG_END)]

    def notes(self, run: str, step: str | None = None) -> list[dict[str, Any]]:
        if not self.notes_file.exists():
            return []
        lines = [json.loads(line) for line in self.notes_file.read_text().splitlines()]
        return [line for line in lines if line["run"] == run and step in (None, line["step"])]

    def wait(self) -> None:
        time.sleep(0.02)

    def lines(self) -> list[str]:
        return []


class Sandboxed(Deployment):
    def __init__(self, service: LocalLambda, ledger: Ledger, notes_file: Path) -> None:
        super().__init__(service, ledger, notes_file)
        self.lambda_ = service

    @property
    def messages(self) -> int:
        return self.lambda_.stats.messages

    def lines(self) -> list[str]:
        return self.lambda_.log_lines[-60:]


class Context:
    """What Lambda tells of an invocation. It has no ARN: the door keeps its wakes."""

    def __init__(self, request: str) -> None:
        self.aws_request_id = request
        self._ends_s = time.monotonic() + TIMEOUT_S

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round((self._ends_s - time.monotonic()) * 1000))


class Pump:
    """Lambda's queue and SQS's in one heap; `step()` delivers what is due. Passes as the engine's wakes."""

    reach_ms = REACH_MS

    def __init__(self, handler: Callable[[Any, Any], Any]) -> None:
        self.handler = handler
        self.messages = 0
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Any]] = []

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        body = json.dumps(wake)
        ahead_s = 0.0 if at_ms is None else at_ms / 1000 - time.time()
        if ahead_s <= 0:
            self._put(0.0, json.loads(body))
        else:
            self.messages += 1
            self._put(ahead_s, {"Records": [message(body)]})

    def invoke_async(self, payload: Any) -> str:
        self._put(0.0, json.loads(json.dumps(payload)))
        return "request"

    def invoke(self, payload: Any) -> tuple[Any, dict[str, Any] | None]:
        try:
            return json.loads(json.dumps(self.handler(payload, Context(f"request-{next(_numbers)}")))), None
        except Exception as error:
            return None, {"errorType": type(error).__name__, "errorMessage": str(error)}

    def step(self) -> None:
        if not self._queue or self._queue[0][0] > time.monotonic():
            time.sleep(0.01)
            return
        _, _, payload = heapq.heappop(self._queue)
        answer = self.handler(payload, Context(f"request-{next(_numbers)}"))
        assert not (isinstance(answer, dict) and answer.get("batchItemFailures")), answer

    def _put(self, ahead_s: float, payload: Any) -> None:
        heapq.heappush(self._queue, (time.monotonic() + ahead_s, next(self._order), payload))


class InProcess(Deployment):
    sandboxed = False

    def __init__(self, pump: Pump, ledger: Ledger, notes_file: Path) -> None:
        super().__init__(pump, ledger, notes_file)
        self.pump = pump

    @property
    def messages(self) -> int:
        return self.pump.messages

    def wait(self) -> None:
        self.pump.step()
