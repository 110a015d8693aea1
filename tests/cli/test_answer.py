"""`onward complete`, `onward fail` and `onward beat`."""

import json
import textwrap

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.cli import DEFAULT_STORE, main, target
from onward.clock import SystemClock
from onward.core.values import Event
from onward.engine.ingest import ingest
from onward.entry.local import Local
from onward.testing import FakeClock, Rehearsal

APP = """
    import pathlib
    from onward import App, StepError
    app = App("asks")

    def ask(token):
        pathlib.Path("token.txt").write_text(token)

    @app.workflow(on="go")
    def work(event, step):
        try:
            return step.callback("approve", ask, timeout=3600, heartbeat=event.data["heartbeat"])
        except StepError as error:
            return [error.type, error.message]
"""


@pytest.fixture
def token(folder):
    """The token of a run that waits, in the default store."""
    return stands(folder)


def stands(folder, heartbeat=None, app=APP):
    (folder / "asks.py").write_text(textwrap.dedent(app))
    app, _ = target.load("asks:app")
    local = Local(app, DEFAULT_STORE)
    ingest(local.engine, Event("go", {"heartbeat": heartbeat}, "e1", local.clock.now_ms()))
    while local.work_once():
        pass
    local.close()
    return (folder / "token.txt").read_text()


def resumed(onward):
    return json.loads(onward("resume", "--app", "asks:app", "--json").out[-1])["output"]


def test_a_run_goes_on_with_what_was_given(onward, token):
    assert onward("complete", token, "--data", '{"by": "Ada"}').out == ["accepted"]
    assert resumed(onward) == {"by": "Ada"}


def test_an_error_is_given_as_well(onward, token):
    assert onward("fail", token, "--error", "too dear", "--type", "Refused").code == 0
    assert resumed(onward) == ["Refused", "too dear"]


def test_an_answer_that_does_not_count_is_told_and_exits_with_1(onward, token):
    assert onward("complete", token).code == 0
    answer = onward("fail", token, "--error", "no", "--json")
    assert (answer.code, answer.out) == (1, ['{"answer": "answered before"}'])
    assert resumed(onward) is None
    assert onward("beat", token).out == ["answered before"]


def test_a_heartbeat_is_taken(onward, folder):
    assert onward("beat", stands(folder, 600)).out == ["accepted"]


def test_what_cannot_be_answered_says_why(refused, token, monkeypatch):
    assert "has not made the token" in refused("complete", token[:-1] + "!")
    assert "no run of this store" in refused("beat", "nobody.x")
    assert "there is no store 'no.db'" in refused("complete", token, "--store", "no.db")
    assert "--data is no JSON" in refused("complete", token, "--data", "{")
    assert "name it with --function (or ONWARD_FUNCTION)" in refused("complete", token, "--table", "t")


def test_on_aws_the_function_is_woken(folder, dynoxide_url, monkeypatch, capsys):
    (folder / "asks.py").write_text(textwrap.dedent(APP))
    app, _ = target.load("asks:app")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynoxide_url)
    wire = Wire()
    create_table(wire, "answers")
    woken = []
    monkeypatch.setattr(Wire, "invoke", lambda self, function, payload: woken.append((function, json.loads(payload))))
    clock = FakeClock(SystemClock().now_ms())
    with Rehearsal(app, store=DynamoStore(wire, "answers"), clock=clock) as stage:
        [run] = stage.start("go", {"heartbeat": None})
        while (at_ms := stage.queue.next_ms()) is not None and at_ms <= stage.clock.now_ms() + 1_000:
            stage.step()
        token = (folder / "token.txt").read_text()
        assert main(["complete", token, "--data", "7", "--table", "answers", "--function", "onward:live"]) == 0
        [(function, wake)] = woken
        assert function == "onward:live" and wake["run"] == run
        stage.deliver(wake)
        stage.drain()
        assert stage.view(run)["result"] == 7
    wire.close()


def test_where_middleware_encodes_the_app_is_named_so_that_the_answer_is_encoded_as_well(onward, refused, folder):
    sealing = textwrap.dedent(APP).replace('App("asks")', 'App("asks", middleware=[Sealed()])')
    token = stands(folder, app="from tests.sealed import Sealed\n" + sealing)
    assert "name the app with --app" in refused("complete", token, "--data", '"secret"')
    assert onward("complete", token, "--data", '"secret"', "--app", "asks:app").out == ["accepted"]
    assert b"secret" not in b"".join(path.read_bytes() for path in folder.glob("**/*.db*"))
    assert resumed(onward) == "secret"
