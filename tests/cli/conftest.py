import sys
import textwrap

import pytest

from onward.cli import main

APP = """
    from onward import App

    app = App("tiny")

    @app.workflow(on="greet", retries=0)
    def greet(event, step):
        name = step.run("name", lambda: event.data.get("name", "nobody"))
        return step.run("greeting", lambda: f"hello {name}")

    @app.workflow(on="break", retries=0)
    def break_it(event, step):
        step.run("fine", lambda: 1)
        step.run("bad", lambda: 1 / 0)
"""


class Answer:
    """What a command answered: its exit code, and the lines on standard output and standard error."""

    def __init__(self, code, out, err):
        self.code = code
        self.out = out.splitlines()
        self.err = err.splitlines()
        self.text = err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder in which the command is called; its modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)
    (tmp_path / "tiny.py").write_text(textwrap.dedent(APP))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def onward(folder, capsys):
    """Call the command, in this process."""

    def call(*arguments):
        capsys.readouterr()
        try:
            code = main(list(arguments))
        except SystemExit as stop:
            code = stop.code
        shown = capsys.readouterr()
        return Answer(code, shown.out, shown.err)

    return call


@pytest.fixture
def refused(onward):
    """Call the command, which cannot be carried out: exactly one line on standard error, and exit code 2."""

    def call(*arguments):
        answer = onward(*arguments)
        assert answer.code == 2, answer.text
        assert len(answer.err) == 1, answer.text
        assert answer.err[0].startswith("onward: ") and not answer.out
        return answer.err[0].removeprefix("onward: ")

    return call
