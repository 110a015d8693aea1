"""The HTTP door on Lambda: Starlette behind Mangum, in a function of its own. A step function never imports this.

Settings, from the environment:

    ONWARD_TABLE, ONWARD_QUEUE_URL, ONWARD_BUCKET, ONWARD_PREFIX, ONWARD_STORE    as for the step function (see aws.py)
    ONWARD_FUNCTION     the step function, which is woken: its name or ARN, with its alias if it has one
    ONWARD_AUTH         whom the door believes: iam, key, or both; without it the door is closed
    ONWARD_KEYS         signing keys, id:secret,id:secret
    ONWARD_BASE_PATH    where a custom domain puts the door ("/catalog"): taken off the path of each request

Behind a function URL, an HTTP API, a REST API or a load balancer: Mangum knows their payloads. A stage in the path is
no part of the route. The lines and metrics of this function are written with Powertools.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from mangum import Mangum

from ..clock import SystemClock
from ..core.errors import Misconfigured, UnknownPayload
from ..web.auth import Guard
from ..web.door import make_door
from .aws import Door

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from ..app import App, Handler
    from ..engine.notes import Note

NAMESPACE = "Onward"


def handler(app: App, *, environ: Mapping[str, str] | None = None) -> Handler:
    """The Lambda handler of an app's door. `environ`: the settings, `os.environ` unless given. Raises `Misconfigured`
    at INIT for what keeps it from working at all; a door that nobody may enter answers, and says so."""
    return HttpDoor(app, os.environ if environ is None else environ).handle


class HttpDoor:
    """Takes HTTP requests, as Lambda hands them over, to the door."""

    def __init__(self, app: App, environ: Mapping[str, str]) -> None:
        logger = Logger(service=app.name)
        note = _note(logger)
        if not environ.get("ONWARD_FUNCTION"):
            raise Misconfigured("ONWARD_FUNCTION is not set: name the step function, which the door wakes")
        clock = SystemClock()
        guard = Guard.of(environ, lambda: clock.now_ms() / 1000)
        if guard.closed is not None:
            note("ERROR", guard.closed)
        named = {**environ, "AWS_LAMBDA_FUNCTION_NAME": environ["ONWARD_FUNCTION"], "ONWARD_CHAOS": ""}
        self.inner = Door(app, named, note=note)
        metrics = Metrics(namespace=NAMESPACE, service=app.name)
        door = _Counted(make_door(self.inner.engine, guard, note), metrics, environ.get("ONWARD_BASE_PATH", ""))
        self._loop = _loop_of_this_process()
        self._adapter = Mangum(door, lifespan="off")
        told = metrics.log_metrics(self._adapt, capture_cold_start_metric=True)
        self._told: Handler = logger.inject_lambda_context(told, clear_state=True)

    def handle(self, payload: Any, context: Any) -> Any:
        """The Lambda handler."""
        if not isinstance(payload, dict) or not isinstance(payload.get("requestContext"), dict):
            raise UnknownPayload(
                "the HTTP door was given what is no HTTP request: rules, queues and schedules call the step function"
            )
        return self._told(payload, context)

    def _adapt(self, payload: Any, context: Any) -> Any:
        asyncio.set_event_loop(self._loop)
        return self._adapter(payload, context)


_loop: asyncio.AbstractEventLoop | None = None


def _loop_of_this_process() -> asyncio.AbstractEventLoop:
    """One for good, and set again before each request: Mangum asks for the thread's loop, and `asyncio.run` takes that
    away."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    asyncio.set_event_loop(_loop)
    return _loop


def _note(logger: Logger) -> Note:
    """The engine's lines, by Powertools."""

    def note(level: str, message: str, **fields: object) -> None:
        given = {key: value for key, value in fields.items() if value is not None}
        {"INFO": logger.info, "WARNING": logger.warning}.get(level, logger.error)(message, extra=given)

    return note


class _Counted:
    """Takes stage and base path off a request's path, and counts how requests end."""

    def __init__(self, app: ASGIApp, metrics: Metrics, base_path: str) -> None:
        self._app = app
        self._metrics = metrics
        self._base_path = base_path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = {**scope, "path": self._route(scope)}

        async def count(message: Any) -> None:
            if message["type"] == "http.response.start":
                kind = {2: "RequestsDone", 4: "RequestsRefused"}.get(message["status"] // 100, "RequestsFailed")
                self._metrics.add_metric(kind, MetricUnit.Count, 1)
            await send(message)

        await self._app(scope, receive, count)

    def _route(self, scope: Scope) -> str:
        path: str = scope["path"]
        context = scope.get("aws.event", {}).get("requestContext", {})
        stage = context.get("stage") if isinstance(context.get("http"), dict) else None  # of an HTTP API
        for prefix in (f"/{stage}" if stage else "", self._base_path):
            if prefix and (path == prefix or path.startswith(f"{prefix}/")):
                return path[len(prefix) :] or "/"
        return path
