"""What Lambda's own limits do to a run: the cut-off of recursion, the concurrency, and batches that are too good."""

from __future__ import annotations

import json

from onward.local.lineage import MAX_HOPS

from .conftest import Deployer
from .deployment import LONGEST_S

LONG = 2 * MAX_HOPS + 8
MANY = 20


def test_a_chain_that_is_cut_off_as_recursive_is_taken_up_by_the_on_failure_record(deploy: Deployer) -> None:
    """A function that was deployed without `RecursiveLoop: Allow` is slower, and loses nothing."""
    deployed = deploy(recursive_loop="Terminate")
    view = deployed.run("plain", {"steps": LONG})
    assert json.loads(view["output"]) == sum(range(LONG))
    assert deployed.lambda_.stats.recursion_drops >= 2, "the chain was cut off, and so was the one that took it up"
    assert len(deployed.notes(view["run_id"])) == LONG, "no step was performed twice"
    assert view["deaths"] == 0 and view["attempts"] == LONG, "nobody died, so that no attempt was used up"
    told = [json.loads(line.partition("] ")[2]) for line in deployed.lines() if '"invocation failed"' in line]
    assert told and all(line["reason"] == "RetriesExhausted" for line in told)


def test_a_chain_that_is_allowed_is_not_cut_off(deploy: Deployer) -> None:
    deployed = deploy()
    view = deployed.run("plain", {"steps": LONG})
    assert json.loads(view["output"]) == sum(range(LONG))
    stats = deployed.lambda_.stats
    assert (stats.recursion_drops, stats.dropped, stats.messages) == (0, 0, 0)
    assert stats.invocations == LONG + 2, "the event, one for each step, and the last one finds the end"


def test_many_runs_share_two_sandboxes(deploy: Deployer) -> None:
    deployed = deploy(concurrency=2)
    runs = [deployed.start("plain", {"steps": 3}) for _ in range(MANY)]
    views = [deployed.follow(run) for run in runs]
    assert {view["status"] for view in views} == {"completed"}
    lines = [line for run in runs for line in deployed.notes(run)]
    assert len(lines) == 3 * MANY, "no step was performed twice"
    assert len({line["pid"] for line in lines}) == 2
    assert deployed.lambda_.stats.throttles > 0


def test_parallel_steps_wait_for_a_place(deploy: Deployer) -> None:
    deployed = deploy(concurrency=2)
    view = deployed.run("gather", {"steps": MANY})
    assert json.loads(view["output"]) == sum(range(MANY))
    assert len(deployed.notes(view["run_id"])) == MANY + 1


def test_filled_invocations_perform_a_run_in_one_go(deploy: Deployer) -> None:
    apart, filled = deploy(), deploy("fill_handler")
    views = [deployed.run("plain", {"steps": 10}) for deployed in (apart, filled)]
    assert views[0]["output"] == views[1]["output"] == str(sum(range(10)))
    assert filled.lambda_.stats.invocations == 2, "the event, and all of the run"
    assert len({line["pid"] for line in filled.notes(views[1]["run_id"])}) == 1
    logs = [
        [(body["k"], body.get("s")) for body in deployed.records(view["run_id"])]
        for deployed, view in zip((apart, filled), views, strict=True)
    ]
    assert logs[0] == logs[1]


def test_a_filled_invocation_that_dies_goes_on_where_its_log_ended(deploy: Deployer) -> None:
    filled = deploy("fill_handler")
    view = filled.run("dies", {"how": "kill", "times": 1})
    assert json.loads(view["output"]) == "alive"
    assert [line["attempt"] for line in filled.notes(view["run_id"])] == [1, 2]


def test_a_message_that_is_no_payload_ends_as_a_dead_letter(deploy: Deployer) -> None:
    deployed = deploy(visibility_timeout_s=0.2, max_receive_count=2)
    deployed.lambda_.send("not for us")
    good = deployed.run("plain", {"steps": 1})
    assert good["status"] == "completed"
    assert deployed.lambda_.drain(LONGEST_S)
    assert [letter["body"] for letter in deployed.lambda_.dead_letters] == ["not for us"]
    told = [line for line in deployed.lines() if '"message failed"' in line]
    assert len(told) == 2 and all("is no JSON" in line for line in told)
