"""Limits on starts, and what ends a run from outside, as a deployed function meets them. That a limit holds to the
millisecond is shown where the clock is set, in `tests/cases`; here time passes by itself, and what is asserted of it
holds however slow the machine is."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from onward.core.ids import run_id
from onward.core.waits import EVENT, event_digest, event_partition
from onward.engine.ingest import AHEAD_MS

from .deployment import LONGEST_S, InProcess, Sandboxed, event
from .polite import APART_S, DELAY_S, KINDS, REST_S, SHORT_S

CLOCKS_S = 0.002  # what two looks at one clock may disagree by, in whole milliseconds
_groups = itertools.count()


class Group:
    """The events of one group, and what became of them. `kind`: whether they start functions or coroutines."""

    def __init__(self, deployment: InProcess | Sandboxed, kind: str) -> None:
        self.deployment = deployment
        self.kind = kind
        self.name = f"group-{next(_groups)}"

    def tell(self, name: str, at_s: float | None = None, **said: Any) -> dict[str, Any]:
        """Deliver an event, and return what is on record with it when it was taken in."""
        payload = event(f"story/{name}", {"group": self.name, **said})
        payload["time"] = datetime.fromtimestamp(at_s or time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.deployment.service.invoke_async(payload)
        key = (event_partition(event_digest(payload["id"])), EVENT)

        def kept() -> Any:
            return self.deployment.ledger.store.get([key])[0]

        found: dict[str, Any] = json.loads(self.until(kept).body)
        return found | {"id": payload["id"]}

    def start(self, workflow: str, at_s: float | None = None, **said: Any) -> dict[str, Any]:
        return self.tell(f"{workflow}.{self.kind}", at_s, **said)

    def run_of(self, workflow: str, kept: dict[str, Any]) -> str:
        return run_id(f"{workflow}.{self.kind}", kept["id"])

    def lines(self, step: str) -> list[dict[str, Any]]:
        if not self.deployment.notes_file.exists():
            return []
        lines = map(json.loads, self.deployment.notes_file.read_text().splitlines())
        return [line for line in lines if line.get("group") == self.name and line["step"] == step]

    def told(self, step: str, count: int) -> list[dict[str, Any]]:
        """What its runs wrote down in this step, when they have done so this often."""
        self.until(lambda: len(self.lines(step)) >= count)
        lines = self.lines(step)
        assert len(lines) == count
        return lines

    def until(self, holds: Callable[[], Any]) -> Any:
        ends_s = time.monotonic() + LONGEST_S
        while not (found := holds()):
            assert time.monotonic() < ends_s, "\n".join(self.deployment.lines())
            self.deployment.wait()
        return found

    def status(self, run: str) -> Any:
        view = self.deployment.look(run)
        return view and view["status"]

    def stays(self, workflow: str, **said: Any) -> str:
        """Start a run that stands until it is let go."""
        run = self.run_of(workflow, self.start(workflow, stays=True, **said))
        self.until(lambda: self.status(run) == "waiting")
        return run


@pytest.fixture(params=KINDS)
def group(request: pytest.FixtureRequest, deployment: InProcess | Sandboxed) -> Group:
    return Group(deployment, request.param)


def test_a_debounced_event_replaces_the_one_before_it_by_its_time(group: Group) -> None:
    began_s = time.time()
    for n, at_s in (("early", 0), ("late", 2), ("between", 1)):
        group.start("debounced", int(began_s) + at_s, n=n)
    took_s = time.time() - began_s
    group.until(lambda: "late" in [line["n"] for line in group.lines("end")])
    told = [line["n"] for line in group.lines("end")]
    assert told == ["late"] or took_s >= REST_S, "only where they came too slowly each may start its own"


def test_throttled_runs_begin_one_after_the_other(group: Group) -> None:
    began_s = time.time()
    for n in range(4):
        group.start("throttled", n=n)
    at = sorted(line["at"] for line in group.told("begin", 4))
    for n, at_s in enumerate(at[1:]):
        assert at_s - began_s >= n * APART_S - CLOCKS_S
    assert sorted(line["n"] for line in group.told("end", 4)) == [0, 1, 2, 3]


def test_events_over_the_rate_start_nothing_and_that_is_on_record(group: Group) -> None:
    kept = [group.start("rated", n=n) for n in range(4)]
    assert [len(one["runs"]) for one in kept] == [1, 1, 0, 0]
    assert [one.get("not", {}).get(f"rated.{group.kind}", "").split(":")[0] for one in kept[2:]] == ["rate_limit"] * 2
    assert sorted(line["n"] for line in group.told("end", 2)) == [0, 1]


def test_an_event_is_skipped_as_long_as_a_run_is_there(group: Group) -> None:
    first = group.stays("single", n=1)
    skipped = group.start("single", n=2)
    assert not skipped["runs"] and skipped["not"][f"single.{group.kind}"].startswith("singleton")
    group.tell("let_go")
    assert group.deployment.follow(first)["status"] == "completed"
    group.start("single", n=3)
    assert [line["n"] for line in group.told("end", 2)] == [1, 3]


def test_an_event_cancels_the_run_that_is_there(group: Group) -> None:
    first = group.stays("newest", n=1)
    second = group.run_of("newest", group.start("newest", n=2))
    assert [group.deployment.follow(run)["status"] for run in (first, second)] == ["cancelled", "completed"]
    assert [line["n"] for line in group.told("tell", 1)] == [1]


def test_who_queues_begins_by_rank_and_then_by_age(group: Group) -> None:
    group.stays("ranked", n="first")
    for n, rank in (("old", 1), ("young", 1), ("urgent", 9)):
        group.start("ranked", n=n, rank=rank)
        time.sleep(0.005)  # their age is in milliseconds
    group.tell("let_go")
    assert [line["n"] for line in group.told("begin", 4)] == ["first", "urgent", "old", "young"]
    group.told("end", 4)


def test_a_delayed_run_begins_later(group: Group) -> None:
    began_s = time.time()
    group.start("delayed", n=1)
    [line] = group.told("end", 1)
    assert line["at"] - began_s >= DELAY_S - CLOCKS_S


def test_an_event_of_the_future_begins_then(deployment: InProcess | Sandboxed) -> None:
    group = Group(deployment, KINDS[0])
    then_s = int(time.time()) + AHEAD_MS // 1000 + 3
    group.start("throttled", then_s, n=1)
    [line] = group.told("end", 1)
    assert line["at"] >= then_s


def test_an_event_stops_the_runs_that_it_matches(group: Group) -> None:
    other = Group(group.deployment, group.kind)
    runs = [group.stays("stopped"), group.stays("stopped")]
    stays = other.stays("stopped")
    group.tell("stop")
    assert [group.deployment.follow(run)["status"] for run in runs] == ["cancelled"] * 2
    assert [line["told"] for line in group.told("tell", 2)] == ["onward/run.cancelled"] * 2
    assert other.status(stays) == "waiting"
    other.tell("let_go")
    assert other.deployment.follow(stays)["status"] == "completed"


def test_a_run_that_takes_too_long_fails(group: Group) -> None:
    began_s = time.time()
    view = group.deployment.follow(group.run_of("hasty", group.start("hasty", stays=True)))
    assert view["status"] == "failed" and view["error"]["type"] == "FinishTimeout"
    assert time.time() - began_s >= SHORT_S
    assert [line["told"] for line in group.told("tell", 1)] == ["onward/run.failed"]


def test_a_run_that_does_not_begin_in_time_fails(group: Group) -> None:
    first = group.stays("impatient", n=1)
    second = group.run_of("impatient", group.start("impatient", n=2))
    view = group.deployment.follow(second)
    assert view["error"]["type"] == "StartTimeout"
    assert [line["n"] for line in group.told("tell", 1)] == [2]
    group.tell("let_go")
    assert group.deployment.follow(first)["status"] == "completed"
    assert [line["n"] for line in group.told("begin", 1)] == [1]


def test_never_more_steps_at_a_time_than_the_limit(group: Group) -> None:
    for n in range(4):
        group.start("turns", n=n)
    lines = sorted((line["at"], line["edge"]) for call in range(2) for line in group.told(f"call {call}", 8))
    assert [edge for _, edge in lines] == ["in", "out"] * 8


def test_the_first_of_several_events_an_event_of_its_own_and_a_run_that_fails(group: Group) -> None:
    run = group.run_of("meets", group.start("meets"))
    group.until(lambda: group.status(run) == "waiting")
    group.tell("that")
    assert json.loads(group.deployment.follow(run)["output"]) == ["story/that", True, "StepError"]
