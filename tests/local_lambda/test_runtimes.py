"""Our own runtime client and AWS's run the same handler and give the same answer; ours imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Make

EVENTS: list[dict[str, Any]] = [
    {"do": "answer", "text": "Grüße, 世界", "n": 1.5},
    {"do": "raise"},
    {"do": "unencodable"},
    {"do": "exit", "code": 5},
    {"do": "context"},
]
OWN = {"pid", "requestId", "aws_request_id", "left"}


def same(value: Any) -> Any:
    """What must not differ: without ids and times, and without the exact path of our process's frames."""
    if isinstance(value, dict):
        return {name: same(content) for name, content in value.items() if name not in OWN}
    return value.split(" Error: ")[-1] if isinstance(value, str) else value


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["do"])
def test_both_runtimes_give_the_same_answer(make: Make, event: dict[str, Any]) -> None:
    answers = [make(runtime=runtime).invoke(event) for runtime in ("own", "awslambdaric")]
    assert same(answers[0][0]) == same(answers[1][0])
    assert same(answers[0][1]) == same(answers[1][1])


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("missing.handler", None),
        ("nodot", None),
        ("broken.handler", "def handler(:\n"),
        ("raising.handler", "raise RuntimeError('at import')\n"),
        ("importing.handler", "import no_such_module\n"),
    ],
)
def test_both_runtimes_report_the_same_init_error(make: Make, tmp_path: Path, name: str, source: str | None) -> None:
    if source is not None:
        (tmp_path / f"{name.partition('.')[0]}.py").write_text(source)
    errors = [make(handler=name, runtime=runtime).invoke({})[1] for runtime in ("own", "awslambdaric")]
    assert errors[0] is not None and errors[1] is not None
    assert errors[0]["errorType"] == errors[1]["errorType"]
    assert errors[0]["errorMessage"].split(":")[0] == errors[1]["errorMessage"].split(":")[0]


@pytest.mark.parametrize("runtime", ["own", "awslambdaric"])
def test_logging_reaches_the_log(make: Make, tmp_path: Path, runtime: str) -> None:
    source = "import logging\ndef handler(event, context): logging.getLogger().warning('careful %s', 1)\n"
    (tmp_path / "logs.py").write_text(source)
    service = make(handler="logs.handler", runtime=runtime)
    assert service.invoke({})[1] is None
    assert any("[WARNING]" in line and "careful 1" in line for line in service.log_lines)


@pytest.mark.parametrize("runtime", ["own", "awslambdaric"])
def test_each_runtime_serves_many_invocations(make: Make, runtime: str) -> None:
    service = make(runtime=runtime)
    assert [service.invoke({})[0]["performed"] for _ in range(50)] == list(range(1, 51))


OURS = {"json", "json.decoder", "json.encoder", "json.scanner", "_json", "_socket", "__future__"}
OF_JSON = {"re", "_sre", "enum", "types", "operator", "_operator", "functools", "_functools", "collections"}
OF_JSON |= {"_collections", "itertools", "keyword", "reprlib", "copyreg"}
OF_JSON |= {"re._casefix", "re._compiler", "re._constants", "re._parser"}


def test_our_own_runtime_imports_next_to_nothing(make: Make, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("import sys\ndef handler(event, context): return sorted(sys.modules)\n")
    script = "import sys; print('\\n'.join(sys.modules))"
    service = make(handler="bare.handler")
    env = service.function.environment(1)
    idle = subprocess.run([sys.executable, "-P", "-c", script], env=env, capture_output=True, text=True, check=True)
    modules = set(service.invoke({})[0]) - set(idle.stdout.split())
    print(f"\nthe own runtime imports {len(modules)}: {' '.join(sorted(modules))}")
    assert modules <= OURS | OF_JSON | {"bare"}
    assert not {module for module in modules if module.split(".")[0] in {"onward", "socket", "typing", "logging"}}
