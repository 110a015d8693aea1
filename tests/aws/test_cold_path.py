"""The wire brings nothing along that the interpreter and a handful of small modules have not loaded by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ALLOWED = """sys os time json hashlib hmac socket ssl binascii base64 zlib struct select errno _thread __future__"""
HOT = """onward.aws.wire onward.aws.dynamodb onward.aws.wakes onward.clock"""
NEVER = """typing dataclasses inspect urllib http email asyncio datetime random logging botocore boto3 configparser
threading pathlib contextlib calendar tempfile subprocess"""
SOURCES = Path(__file__).parents[2] / "adapter"

PROGRAM = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2].split():
    importlib.import_module(name)
before = set(sys.modules)
for name in sys.argv[3].split():
    importlib.import_module(name)
print(json.dumps([sorted(set(sys.modules) - before), sorted(sys.modules)]))
"""


def test_the_hot_modules_import_nothing_but_the_allowed_ones() -> None:
    arguments = [str(SOURCES), f"{ALLOWED} importlib", HOT]
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    added, loaded = json.loads(done.stdout)
    foreign = [name for name in added if name.partition(".")[0] != "onward"]
    assert not foreign, f"the cold path now imports {foreign}"
    assert not set(NEVER.split()) & {name.partition(".")[0] for name in loaded}, (
        "the allowed modules themselves brought these"
    )
    wing = {name.rpartition(".")[2] for name in added if name.startswith("onward.aws.")}
    assert wing == {*"connection credentials dynamodb endpoints failures signing wakes wire".split()}  # noqa: SIM905
