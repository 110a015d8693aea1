"""What cannot be carried out is said in one clear line, with exit code 2."""

import sqlite3
import subprocess
import sys

import pytest

from onward.cli import main
from onward.core.errors import DefinitionError
from onward.core.log import LAYOUT
from onward.local.store import SqliteStore


# ------------------------------------------------------------------------------------------------------- the target
@pytest.mark.parametrize("target", ["tiny", "tiny:", ":app", "", "tiny:app:x", "tiny:1", "tiny app"])
def test_a_target_that_is_not_module_colon_variable(refused, target):
    said = refused("run", target, "greet")
    assert said == f"{target!r} names no app: write it as module:variable, like handlers.demo:app"


@pytest.mark.parametrize(
    ("target", "missing"), [("nosuch:app", "nosuch"), ("no.such:app", "no"), ("tiny.py:app", "tiny.py")]
)
def test_a_module_that_is_not_there(refused, target, missing):
    assert refused("run", target, "greet").startswith(f"there is no module '{missing}'")


def test_a_module_that_needs_one_that_is_not_installed(refused, folder):
    (folder / "needy.py").write_text("import nosuchlibrary")
    assert refused("run", "needy:app", "greet") == "module 'needy' needs 'nosuchlibrary', which is not installed"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('one\\ntwo\\n\\nthree')", "RuntimeError: one two three"),
        ("def broken(:", "SyntaxError: invalid syntax (raising.py, line 1)"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        (
            "from onward import App; App('')",
            "InvalidName: the name of an app is a string of 1 to 256 characters, not ''",
        ),
    ],
    ids=["error", "lines", "syntax", "exit", "ours"],
)
def test_a_module_that_raises_at_import(refused, folder, code, said):
    (folder / "raising.py").write_text(code)
    assert refused("run", "raising:app", "greet") == f"module 'raising' cannot be imported: {said}"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "module 'bare' has no app 'app'; write app = App(\"...\") there"),
        ("app = 5", "module 'bare' has no app 'app'; write app = App(\"...\") there"),
        ("from onward import App; shop = App('shop')", "module 'bare' has no app 'app'; it has shop"),
    ],
)
def test_a_module_without_the_app(refused, folder, code, said):
    (folder / "bare.py").write_text(code)
    assert refused("run", "bare:app", "greet") == said


# -------------------------------------------------------------------------------------------------------- the event
def test_an_event_that_starts_nothing_names_those_that_do(refused):
    assert refused("run", "tiny:app", "great") == (
        "no workflow of tiny:app is started by event 'great'; known events: break, greet"
    )


def test_an_app_without_workflows_says_so(refused, folder):
    (folder / "empty.py").write_text("from onward import App\napp = App('empty')")
    assert refused("run", "empty:app", "greet").endswith("known events: none")


@pytest.mark.parametrize(
    "data",
    ["{", "", "{'a': 1}", "nope", "{} {}", "[" * 5_000, "NaN", '{"a": -Infinity}', "{\n'a'\n}"],
    ids=lambda data: repr(data)[:20],
)
def test_data_that_is_no_json(refused, data):
    said = refused("run", "tiny:app", "greet", "--data", data)
    assert said.startswith("--data is no JSON (") and len(said) < 300


def test_data_in_a_file_that_is_not_there_or_no_json(refused, folder):
    said = refused("run", "tiny:app", "greet", "--data", "@missing.json")
    assert said.startswith("cannot read the event's data from 'missing.json': ")
    (folder / "bad.json").write_text("{\n'a'\n}")
    assert refused("run", "tiny:app", "greet", "--data", "@bad.json").startswith("bad.json is no JSON (")
    (folder / "latin.json").write_bytes(b'"\xe9"')
    assert refused("run", "tiny:app", "greet", "--data", "@latin.json").startswith("cannot read the event's data")
    assert refused("run", "tiny:app", "greet", "--data", "@.").startswith("cannot read the event's data from '.'")


def test_data_that_is_no_object_fails_a_workflow_that_needs_one(onward):
    answer = onward("run", "tiny:app", "greet", "--data", "[1]")
    assert answer.code == 1 and not answer.err
    assert any("AttributeError: 'list' object has no attribute 'get'" in line for line in answer.out)


def test_data_that_is_too_deep(refused):
    said = refused("run", "tiny:app", "greet", "--data", "[" * 150 + "]" * 150)
    assert said.startswith("the data of event 'greet' is nested deeper than 100 levels")


