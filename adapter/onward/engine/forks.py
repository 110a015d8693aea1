"""Forks: a run that has ended is done again from one of its steps, as a new run. Its parent, the run that it was, is
read and never written to.

The fork's log begins as a copy of its parent's, so what that holds is reused: every result that the workflow had
observed before the step, the sleeps that were over, the events that waits had brought, what runs that it started had
returned. What is performed anew is the step itself and all that the log says behind it:

- A step by itself has its records in the log. The copy ends before the first of them.
- A step in flight beside others has a lane. The copy keeps the plan that put it in flight, and ends before the record
  that observed its result. Its siblings keep their results, but those that failed, and whose failure the workflow had
  not observed by then, are performed anew. So are those without a result. Sleeps and waits that are still open get
  the time that they had left where the copy ends (`sleep_until` keeps its date), and a step that is itself one its
  whole time again.
- A callback is asked for anew, by whatever it had handed its token to first. One that is still open keeps its token.
- A sibling that had begun under once=True is not performed again: it keeps its result, or fails as after a crash. The
  step that was asked for is, for that is what was asked.

A fork is a run of its own. Its steps have other idempotency keys, a run that it invokes is a new one, and on_failure=
is called if it fails. It does not report to a run that had invoked its parent, which has its answer. Its waits count
events since the first run of the line was started, so what has arrived meanwhile need not be sent again.

Of the options for starts it keeps to those that say when and how a run runs: throttle, concurrency, priority, the
timeouts (a start_timeout where it begins at its start) and cancel_on, counted from the fork on. It is no event's, so
nothing debounces it, drops it or takes it for seen before.

A log may be longer than a transaction. So what is copied is written first, and what makes it a run, its head and its
first record, last and together. After a crash in between there is no run, and nothing that wakes; the same fork asked
for again finds what was copied and completes it, since its id follows from what was asked for.
"""

from __future__ import annotations

import json
from itertools import chain

from ..core import status
from ..core.codec import decode, encode
from ..core.errors import InvalidOption, UnknownRun
from ..core.ids import fork_id, is_run_id
from ..core.log import (
    HEAD,
    LOG_END,
    TIMES,
    Fold,
    attempt_of,
    event_context,
    event_of,
    fields_of,
    lane_key,
    lane_of,
    log_key,
    partition_of,
    step_context,
)
from ..core.values import display
from ..ports import MAX_WRITES, Item, Put, item_bytes
from .starts import bounds, look_for_cancels, places_of_cancels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from ..app import Workflow
    from ..core.log import Lane
    from ..core.replay import Wanted
    from ..core.values import Event, Key
    from ..core.waits import Match
    from .engine import Engine, Wake
    from .ledger import Ledger

MAX_WRITE_BYTES = 3_000_000  # copied in one transaction, of the 4 MB that it may have
MAX_STEPS_NAMED = 20  # in an error
KEEP = object()  # the data of the parent's event


def fork(
    engine: Engine,
    run: str,
    step: str | None = None,
    *,
    data: Any = KEEP,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    request: str = "",
) -> str:
    """Do a run that has ended again from a step on; the id of the new run.

    `step`: as people read it, "name" or "name (2)" (None: from the start). `data`: of the event, instead of the
    parent's; steps that are reused were performed with the old. `args`, `kwargs`: what the step is called with in the
    fork; giving either replaces all that the workflow passes to it. `request`: tells apart forks that are alike
    otherwise; the same call again is the same fork. Raises `UnknownRun`, `UnknownWorkflow` where the app does not have
    its workflow, and `InvalidOption` where that run cannot be forked so.
    """
    parent = _Parent(engine.ledger, run)
    if step is None and (args is not None or kwargs is not None):
        raise InvalidOption("new arguments are for a step: name the step from which the run is done again")
    key = None if step is None else parent.key(step)
    text = None if data is KEEP else encode(data, "the data for a fork")
    given = None
    if key is not None and (args is not None or kwargs is not None):
        if parent.stands(key):
            raise InvalidOption(f"step {step!r} of run {run} is a sleep or a wait, which takes no arguments")
        given = encode([list(args or ()), dict(kwargs or {})], f"the arguments of step {step!r}")
    key = key and parent.redone(key)
    cut = 1 if key is None else parent.place(key)
    return _make(engine, parent, cut, key, [key] if key else [], text, given, request)


