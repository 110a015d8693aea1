"""What is done to runs from outside, as a deployed function meets it: answers, retries, pauses; and steps that ask."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onward.clock import SystemClock
from onward.engine import callbacks, forks, pause
from onward.engine.engine import Engine

from .app import app
from .conftest import Deployer
from .deployment import LONGEST_S, InProcess, Sandboxed

Deployed = InProcess | Sandboxed


class Invokes:
    """The wakes of somebody outside, who invokes the function."""

    reach_ms = 0

    def __init__(self, deployment: Deployed) -> None:
        self.deployment = deployment

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        self.deployment.service.invoke_async(dict(wake))


def engine_over(deployment: Deployed) -> Engine:
    """An engine of somebody outside, who has the app, the table and the function."""
    ledger = deployment.ledger
    return Engine(app, ledger.store, Invokes(deployment), ledger.blobs, SystemClock())


def token_of(deployment: Deployed, run: str) -> str:
    """What the run has handed out, when it stands."""
    ends_s = time.monotonic() + LONGEST_S
    while (view := deployment.look(run)) is None or view["status"] != "waiting":
        assert time.monotonic() < ends_s, view
        deployment.wait()
    [line] = deployment.notes(run, "mail")
    token: str = line["token"]
    return token


def output(view: dict[str, Any]) -> Any:
    assert view["status"] == "completed", view
    return json.loads(view["output"])


def test_somebody_outside_completes_or_fails_a_step(deployment: Deployed) -> None:
    engine = engine_over(deployment)
    runs = [deployment.start("asks", {"timeout": LONGEST_S}) for _ in range(2)]
    tokens = [token_of(deployment, run) for run in runs]
    assert callbacks.complete(engine, tokens[0], {"by": "Ada"}) == callbacks.ACCEPTED
    assert callbacks.complete(engine, tokens[0], {"by": "Bob"}) == callbacks.ANSWERED
    assert callbacks.fail(engine, tokens[1], "too dear", "Refused") == callbacks.ACCEPTED
    assert [output(deployment.follow(run)) for run in runs] == [{"by": "Ada"}, ["Refused", "too dear"]]


def test_nobody_answers_in_time(deployment: Deployed) -> None:
    run = deployment.start("asks", {"timeout": 1})
    type, _ = output(deployment.follow(run))
    [line] = deployment.notes(run, "mail")
    assert type == "StepTimeout" and callbacks.complete(engine_over(deployment), line["token"]) == callbacks.TOO_LATE


def test_a_condition_is_asked_until_it_holds(deployment: Deployed) -> None:
    run = deployment.start("polls", {})
    assert output(deployment.follow(run)) == 3
    looks = [line["at"] for line in deployment.notes(run)]
    assert len(looks) == 3 and looks[1] - looks[0] >= 0.2 and looks[2] - looks[1] >= 0.4


def test_the_users_writes_are_there_with_the_step_or_not_at_all(deployment: Deployed) -> None:
    """Into the table, or file, of the deployment itself, as it is at hand."""
    store = deployment.ledger.store
    table = getattr(store, "table", None)
    if table is None:
        made: list[Any] = [
            ["create table if not exists paid (id text primary key)", []],
            ["insert into paid values ('a')", []],
        ]
        again: list[Any] = [["insert into paid values ('b')", []], ["insert into paid values ('a')", []]]
    else:
        made = [{"Put": {"TableName": table, "Item": {"pk": {"S": "paid"}, "sk": {"S": "a"}}}}]
        new = {"ConditionExpression": "attribute_not_exists(pk)"}
        again = [{"Put": {"TableName": table, "Item": {"pk": {"S": "paid"}, "sk": {"S": sk}}, **new}} for sk in "ba"]
    assert output(deployment.run("transacts", {"writes": [made]})) == [len(made)]
    assert output(deployment.run("transacts", {"writes": [again]})) == "WriteRefused"
    assert output(deployment.run("transacts", {"writes": [again[:1]]})) == [1], "nothing of it was written before"


def test_a_run_that_failed_is_done_again_from_the_steps_that_failed(deployment: Deployed, tmp_path: Path) -> None:
    file = tmp_path / "mended"
    parent = deployment.follow(deployment.start("broken", {"file": str(file)}))
    assert parent["status"] == "failed"
    file.write_text("41")
    run = forks.retry(engine_over(deployment), parent["run_id"])
    assert output(deployment.follow(run)) == [42, None]
    assert {line["step"] for line in deployment.notes(run)} <= {"bad", "beside"}, "what had finished is not done again"
    assert len(deployment.notes(run, "bad")) == 1
    again = deployment.look(parent["run_id"])
    assert again == parent


def test_a_paused_workflow_stands_and_goes_on(deploy: Deployer) -> None:
    deployment = deploy()
    engine = engine_over(deployment)
    pause.pause(engine, "plain")
    runs = [deployment.start("plain", {"steps": 2}) for _ in range(3)]
    other = deployment.run("sequence", {"n": 1})
    assert other["status"] == "completed", "it is another workflow"
    assert all(view and view["status"] == "queued" for view in map(deployment.look, runs))
    pause.unpause(engine, "plain")
    time.sleep(pause.UNTIL_KNOWN_MS / 1000)
    assert pause.wake_held(engine, "plain") == 3
    assert [output(deployment.follow(run)) for run in runs] == [1, 1, 1]
    assert [len(deployment.notes(run)) for run in runs] == [2, 2, 2]
