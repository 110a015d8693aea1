"""The ledger: reads the logs of runs, appends to them, and keeps the folds that a warm sandbox can go on with.

An append names the sequence number that it takes, and is refused when that number is taken. So of several invocations
that stand at the same record one goes on, and the others are `Superseded`.
"""

from __future__ import annotations

import json
from _thread import allocate_lock

from ..core import status
from ..core.codec import decode
from ..core.errors import BlobCorrupt, BlobMissing, ItemTooLarge, MiddlewareFailed, WriteRefused
from ..core.log import (
    FAILED_SHARDS,
    HEAD,
    LAYOUT,
    LOG_END,
    Done,
    Fold,
    event_context,
    failed_key,
    failed_partition,
    fields_of,
    lane_key,
    log_key,
    partition_of,
    unreadable,
)
from ..ports import MAX_WRITES, Drop, Item, Put, Swap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ..core.log import Lane
    from ..core.values import Event
    from ..ports import Blobs, Clock, Store
    from .middleware import Payloads
    from .steplimits import Slots

INLINE_BYTES = 64 * 1024  # a value up to this size stands in its record; beyond, storing it as a blob is cheaper
MAX_INLINE_BYTES = 380_000  # without blobs: what surely fits an item beside the record's own fields
MAX_BLOB_BYTES = 100 * 1024 * 1024
MAX_WARM_FOLDS = 64
MAX_WARM_BYTES = 64 * 1024 * 1024
MAX_HEAD_TRIES = 8
ENCODED = "~"  # begins every value that middleware has encoded, as no JSON text does
DAY_MS = 24 * 60 * 60 * 1000
HORIZON_MS = 40 * 60 * 1000  # how far ahead `due` is set: more than two of Lambda's longest invocations


class Superseded(Exception):
    """Another invocation wrote what this one was about to write; it goes on, this one stops."""


