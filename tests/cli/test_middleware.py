"""The commands over apps that have middleware, and over stores whose values they cannot read."""

import json
import textwrap

import pytest

KEPT = """
    from onward import App, Encryption

    app = App("kept", middleware=[Encryption({"k1": b"1" * 32}, "k1")])

    @app.workflow(on="go")
    def work(event, step):
        one = step.run("one", lambda: event.data["said"])
        step.sleep("rest", event.data["rest"])
        return step.run("two", str.upper, one)
"""
NO_KEY = KEPT.replace('"k1": b"1"', '"k2": b"2"').replace('"k1")', '"k2")')
NONE = KEPT.replace(', middleware=[Encryption({"k1": b"1" * 32}, "k1")]', "")
FLAKY = """
    from onward import App, Middleware

    class Flaky(Middleware):
        left = 1

        def before_run(self, run, event):
            self.left -= 1
            if self.left >= 0:
                raise OSError("no network")

    app = App("flaky", middleware=[Flaky()])

    @app.workflow(on="go")
    def work(event, step):
        return 1
"""


@pytest.fixture
def module(folder):
    def write(name, code):
        (folder / f"{name}.py").write_text(textwrap.dedent(code))

    return write


def test_a_run_with_encrypted_values_shows_its_result_to_who_has_the_key(onward, module, folder):
    module("kept", KEPT)
    answer = onward("run", "kept:app", "go", "--data", '{"said": "geheim", "rest": 0}', "--json")
    assert answer.code == 0 and json.loads(answer.out[-1])["output"] == "GEHEIM"
    assert all(b"geheim" not in path.read_bytes() for path in (folder / ".onward").rglob("*") if path.is_file())


@pytest.mark.parametrize(("name", "code", "said"), [("nokey", NO_KEY, "key 'k1'"), ("none", NONE, "middleware=[...]")])
def test_who_has_not_is_told_so_and_the_run_is_left_as_it_is(onward, module, name, code, said):
    from onward.cli.target import load
    from onward.core.values import Event
    from onward.engine.ingest import ingest
    from onward.entry.local import Local

    module("kept", KEPT)
    module(name, code)
    local = Local(load("kept:app")[0], ".onward/store.db")
    [run] = ingest(local.engine, Event("go", {"said": "geheim", "rest": 3600}, "e1", local.clock.now_ms()))
    local.close()
    answer = onward("resume", run, "--app", f"{name}:app")
    assert answer.code == 2 and answer.text.startswith(f"onward: run {run} is left as it is: ") and said in answer.text
    answer = onward("check", f"{name}:app", "--store", ".onward/store.db", "--json")
    assert answer.code == 1 and "value_unreadable" in answer.out[-1]
    assert onward("check", "kept:app", "--store", ".onward/store.db").code == 0


def test_a_run_that_stands_because_of_its_middleware_is_told_without_log_lines(onward, module, monkeypatch):
    monkeypatch.setattr("onward.entry.local.FOREIGN_MS", 100)
    module("flaky", FLAKY)
    answer = onward("run", "flaky:app", "go", "--data", "1")
    assert answer.code == 0 and answer.out[-1] == "output: 1"
    assert "stands: before_run() of middleware Flaky raised OSError: no network" in answer.text
