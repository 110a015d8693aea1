"""What the sources never do: run text as code, unpickle, go through a shell, or turn a check of TLS off."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted([*(REPOSITORY / "adapter").rglob("*.py"), *(REPOSITORY / "handlers").rglob("*.py")])

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "yaml",
    "xml",
    "pty",
}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "breakpoint"}
FORBIDDEN_ATTRIBUTES = {
    "os.system",
    "os.popen",
    "os.tempnam",
    "tempfile.mktemp",
    "hashlib.sha1",
    "ssl._create_unverified_context",
    "ssl.CERT_NONE",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
}
FORBIDDEN_ARGUMENTS = {("shell", True), ("verify", False), ("check_hostname", False)}
# What a sin is there for: bytecode is compiled and written, a template dumped, as a script of `onward package` and
# `onward template` only. Neither is on Lambda, and neither reads what somebody else wrote.
ALLOWED = {
    "adapter/onward/deploy/compiling.py": {"marshal", "compile"},
    "adapter/onward/deploy/sam.py": {"yaml"},
}
NEED_MD5 = {"adapter/onward/local/queue_service.py"}  # SQS's own API answers with the MD5 of a message


def sins(source: str, path: str) -> Iterator[str]:
    """What a source does that it must not, each with its line."""
    for node in ast.walk(ast.parse(source)):
        found = ""
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found = next((name for name in names if name.partition(".")[0] in FORBIDDEN_MODULES), "")
            if isinstance(node, ast.ImportFrom):
                dotted = [f"{node.module}.{alias.name}" for alias in node.names]
                found = found or next((name for name in dotted if name in FORBIDDEN_ATTRIBUTES), "")
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
            found = node.id
        elif isinstance(node, ast.Attribute):
            dotted_name = ast.unparse(node)
            found = dotted_name if dotted_name in FORBIDDEN_ATTRIBUTES else ""
            found = found or ("md5" if node.attr == "md5" and path not in NEED_MD5 else "")
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            found = f"{node.arg}={node.value.value}" if (node.arg, node.value.value) in FORBIDDEN_ARGUMENTS else ""
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is False:
            found = next((ast.unparse(t) for t in node.targets if ast.unparse(t).endswith(".check_hostname")), "")
        if found and found not in ALLOWED.get(path, ()):
            yield f"{path}:{getattr(node, 'lineno', getattr(getattr(node, 'value', None), 'lineno', 0))} {found}"


def test_no_source_runs_text_unpickles_calls_a_shell_or_skips_a_check() -> None:
    assert len(SOURCES) > 50
    found = [sin for path in SOURCES for sin in sins(path.read_text(), path.relative_to(REPOSITORY).as_posix())]
    assert not found, "\n" + "\n".join(found)


def test_a_source_that_needs_a_module_writes_with_it_and_reads_only_what_it_wrote() -> None:
    compiling, sam = ((REPOSITORY / path).read_text() for path in ALLOWED)
    assert re.findall(r"marshal\.\w+\(", compiling) == ["marshal.dumps(", "marshal.loads(", "marshal.dumps("]
    assert "marshal.loads(marshal.dumps(code))" in compiling
    assert not re.search(r"\b(exec|eval)\(", compiling)
    assert set(re.findall(r"yaml\.\w+", sam)) == {"yaml.SafeDumper", "yaml.dump"}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "eval('1')",
        "f = exec",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import tempfile\ntempfile.mktemp()",
        "from tempfile import mktemp",
        "import hashlib\nhashlib.md5(b'')",
        "import os\nos.system('ls')",
        "import ssl\nssl.SSLContext().verify_mode = ssl.CERT_NONE",
        "context.check_hostname = False",
        "boto3.client('s3', verify=False)",
    ],
)
def test_the_rule_knows_each_sin(source: str) -> None:
    assert list(sins(source, "adapter/onward/x.py"))


def test_chance_that_must_not_be_guessed_comes_from_the_operating_system() -> None:
    """Tokens fence writers, so they must be unlike in copies of one snapshot. Python's `random` is for what is seeded
    on purpose: the local Lambda, the chaos that users switch on, the shop of the demo, and the rehearsal."""
    seeded = ("adapter/onward/local/", "adapter/onward/chaos.py", "adapter/onward/testing/", "handlers/demo/")
    users = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if "random" in names:
                users.add(path.relative_to(REPOSITORY).as_posix())
    assert users and not [user for user in users if not user.startswith(seeded)], users