class Ledger:
    """Everything the engine writes about runs goes through here."""

    def __init__(self, store: Store, blobs: Blobs | None, clock: Clock) -> None:
        self.store = store
        self.blobs = blobs
        self.clock = clock
        self.horizon_ms = HORIZON_MS
        self.payloads: Payloads | None = None  # where the app's middleware encodes values
        self._lock = allocate_lock()  # over what is kept warm: invocations may share a process
        self._warm: dict[str, Fold] = {}
        self._texts: dict[str, str] = {}  # blobs that were read, by reference

    # ------------------------------------------------------------------------------------------------- reading
    def load(self, run: str, upto: int | None = None) -> Fold | None:
        """The run as its log has it now, or at least up to the record `upto`; None where there is no such run.
        The caller owns the fold until it hands it back with `keep`."""
        with self._lock:
            fold = self._warm.pop(run, None)
        partition = partition_of(run)
        if fold is None:
            fold = Fold(run)
            items = self.store.read(partition, HEAD, LOG_END if upto is None else log_key(upto))
            if items and items[0].sort == HEAD:
                fold.head = items.pop(0)
            if not items or (fold.head is None and items[0].sort != log_key(0)):
                return None  # or a fork is being copied, and is no run yet
        elif upto is not None and fold.next_seq > upto:
            items = []
        else:
            items = self.store.read(partition, log_key(fold.next_seq), LOG_END if upto is None else log_key(upto))
        for item in items:
            fold.apply(item)
        if fold.unread:
            for item in self.lanes(run, fold.unread):
                fold.apply_lane(item)
            for lane in fold.unread:
                if lane not in fold.results:
                    raise unreadable(run, lane_key(lane), "the log has observed it, and it is gone")
            fold.unread = []
        return fold

    def refuse_newer(self, run: str) -> None:
        """Raise `LayoutMismatch` for a run that a newer Onward has started: what is written about runs without loading
        them must not touch it."""
        started = self.store.get([(partition_of(run), log_key(0))])[0]
        if started is not None:
            Fold(run).apply(started)

    def lanes(self, run: str, lanes: Sequence[Lane]) -> list[Item]:
        """The results of these lanes, those that have one."""
        partition = partition_of(run)
        return [item for item in self.store.get([(partition, lane_key(lane)) for lane in lanes]) if item is not None]

    def keep(self, fold: Fold) -> None:
        """Keep the fold for the next wake of its run that comes to this process."""
        with self._lock:
            self._warm.pop(fold.run, None)
            if fold.ended is None:
                self._warm[fold.run] = fold
            held = sum(kept.size_bytes for kept in self._warm.values())
            while self._warm and (len(self._warm) > MAX_WARM_FOLDS or held > MAX_WARM_BYTES):
                held -= self._warm.pop(next(iter(self._warm))).size_bytes

    # ------------------------------------------------------------------------------------------------- writing
    def item(
        self, run: str, sort: str, body: dict[str, Any], value: str | None = None, due_ms: int | None = None
    ) -> Item:
        text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
        return Item(partition_of(run), sort, self.clock.token(), text, value, due_ms)

    def append(
        self,
        fold: Fold,
        body: dict[str, Any],
        value: str | None = None,
        also: Sequence[Any] = (),
        slots: Slots | None = None,
    ) -> None:
        """Append one record, together with writes of the user's own, or raise `Superseded`; `WriteRefused` where it is
        one of those that was refused. `slots`: what the attempt holds of which it speaks."""
        item = self.item(fold.run, log_key(fold.next_seq), body, value)
        refused = (slots or self.store).write([Put(item)], also)
        if refused is not None:
            raise WriteRefused(refused.why) if refused.why and refused.standing[0] is None else Superseded
        fold.apply(item)

    def end(self, fold: Fold, records: Sequence[tuple[dict[str, Any], str | None]], also: Sequence[Put] = ()) -> None:
        """Append the last records of a run and end its head, together with other writes, or raise `Superseded`. The
        waits that it leaves behind are removed."""
        items = [
            self.item(fold.run, log_key(fold.next_seq + place), body, value)
            for place, (body, value) in enumerate(records)
        ]
        last = records[-1][0]
        for _ in range(MAX_HEAD_TRIES):
            head = self.head(fold)
            fields = fields_of(head)
            fields.update(status=status.after(fold.status, last["k"]), ended=last["at"])
            if "e" in last:
                fields["error"] = {"type": last["e"]["type"], "message": last["e"]["message"][:300]}
            ended = self.item(fold.run, HEAD, fields)
            drops = self._open_places(fold)
            told = [*self._for_parent(fold, last, records[-1][1]), *self._freed(fields, fold.run)]
            told += self._listed(fold, last)
            room = MAX_WRITES - len(items) - 1 - len(also) - len(told)
            told += self._freed_steps(fields, fold.run, room)
            at_once = MAX_WRITES - len(items) - 1 - len(also) - len(told)
            refused = self.store.write([*map(Put, items), Swap(ended, head.token), *also, *drops[:at_once], *told])
            if refused is None:
                fold.head = ended
                for item in items:
                    fold.apply(item)
                for start in range(at_once, len(drops), MAX_WRITES):
                    self.store.write(drops[start : start + MAX_WRITES])
                return
            if any(refused.standing[: len(items)]) or any(refused.standing[len(items) + 1 :][: len(also)]):
                raise Superseded
            fold.head = refused.standing[len(items)] or fold.head  # or what the parent has was changed meanwhile
        raise Superseded

    def _listed(self, fold: Fold, last: dict[str, Any]) -> list[Put]:
        """A run that failed is found by when it did (see bulk.py)."""
        if last["k"] != status.RUN_FAILED:
            return []
        partition = failed_partition(last["at"] // DAY_MS, sum(fold.run.encode()) % FAILED_SHARDS)
        body = json.dumps({"workflow": fold.workflow}, ensure_ascii=True, separators=(",", ":"))
        return [Put(Item(partition, failed_key(last["at"], fold.run), self.clock.token(), body))]

    def _for_parent(self, fold: Fold, last: dict[str, Any], value: str | None) -> list[Put | Swap]:
        if "lane" not in fold.body:
            return []
        from .waiting import for_parent

        return for_parent(self, fold, last, value)

    def _freed(self, head: dict[str, Any], run: str) -> list[Put | Drop]:
        if "slots" not in head and "queue" not in head:
            return []
        from .gate import freed

        return freed(self, head, run)

    def _freed_steps(self, head: dict[str, Any], run: str, most: int) -> list[Put | Swap]:
        if "limits" not in head:
            return []
        from .steplimits import freed_at_end

        return freed_at_end(self, head, run, most)

    def _open_places(self, fold: Fold) -> list[Drop]:
        if not fold.open_lanes(waits_only=True) and "cancel_on" not in fold.body:
            return []
        from .waiting import open_places

        return open_places(self, fold)

    def head(self, fold: Fold) -> Item:
        """The head of a run, as far as this process knows it."""
        if fold.head is None:
            fold.head = self.store.get([(partition_of(fold.run), HEAD)])[0]
            if fold.head is None:
                raise status.IllegalRecord(
                    f"run {fold.run} has a log but no head item: it was edited or deleted in part"
                )
        return fold.head

    def move_head(self, fold: Fold, due_ms: int, **fields: object) -> None:
        """Move the time by which something must have happened. Whoever moved it meanwhile was right as well; whoever
        ended the run supersedes this, or the sweep would look after it for ever."""
        head = self.head(fold)
        body = fields_of(head)
        if body.get("status") in status.ENDED:
            raise Superseded
        body.update(fields)
        item = self.item(fold.run, HEAD, body, due_ms=due_ms)
        refused = self.store.write([Swap(item, head.token)])
        fold.head = item if refused is None else refused.standing[0]

    # -------------------------------------------------------------------------------------------------- values
    def spill(self, text: str, context: str) -> tuple[str | None, str | None]:
        """(text, None) for a value that stands in its record, (None, reference) for one that was stored as a blob.
        `context`: what it is the value of, for middleware that encodes."""
        if self.payloads is not None:
            text = self.payloads.encode(text, context)
        size = len(text) if text.isascii() else len(text.encode("utf-8"))
        if size <= (INLINE_BYTES if self.blobs is not None else MAX_INLINE_BYTES):
            return text, None
        if self.blobs is None:
            raise ItemTooLarge(
                f"a value of {size:,} bytes does not fit the table's items: set ONWARD_BUCKET to keep it in S3"
            )
        if size > MAX_BLOB_BYTES:
            raise ItemTooLarge(
                f"a value of {size:,} bytes is more than Onward keeps ({MAX_BLOB_BYTES:,}): "
                f"keep it in a file or table of your own, and return its name"
            )
        return None, self.blobs.put(text.encode("utf-8"))

    def text(self, value: str | None, blob: str | None, context: str) -> str:
        """The JSON text that `spill` was given. Raises `MiddlewareFailed` where it cannot be decoded here."""
        if blob is not None:
            value = self._blob(blob)
        elif value is None:
            return "null"
        if self.payloads is not None:
            return self.payloads.decode(value, context)
        if value.startswith(ENCODED):
            raise MiddlewareFailed(
                f"a value ({context}) was encoded by middleware, and this app has none that decodes: give the app the "
                f"middleware=[...] with which it was written"
            )
        return value

    def _blob(self, blob: str) -> str:
        if type(blob) is not str:
            raise BlobMissing(f"{blob!r:.100} is no reference of a blob: the log was edited")
        text = self._texts.get(blob)
        if text is None:
            if self.blobs is None:
                raise BlobMissing(f"value {blob} was stored as a blob, but no bucket is configured: set ONWARD_BUCKET")
            try:
                text = self.blobs.get(blob).decode("utf-8")
            except UnicodeDecodeError as error:
                raise BlobCorrupt(
                    f"the blob {blob} is no text, so it is none of Onward's: was the log edited?"
                ) from error
            with self._lock:
                self._texts[blob] = text
                while sum(map(len, self._texts.values())) > MAX_WARM_BYTES:
                    self._texts.pop(next(iter(self._texts)))
        return text

    def value(self, outcome: Done, context: str, output_type: Any = None) -> Any:
        """The value of a step that succeeded: a new object at every call."""
        return decode(self.text(outcome.text, outcome.blob, context), output_type)

    def event_text(self, fold: Fold) -> str:
        """The JSON text of the data of the event that started the run."""
        return self.text(fold.value, fold.body.get("blob"), event_context(fold.body["event"]["id"]))

    # --------------------------------------------------------------------------------------------------- births
    def birth(
        self,
        run: str,
        workflow: str,
        event: Event,
        due_ms: int,
        text: str | None,
        blob: str | None = None,
        parent: str | None = None,
        lane: dict[str, Any] | None = None,
        also: Mapping[str, Any] | None = None,
    ) -> list[Put]:
        """The writes that make a run exist. `text`, `blob`: the event's data, encoded and spilled. `lane`: the place of
        its parent that waits for it. `also`: more for its record `started`: when it may begin (`from`), must have begun
        (`start_by`) and must have ended (`finish_by`), and where the waits stand that cancel it (`cancel_on`)."""
        named = {"name": event.name, "id": event.id, "at": event.at_ms}
        now_ms = self.clock.now_ms()
        started: dict[str, Any] = {
            "k": status.STARTED,
            "layout": LAYOUT,
            "workflow": workflow,
            "event": named,
            "at": now_ms,
        }
        if blob:
            started["blob"] = blob
        if parent:
            started["parent"] = parent
        if lane:
            started["lane"] = lane
        started.update(also or {})
        head = {"workflow": workflow, "status": status.QUEUED, "event": named, "started": now_ms}
        return [
            Put(self.item(run, HEAD, head, due_ms=due_ms)),
            Put(self.item(run, log_key(0), started, text)),
        ]
