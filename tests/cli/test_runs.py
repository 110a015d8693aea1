"""`onward run` and `onward resume`."""

import json
import subprocess
import sys
import textwrap

import pytest

from onward import __version__

FIELDS = ["run_id", "workflow", "status", "steps_done", "attempts", "retries", "duration_s", "output"]
COMMAND = [sys.executable, "-m", "onward"]

RICH = """
    import datetime, decimal
    from onward import App
    app = App("rich")

    @app.workflow(on="go")
    def work(event, step):
        return [decimal.Decimal("0.85"), datetime.date(2026, 1, 1), (1, 2), "\\ud800"]
"""
LATER = """
    import asyncio
    from onward import App
    app = App("later")

    @app.workflow(on="go")
    async def work(event, step):
        async def double(n):
            await asyncio.sleep(0)
            return n * 2
        return sum(await asyncio.gather(*(step.run(f"s{n}", double, n, timeout=60) for n in range(3))))
"""
MORTAL = """
    import os, pathlib, signal
    from onward import App
    app = App("mortal")

    def do(name):
        with open("done.txt", "a") as file:
            file.write(name + " ")
        if name == "b" and pathlib.Path("done.txt").read_text() == "a b ":
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    @app.workflow(on="go", retries=1)
    def work(event, step):
        return [step.run(name, do, name) for name in "abc"]
"""


def test_a_run_that_completes_shows_its_steps_and_exits_with_0(onward):
    answer = onward("run", "tiny:app", "greet", "--data", '{"name": "Ada"}')
    assert answer.code == 0 and not answer.err
    text = "\n".join(answer.out)
    assert "✓  name " in text and "✓  greeting" in text
    assert "of greet completed: 2 steps done, 2 attempts, 0 retries, " in answer.out[-2]
    assert answer.out[-1] == 'output: "hello Ada"'


def test_a_run_that_fails_shows_its_error_and_exits_with_1(onward):
    answer = onward("run", "tiny:app", "break")
    assert answer.code == 1
    text = "\n".join(answer.out)
    assert "✓  fine" in text and "✗  bad" in text and "of break_it failed: 1 steps done, 2 attempts" in text
    assert "ZeroDivisionError: division by zero" in text


@pytest.mark.parametrize(("event", "code", "status"), [("greet", 0, "completed"), ("break", 1, "failed")])
def test_json_has_all_fields_in_its_last_line(onward, event, code, status):
    answer = onward("run", "tiny:app", event, "--json")
    assert answer.code == code
    last = json.loads(answer.out[-1])
    assert list(last)[: len(FIELDS)] == FIELDS
    assert last["status"] == status and last["attempts"] == 2 and last["retries"] == 0
    assert last["steps_done"] == (2 if code == 0 else 1) and last["duration_s"] >= 0
    assert last["output"] == ("hello nobody" if code == 0 else None)
    assert ("error" in last) == (code == 1)


def test_json_says_values_that_json_cannot(onward, folder):
    (folder / "rich.py").write_text(textwrap.dedent(RICH))
    answer = onward("run", "rich:app", "go", "--json")
    assert json.loads(answer.out[-1])["output"] == ["0.85", "2026-01-01", [1, 2], "\ud800"]


def test_a_result_that_a_terminal_cannot_show_is_shown_all_the_same(folder):
    (folder / "rich.py").write_text(textwrap.dedent(RICH))
    done = subprocess.run([*COMMAND, "run", "rich:app", "go"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "output: " in done.stdout


def test_data_comes_from_a_file_or_the_apps_own_sample(onward, folder):
    (folder / "data.json").write_text('{"name": "File"}')
    assert onward("run", "tiny:app", "greet", "--data", "@data.json").out[-1] == 'output: "hello File"'
    with (folder / "tiny.py").open("a") as module:
        module.write("\ndef sample_data(event):\n    return {'name': event.upper()}\n")
    sys.modules.pop("tiny")
    assert onward("run", "tiny:app", "greet").out[-1] == 'output: "hello GREET"'


def test_the_same_id_is_the_same_run(onward):
    first = json.loads(onward("run", "tiny:app", "greet", "--json", "--id", "e1", "--data", '{"name": "1"}').out[-1])
    again = json.loads(onward("run", "tiny:app", "greet", "--json", "--id", "e1", "--data", '{"name": "2"}').out[-1])
    other = json.loads(onward("run", "tiny:app", "greet", "--json", "--id", "e2").out[-1])
    assert again["run_id"] == first["run_id"] != other["run_id"]
    assert again["output"] == "hello 1" and again["attempts"] == 2, "nothing was performed again"


@pytest.mark.parametrize("options", [["--fill"], ["--workers", "1"], ["--log"]], ids=str)
def test_options_do_not_change_what_comes_out(onward, options):
    answer = onward("run", "tiny:app", "greet", *options)
    assert answer.code == 0 and answer.out[-1] == 'output: "hello nobody"'
    lines = [json.loads(line) for line in answer.err]
    assert ("run completed" in {line["message"] for line in lines}) == (options == ["--log"])


def test_an_async_workflow_runs_too(folder):
    (folder / "later.py").write_text(textwrap.dedent(LATER))
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "onward", "run", "later:app", "go", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["output"] == 6


def test_nothing_is_left_to_resume_after_completion(onward):
    done = json.loads(onward("run", "tiny:app", "greet", "--json").out[-1])
    answer = onward("resume")
    assert answer.code == 0 and answer.out == ["nothing to resume: every run has ended"] and not answer.err
    again = onward("resume", done["run_id"], "--json")
    assert again.code == 0 and json.loads(again.out[-1]) == done


def test_resume_goes_on_where_a_killed_process_stopped(folder):
    (folder / "mortal.py").write_text(textwrap.dedent(MORTAL))
    killed = subprocess.run([*COMMAND, "run", "mortal:app", "go", "--id", "e1"], capture_output=True, check=False)
    assert killed.returncode == -9
    resumed = subprocess.run([*COMMAND, "resume", "--json"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    last = json.loads(resumed.stdout)
    assert last["output"] == ["a", "b", "c"] and last["retries"] == 1, "the death is an attempt of the step it hit"
    assert (folder / "done.txt").read_text() == "a b b c "


def test_the_version_and_the_help(onward):
    assert onward("--version").out == [f"onward {__version__}"]
    for arguments in (["--help"], ["run", "--help"], ["resume", "--help"]):
        answer = onward(*arguments)
        assert answer.code == 0 and answer.out[0].startswith("usage: onward")