def test_an_id_that_is_too_long(refused):
    said = refused("run", "tiny:app", "greet", "--id", "x" * 257)
    assert said.startswith("the id of an event is a string of 1 to 256 characters")


def test_an_id_that_is_empty(refused):
    said = refused("run", "tiny:app", "greet", "--id", "")
    assert said.startswith("the id of an event is a string of 1 to 256 characters")


@pytest.mark.parametrize("workers", ["0", "-1", "65"])
def test_a_number_of_workers_that_makes_no_sense(refused, workers):
    assert refused("run", "tiny:app", "greet", "--workers", workers) == f"--workers takes 1 to 64, not {workers}"


@pytest.mark.parametrize(
    "arguments", [[], ["run"], ["run", "tiny:app"], ["dance"], ["run", "tiny:app", "greet", "--workers", "x"]], ids=str
)
def test_arguments_that_make_no_sense(onward, arguments):
    answer = onward(*arguments)
    assert answer.code == 2 and answer.err[-1].startswith("onward") and ": error: " in answer.err[-1]


# -------------------------------------------------------------------------------------------------------- the store
def pragma(path, statement):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


both_commands = pytest.mark.parametrize("command", [["run", "tiny:app", "greet"], ["resume"]], ids=["run", "resume"])


@both_commands
@pytest.mark.parametrize(
    ("version", "advice"),
    [(LAYOUT + 1, "upgrade onward"), (0, "name another file, or finish its runs with the older one")],
)
def test_a_store_of_another_version(onward, refused, command, version, advice):
    assert onward("run", "tiny:app", "greet", "--store", "s.db").code == 0
    pragma("s.db", f"PRAGMA user_version = {version}")
    assert refused(*command, "--store", "s.db") == (
        f"the store 's.db' has layout {version}, this Onward knows layout {LAYOUT}: {advice}"
    )


@both_commands
def test_a_store_that_is_something_else(refused, folder, command):
    pragma("other.db", "CREATE TABLE t (x)")
    said = refused(*command, "--store", "other.db")
    assert said == "'other.db' is a SQLite file, but not a store of Onward: name another file"
    (folder / "notes.txt").write_text("not a database at all, but quite a long text " * 100)
    assert refused(*command, "--store", "notes.txt").startswith("'notes.txt' cannot be used as a store: ")
    assert refused(*command, "--store", ".").startswith("cannot open the store '.': ")
    assert (folder / "notes.txt").read_text().startswith("not a database"), "and it is left as it was"


def test_a_store_in_a_folder_that_cannot_be_made(refused):
    said = refused("run", "tiny:app", "greet", "--store", "tiny.py/sub/s.db")
    assert said.startswith("cannot open the store 'tiny.py/sub/s.db': ")


# ---------------------------------------------------------------------------------------------------------- resuming
def test_resuming_without_a_store(refused, folder):
    assert refused("resume") == "there is no store '.onward/store.db': name the file with --store"
    assert not (folder / ".onward").exists()


def test_resuming_a_run_that_is_not_there(onward, refused):
    assert onward("run", "tiny:app", "greet").code == 0
    assert refused("resume", "nosuchrun") == "there is no run 'nosuchrun' in this store"


def test_resuming_a_store_that_was_never_used_with_an_app(refused):
    SqliteStore("fresh.db").close()
    said = refused("resume", "--store", "fresh.db")
    assert said == "the store 'fresh.db' was never used with an app: name it with --app module:variable"


def test_resuming_with_an_app_that_is_gone(onward, refused, folder):
    assert onward("run", "tiny:app", "greet").code == 0
    (folder / "tiny.py").unlink()
    sys.modules.pop("tiny")
    assert refused("resume").startswith("there is no module 'tiny'")


# -------------------------------------------------------------------------------------------------------- tracebacks
def test_a_traceback_is_shown_with_debug_and_not_without(folder):
    command = [sys.executable, "-m", "onward", "run", "nosuch:app", "greet"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr == "onward: there is no module 'nosuch' to import: are you in the folder that has it?\n"
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert debug.returncode != 0 and debug.stderr.startswith("Traceback (most recent call last):")
    assert "DefinitionError: there is no module 'nosuch'" in debug.stderr
    with pytest.raises(DefinitionError):
        main(["run", "nosuch:app", "greet", "--debug"])
