"""The deployments under test: in process, in our own sandboxes over both stores, and under AWS's runtime client."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.clock import SystemClock
from onward.engine.ledger import Ledger
from onward.local.blobs import FolderBlobs
from onward.local.lambda_service import LocalLambda
from onward.local.store import SqliteStore
from tests import servers

from .deployment import InProcess, Pump, Sandboxed

REPOSITORY = Path(__file__).parents[2]
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
AS_DEPLOYED: dict[str, Any] = {
    "maximum_retry_attempts": 0,
    "on_failure": "queue",
    "recursive_loop": "Allow",
    "throttle_backoff_s": None,
    "seed": 1,
}
_numbers = itertools.count()

Deploy = Callable[..., Sandboxed]


@pytest.fixture(scope="session")
def dynoxide_url() -> Iterator[str]:
    with servers.dynoxide() as url:
        yield url


class Deployer:
    """Deploys handlers, and takes down in the end what it deployed."""

    def __init__(self, dynoxide_url: str, folder: Path) -> None:
        self._url = dynoxide_url
        self._folder = folder
        self._open: list[Any] = []

    def table(self) -> tuple[dict[str, str], Ledger]:
        """A fresh table: the settings for its user, and a ledger of our own over it."""
        wire = Wire(endpoint_url=self._url, environ=KEYS)
        self._open.append(wire)
        name = f"e2e-{next(_numbers)}"
        create_table(wire, name)
        settings = {"ONWARD_TABLE": name, "AWS_ENDPOINT_URL_DYNAMODB": self._url}
        return settings, Ledger(DynamoStore(wire, name), None, SystemClock())

    def file(self) -> tuple[dict[str, str], Ledger]:
        """A fresh SQLite file."""
        path = str(self._folder / f"store-{next(_numbers)}.db")
        store = SqliteStore(path)
        self._open.append(store)
        return {"ONWARD_STORE": path}, Ledger(store, FolderBlobs(f"{path}.blobs"), SystemClock())

    def __call__(self, handler: str = "handler", store: str = "table", env: Any = (), **options: Any) -> Sandboxed:
        """Deploy to the local Lambda. Nothing runs before something is invoked."""
        settings, ledger = getattr(self, store)()
        notes_file = self._folder / f"notes-{next(_numbers)}.jsonl"
        known = {**settings, "NOTES": str(notes_file), **dict(env)}
        service = LocalLambda(
            f"tests.end_to_end.{handler}.handler", env=known, cwd=REPOSITORY, **(AS_DEPLOYED | options)
        ).start()
        self._open.append(service)
        known["ONWARD_QUEUE_URL"] = service.queue_url
        return Sandboxed(service, ledger, notes_file)

    def in_process(self, monkeypatch: pytest.MonkeyPatch) -> InProcess:
        from .app import app

        settings, ledger = self.table()
        notes_file = self._folder / f"notes-{next(_numbers)}.jsonl"
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in {**KEYS, **settings, "NOTES": str(notes_file)}.items():
            monkeypatch.setenv(name, value)
        handler = app.handler()
        door = handler.__self__  # type: ignore[attr-defined]
        pump = Pump(handler)
        door.engine.wakes = pump
        self._open.append(door.wire)
        return InProcess(pump, ledger, notes_file)

    def close(self) -> None:
        for opened in reversed(self._open):
            getattr(opened, "stop", getattr(opened, "close", None))()


@pytest.fixture(scope="module")
def deploy(dynoxide_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployer]:
    deployer = Deployer(dynoxide_url, tmp_path_factory.mktemp("deployed"))
    yield deployer
    deployer.close()


@pytest.fixture(scope="module", params=["in process", "own", "own, sqlite", "awslambdaric"])
def deployment(request: pytest.FixtureRequest, deploy: Deployer) -> Iterator[InProcess | Sandboxed]:
    """One for all tests of a module: its sandboxes are cold for the first, and warm for the others."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param == "in process":
            yield deploy.in_process(monkeypatch)
        else:
            runtime, _, sqlite = request.param.partition(", ")
            deployed = deploy(store="file" if sqlite else "table", runtime=runtime)
            yield deployed
            deployed.lambda_.stop()