def retry(engine: Engine, run: str, *, once: bool = True, request: str = "") -> str:
    """Do a run that failed again from the step that failed it, or from several that did so together. Where the workflow
    itself raised, from the end of its log: all steps are reused. `once`: also where such a step had begun and may run
    only once (`once=True`). The id of the new run. Raises as `fork`."""
    parent = _Parent(engine.ledger, run)
    if parent.fold.status != status.FAILED:
        raise InvalidOption(
            f"run {run} is {parent.fold.status}, not failed: a retry begins at the step that failed. "
            f"Do it again from a step that you name, or from its start"
        )
    assert parent.fold.ended is not None
    failed: list[Key] = [parent.redone((name, ordinal)) for name, ordinal in parent.fold.ended[0].get("steps", [])]
    if not once:
        for key in filter(parent.has_begun_once, failed):
            raise InvalidOption(f"step {display(key)!r} may run only once (once=True), and had begun")
    cut = min((parent.place(key) for key in failed), default=len(parent.log) - 1)
    first = min(failed, key=parent.place, default=None)
    return _make(engine, parent, cut, first, failed, None, None, request)


class _Parent:
    """A run that has ended, as it stands in the store."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        if not is_run_id(run):
            raise UnknownRun(f"there is no run {run!r:.80} in this store")
        partition = partition_of(run)
        self.run = run
        self.log = ledger.store.read(partition, log_key(0), LOG_END)
        if not self.log or self.log[0].sort != log_key(0):
            raise UnknownRun(f"there is no run {run!r} in this store")
        self.fold = Fold(run)
        for item in self.log:
            self.fold.apply(item)
        if self.fold.ended is None:
            raise InvalidOption(f"run {run} has not ended: wait for its end, or cancel it, before it is done again")
        self.results: dict[Lane, Item] = {}
        self.begun: dict[Lane, Item] = {}  # the last that began under once=True
        self.asked: dict[Lane, Key] = {}  # of callbacks: the steps that have handed out their tokens
        self.lanes: dict[Key, Lane] = {
            key: (move.seq, index) for move in self.fold.moves for index, key in enumerate(move.names)
        }
        for item in ledger.store.read(partition, lane_key((0, 0)), "S~") if self.fold.plans else ():
            self._take(item)
        self.first: dict[Key, int] = {}  # the first record of each step in sequence
        for seq, item in enumerate(self.log):
            body = fields_of(item)
            if "s" in body:
                self.first.setdefault((body["s"], body["n"]), seq)

    def _take(self, item: Item) -> None:
        lane, attempt = lane_of(item)
        body = fields_of(item) if attempt is None else attempt_of(item)
        if attempt is None and body["k"] != status.CLOSED:
            self.results[lane] = item
        elif body["k"] == status.BEGUN:
            self.begun[lane] = item
        if "asked" in body:
            self.asked[lane] = (body["asked"][0], body["asked"][1])
        if "s" in body:
            self.lanes[body["s"], body["n"]] = lane

    def key(self, step: str) -> Key:
        """The step that people read so."""
        known = {display(key): key for key in (*self.first, *self.lanes)}
        if step not in known:
            raise InvalidOption(
                f"run {self.run} has come to no step {step!r:.80}; it has "
                f"{', '.join(map(repr, list(known)[:MAX_STEPS_NAMED])) or 'none'}"
            )
        return known[step]

    def has_begun_once(self, key: Key) -> bool:
        """Whether a step that may run only once has begun."""
        if key not in self.first:
            return self.lanes[key] in self.begun
        return bool(fields_of(self.log[self.first[key]])["k"] == status.BEGUN)

    def redone(self, key: Key) -> Key:
        """What is done again where this step is: who was asked by a callback is asked anew, with another token."""
        return key if key in self.first else self.asked.get(self.lanes[key], key)

    def place(self, key: Key) -> int:
        """How many records of the log do not know what came of this step."""
        if key in self.first:
            return self.first[key]
        lane = self.lanes[key]
        return next((move.seq for move in self.fold.moves if lane in move.seen), len(self.log) - 1)

    def stands(self, key: Key) -> bool:
        """Whether this step is a sleep or a wait."""
        if key in self.first:
            return key in self.fold.slept
        plan, index = self.lanes[key]
        return index in self.fold.plans[plan].sleeps or index in self.fold.plans[plan].waits


def _make(
    engine: Engine,
    parent: _Parent,
    cut: int,
    step: Key | None,
    redone: list[Key],
    text: str | None,
    given: str | None,
    request: str,
) -> str:
    """Write a fork that begins with `cut` records of its parent (but for deaths where it begins), and wake it."""
    ledger = engine.ledger
    while cut > 1 and fields_of(parent.log[cut - 1])["k"] == status.DIED:
        cut -= 1
    workflow = engine.workflow_of(parent.fold)
    run = fork_id(parent.run, cut, step, text, given, request)
    fold = Fold(run)
    for item in parent.log[:cut]:
        fold.apply(item)
    if ledger.store.get([(partition_of(run), HEAD)])[0] is None:
        lanes = {parent.lanes[key] for key in redone if key not in parent.first}
        kept = list(_lanes_kept(parent, fold, lanes))
        closed = {item.sort for item in kept}
        log = [_restarted(engine, parent, fold, item, closed, lanes) for item in parent.log[1:cut]]
        for batch in _batches([_under(ledger, parent.run, run, item) for item in (*log, *kept)]):
            _write_missing(engine, batch)
        body, value = _started(ledger, parent, run, cut, step, text, given)
        data = decode(text if text is not None else ledger.event_text(parent.fold))
        cancels = _bound(engine, workflow, event_of(parent.fold, data), cut, body)
        fold.body = body
        due_ms = min([engine.clock.now_ms() + engine.horizon_ms, *fold.deadlines])
        head = {"workflow": fold.workflow, "status": status.QUEUED, "event": body["event"]}
        head["started"] = body["fork"]["at"]
        makes = [ledger.item(run, HEAD, head, due_ms=due_ms), ledger.item(run, log_key(0), body, value)]
        ledger.store.write(
            [*map(Put, makes), *places_of_cancels(ledger, run, cancels)]
        )  # refused: it was made meanwhile
        engine.note("INFO", "run forked", run_id=run, workflow=fold.workflow, parent=parent.run, seq=cut)
        for name in TIMES:
            if name in body:
                engine.send({"do": "expire", "run": run}, body[name] + 1)
        if cancels:
            look_for_cancels(engine, [run])
    else:
        engine.note("INFO", "fork seen before", run_id=run, workflow=fold.workflow, parent=parent.run)
    engine.send({"do": "fork" if fold.flight else "advance", "run": run, "seq": cut})
    return run


def begin(engine: Engine, wake: Wake, deadline_ms: int | None, invocation: str | None) -> None:
    """Let a fork begin that has steps in flight: send their wakes, and one to observe the results that it has from its
    parent."""
    from .fanout import _mark_results, _start_timer, _wake_lanes

    fold = engine.ledger.load(wake["run"])
    if fold is None or fold.ended is not None or not fold.stands_at_fork:
        engine.note("INFO", "stale wake", run_id=wake["run"], seq=wake["seq"])
        return
    if engine.expired(fold) or not engine.may_go_on(fold):
        return
    waking = 0
    for plan in fold.flight:
        if fold.plans[plan].wide:
            _mark_results(engine, fold, fold.plans[plan])
        waking += len(_wake_lanes(engine, fold, fold.plans[plan]))
    _start_timer(engine, fold)
    if waking < fold.in_flight:
        engine.send({"do": "collect", "run": fold.run})
    engine.ledger.keep(fold)


def _lanes_kept(parent: _Parent, fold: Fold, redone: set[Lane]) -> Iterator[Item]:
    """What a fork finds in the lanes of the plans that it keeps, if its log is this."""
    observed = {lane for move in fold.moves for lane in move.seen}
    for lane in chain(parent.results, parent.begun.keys() - parent.results.keys()):
        if lane[0] not in fold.plans or lane in redone:
            continue
        result, begun = parent.results.get(lane), parent.begun.get(lane)
        if begun is not None:
            yield begun
        if result is not None and (lane in observed or begun is not None or fields_of(result)["k"] == status.DONE):
            yield result


def _restarted(engine: Engine, parent: _Parent, fold: Fold, item: Item, closed: set[str], redone: set[Lane]) -> Item:
    """A record that a fork copies, where what is still open gets the time that it had left, and a step that is done
    again its whole time. Waits that are over move along, since the next heartbeat counts from them. `closed`: the lanes
    that have a result."""
    body = fields_of(item)
    plan, now_ms = int(item.sort[2:]), engine.clock.now_ms()
    stood_ms = fields_of(parent.log[fold.next_seq])["at"]
    moved = False
    for kind in ("sleeps", "waits"):
        for index, end_ms in body.get(kind, {}).items():
            lane = (plan, int(index))
            is_open = lane[1] in fold.flight.get(plan, ()) and lane_key(lane) not in closed
            if kind == "waits" or (is_open and index not in body.get("dates", ())):
                body[kind][index] = end_ms + now_ms - (body["at"] if lane in redone else stood_ms)
                moved = True
    if not moved:
        return item
    return Item(item.partition, item.sort, item.token, json.dumps(body, separators=(",", ":")), item.value)


def _under(ledger: Ledger, parent: str, run: str, item: Item) -> Item:
    """An item of the parent as the fork has it. A value that middleware encodes is encoded anew, as the fork's."""
    body, value = item.body, item.value
    if ledger.payloads is not None:
        told = fields_of(item)
        blob = told.pop("blob", None)
        if blob is not None or value is not None:
            key = (told["s"], told["n"])
            value, blob = ledger.spill(ledger.text(value, blob, step_context(parent, key)), step_context(run, key))
            if blob is not None:
                told["blob"] = blob
            body = json.dumps(told, ensure_ascii=True, separators=(",", ":"))
    return Item(partition_of(run), item.sort, ledger.clock.token(), body, value)


