"""An invocation that dies inside a step consumes an attempt of it, and Lambda's on-failure record says so at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from onward.core.codec import encode
from onward.core.ids import run_id
from onward.core.values import Event
from onward.engine.ledger import HORIZON_MS

from .conftest import Deployer
from .deployment import Sandboxed, message

TIMEOUT_S = 2.5
AT_ONCE_S = 30.0  # generous, and far below the sweep's horizon
assert AT_ONCE_S * 1000 < HORIZON_MS / 10


@pytest.fixture(scope="module", params=["own", "own, sqlite", "awslambdaric"])
def deployed(request: pytest.FixtureRequest, deploy: Deployer) -> Iterator[Sandboxed]:
    runtime, _, sqlite = request.param.partition(", ")
    deployed = deploy(store="file" if sqlite else "table", runtime=runtime, timeout_s=TIMEOUT_S)
    yield deployed
    assert deployed.lambda_.stats.ticks == 0, "no sweep helped"
    deployed.lambda_.stop()


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "in parallel"])
@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_death_inside_a_step_consumes_an_attempt_and_is_told_at_once(
    deployed: Sandboxed, how: str, beside: bool
) -> None:
    view = deployed.run("dies", {"how": how, "times": 1, "beside": beside}, AT_ONCE_S)
    assert json.loads(view["output"]) == (["alive", "calm"] if beside else "alive")
    assert [line["attempt"] for line in deployed.notes(view["run_id"], "deadly")] == [1, 2]
    (deadly,) = [step for step in view["steps"] if step["name"] == "deadly"]
    assert (deadly["status"], deadly["attempts"]) == ("completed", 2)


@pytest.mark.parametrize("options", [{}, {"once": True}], ids=["retried", "once"])
def test_a_death_behind_a_message_of_the_queue_is_told_at_once_too(
    deployed: Sandboxed, options: dict[str, object]
) -> None:
    """Lambda writes no on-failure record about a batch of SQS: it delivers the messages again, minutes later."""
    view = deployed.run("dies", {"how": "kill", "times": 1, "rest": 1, "options": options}, AT_ONCE_S)
    assert json.loads(view["output"]) == (["Crashed", 1] if options else "alive")
    attempts = [line["attempt"] for line in deployed.notes(view["run_id"], "deadly")]
    assert attempts == ([1] if options else [1, 2])
    assert not deployed.lambda_.stats.redelivered


def test_wakes_that_come_in_one_batch_have_a_deadline_each(deployed: Sandboxed) -> None:
    """Slow steps that become due in the same second do not share the time of one invocation."""
    now_ms = deployed.ledger.clock.now_ms()
    runs = []
    for number in range(3):
        begun = Event("story/slow", {"seconds": TIMEOUT_S / 2}, f"batched-{number}", now_ms)
        runs.append(run_id("slow", begun.id))
        text = encode(begun.data, "")
        deployed.ledger.store.write(deployed.ledger.birth(runs[-1], "slow", begun, now_ms + HORIZON_MS, text))
    wakes = [json.dumps({"onward": 1, "do": "advance", "run": run, "seq": 1}) for run in runs]
    answer = deployed.lambda_.invoke({"Records": [message(wake) for wake in wakes]})
    assert answer == ({"batchItemFailures": []}, None)
    views = [deployed.follow(run, AT_ONCE_S) for run in runs]
    assert [(view["status"], view["retries"]) for view in views] == [("completed", 0)] * 3


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "in parallel"])
def test_a_step_that_always_kills_its_host_fails_for_good(deployed: Sandboxed, beside: bool) -> None:
    data = {"how": "kill", "times": 99, "beside": beside, "options": {"retries": 2}}
    view = deployed.run("dies", data, AT_ONCE_S)
    assert json.loads(view["output"]) == ["Crashed", 3]
    assert [line["attempt"] for line in deployed.notes(view["run_id"], "deadly")] == [1, 2, 3]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "in parallel"])
def test_a_step_that_may_run_only_once_is_not_run_again_after_a_death(deployed: Sandboxed, beside: bool) -> None:
    data = {"how": "kill", "times": 99, "beside": beside, "options": {"once": True}}
    view = deployed.run("dies", data, AT_ONCE_S)
    assert json.loads(view["output"]) == ["Crashed", 1]
    assert [line["attempt"] for line in deployed.notes(view["run_id"], "deadly")] == [1]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "in parallel"])
def test_a_step_past_the_deadline_is_stopped_by_the_engine_before_lambda_kills_it(
    deployed: Sandboxed, beside: bool
) -> None:
    timeouts = deployed.lambda_.stats.timeouts
    began_s = time.monotonic()
    data = {"how": "slow", "times": 99, "beside": beside, "options": {"retries": 0}}
    view = deployed.run("dies", data, AT_ONCE_S)
    assert json.loads(view["output"]) == ["StepTimeout", 1]
    assert time.monotonic() - began_s >= TIMEOUT_S / 2
    assert deployed.lambda_.stats.timeouts == timeouts, "the invocation ended by itself"
    (deadly,) = [step for step in view["steps"] if step["name"] == "deadly"]
    assert "the end of its invocation" in deadly["error"]["message"]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "in parallel"])
def test_a_step_that_no_signal_reaches_is_killed_by_lambda_and_that_is_an_attempt(
    deployed: Sandboxed, beside: bool
) -> None:
    timeouts = deployed.lambda_.stats.timeouts
    view = deployed.run("dies", {"how": "deaf", "times": 1, "beside": beside}, AT_ONCE_S)
    assert json.loads(view["output"]) == (["alive", "calm"] if beside else "alive")
    assert deployed.lambda_.stats.timeouts == timeouts + 1
    assert [line["attempt"] for line in deployed.notes(view["run_id"], "deadly")] == [1, 2]
