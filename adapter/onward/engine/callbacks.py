"""Answers from outside: completing and failing callbacks, and the heartbeats of whoever works on one.

An answer is an event whose id follows from the token, so there is one, however often it is given and by whom. A wait
that ends without it puts a mark in its place, in one transaction with its end. So an answer either is what the step
returns, or it is told that it came too late; and never both.
"""

from __future__ import annotations

from ..core.codec import encode
from ..core.errors import MAX_MESSAGE_CHARS, InvalidOption, UnknownCallback
from ..core.ids import callback_event, is_callback_token, is_run_id
from ..core.log import HEAD, Fold, event_context, head_of, log_key, partition_of
from ..core.status import ENDED
from ..core.values import MAX_NAME_CHARS, Event
from ..core.waits import BEAT, CALLBACK, ENDS, EVENT, WAITS, Match, event_digest, event_partition
from .ledger import ENCODED
from .waiting import bring, event_writes, is_closed, kept_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..ports import Item
    from .engine import Engine

ACCEPTED, ANSWERED, TOO_LATE = "accepted", "answered before", "too late"
"""What becomes of an answer: it is the one that counts, another one was given before, or nobody waits any more."""


def complete(engine: Engine, token: str, data: Any = None) -> str:
    """Let the step that waits for this token return `data`. Raises `UnknownCallback`."""
    return _answer(engine, token, {"data": data})


def fail(engine: Engine, token: str, message: str, type: str = "CallbackFailed") -> str:
    """Let the step that waits for this token raise a `StepError` of that type and message. Raises `UnknownCallback`."""
    for what, text, most in (("type", type, MAX_NAME_CHARS), ("message", message, MAX_MESSAGE_CHARS)):
        if not isinstance(text, str) or not 1 <= len(text) <= most:
            raise InvalidOption(f"the {what} of an error is a string of 1 to {most:,} characters, not {text!r:.80}")
    return _answer(engine, token, {"error": {"type": type, "message": message}})


def beat(engine: Engine, token: str) -> str:
    """Say that whoever works on this is alive, so that `heartbeat=` begins anew. Raises `UnknownCallback`."""
    standing = _standing(engine, token)
    if standing is not None:
        return TOO_LATE if is_closed(standing) else ANSWERED
    if _is_over(engine, token, BEAT):
        return TOO_LATE
    _keep(engine, Event(BEAT, {"token": token}, f"{BEAT}/{token}/{engine.clock.token()}", engine.clock.now_ms()))
    return ACCEPTED


def _answer(engine: Engine, token: str, answer: dict[str, Any]) -> str:
    standing = _standing(engine, token)
    if standing is None:
        if _is_over(engine, token, CALLBACK):
            return TOO_LATE
        event = Event(CALLBACK, {"token": token, **answer}, callback_event(token), engine.clock.now_ms())
        standing = _keep(engine, event)
        if standing is None:
            return ACCEPTED
    if is_closed(standing):
        return TOO_LATE
    event, text, arrived_ms = kept_event(engine.ledger, standing)  # who gave it may have died before it was brought
    bring(engine, event, arrived_ms, text)
    return ANSWERED


def _standing(engine: Engine, token: str) -> Item | None:
    """What stands in the place of the answer to that token."""
    run = token.rpartition(".")[0] if isinstance(token, str) else None
    started = engine.store.get([(partition_of(run), log_key(0))])[0] if run and is_run_id(run) else None
    if run is None or started is None:
        raise UnknownCallback(f"no run of this store has made the token {token!r:.100}: is it the right store?")
    fold = Fold(run)
    fold.apply(started)
    if engine.ledger.payloads is None and (started.value or "").startswith(ENCODED):
        raise InvalidOption("the values of this run are encoded by middleware of its app: name the app with --app")
    if not is_callback_token(token, run, fold.salts[run]):
        raise UnknownCallback(f"run {run} has not made the token {token!r:.100}: was it copied in full?")
    return engine.store.get([(event_partition(event_digest(callback_event(token))), EVENT)])[0]


def _is_over(engine: Engine, token: str, name: str) -> bool:
    """Whether the run that has handed the token out has ended, and no fork of it waits for that event in its place."""
    head = engine.store.get([(partition_of(token.rpartition(".")[0]), HEAD)])[0]
    if head is not None and head_of(head)["status"] not in ENDED:
        return False
    return not engine.store.read(Match(name, {"data.token": token}).place, WAITS, ENDS, limit=1)


def _keep(engine: Engine, event: Event) -> Item | None:
    """Keep an event of our own, which starts no run, and bring it to its wait; what stood there before it, if any."""
    arrived_ms = engine.clock.now_ms()
    text = encode(event.data, "the data of an answer")
    kept = engine.ledger.spill(text, event_context(event.id))
    refused = engine.store.write([*event_writes(engine.ledger, event, arrived_ms, [], {}, *kept)])
    if refused is not None:
        return refused.standing[0]
    bring(engine, event, arrived_ms, text)
    return None
