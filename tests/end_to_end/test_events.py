"""Events, waits, schedules and limits, as a deployed function meets them: in process and in sandboxes."""

from __future__ import annotations

import json
import random
import time

import pytest

from onward.core.ids import run_id
from onward.core.waits import EVENT, event_digest, event_partition

from .deployment import LONGEST_S, InProcess, Sandboxed, event

Deployed = InProcess | Sandboxed


def kept(deployment: Deployed, id: str) -> dict[str, object]:
    """What is on record with an event."""
    ends_s = time.monotonic() + LONGEST_S
    while time.monotonic() < ends_s:
        item = deployment.ledger.store.get([(event_partition(event_digest(id)), EVENT)])[0]
        if item is not None:
            found: dict[str, object] = json.loads(item.body)
            return found
        deployment.wait()
    raise AssertionError(f"event {id} was not taken in")


@pytest.mark.parametrize("first", ["the run", "the event"])
def test_a_run_waits_for_an_event_and_for_another_run(deployment: Deployed, first: str) -> None:
    order = f"o-{first}"
    paid = event("order/paid", {"order": order, "by": "card"})
    for other in range(3):
        deployment.service.invoke_async(event("order/paid", {"order": f"{order}-{other}", "by": "nobody"}))
    if first == "the event":
        deployment.service.invoke_async(paid)
        kept(deployment, str(paid["id"]))
    run = deployment.start("order", {"order": order})
    if first == "the run":
        while (view := deployment.look(run)) is None or view["status"] != "waiting":
            deployment.wait()
        deployment.service.invoke_async(paid)
    view = deployment.follow(run)
    assert json.loads(view["output"]) == ["card", f"packed {order}"]


def test_never_more_runs_at_a_time_than_the_limit_and_a_killed_holder_frees_its_slot(deployment: Deployed) -> None:
    dies = deployment.sandboxed
    group = f"g-{random.random()}"
    runs = [deployment.start("limited", {"group": group, "dies": dies and n == 0}) for n in range(8)]
    views = [deployment.follow(run) for run in runs]
    assert [view["status"] for view in views] == ["completed"] * 8
    lines = [line for run in runs for line in deployment.notes(run)]
    live, most = set(), 0
    for line in sorted(lines, key=lambda line: line["at"]):
        if line["step"] == "end":
            live.discard(line["run"])
        else:
            live.add(line["run"])
            most = max(most, len(live))
    assert most == 2
    if dies:
        assert [line["attempt"] for line in deployment.notes(runs[0], "begin")] == [1, 2]


def test_events_are_gathered_until_there_are_enough_or_it_takes_too_long(deployment: Deployed) -> None:
    group = f"g-{random.random()}"
    payloads = [event("story/batched", {"group": group, "n": n}) for n in range(4)]
    for payload in payloads:
        deployment.service.invoke_async(payload)
        kept(deployment, str(payload["id"]))
    full = kept(deployment, str(payloads[2]["id"]))["runs"]
    assert isinstance(full, list) and json.loads(deployment.follow(full[0])["output"]) == [0, 1, 2]
    ends_s = time.monotonic() + LONGEST_S
    while not (taken := [line for line in all_notes(deployment) if line["step"] == "take" and line["run"] != full[0]]):
        assert time.monotonic() < ends_s, "the rest of the batch was never taken"
        deployment.wait()
    assert json.loads(deployment.follow(taken[-1]["run"])["output"]) == [3]


def all_notes(deployment: Deployed) -> list[dict[str, str]]:
    if not deployment.notes_file.exists():
        return []
    return [json.loads(line) for line in deployment.notes_file.read_text().splitlines()]


def test_an_event_of_an_aws_service_starts_what_its_pattern_says(deployment: Deployed) -> None:
    for key in ("images/a.png", "prices/2026.csv"):
        payload = event("Object Created", {"bucket": {"name": "shop"}, "object": {"key": key}}) | {"source": "aws.s3"}
        deployment.service.invoke_async(payload)
        runs = kept(deployment, str(payload["id"]))["runs"]
        assert runs == ([run_id("created", str(payload["id"]))] if key.startswith("prices") else [])
    assert isinstance(runs, list) and json.loads(deployment.follow(runs[0])["output"]) == "prices/2026.csv"


def test_a_schedule_that_is_told_twice_starts_one_run(deployment: Deployed) -> None:
    wake = {"onward": 1, "do": "cron", "workflow": "every_five_minutes", "at": "2026-11-23T10:05:00Z"}
    for _ in range(2):
        assert deployment.service.invoke(wake) == (None, None)
    run = run_id("every_five_minutes", "every_five_minutes@2026-11-23T10:05:00Z")
    assert json.loads(deployment.follow(run)["output"]) == "2026-11-23T10:05:00Z"
    assert len(deployment.records(run)) == 3


def test_a_burst_of_a_thousand_events_twice_and_out_of_order_starts_each_run_once(deployment: Deployed) -> None:
    many = 100 if deployment.sandboxed else 1_000
    batch = f"b-{random.random()}"
    payloads = [event("story/once", {"key": f"{batch}-{n // 2}"}) for n in range(many)]  # two events for each key
    twice = [payload for payload in payloads for _ in range(2)]
    random.Random(7).shuffle(twice)
    for payload in twice:
        deployment.service.invoke_async(payload)
    runs = [run for payload in payloads for run in kept(deployment, str(payload["id"]))["runs"]]  # type: ignore[attr-defined]
    assert len(runs) == len(set(runs)) == many // 2, "one run for each key"
    outputs = [json.loads(deployment.follow(run)["output"]) for run in runs]
    assert sorted(outputs) == sorted(f"{batch}-{n}" for n in range(many // 2))
    for run in runs:
        assert [record["k"] for record in deployment.records(run)] == ["started", "done", "run_completed"]
