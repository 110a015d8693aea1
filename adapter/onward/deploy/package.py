"""The zips of a deployed app: what its functions need and nothing else, in the form that costs the least at a cold
start.

    onward       the parts that a function uses (no local, cli, testing, deploy; no patterns and schedules where the app
                 has none), as bytecode alone: docstrings and annotations stay behind, line numbers do not
    the app      the top-level package or module of the app, with its source (tracebacks show its lines) and bytecode
    the rest     what a requirements file names, for the function's platform, without tests, and of its metadata only
                 name, version and entry points

/var/task cannot be written on Lambda, so a module that comes without bytecode is compiled at every cold start. Bytecode
fits one minor version of Python: where the interpreter of the runtime is not on this machine, sources are packed, and
that is said.

Equal input gives equal bytes: names in order, one date, one mode. So a deploy without a change uploads nothing new.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..core.errors import InvalidOption, Misconfigured
from . import compiling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGE = Path(__file__).parents[1]
LEFT_OUT = {
    "step": (
        "cli", "deploy", "dev", "local", "testing", "web", "__main__.py", "aws/table.py", "engine/bulk.py",
        "engine/callbacks.py", "engine/check.py", "engine/views.py", "engine/why.py", "entry/door.py", "entry/http.py",
        "entry/local.py",
    ),
    "door": (
        "cli", "deploy", "dev", "local", "testing", "__main__.py", "aws/table.py", "engine/check.py",
        "entry/function.py", "entry/local.py",
    ),
}  # fmt: skip
"""What of Onward a function has no use for: a test runs both functions without it."""
OPTIONAL = {
    "onward.triggers": ("triggers.py", "core/pattern.py", "core/cron.py"),
    "onward.encryption": ("encryption.py",),
}
"""What only an app needs that has named it while it was imported: the module by which that is known, and its files."""
ENGINE = ("onward/core", "onward/engine")
DOOR_NEEDS = ("starlette", "mangum", "aws-lambda-powertools")
IN_THE_RUNTIME = ("boto3", "botocore", "s3transfer", "urllib3")
IGNORED_FOLDERS = frozenset({"__pycache__", "tests", "node_modules"})
IGNORED_SUFFIXES = frozenset({".pyc", ".pyo", ".so.dbg"})
MAX_ZIP_BYTES = 50_000_000  # of an upload without S3; `sam deploy` goes through S3, where the next bound counts
MAX_UNZIPPED_BYTES = 250_000_000  # of a function, layers included
MAX_FILES = 20_000
DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can say
MODE = 0o644
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64")
INSTALL_TIMEOUT_S = 600


class Part(NamedTuple):
    """What one top-level name takes in a zip: bytes as they are stored there, and unpacked."""

    name: str
    zipped_bytes: int
    unzipped_bytes: int


class Package(NamedTuple):
    """`remarks`: what its user should know, a sentence each."""

    path: Path
    zipped_bytes: int
    parts: tuple[Part, ...]
    engine_bytes: int
    remarks: tuple[str, ...]


def package(
    app: str,
    destination: Path,
    *,
    kind: str = "step",
    runtime: str | None = None,
    requirements: Path | None = None,
    include: Sequence[str] = (),
    root: Path | None = None,
) -> Package:
    """Make the zip of the step function, or of the door. `app`: "module:attribute", which has been imported; `runtime`:
    python3.13 and so on (this interpreter's own unless given); `include`: more modules of the user's, by name; `root`:
    the folder they stand in, the current one unless given. Nothing is left behind where it fails; raises
    `InvalidOption` and `Misconfigured`."""
    runtime = runtime or this_runtime()
    modules = [app.partition(":")[0].partition(".")[0], *include]
    with tempfile.TemporaryDirectory(prefix="onward-package-") as folder:
        stage = Path(folder)
        remarks: list[str] = []
        needs = list(DOOR_NEEDS) if kind == "door" else []
        if needs or requirements is not None:
            _install(stage, needs, requirements, runtime)
        remarks += _already_there(stage)
        _stage_onward(stage, kind)
        for module in dict.fromkeys(modules):
            _stage_module(stage, module, (root or Path.cwd()).resolve())
        remarks += _compile(stage, runtime)
        return _zip(stage, destination, remarks)


def this_runtime() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


# ------------------------------------------------------------------------------------------------------------ staging
def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder that belong into a zip, in order."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix in IGNORED_SUFFIXES:
            continue
        if path.is_dir():
            if path.name not in IGNORED_FOLDERS:
                yield from _files(path)
        elif path.is_file():
            yield path


def _stage_onward(stage: Path, kind: str) -> None:
    unused = [file for module, files in OPTIONAL.items() if module not in sys.modules for file in files]
    left_out = {*LEFT_OUT[kind], *unused}
    for path in _files(PACKAGE):
        name = path.relative_to(PACKAGE).as_posix()
        if path.name != "py.typed" and name not in left_out and name.partition("/")[0] not in left_out:
            _copy(path, stage / "onward" / name)


def _stage_module(stage: Path, module: str, root: Path) -> None:
    folder, file = root / module, root / f"{module}.py"
    if not module.isidentifier() or module == "onward":
        raise InvalidOption(f"{module!r:.80} is no name of a top-level module of yours")
    if folder.is_dir():
        for count, path in enumerate(_files(folder)):
            if count >= MAX_FILES:
                raise InvalidOption(f"{folder} has more than {MAX_FILES:,} files: is it the folder that you meant?")
            _copy(path, stage / module / path.relative_to(folder))
    elif file.is_file():
        _copy(file, stage / file.name)
    else:
        raise InvalidOption(
            f"there is no {module}/ and no {module}.py in {root}: call `onward package` where they stand"
        )


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def _install(stage: Path, needs: Sequence[str], requirements: Path | None, runtime: str) -> None:
    """Put distributions there, for arm64 and the runtime: what the door needs, in the versions that are installed here,
    and what the user's steps need."""
    if requirements is not None and not requirements.is_file():
        raise InvalidOption(f"there is no file {str(requirements)!r}: name your requirements with --requirements")
    wanted = [f"{name}=={_version(name)}" for name in needs]
    wanted += ["-r", str(requirements)] if requirements is not None else []
    version = runtime.removeprefix("python")
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        command += [
            "--target",
            str(stage),
            "--only-binary=:all:",
            "--python-version",
            version,
            "--implementation",
            "cp",
        ]
        command += [f"--platform={platform}" for platform in PLATFORMS]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--target", str(stage), "--only-binary=:all:"]
        command += ["--python-version", version, "--python-platform", "aarch64-manylinux_2_28"]
    else:
        raise Misconfigured("neither pip nor uv is there to install what the package needs: `python -m ensurepip`")
    try:
        done = subprocess.run(
            [*command, *wanted], capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Misconfigured(f"installing {' '.join(wanted)} took more than {INSTALL_TIMEOUT_S} seconds") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise Misconfigured(
            f"{' '.join(wanted)} cannot be installed for {runtime} on arm64: {' '.join(said[-3:])[:500]}"
        )
    _thin_out(stage)


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        raise Misconfigured(f"the door needs {name}, which is not installed here: pip install 'onward[web]'") from None


def _thin_out(stage: Path) -> None:
    """Leave of metadata the name and version, by which packages ask for each other, and their entry points."""
    for folder in stage.glob("*.dist-info"):
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            elif path.name == "METADATA":
                lines = path.read_text(encoding="utf-8").splitlines()
                kept = [line for line in lines if line.startswith(("Metadata-Version:", "Name:", "Version:"))]
                path.write_text("\n".join(kept) + "\n", encoding="utf-8")
            elif path.name != "entry_points.txt":
                path.unlink()
    for folder in (stage / "bin", *stage.rglob("tests"), *stage.rglob("__pycache__")):
        shutil.rmtree(folder, ignore_errors=True)


def _already_there(stage: Path) -> list[str]:
    doubled = [name for name in IN_THE_RUNTIME if (stage / name).is_dir()]
    if not doubled:
        return []
    return [f"Lambda's runtime has {', '.join(doubled)} already: leave out what need not be of a certain version"]


# ---------------------------------------------------------------------------------------------------------- compiling
def _compile(stage: Path, runtime: str) -> list[str]:
    """Bytecode for all that is staged: instead of the source for Onward, beside it for all else."""
    interpreter = sys.executable if runtime == this_runtime() else shutil.which(runtime)
    if interpreter is None:
        return [
            f"not compiled: {runtime} is not on this machine, so every cold start compiles what it imports. "
            f"Install it, or deploy with --runtime {this_runtime()}, which is what your tests run on"
        ]
    tag = f"cpython-{runtime.removeprefix('python').replace('.', '')}"
    jobs, sources = [], []
    for path in sorted(stage.rglob("*.py")):
        name = path.relative_to(stage).as_posix()
        is_ours = name.startswith("onward/")
        beside = path.with_suffix(".pyc") if is_ours else path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc"
        jobs.append([str(path), str(beside), f"/var/task/{name}", is_ours])
        if is_ours:
            sources.append(path)
    command = [interpreter, "-I", "-X", "no_debug_ranges", compiling.__file__]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        if "SyntaxError" not in lines[-1]:
            return [f"not compiled: {runtime} on this machine says {lines[-1][:200]!r}"]
        raise InvalidOption(f"a module cannot be compiled for {runtime}: {lines[-1]} ({' '.join(lines[-4:-1])[:300]})")
    for path in sources:
        path.unlink()
    return []


# ------------------------------------------------------------------------------------------------------------ zipping
def _zip(stage: Path, destination: Path, remarks: list[str]) -> Package:
    destination.parent.mkdir(parents=True, exist_ok=True)
    unfinished = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(stage.rglob("*")):
                if path.is_file():
                    entry = zipfile.ZipInfo(path.relative_to(stage).as_posix(), DATE)
                    entry.external_attr = MODE << 16
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    entry.create_system = 3
                    archive.writestr(entry, path.read_bytes())
            entries = archive.infolist()
        unfinished.replace(destination)
    finally:
        unfinished.unlink(missing_ok=True)
    zipped_bytes = destination.stat().st_size
    parts: dict[str, tuple[int, int]] = {}
    for entry in entries:
        name = entry.filename.partition("/")[0].removesuffix(".py")
        name = name.partition("-")[0] if name.endswith(".dist-info") else name
        before = parts.get(name, (0, 0))
        parts[name] = before[0] + _stored(entry), before[1] + entry.file_size
    unzipped_bytes = sum(entry.file_size for entry in entries)
    if unzipped_bytes > MAX_UNZIPPED_BYTES:
        remarks.append(
            f"{unzipped_bytes:,} bytes unpacked, and Lambda takes {MAX_UNZIPPED_BYTES:,}: leave packages out"
        )
    found = sorted((Part(name, *sizes) for name, sizes in parts.items()), key=lambda part: -part.zipped_bytes)
    engine = sum(_stored(entry) for entry in entries if entry.filename.startswith(tuple(f"{name}/" for name in ENGINE)))
    return Package(destination, zipped_bytes, tuple(found), engine, tuple(remarks))


def _stored(entry: zipfile.ZipInfo) -> int:
    """What an entry takes in the archive: its data, and its name with the two headers around it."""
    return entry.compress_size + 2 * len(entry.filename) + 30 + 46
