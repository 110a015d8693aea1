"""The front door on Lambda. Importing this module imports all that a deployed step needs, and opens nothing; `handler`
then opens the connection to DynamoDB, at INIT, where Lambda gives a full core.

Settings, from the environment:

    ONWARD_TABLE       the table (required)
    ONWARD_QUEUE_URL   the SQS queue that feeds this function: wakes for later, and on-failure records
    ONWARD_BUCKET      where values over 64 KiB are kept; ONWARD_PREFIX is put before their keys
    ONWARD_STORE       instead of the table: a SQLite file (for a local Lambda)
    ONWARD_CHAOS       what is to go wrong on purpose (see `onward.chaos`)
"""

from __future__ import annotations

import os

from ..aws.dynamodb import DynamoStore
from ..aws.envelopes import Arrived, Batch, CameToNothing, OwnWake, parse_body, recognise
from ..aws.wakes import LambdaWakes
from ..aws.wire import Wire
from ..clock import SystemClock
from ..core.errors import InvalidOption, Misconfigured, Unavailable, UnknownPayload
from ..engine import advance as _early  # noqa: F401  (lazy is not enough: what every step needs comes up at INIT)
from ..engine.engine import Engine, check_wake
from ..engine.notes import to_stdout

MAX_RECORDS_IN_RECORDS = 8  # on-failure records about the delivery of on-failure records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..app import App, Handler
    from ..chaos import Mischief
    from ..engine.notes import Note
    from ..ports import Blobs, Clock, Store


def handler(app: App, *, steps_per_invocation: int | str | None = None) -> Handler:
    """The Lambda handler of an app. `steps_per_invocation`: 1 or "fill", for all its workflows (default: as each
    workflow says)."""
    if steps_per_invocation not in (None, 1, "fill"):
        raise InvalidOption(f'steps_per_invocation= takes 1 or "fill", not {steps_per_invocation!r}')
    door = Door(app, os.environ, None if steps_per_invocation is None else steps_per_invocation == "fill")
    return door.handle


