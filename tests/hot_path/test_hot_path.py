"""What a cold step costs in imports and connections: the list of modules is exact, and stands in `allowed.txt`."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from .conftest import Cold

LIST = Path(__file__).with_name("allowed.txt")
MEASURED = (3, 11)  # the Python of the list
NEVER = """typing asyncio dataclasses inspect logging urllib http email datetime decimal random threading signal
traceback contextlib contextvars pathlib tempfile subprocess concurrent configparser uuid unittest stringprep
unicodedata boto3 botocore pydantic starlette mangum""".split()  # noqa: SIM905
SOURCES = Path(__file__).parents[2] / "adapter"
SPEAK_TLS = """
import sys
sys.path.insert(0, sys.argv[1])
from onward.aws.wire import Wire
from onward.core.errors import Unavailable
keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
try:
    Wire(endpoint_url=sys.argv[2], environ=keys).connect()
except Unavailable as error:
    assert "cannot connect" in str(error), error
    print(*sys.modules)
"""


class Allowed(NamedTuple):
    ours: set[str]
    runtime: set[str]
    library: set[str]


def allowed() -> Allowed:
    """The three parts of the list."""
    parts: dict[str, set[str]] = {}
    for line in LIST.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            part = parts.setdefault(text.strip("[]"), set())
        elif text:
            part.add(text)
    return Allowed(**parts)


def bare_interpreter() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def told(modules: set[str], importers: dict[str, str]) -> str:
    return "".join(f"\n  {name}: imported by {importers.get(name, 'what ran before')}" for name in sorted(modules))


def test_a_cold_step_imports_what_is_on_the_list_and_nothing_else(cold: Cold) -> None:
    seen = cold.advance(1)
    assert cold.records() == 2, "the step was performed and recorded"
    modules = set(seen["modules"]) - bare_interpreter() - {"tests", "tests.hot_path", "tests.hot_path.bare_handler"}
    ours = {name for name in modules if name.partition(".")[0] == "onward"}
    library = modules - ours
    print(f"\na cold step imports {len(ours)} modules of ours, {len(library)} of the standard library")
    may = allowed()
    assert ours <= may.ours, f"a cold step imports what is not in {LIST}:{told(ours - may.ours, seen['importers'])}"
    assert may.ours <= ours, f"a cold step no longer imports {sorted(may.ours - ours)}: take it off {LIST}"
    foreign = {name for name in library if name.partition(".")[0] not in sys.stdlib_module_names}
    assert not foreign, f"no third party is needed for a step:{told(foreign, seen['importers'])}"
    never = {name for name in library if name.partition(".")[0] in NEVER}
    assert not never, f"a cold step imports what it must never:{told(never, seen['importers'])}"
    if sys.version_info[:2] == MEASURED:  # other versions divide their standard library otherwise
        listed = may.library | may.runtime
        too_many = library - listed
        assert not too_many, f"a cold step imports what is not in {LIST}:{told(too_many, seen['importers'])}"
        assert listed <= library, f"a cold step no longer imports {sorted(listed - library)}: take it off {LIST}"


def test_a_warm_step_imports_nothing_more(cold: Cold) -> None:
    assert cold.advance(1)["modules"] == cold.advance(2)["modules"]
    assert cold.records() == 3
    assert cold.service.stats.cold == 1


def test_the_connection_is_opened_at_init_and_kept(cold: Cold) -> None:
    cold.advance(1)
    cold.advance(2)
    assert cold.timeline == ["connection", "init", "invoked", "answered", "invoked", "answered"]


def test_tls_needs_no_more_than_the_list() -> None:
    """The other tests speak plain HTTP. Here a TLS connection is opened, as far as a peer that hangs up lets it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        url = f"https://localhost:{server.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-S", "-P", "-c", SPEAK_TLS, str(SOURCES), url], capture_output=True, text=True, check=True
        )
        thread.join(5)
    may = allowed()
    modules = set(done.stdout.split()) - bare_interpreter() - may.ours - may.library - may.runtime
    assert "onward.aws.connection" in done.stdout and (not modules or sys.version_info[:2] != MEASURED), modules
    assert not {name for name in modules if name.partition(".")[0] in NEVER or name == "encodings.idna"}
