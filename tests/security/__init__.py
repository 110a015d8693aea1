"""Hostile input: what comes from outside is decoded within bounds, or refused with an error of ours.

Every decoder, who fills it, and what it does with what it cannot read. «edited» is somebody who can write to the table,
the bucket or the store file; «sender» is who may publish an event; «peer» is the other end of a connection.

    decoder                          from whom      bound                                raised
    -------------------------------  -------------  -----------------------------------  -----------------------------
    core/codec.decode                edited         depth of the interpreter; classes    NotEncodable
                                                    that are loaded dataclasses, enums
    core/codec.encode                sender, code   MAX_DEPTH; 4,300 digits              NotEncodable
    core/log Fold.apply, apply_lane  edited         MAX_PLANNED, MAX_KEY_DIGITS          IllegalRecord, LayoutMismatch
    core/log fields_of, head_of ...  edited         an item has at most 400 KB           IllegalRecord
    core/errors.RetryAfter           code, peer     MAX_RETRY_AFTER_S (dates as well)    InvalidOption
    engine/engine.check_wake         who may Invoke MAX_SEQ, MAX_PLANNED, MAX_RUN_CHARS  UnknownPayload
                                     or send to SQS
    engine/ingest.start              sender         MAX_NAME_CHARS; what a blob holds    InvalidEvent, ItemTooLarge
    engine/perform.describe          code, peer     MAX_MESSAGE_CHARS, ..._TRACEBACK_... nothing
    engine/notes                     all of them    MAX_FIELD_CHARS; one line, in ASCII  nothing
    aws/envelopes.recognise          Lambda, sender MAX_SHOWN_CHARS of what is told      UnknownPayload
    aws/envelopes.parse_body         SQS            SQS's own 1 MiB                      UnknownPayload
    entry/aws on-failure records     Lambda         MAX_RECORDS_IN_RECORDS               UnknownPayload
    aws/connection                   peer           MAX_HEAD_BYTES, MAX_REPLY_BYTES,     Broken (Unavailable outside)
                                                    EXCHANGE_TIMEOUT_S
    aws/wire, aws/failures           peer           _MAX_TOLD_CHARS, _MAX_CODE_CHARS     the errors of core/errors
    aws/credentials                  container      a UTC moment, three strings          Unavailable, NoCredentials
    aws/endpoints                    environment    a port of five digits, printable     Misconfigured, NoRegion
    aws/dynamodb (items)             edited         400 KB an item, MAX_PAGES            nothing: empty text is refused
                                                                                         by who reads it
    aws/blobs, local/blobs           edited         MAX_REPLY_BYTES, MAX_BLOB_BYTES;     BlobMissing, BlobCorrupt
                                                    a reference is 64 hex digits
    local/wakes (claims, owners)     edited         MAX_PID_DIGITS                       nothing: refused as a wake
    local/loopback                   this machine   MAX_HEAD_BYTES, MAX_BODY_BYTES       RequestError: status 400
    local/queue_service              this machine   MAX_MESSAGE_BYTES                    status 400
    local/lineage, event_source      this machine   MAX_COUNT_DIGITS                     nothing
    cli/target.event_data            who types      the interpreter's                    InvalidEvent
    cli/show                         all of them    MAX_ROWS, MAX_NAME_CHARS ...         nothing: control characters
                                                                                         are shown escaped

The shape of DynamoDB's own replies is trusted: they come over TLS from AWS, with a checksum.

The fuzzers run a fixed part, the same in every run, and a fresh part (`both_parts`); a failing example is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FIXED_EXAMPLES = 150
FRESH_EXAMPLES = 50
HOSTILE_TEXTS = [
    "",
    "\x00",
    "\x1b]0;owned\x07\x1b[2J",
    "\u202egnp.exe",
    "\ud800",
    "../../etc/passwd",
    "run#x",
    "L#00000001",
    "S#00000001.00000",
    "L~",
    "H",
    "$",
    '"$"',
    "a\r\nX-Injected: 1",
    "\u0665",
    "é",
    "e\u0301",
    "\U0001f469" * 256,
    "x" * 257,
]
TEXT = st.one_of(st.text(st.characters(exclude_categories=()), max_size=40), st.sampled_from(HOSTILE_TEXTS))
NUMBERS = st.one_of(
    st.integers(), st.integers(-(10**40), 10**40), st.floats(), st.sampled_from([-1, 0, 1, 2**63, 10**9])
)
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(TEXT, st.sampled_from(["$", "v", "t", "k", "s", "n", "a", "e", "at", "until", "count", "seen"])),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)


def both_parts(**strategies: Any) -> Callable[[Callable[..., None]], Callable[[str], None]]:
    """Run a property on examples that are the same in every run, and on some that are not."""

    def wrap(check: Callable[..., None]) -> Callable[[str], None]:
        import pytest

        quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

        def part(examples: int, derandomize: bool) -> Callable[[], None]:
            rules = settings(
                max_examples=examples,
                derandomize=derandomize,
                deadline=None,
                database=None,
                suppress_health_check=quiet,
            )
            return rules(given(**strategies)(check))

        parts = {"fixed": part(FIXED_EXAMPLES, True), "fresh": part(FRESH_EXAMPLES, False)}

        @pytest.mark.parametrize("which", sorted(parts))
        def run(which: str) -> None:
            parts[which]()

        run.__name__, run.__doc__ = check.__name__, check.__doc__
        return run

    return wrap


@st.composite
def mutated(draw: st.DrawFn, tree: Any) -> Any:
    """`tree` with one to three of its places removed, replaced by anything, or put somewhere else."""
    import copy

    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(root))
        holder, key = draw(st.sampled_from(places))
        if isinstance(holder, dict) and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(TREES)
    return root[0]


def _places(tree: Any) -> Any:
    entries = list(enumerate(tree)) if isinstance(tree, list) else list(tree.items()) if isinstance(tree, dict) else []
    for key, value in entries:
        yield tree, key
        yield from _places(value)