class Door:
    """Takes what Lambda hands over to the engine's verbs. `wire`, `clock`, `note`: others than the real ones, for a
    simulation."""

    def __init__(
        self,
        app: App,
        environ: Mapping[str, str],
        fill: bool | None = None,
        *,
        wire: Wire | None = None,
        clock: Clock | None = None,
        note: Note | None = None,
    ) -> None:
        self.app = app
        self.environ = environ
        self.wire = wire or Wire(environ=environ)
        self.clock: Clock = clock or SystemClock()
        store, blobs = self._store()
        self.function = environ.get("AWS_LAMBDA_FUNCTION_NAME", "")
        note = note or to_stdout(app.name)
        self.engine = Engine(app, store, self._wakes(), blobs, self.clock, fill=fill, note=note)
        self.mischief: Mischief | None = None
        if environ.get("ONWARD_CHAOS"):
            self._let_chaos_in(environ["ONWARD_CHAOS"], note)

    def _let_chaos_in(self, text: str, note: Note) -> None:
        from ..chaos import parse, surround

        mixture = parse(text)
        if mixture is None:
            return
        engine, ledger = self.engine, self.engine.ledger
        ports = (engine.store, engine.wakes, ledger.blobs)
        sandbox = self.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
        self.mischief, ports = surround(mixture, ports, self.clock, note, process=sandbox, alone=True)
        engine.store, engine.wakes, ledger.blobs = ports
        ledger.store = engine.store

    def _store(self) -> tuple[Store, Blobs | None]:
        path = self.environ.get("ONWARD_STORE")
        if path:
            from ..local.blobs import FolderBlobs
            from ..local.store import SqliteStore

            return SqliteStore(path), FolderBlobs(f"{path}.blobs")
        table = self.environ.get("ONWARD_TABLE")
        if not table:
            raise Misconfigured(
                "ONWARD_TABLE is not set: name the DynamoDB table (or, for a local Lambda, ONWARD_STORE a file)"
            )
        if "AWS_LAMBDA_FUNCTION_NAME" in self.environ:
            try:
                self.wire.connect("dynamodb")
            except Unavailable:
                pass  # the first call tries again, and says what is wrong
        bucket = self.environ.get("ONWARD_BUCKET")
        blobs = None
        if bucket:
            from ..aws.blobs import S3Blobs

            blobs = S3Blobs(self.wire, bucket, self.environ.get("ONWARD_PREFIX", ""))
        return DynamoStore(self.wire, table), blobs

    def _wakes(self) -> LambdaWakes:
        return LambdaWakes(self.wire, self.function, self.environ.get("ONWARD_QUEUE_URL"), self.clock)

    # ------------------------------------------------------------------------------------------------- handling
    def handle(self, payload: Any, context: Any) -> Any:
        """The Lambda handler."""
        arn = getattr(context, "invoked_function_arn", None)
        if arn and arn != self.function:  # with the alias or version by which this invocation was called
            self.function = arn
            wakes = self._wakes()
            self.engine.wakes = wakes if self.mischief is None else self.mischief.around(wakes)
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        deadline_ms = None
        if remaining is not None:
            self.engine.invocation_ms = remaining()
            deadline_ms = self.clock.now_ms() + self.engine.invocation_ms
        request = getattr(context, "aws_request_id", None)
        if self.mischief is None:
            return self._take(payload, deadline_ms, request)
        return self._suffer(self.mischief, payload, deadline_ms, request)

    def _suffer(self, mischief: Mischief, payload: Any, deadline_ms: int | None, request: str | None) -> Any:
        """Take what was handed over, with what chaos does to it."""
        self.engine.horizon_ms = mischief.horizon_ms(self.engine.invocation_ms)
        run = payload.get("run") if isinstance(payload, dict) else None
        answers: list[Any] = []
        mischief.survives(run, lambda: answers.append(self._take(payload, deadline_ms, request)))
        return answers[0]

    def _take(self, payload: Any, deadline_ms: int | None, request: str | None) -> Any:
        envelope = recognise(payload)
        if isinstance(envelope, OwnWake):
            self.engine.handle(envelope.wake, deadline_ms, request)
            return None
        if isinstance(envelope, Batch):
            return self._take_batch(envelope, deadline_ms, request)
        if isinstance(envelope, Arrived):
            return {"runs": self._take_events(envelope)}
        return self._take_failure(envelope, deadline_ms, request)

    def _take_events(self, arrived: Arrived) -> list[str]:
        """Start the runs of each event. One that cannot be taken in keeps none of the others out: it is told when all
        have been looked at."""
        from ..engine.ingest import ingest

        runs: list[str] = []
        refused: list[Exception] = [*arrived.refused]
        for event in arrived.events:
            try:
                runs += ingest(self.engine, event)
            except (Unavailable, Misconfigured):
                raise  # the others would fare no better
            except Exception as error:
                refused.append(error)
        for other in refused[1:]:
            self.engine.note("ERROR", "event refused", error=type(other).__name__, reason=str(other))
        if refused:
            raise refused[0]
        return runs

    def _take_batch(self, batch: Batch, deadline_ms: int | None, request: str | None) -> dict[str, Any]:
        """Each message for itself: those that failed are named, and the queue delivers them again.

        A wake is passed on to an invocation of its own. There it has a deadline of its own; and where its step kills
        the process, Lambda says so at once, which it does not for a batch: that would come back much later, and begin
        the same attempt again.
        """
        failures = []
        for message, body in batch.messages:
            try:
                payload = parse_body(body)
                envelope = recognise(payload)
                if isinstance(envelope, OwnWake):
                    check_wake(envelope.wake)
                    self.engine.send(envelope.wake)
                else:
                    self._take(payload, deadline_ms, request)
            except Exception as error:
                self.engine.note(
                    "ERROR", "message failed", message_id=message, error=type(error).__name__, reason=str(error)
                )
                failures.append({"itemIdentifier": message})
        return {"batchItemFailures": failures}

    def _take_failure(self, failure: CameToNothing, deadline_ms: int | None, request: str | None) -> Any:
        for _ in range(MAX_RECORDS_IN_RECORDS):
            inner = recognise(failure.payload)
            if not isinstance(inner, CameToNothing):
                break
            failure = inner
        else:
            raise UnknownPayload(f"over {MAX_RECORDS_IN_RECORDS} on-failure records, each about the next")
        if not isinstance(inner, OwnWake):
            return self._take(
                failure.payload, deadline_ms, request
            )  # an event: taking it in again starts no second run
        from ..engine import control

        if failure.killed:
            control.died(self.engine, inner.wake, failure.reason, failure.request)
        else:
            control.failed(self.engine, inner.wake, failure.reason)
        return None
