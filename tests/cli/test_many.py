"""`onward cancel`, and `onward retry` of many."""

import json
import textwrap

import pytest

APP = """
    import pathlib
    from onward import App
    app = App("many")

    @app.workflow(on="sleep", name="sleeps")
    def sleeps(event, step):
        step.sleep("day", 86400)

    @app.workflow(on="fail", name="fails", retries=0)
    def fails(event, step):
        step.run("bad", pathlib.Path("mended").read_text)
"""


@pytest.fixture
def started(onward, folder):
    """Two runs that failed, in the default store; and what begins one that sleeps."""
    (folder / "many.py").write_text(textwrap.dedent(APP))
    from onward.cli import DEFAULT_STORE, target
    from onward.core.values import Event
    from onward.engine.ingest import ingest
    from onward.entry.local import Local

    failed = [json.loads(onward("run", "many:app", "fail", "--json").out[-1])["run_id"] for _ in range(2)]

    def sleep():
        app, _ = target.load("many:app")
        local = Local(app, DEFAULT_STORE)
        [run] = ingest(local.engine, Event("sleep", None, "e1", local.clock.now_ms()))
        local.close()
        return run

    return failed, sleep


def test_runs_are_cancelled_by_their_ids_or_by_workflow_and_time(onward, started):
    failed, sleep = started
    run = sleep()
    shown = onward("cancel", "--workflow", "sleeps", "--since", "1h", "--dry-run")
    assert (shown.code, shown.out) == (0, [f"{run}  sleeps  would be cancelled", "1 run would be cancelled"])
    assert onward("cancel", "--workflow", "fails").out == ["0 runs cancelled"], "they have ended"
    shown = onward("cancel", run, failed[0])
    assert shown.code == 1 and shown.out[0] == f"{run}  sleeps  cancelled"
    assert shown.out[1:] == [f"{failed[0]}  fails  it has ended meanwhile", "1 run cancelled, 1 left as they are"]
    told = json.loads(onward("cancel", run, "--json").out[-1])["runs"]
    assert told == [{"run_id": run, "workflow": "sleeps", "result": "it has ended meanwhile", "fork": None}]


def test_all_that_failed_since_then_are_begun_again_and_resume_does_them(onward, started, folder):
    failed, _ = started
    shown = onward("retry", "--since", "1h", "--dry-run")
    assert sorted(shown.out[:2]) == sorted(f"{run}  fails  would be retried" for run in failed)
    (folder / "mended").write_text("yes")
    told = json.loads(onward("retry", "--since", "1h", "--workflow", "fails", "--json").out[-1])["runs"]
    assert sorted(one["run_id"] for one in told) == sorted(failed)
    done = [json.loads(line) for line in onward("resume", "--json").out]
    assert sorted(one["run_id"] for one in done) == sorted(one["fork"] for one in told)
    assert all(one["status"] == "completed" for one in done)
    assert onward("retry", "--since", "2020-01-01", "--until", "2020-01-02T10:00").out == ["0 runs retried"]


def test_what_cannot_be_chosen_says_how_it_can(refused, started):
    failed, _ = started
    assert "choose them by --workflow, or by --since" in refused("cancel")
    assert "not both" in refused("cancel", failed[0], "--workflow", "fails")
    assert "there is no run 'x'" in refused("cancel", "x")
    assert "say since when: --since 2h" in refused("retry")
    assert "--since takes 30s, 15min, 2h, 3d" in refused("retry", "--since", "yesterday")
    assert "--since lies before --until" in refused("cancel", "--since", "1h", "--until", "2h")
    assert "--since is for a retry of many" in refused("retry", failed[0], "--since", "1h")
    assert "name the app that works on table 't' with --app" in refused(
        "cancel", "x", "--table", "t", "--function", "f"
    )
    assert "there is no store 'no.db'" in refused("retry", "--since", "1h", "--store", "no.db")


def test_a_run_of_a_table_is_begun_again_there(folder, started, dynoxide_url, monkeypatch, capsys):
    from onward.aws.dynamodb import DynamoStore
    from onward.aws.table import create_table
    from onward.aws.wire import Wire
    from onward.cli import main, target
    from onward.clock import SystemClock
    from onward.testing import FakeClock, Rehearsal

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynoxide_url)
    wire, woken = Wire(), []
    create_table(wire, "many")
    monkeypatch.setattr(Wire, "invoke", lambda self, function, payload: woken.append(json.loads(payload)))
    app, _ = target.load("many:app")
    place = ["--table", "many", "--function", "onward:live", "--app", "many:app"]
    with Rehearsal(app, store=DynamoStore(wire, "many"), clock=FakeClock(SystemClock().now_ms())) as stage:
        failed = [stage.send("fail")["run_id"] for _ in range(2)]
        (folder / "mended").write_text("yes")
        assert main(["retry", failed[0], "--json", *place]) == 0
        run = json.loads(capsys.readouterr().out.splitlines()[-1])["run_id"]
        assert main(["retry", "--since", "1h", *place]) == 0
        for wake in woken:
            stage.deliver(wake)
        stage.drain()
        assert len(woken) == 3 and stage.view(run)["status"] == "completed"
    wire.close()