def _write_missing(engine: Engine, items: list[Item]) -> None:
    """Write those of these items that are not there."""
    while items:
        refused = engine.store.write([Put(item) for item in items])
        if refused is None:
            return
        items = [item for item, standing in zip(items, refused.standing, strict=True) if standing is None]


def _bound(engine: Engine, workflow: Workflow, event: Event, cut: int, body: dict[str, Any]) -> list[Match]:
    """Say in the first record of a fork by when it must have begun and ended, and what cancels it."""
    for name in (*TIMES, "cancel_on"):
        body.pop(name, None)
    if workflow.flow is None:
        return []
    told, cancels = bounds(engine, workflow.flow, event, body["fork"]["at"])
    if cut > 1:
        told.pop("start_by", None)
    body.update(told)
    return cancels


def _batches(items: list[Item]) -> Iterator[list[Item]]:
    """The items in lists that fit into a transaction each."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and (len(batch) == MAX_WRITES or size + item_bytes(item) > MAX_WRITE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item_bytes(item)
    if batch:
        yield batch


def _started(
    ledger: Ledger, parent: _Parent, run: str, cut: int, step: Key | None, text: str | None, given: str | None
) -> tuple[dict[str, Any], str | None]:
    """The first record of a fork, and its value: the event's data."""
    body, value = dict(parent.fold.body), parent.fold.value
    body.pop("lane", None)
    now_ms = ledger.clock.now_ms()
    if "fork" in body:
        body["forks"] = [*body.get("forks", ()), body["fork"]]
    late_ms = now_ms - fields_of(parent.log[cut])["at"]
    body["fork"] = {"run": parent.run, "step": step, "seq": cut, "at": now_ms, "late": late_ms}
    body["salts"] = parent.fold.salts
    if text is not None:
        body.pop("blob", None)
        value, blob = ledger.spill(text, event_context(body["event"]["id"]))
        if blob:
            body["blob"] = blob
    inputs = {(told["s"], told["n"]): _input(ledger, parent.run, told) for told in body.get("inputs", ())}
    if step is not None and given is not None:
        inputs[step] = given
    if inputs:
        body["inputs"] = []
    for key, args in inputs.items():
        own, blob = ledger.spill(args, _input_context(run, key))
        body["inputs"].append({"s": key[0], "n": key[1], **({"blob": blob} if blob else {"text": own})})
    return body, value


def _input_context(run: str, key: Key) -> str:
    return f"input of {step_context(run, key)}"


def _input(ledger: Ledger, run: str, told: dict[str, Any]) -> str:
    """The arguments of a step, as JSON text, that a fork has for it."""
    return ledger.text(told.get("text"), told.get("blob"), _input_context(run, (told["s"], told["n"])))


def hand_over(ledger: Ledger, fold: Fold, wanted: Wanted) -> None:
    """Give a step the arguments that a fork has for it, if it has any."""
    for told in fold.body["inputs"]:
        if (told["s"], told["n"]) == wanted.key:
            args, wanted.kwargs = decode(_input(ledger, fold.run, told))
            wanted.args = tuple(args)
