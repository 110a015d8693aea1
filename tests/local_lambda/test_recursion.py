"""Lambda cuts a chain of requests after sixteen hops, unless it is told not to."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from onward.local.lineage import MAX_HOPS, function_hash, handed_on, hops

from .conftest import Make, soon

Notes = Callable[[], list[Any]]
ARN = "arn:aws:lambda:us-east-1:123456789012:function:onward"


def after(count: int) -> str:
    """The header that a function sends on in its `count`-th invocation of a chain."""
    header, random = None, Random(1)
    for _ in range(count):
        header = handed_on(header, ARN, time.time(), random)
    assert header is not None
    return header


def test_each_hop_counts_one() -> None:
    assert hops(None, ARN) == 0
    assert hops("Root=1-5759e988-bd862e3fe1be46a994272793", ARN) == 0
    assert [hops(after(count), ARN) for count in (1, 2, 16)] == [1, 2, 16]
    assert hops(after(5), ARN + "x") == 0


def test_the_root_stays_and_the_parent_changes() -> None:
    first, random = after(1), Random(2)
    second = handed_on(first, ARN, time.time(), random)
    assert first.split(";")[0] == second.split(";")[0]
    assert first.split(";")[1] != second.split(";")[1]
    assert second.endswith(f";Lineage=1:{function_hash(ARN)}:1")


@pytest.mark.parametrize("through", ["lambda", "sqs"])
def test_a_chain_is_cut_after_sixteen_invocations(make: Make, notes: Notes, through: str) -> None:
    service = make(on_failure="queue", visibility_timeout_s=2, max_receive_count=2)
    event = {"do": "loop", "through": through, "count": 1, "queue": service.queue_url}
    service.invoke_async(event)
    assert service.drain(60)
    looped = [note for note in notes() if note.get("do") == "loop"]
    assert len(looped) == MAX_HOPS
    if through == "lambda":
        assert service.stats.recursion_drops == 1
        (record,) = [note["body"] for note in notes() if "body" in note]
        assert record["requestPayload"]["count"] == MAX_HOPS + 1
    else:
        assert service.stats.recursion_drops == 2, "the message burns its receives"
        assert len(service.dead_letters) == 1


def test_a_chain_that_is_allowed_goes_on(make: Make, notes: Notes) -> None:
    service = make(recursive_loop="Allow")
    service.invoke_async({"do": "loop", "through": "lambda", "count": 1, "queue": ""})
    assert soon(lambda: len(notes()) > MAX_HOPS + 4, within_s=60)
    assert service.stats.recursion_drops == 0


def test_a_client_that_sends_no_header_is_not_counted(make: Make) -> None:
    service = make()
    for _ in range(MAX_HOPS + 4):
        assert service.invoke({})[1] is None
    assert service.stats.recursion_drops == 0


def test_a_synchronous_call_at_the_end_of_a_chain_is_refused(make: Make) -> None:
    service = make()
    assert service.invoke({}, trace_header=after(MAX_HOPS - 1))[1] is None
    _, error = service.invoke({}, trace_header=after(MAX_HOPS))
    assert error is not None and error["errorType"] == "RecursiveInvocationException"
