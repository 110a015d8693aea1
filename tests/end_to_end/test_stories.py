"""The same runs come to the same end in process, in sandboxes over both stores, and under AWS's runtime client."""

from __future__ import annotations

import json

import pytest

from .deployment import InProcess, Sandboxed, event, fixture, message

Deployed = InProcess | Sandboxed
SIDES = 4


def test_a_sequence_with_a_retry_and_a_sleep_goes_through_sqs(deployment: Deployed) -> None:
    before = deployment.messages
    view = deployment.run("sequence", {"n": 1})
    assert (view["status"], json.loads(view["output"])) == ("completed", {"total": 111})
    assert (view["steps_done"], view["retries"]) == (4, 1)
    assert deployment.messages - before >= 2, "a retry and a sleep, each in a message with a delay"
    at = {(line["step"], line["attempt"]): line["at"] for line in deployment.notes(view["run_id"])}
    assert list(at) == [("fetch", 1), ("flaky", 1), ("flaky", 2), ("add", 1)]
    assert at["add", 1] - at["flaky", 2] >= 1.0


@pytest.mark.parametrize("workflow", ["gather", "parallel"])
def test_parallel_steps_are_performed_in_several_sandboxes_at_once(deployment: Deployed, workflow: str) -> None:
    meet = SIDES if deployment.sandboxed else 0
    view = deployment.run(workflow, {"steps": SIDES, "meet": meet})
    assert json.loads(view["output"]) == (6 if workflow == "gather" else [0, 1, 2, 3])
    sides = [line for line in deployment.notes(view["run_id"]) if line["step"].startswith("side")]
    assert sorted(line["step"] for line in sides) == [f"side {n}" for n in range(SIDES)]
    if deployment.sandboxed:
        assert len({line["pid"] for line in sides}) == SIDES, "they met, each in a process of its own"


def test_a_wide_gather_is_collected(deployment: Deployed) -> None:
    view = deployment.run("gather", {"steps": 24})
    assert json.loads(view["output"]) == sum(range(24))
    assert (view["steps_done"], view["attempts"]) == (25, 25)


def test_an_event_delivered_again_starts_no_second_run(deployment: Deployed) -> None:
    payload = event("story/plain", {"steps": 2})
    answers = [deployment.service.invoke(payload)]
    (run,) = answers[0][0]["runs"]
    deployment.follow(run)
    log = deployment.records(run)
    answers.append(deployment.service.invoke(payload))
    answers.append(deployment.service.invoke({"Records": [message(json.dumps(payload))]}))
    assert answers == [({"runs": [run]}, None), ({"runs": [run]}, None), ({"batchItemFailures": []}, None)]
    probe = deployment.run("plain", {"steps": 1})  # whatever the second delivery sent has come before this is done
    assert probe["status"] == "completed"
    assert deployment.records(run) == log
    assert [line["step"] for line in deployment.notes(run)] == ["step 0", "step 1"]


def test_one_bad_message_of_a_batch_fails_alone(deployment: Deployed) -> None:
    good = event("story/plain", {"steps": 1})
    records = [message("no JSON", "bad-1"), message(json.dumps(good), "good"), message('{"neither": 1}', "bad-2")]
    answer, error = deployment.service.invoke({"Records": records})
    assert error is None
    assert answer == {"batchItemFailures": [{"itemIdentifier": "bad-1"}, {"itemIdentifier": "bad-2"}]}
    answer, _ = deployment.service.invoke(good)
    assert deployment.follow(answer["runs"][0])["status"] == "completed"


def test_the_run_of_on_failure_follows_a_failed_run(deployment: Deployed) -> None:
    from onward.core.ids import run_id

    view = deployment.run("told", {})
    assert (view["status"], view["error"]["type"]) == ("failed", "StepError")
    after = deployment.follow(run_id("told.on_failure", f"{view['run_id']}.failed"))
    assert after["parent"] == view["run_id"]
    assert json.loads(after["output"])["type"] == "StepError"


@pytest.mark.parametrize("payload", ["api_gateway_v2", "alb", "s3_notification"])
def test_a_payload_that_nobody_knows_is_refused_in_one_line(deployment: Deployed, payload: str) -> None:
    answer, error = deployment.service.invoke(fixture(payload))
    assert answer is None and error is not None
    assert error["errorType"] == "UnknownPayload"
    assert error["errorMessage"].startswith("the handler was given something that is no wake, SQS batch, EventBridge")
    assert "\n" not in error["errorMessage"]


@pytest.mark.parametrize("payload", [{"onward": 1, "do": "sweep"}, fixture("scheduled_event")], ids=["own", "tick"])
def test_a_sweep_finds_nothing_to_do_where_all_is_well(deployment: Deployed, payload: object) -> None:
    assert deployment.service.invoke(payload) == (None, None)
