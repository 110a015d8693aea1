"""The zips hold what their functions need, in the smallest form, and run by themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from onward.core.errors import InvalidOption, Misconfigured
from onward.core.ids import run_id
from onward.deploy.compiling import compiled
from onward.deploy.package import package, this_runtime
from onward.local.lambda_service import LocalLambda

REPOSITORY = Path(__file__).parents[2]
ENGINE_BYTES = 150_000

APP = """
from onward import App
app = App("tiny")

@app.workflow(on="greet")
def greet(event, step):
    hello = step.run("hello", str.upper, event.data["name"])
    step.sleep("nap", 0.01)
    return step.run("bye", boom if event.data.get("fail") else str.lower, hello)

def boom(text):
    raise ValueError(text)  # the line that a traceback shows
"""


def onward(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'adapter'}{os.pathsep}{cwd}"}
    command = [sys.executable, "-m", "onward", *arguments]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an app of one file, and things that are none of it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.py").write_text(APP)
    (folder / "secrets.env").write_text("PASSWORD=hunter2")
    return folder


@pytest.fixture(scope="module")
def unpacked(tiny: Path) -> Path:
    done = onward("package", "tiny:app", "--no-door", "--out", "out", cwd=tiny)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tiny / "out" / "step.zip") as archive:
        archive.extractall(tiny / "unpacked")
    return tiny / "unpacked"


def test_the_demos_package_is_told_and_the_engines_own_part_is_small(tmp_path: Path) -> None:
    done = onward("package", "handlers.demo:app", "--no-door", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    told = re.search(r"onward +([\d,]+) .* of which the engine ([\d,]+)", done.stdout)
    assert told is not None
    assert int(told[2].replace(",", "")) < ENGINE_BYTES
    assert (tmp_path / "step.zip").stat().st_size == int(done.stdout.split(": ")[1].split()[0].replace(",", ""))


def test_a_zip_holds_what_is_needed_and_nothing_else(unpacked: Path) -> None:
    names = sorted(path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file())
    top = {name.partition("/")[0] for name in names}
    assert top == {"onward", "tiny.py", "__pycache__"}
    assert all(name.endswith((".pyc", "roots.pem")) for name in names if name.startswith("onward/"))
    for absent in ("cli", "local", "testing", "deploy", "web"):
        assert not [name for name in names if name.startswith(f"onward/{absent}/")]
    assert not [name for name in names if "pattern" in name or "cron" in name], "the app has no such triggers"


def test_what_is_unpacked_runs_with_nothing_else_installed(unpacked: Path, tmp_path: Path) -> None:
    """By an interpreter without site-packages, which sees nothing of Onward but what was packed."""
    store = tmp_path / "store.db"
    env = {"ONWARD_APP": "tiny:app", "ONWARD_TABLE": "none", "PYTHONDONTWRITEBYTECODE": "1"}
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; sys.path.insert(0, '.');"
        "import onward.entry.function as f; from onward.app import App; "
        "assert f.handler.__self__.app.name == 'tiny'; import onward; print(onward.__file__)"
    )
    environ = {"AWS_REGION": "us-east-1", **env}
    command = [sys.executable, "-S", "-P", "-c", code]
    done = subprocess.run(command, cwd=unpacked, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("onward/__init__.pyc")
    assert not store.exists()


def test_bytecode_is_taken_unchecked_and_tells_lines(unpacked: Path) -> None:
    for path in unpacked.rglob("*.pyc"):
        content = path.read_bytes()
        assert int.from_bytes(content[4:8], "little") == 0b01, f"{path} would be held against its source"
    code = "import tiny, traceback\ntry: tiny.boom('x')\nexcept ValueError: traceback.print_exc()"
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=unpacked, capture_output=True, text=True, check=False)
    line = APP.splitlines().index("    raise ValueError(text)  # the line that a traceback shows") + 1
    assert f'tiny.py", line {line}, in boom' in done.stderr
    (unpacked / "tiny.py").write_text("raise SystemExit('the source was compiled')")
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=unpacked, capture_output=True, text=True, check=False)
    assert "the source was compiled" not in done.stderr
    (unpacked / "tiny.py").write_text(APP)


def test_equal_input_gives_equal_bytes(tiny: Path) -> None:
    zips = []
    for number in range(2):
        assert onward("package", "tiny:app", "--no-door", "--out", f"again-{number}", cwd=tiny).returncode == 0
        zips.append((tiny / f"again-{number}" / "step.zip").read_bytes())
    assert zips[0] == zips[1]


LEAN = '''
"""Docstring."""
from typing import NamedTuple
TYPE_CHECKING = False
if TYPE_CHECKING:
    import nothing_of_that_name
class Pair(NamedTuple):
    """Docstring."""
    a: int
    b: int = 2
def f(x: Unknown, *, y: Unknown = 1, **z: Unknown) -> Unknown:
    """Docstring."""
    count: Unknown
    total: Unknown = x + y
    return total
async def g() -> None:
    """Docstring only."""
'''


def test_lean_bytecode_does_the_same_without_what_only_readers_need() -> None:
    import marshal

    content = compiled(LEAN.encode(), "lean.py", True)
    assert b"Docstring" not in content
    assert b"Unknown" not in content
    assert b"nothing_of_that_name" not in content
    space: dict[str, Any] = {"__name__": "lean"}
    exec(marshal.loads(content[16:]), space)
    assert space["Pair"](1) == (1, 2)
    assert space["f"](3, y=4) == 7
    assert (
        space["f"].__code__.co_firstlineno
        == LEAN.splitlines().index("def f(x: Unknown, *, y: Unknown = 1, **z: Unknown) -> Unknown:") + 1
    )


def test_errors_keep_their_words_in_lean_bytecode() -> None:
    """Where a module reads docstrings, they stay."""
    source = (REPOSITORY / "adapter" / "onward" / "core" / "errors.py").read_bytes()
    assert b"The table does not exist." in compiled(source, "errors.py", True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["package", "nothing:app"], "nothing"),
        (["package", "tiny:nothing"], "nothing"),
        (["package", "tiny:app", "--no-door", "--include", "other"], "there is no other/ and no other.py in"),
        (["package", "tiny:app", "--no-door", "--requirements", "none.txt"], "there is no file 'none.txt'"),
        (["template", "tiny:app", "--env", "novalue"], "--env takes NAME=VALUE"),
        (["template", "tiny:app", "--runtime", "python2"], "the runtime is one of"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(arguments: list[str], told: str, tiny: Path) -> None:
    before = sorted(path.name for path in tiny.iterdir())
    done = onward(*arguments, *(["--out", "bad"] if arguments[0] == "package" else []), cwd=tiny)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tiny.iterdir() if path.name != "__pycache__") == [
        name for name in before if name != "__pycache__"
    ]


def test_where_the_runtimes_interpreter_is_missing_sources_are_packed_and_that_is_said(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    made = package("tiny:app", tiny / "sources.zip", runtime="python3.14", root=tiny)
    assert "not compiled: python3.14 is not on this machine" in made.remarks[0]
    with zipfile.ZipFile(made.path) as archive:
        assert "onward/core/replay.py" in archive.namelist()


def test_a_module_that_does_not_compile_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(InvalidOption, match=r"cannot be compiled for .*SyntaxError"):
        package("broken:app", tmp_path / "x.zip", root=tmp_path)
    assert not (tmp_path / "x.zip").exists()


def test_requirements_are_brought_for_the_platform_without_their_weight(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "requirements.txt").write_text("idna\nmarkupsafe\n")
    try:
        made = package("tiny:app", tmp_path / "x.zip", root=tiny, requirements=tmp_path / "requirements.txt")
    except Misconfigured as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(made.path) as archive:
        names = archive.namelist()
        version = archive.read(next(name for name in names if name.startswith("idna-"))).decode()
    assert "idna/__init__.py" in names
    assert [name for name in names if name.startswith("markupsafe/") and "aarch64" in name], "built for arm64"
    assert not [name for name in names if name.endswith(("RECORD", "WHEEL", "INSTALLER"))]
    assert version.splitlines()[1] == "Name: idna"
    assert {"idna", "markupsafe"} <= {part.name for part in made.parts}


def test_a_run_goes_to_its_end_in_what_was_packed(unpacked: Path, dynoxide_url: str) -> None:
    """Under the local Lambda, with a table."""
    from onward.aws.dynamodb import DynamoStore
    from onward.aws.table import create_table
    from onward.aws.wire import Wire
    from onward.clock import SystemClock
    from onward.engine.ledger import Ledger
    from onward.engine.views import run_view

    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    wire = Wire(endpoint_url=dynoxide_url, environ=keys)
    create_table(wire, "packed")
    env = {"ONWARD_APP": "tiny:app", "ONWARD_TABLE": "packed", "AWS_ENDPOINT_URL_DYNAMODB": dynoxide_url}
    event = json.loads((REPOSITORY / "tests" / "events" / "eventbridge_event.json").read_text())
    event |= {"detail-type": "greet", "detail": {"name": "Ann"}}
    with LocalLambda("onward.entry.function.handler", env=env, cwd=unpacked, recursive_loop="Allow") as service:
        env["ONWARD_QUEUE_URL"] = service.queue_url
        answer, error = service.invoke(event)
        assert error is None, (error, service.log_lines)
        assert service.drain(30)
    view = run_view(Ledger(DynamoStore(wire, "packed"), None, SystemClock()), run_id("greet", event["id"]))
    wire.close()
    assert answer == {"runs": [view["run_id"]]}
    assert (view["status"], json.loads(view["output"])) == ("completed", "ann")
    assert this_runtime().startswith("python3.")
