"""Doors: over both stores, with the real handler and everything that stands in front of it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.aws.table import create_table
from onward.aws.wire import Wire
from onward.clock import SystemClock
from onward.core.signing import parse_keys, signed_headers
from onward.engine.engine import Engine
from onward.entry.http import handler
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from tests.aws.scripted import reply, scripted

from .app import app
from .fronts import FRONTS, answer_of

KEYS = "blue:" + "b" * 40 + ",green:" + "g" * 40
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIDOFTHEDOOR",
    "AWS_SECRET_ACCESS_KEY": "s3cret-of-the-door-s3cret",
    "AWS_REGION": "us-east-1",
}
_numbers = itertools.count()


class Context:
    function_name = "door"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:door"
    aws_request_id = "request"


class Client:
    """Sends requests to a handler, as the front of that name hands them over. `woken`: what the step function was asked
    for; `engine`: over the same store, to look behind the door and to do what wakes ask for."""

    def __init__(self, handle: Callable[[Any, Any], Any], engine: Engine, woken: list[Any]) -> None:
        self.handle = handle
        self.engine = engine
        self._woken = woken

    def send(
        self, method: str, path: str, content: Any = None, *, front: str = "function URL", key: str | None = None,
        query: str = "", headers: Mapping[str, str] = {}, body: bytes | None = None, **options: Any,
    ) -> tuple[int, Any]:  # fmt: skip
        if body is None:
            body = b"" if content is None else json.dumps(content).encode()
        given = {"content-type": "application/json", **headers} if method == "POST" else dict(headers)
        payload = FRONTS[front](method, path, query, given, body, **options)
        return answer_of(self.handle(payload, Context()))

    def signed(
        self, method: str, path: str, content: Any = None, *, keys: str = KEYS, at_s: int | None = None,
        prefix: str = "", query: str = "", **options: Any,
    ) -> tuple[int, Any]:  # fmt: skip
        body = b"" if content is None else json.dumps(content).encode()
        time_s = SystemClock().now_ms() // 1000 if at_s is None else at_s
        target = f"{prefix}{path}?{query}" if query else f"{prefix}{path}"
        headers = signed_headers(parse_keys(keys), method, target, time_s, body)
        return self.send(method, path, body=body, headers=headers, query=query, **options)

    def work(self) -> None:
        """Do what the wakes ask for, until there are none."""
        while self._woken:
            self.engine.handle(self._woken.pop(0))


class Wakes:
    """Keeps wakes for `Client.work`."""

    reach_ms = 900_000

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, wake: Mapping[str, Any], at_ms: int | None = None) -> None:
        if at_ms is None:
            self.sent.append(json.loads(json.dumps(wake)))


@pytest.fixture(scope="session")
def lambda_url() -> Iterator[tuple[str, list[Any]]]:
    """Lambda's API: it takes every wake, and keeps it."""
    woken: list[Any] = []

    def accept(request: Any) -> bytes:
        woken.append(json.loads(request.body))
        return reply(202, b"")

    with scripted(accept) as server:
        yield server.url, woken


MakeClient = Callable[..., Client]


@pytest.fixture(params=["sqlite", "dynoxide"])
def make_client(
    request: pytest.FixtureRequest, lambda_url: tuple[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeClient]:
    url, woken = lambda_url
    woken.clear()
    for name in [name for name in os.environ if name.startswith(("AWS_", "ONWARD_"))]:
        if name != "ONWARD_DYNOXIDE":
            monkeypatch.delenv(name)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    opened: list[Any] = []
    settings = {**AWS, "AWS_ENDPOINT_URL_LAMBDA": url, "AWS_LAMBDA_FUNCTION_NAME": "door", "ONWARD_FUNCTION": "step"}
    store: Any
    if request.param == "sqlite":
        settings["ONWARD_STORE"] = str(tmp_path / "store.db")
        store = SqliteStore(settings["ONWARD_STORE"])
        opened.append(store)
    else:
        dynoxide_url = request.getfixturevalue("dynoxide_url")
        settings |= {"ONWARD_TABLE": f"door-{next(_numbers)}", "AWS_ENDPOINT_URL_DYNAMODB": dynoxide_url}
        wire = Wire(endpoint_url=dynoxide_url, environ=AWS)
        opened.append(wire)
        create_table(wire, settings["ONWARD_TABLE"])
        store = DynamoStore(wire, settings["ONWARD_TABLE"])
    wakes = Wakes()
    engine = Engine(app, store, wakes, FolderBlobs(str(tmp_path / "store.db.blobs")), SystemClock())

    def make(**environ: str) -> Client:
        for known in logging.getLogger(app.name).handlers:  # Powertools keeps the stream of the first test
            known.stream = sys.stdout  # type: ignore[attr-defined]
        handle = handler(app, environ={**settings, **environ})
        opened.append(handle.__self__.inner.wire)  # type: ignore[attr-defined]
        client = Client(handle, engine, wakes.sent)
        client.lambda_wakes = woken  # type: ignore[attr-defined]
        return client

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    """A door that believes keys, and whoever IAM has authorized."""
    return make_client(ONWARD_AUTH="iam,key", ONWARD_KEYS=KEYS)
