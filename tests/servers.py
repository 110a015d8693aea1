"""Servers that stand for AWS on a test machine: dynoxide (DynamoDB) and moto (everything else).

Each is a context manager that yields the server's URL and ends the process, by its own id, on the way out:

    with servers.dynoxide() as url: ...
    with servers.moto() as url: ...

dynoxide is one binary from npm. It is looked for in ONWARD_DYNOXIDE, then in this repository's `.cache`, and is
installed there if neither has it. A machine that can do none of this skips the tests that need it, and says why.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"
PACKAGE = "@dynoxide/linux-x64"
VERSION = "1.2.1"
SAM_VERSION = "1.170.0"
RIE = f"aws-lambda-rie-{ {'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }"
CDK_VERSION = "2.1148.1"
INSTALL_TIMEOUT_S = 120
TOOL_TIMEOUT_S = 280
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


def find_dynoxide() -> Path:
    """The dynoxide binary; skips the test that asks if there is none and none can be installed."""
    named = os.environ.get("ONWARD_DYNOXIDE")
    if named:
        if not Path(named).is_file():
            pytest.skip(f"ONWARD_DYNOXIDE names {named!r}, which is no file")
        return Path(named)
    binary = CACHE / "node_modules" / PACKAGE / "dynoxide"
    with _alone():
        if not binary.is_file():
            _install(binary)
    return binary


def find_sam() -> Path:
    """The `sam` command, in an environment of its own (it wants an older botocore); skips the test that asks if it
    cannot be installed."""
    return _find_tool(f"aws-sam-cli=={SAM_VERSION}", CACHE / f"sam-{SAM_VERSION}") / "sam"


def find_rie() -> Path:
    """AWS's own Lambda Runtime Interface Emulator, which the `sam` command brings; skips where it cannot be had."""
    found = sorted(find_sam().parents[1].glob(f"lib/*/site-packages/samcli/local/rapid/{RIE}"))
    if not found:
        pytest.skip(f"aws-sam-cli {SAM_VERSION} brings no {RIE}")
    found[0].chmod(0o755)
    return found[0]


def find_cdk() -> Path:
    """CDK's command line; skips the test that asks if it cannot be installed."""
    command = CACHE / f"cdk-{CDK_VERSION}" / "node_modules" / ".bin" / "cdk"
    with _alone():
        if not command.is_file():
            _npm_install(f"aws-cdk@{CDK_VERSION}", CACHE / f"cdk-{CDK_VERSION}", command)
    return command


def _find_tool(requirement: str, home: Path) -> Path:
    """The folder of the commands of a distribution that is installed for itself."""
    commands = home / "venv" / "bin"
    with _alone():
        if not (home / "ready").exists():
            for command in (
                [sys.executable, "-m", "venv", str(home / "venv")],
                [
                    str(commands / "python"),
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    requirement,
                ],
            ):
                try:
                    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False)
                except subprocess.TimeoutExpired:
                    pytest.skip(f"{requirement} was not installed within {TOOL_TIMEOUT_S} s")
                if done.returncode != 0:
                    last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
                    pytest.skip(f"{requirement} could not be installed: {last}")
            (home / "ready").touch()
    return commands


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time: tests run on several cores, and each may be the first to want it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "installing").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(binary: Path) -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"{PACKAGE} runs on Linux x64 only; set ONWARD_DYNOXIDE to a binary for this machine")
    _npm_install(f"{PACKAGE}@{VERSION}", CACHE, binary)


def _npm_install(package: str, home: Path, wanted: Path) -> None:
    """Install a package of npm's; skips the test that asks where that does not bring the file that is wanted."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"{wanted.name} is missing and so is npm, which would install it ({package})")
    command = [npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install {package} within {INSTALL_TIMEOUT_S} s")
    if done.returncode != 0 or not wanted.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        pytest.skip(f"npm could not install {package}: {last}")


@contextmanager
def dynoxide(*options: str) -> Iterator[str]:
    """A fresh DynamoDB in memory, or wherever `options` say (`--db-path`, a file)."""
    binary = find_dynoxide()
    port = free_port()
    with _serving([str(binary), "serve", "--port", str(port), *options], port) as url:
        yield url


@contextmanager
def moto() -> Iterator[str]:
    """A fresh moto server: S3, SQS, EventBridge, Lambda's API, and a second opinion on DynamoDB."""
    port = free_port()
    with _serving([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as url:
        yield url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _serving(command: list[str], port: int) -> Iterator[str]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await_answer(process, port, command)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_answer(process: subprocess.Popen[bytes], port: int, command: list[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with status {process.returncode} before it served")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise RuntimeError(f"{command[0]} did not answer on port {port} within {START_TIMEOUT_S:g} s")
