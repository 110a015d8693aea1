"""Bad input gets one clear line that says what to do, exit code 2, and no traceback unless `--debug` asks for it."""

import json
import os
import sqlite3
import sys

import pytest

from onward.cli import main
from onward.core.errors import OnwardError

APP = """
from onward import App
app = App("tiny")

@app.workflow(on="tiny/asked", retries=0)
def work(event, step):
    return step.run("answer", lambda: event.data["answer"])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a tiny app, as the current one."""
    (tmp_path / "tiny_app.py").write_text(APP)
    (tmp_path / "broken_app.py").write_text("raise RuntimeError('half written')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in ("tiny_app", "broken_app"):
        sys.modules.pop(name, None)


def other_sqlite(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()


def newer_store(path):
    main(["run", "tiny_app:app", "tiny/asked", "--data", '{"answer": 1}', "--store", str(path)])
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


REFUSED = {
    "no colon": (["run", "tiny_app", "tiny/asked"], "module:variable"),
    "no module": (["run", "nowhere:app", "tiny/asked"], "no module 'nowhere'"),
    "no app": (["run", "tiny_app:other", "tiny/asked"], "has no app 'other'; it has app"),
    "module that fails": (["run", "broken_app:app", "tiny/asked"], "half written"),
    "unknown event": (["run", "tiny_app:app", "tiny/other"], "known events: tiny/asked"),
    "no JSON": (["run", "tiny_app:app", "tiny/asked", "--data", "{oops"], "--data is no JSON"),
    "no file": (["run", "tiny_app:app", "tiny/asked", "--data", "@gone.json"], "gone.json"),
    "no workers": (["run", "tiny_app:app", "tiny/asked", "--workers", "0"], "--workers takes 1 to"),
    "text as store": (["run", "tiny_app:app", "tiny/asked", "--store", "text.db"], "cannot be used as a store"),
    "other SQLite file": (["run", "tiny_app:app", "tiny/asked", "--store", "other.db"], "not a store of Onward"),
    "newer store": (["run", "tiny_app:app", "tiny/asked", "--store", "newer.db"], "layout 99"),
    "no folder": (["run", "tiny_app:app", "tiny/asked", "--store", "text.db/x/store.db"], "cannot open the store"),
    "no store": (["resume", "--store", "gone.db"], "no store 'gone.db'"),
    "unknown run": (["resume", "nobody", "--app", "tiny_app:app", "--store", "used.db"], "no run 'nobody'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_cannot_be_carried_out_is_refused_in_one_line(name, folder, capsys):
    (folder / "text.db").write_text("these are no pages of a database, only words " * 50)
    other_sqlite(folder / "other.db")
    newer_store(folder / "newer.db")
    main(["run", "tiny_app:app", "tiny/asked", "--data", '{"answer": 1}', "--store", "used.db"])
    capsys.readouterr()
    arguments, told = REFUSED[name]
    assert main(arguments) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert told in errors and errors.startswith("onward: ") and errors.count("\n") == 1, errors
    with pytest.raises(OnwardError):
        main([*arguments, "--debug"])


def test_the_last_line_of_json_has_what_a_script_needs_and_the_exit_code_tells_the_end(capsys):
    asked = ["run", "tiny_app:app", "tiny/asked", "--json", "--id", "one", "--data"]
    assert main([*asked, '{"answer": {"x": [1, null]}}']) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"run_id", "workflow", "status", "steps_done", "attempts", "retries", "duration_s", "output"} == first.keys()
    assert (first["workflow"], first["status"], first["output"]) == ("work", "completed", {"x": [1, None]})
    assert main([*asked, '{"answer": "another"}']) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == first["run_id"], "the same id is the same run"
    assert main(["run", "tiny_app:app", "tiny/asked", "--json", "--data", "{}"]) == 1
    failed = json.loads(capsys.readouterr().out)
    assert failed["status"] == "failed" and "KeyError" in failed["error"]["message"]
    assert main(["resume"]) == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_a_failed_run_shows_the_users_own_traceback(capsys):
    assert main(["run", "tiny_app:app", "tiny/asked", "--data", "{}"]) == 1
    out = capsys.readouterr().out
    assert 'event.data["answer"]' in out and f"onward{os.sep}engine" not in out
