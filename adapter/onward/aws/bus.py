"""Events out: EventBridge's PutEvents.

Theory. PutEvents answers 200 even if it took none of the entries: each entry has its own result, in order. So an
entry is sent until it has an event id, or a code for which no repetition helps; the others of its batch are not
sent again, because every repetition is a duplicate for whoever listens. Delivery is at least once all the same.

    the whole call fails                the wire's own retry table
    an entry fails, code in RETRIED     sent again with the others of its kind, after a wait
    an entry fails, any other code      raised, after every other entry was given its chance
"""

from __future__ import annotations

from onward.aws.failures import THROTTLED, AwsError, translate, unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from onward.aws.wire import Wire

MAX_ENTRIES = 10  # in one call
MAX_CALL_BYTES = 1_000_000  # in one call: «less than 1 MB»
RETRIED = THROTTLED | {"InternalException", "InternalFailure", "InternalServerError", "ServiceUnavailable"}


class EventBridgeBus:
    """`bus`: name or ARN of a custom event bus (Classic), or `default`."""

    def __init__(self, wire: Wire, bus: str = "default") -> None:
        self._wire = wire
        self._bus = bus

    def put(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Publish entries with `Source`, `DetailType`, `Detail` (JSON text of an object) and what else PutEvents
        knows; bus and trace header are added. Returns when all are accepted. Raises `Unavailable` (some may
        have been published), or what else AWS holds against an entry."""
        for batch in _batches(entries):
            self._put_batch(batch)

    def _put_batch(self, batch: list[Mapping[str, Any]]) -> None:
        added: dict[str, Any] = {"EventBusName": self._bus}
        trace = self._wire.trace()
        if trace:
            added["TraceHeader"] = trace
        left = [{**added, **entry} for entry in batch]
        final: AwsError | None = None
        for attempt in range(self._wire.attempts):
            reply = self._wire.json("events", "PutEvents", {"Entries": left}, self._bus)
            if not reply.get("FailedEntryCount"):
                break
            failed = [
                (entry, result) for entry, result in zip(left, reply["Entries"], strict=True) if result.get("ErrorCode")
            ]
            left = [entry for entry, result in failed if result["ErrorCode"] in RETRIED]
            for _, result in failed:
                if result["ErrorCode"] not in RETRIED:
                    final = AwsError(result["ErrorCode"], 400, result.get("ErrorMessage") or "", {})
            if not left:
                break
            if attempt + 1 == self._wire.attempts:
                codes = ", ".join(sorted({result["ErrorCode"] for _, result in failed}))
                raise unavailable("events", "PutEvents", f"{len(left)} events not taken: {codes}", attempt + 1)
            self._wire.wait(attempt, throttled=any(result["ErrorCode"] in THROTTLED for _, result in failed))
        if final is not None:
            raise translate(final, "events", "PutEvents", self._bus, 1) from final


def _batches(entries: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    batch_bytes = 0
    for entry in entries:
        size = _entry_bytes(entry)
        if batch and (len(batch) == MAX_ENTRIES or batch_bytes + size > MAX_CALL_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(entry)
        batch_bytes += size
    if batch:
        yield batch


def _entry_bytes(entry: Mapping[str, Any]) -> int:
    """By EventBridge's rule: 14 bytes for a time, and the UTF-8 of source, detail type, detail and resources."""
    texts = [entry.get("Source", ""), entry.get("DetailType", ""), entry.get("Detail", ""), *entry.get("Resources", ())]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + (14 if "Time" in entry else 0)
