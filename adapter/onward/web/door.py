"""The door: events in, runs and events to be read, commands on runs, answers to callbacks. JSON, and nothing else.

    POST /e                                    send 1 to 10 events
    GET  /api/runs                             runs that have not ended; ?status=failed: those that failed
    GET  /api/runs/{run}                       a run with its steps, and what it waits for
    POST /api/runs/{run}/cancel|retry|rerun    end it; do it again from what failed it; do it again from any step
    GET  /api/events?name=                     the latest events of a name
    GET  /api/events/{id}                      an event with its data, and what it came to
    POST /api/callbacks/{token}/complete|fail|beat
    GET  /openapi.json                         all of this, for programs

Every answer is an object. A refusal is {"error": a word, "message": what to do}. What is read comes from the views that
the command line shows, so the two cannot disagree.

None of the events of a request is taken in unless all of them can be. Where the store fails in the middle the answer is
503, and the same request, with the same ids, can be sent again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from ..core.errors import (
    DefinitionError,
    Fault,
    ItemTooLarge,
    LayoutMismatch,
    MiddlewareFailed,
    Misconfigured,
    OnwardError,
    Unavailable,
    UnknownCallback,
    UnknownRun,
    UnknownWorkflow,
)
from ..core.status import IllegalRecord
from ..engine import callbacks, control, forks
from ..engine.bulk import failed_runs, open_runs
from ..engine.event_views import LATEST_MS, event_view, recent_events
from ..engine.ingest import check_event, ingest
from ..engine.ledger import DAY_MS, Superseded
from ..engine.views import run_view
from ..engine.why import why
from . import bodies
from .auth import Asked, Guard, Refusal
from .bodies import BadRequest
from .openapi import description

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ..engine.engine import Engine
    from ..engine.notes import Note

PAGE, MAX_PAGE = 50, 200
MAX_TARGET_CHARS = 4_096
MAX_HEADERS = 100
MAX_DAYS = 31  # that a list of failed runs looks back
RETRY_S = "1"
SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Answer(Response):
    """JSON. In ASCII, so that no text in it can be taken for anything else."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def refuse(status: int, error: str, message: str, **more: Any) -> Answer:
    headers = {"Retry-After": RETRY_S} if status == 503 else None
    return Answer({"error": error, "message": message, **more}, status, headers)


def make_door(engine: Engine, guard: Guard, note: Note) -> ASGIApp:
    """The door over an engine, as an ASGI application. `note`: gets a line for each request."""
    door = _Door(engine)
    routes = [
        Route("/e", door.endpoint(door.send), methods=["POST"]),
        Route("/api/runs", door.endpoint(door.runs)),
        Route("/api/runs/{run}", door.endpoint(door.run)),
        Route("/api/runs/{run}/cancel", door.endpoint(door.cancel), methods=["POST"]),
        Route("/api/runs/{run}/retry", door.endpoint(door.retry), methods=["POST"]),
        Route("/api/runs/{run}/rerun", door.endpoint(door.rerun), methods=["POST"]),
        Route("/api/events", door.endpoint(door.events)),
        Route("/api/events/{id:path}", door.endpoint(door.event)),
        Route("/api/callbacks/{token}/complete", door.endpoint(door.complete), methods=["POST"]),
        Route("/api/callbacks/{token}/fail", door.endpoint(door.fail), methods=["POST"]),
        Route("/api/callbacks/{token}/beat", door.endpoint(door.beat), methods=["POST"]),
        Route("/openapi.json", door.endpoint(lambda request, body: description(engine.app.name))),
    ]
    handlers: dict[Any, Any] = {HTTPException: _of_starlette}
    return Watch(Starlette(routes=routes, exception_handlers=handlers), guard, note)


async def _of_starlette(request: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    assert isinstance(error, HTTPException)
    word = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "refused")
    answer = refuse(error.status_code, word, f"{error.detail}: /openapi.json says what there is")
    answer.headers.update(error.headers or {})
    return answer


class Watch:
    """Stands before the door: bounds what comes in, asks the guard, and writes a line for each request."""

    def __init__(self, app: ASGIApp, guard: Guard, note: Note) -> None:
        self._app = app
        self._guard = guard
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal, body = await self._look(scope, receive)
        told: dict[str, Any] = {}

        async def tell(message: Any) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in SAFE.items())]
            await send(message)

        if refusal is not None:
            if self._guard.closed is not None:
                self._note("ERROR", self._guard.closed)
            await refuse(*refusal)(scope, receive, tell)
        else:
            sent = False

            async def again() -> Any:
                nonlocal sent
                if sent:
                    return await receive()
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}

            await self._app(scope, again, tell)
        fields = {"reason": refusal.message} if refusal is not None else {}
        self._note(
            "INFO", "request", method=scope["method"], path=scope["path"][:256], status=told.get("status"), **fields
        )

    async def _look(self, scope: Scope, receive: Receive) -> tuple[Refusal | None, bytes]:
        target, headers = target_of(scope), _headers_of(scope)
        if headers is None:
            return Refusal(431, "too-large", f"a request has up to {MAX_HEADERS} headers"), b""
        if len(target) > MAX_TARGET_CHARS:
            return Refusal(414, "too-large", f"path and query have up to {MAX_TARGET_CHARS:,} characters"), b""
        body = await _read(receive)
        if body is None:
            return Refusal(413, "too-large", f"a request has less than {bodies.MAX_BODY_BYTES:,} bytes"), b""
        event = scope.get("aws.event")
        context = event.get("requestContext") if isinstance(event, dict) else None
        asked = Asked(scope["method"], target, headers, body, context if isinstance(context, dict) else {})
        refusal = self._guard.refuses(asked)
        if refusal is None and scope["method"] == "POST" and not _is_json(headers):
            refusal = Refusal(415, "not-json", "send it with Content-Type: application/json")
        return refusal, body


def target_of(scope: Scope) -> str:
    """Path and query as the client wrote them, as far as whoever stands in front tells."""
    event = scope.get("aws.event")
    context = event.get("requestContext") if isinstance(event, dict) else None
    path = None
    if isinstance(context, dict):
        http = context.get("http")
        path = http.get("path") if isinstance(http, dict) else context.get("path")
    query = scope["query_string"].decode("latin-1")
    if not isinstance(path, str):
        path = (scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")).decode("latin-1")
    return f"{path}?{query}" if query else path


def _headers_of(scope: Scope) -> dict[str, str] | None:
    if len(scope["headers"]) > MAX_HEADERS:
        return None
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


async def _read(receive: Receive) -> bytes | None:
    """The body, or None where it is too large."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        part = message.get("body", b"")
        size += len(part)
        if size >= bodies.MAX_BODY_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _is_json(headers: dict[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


class _Door:
    """The endpoints: a request and its body to the content of an answer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def endpoint(self, work: Callable[[Request, bytes], dict[str, Any]]) -> Callable[[Request], Any]:
        """Around each endpoint: it works in a thread, and its errors become answers here, once."""

        async def answer(request: Request) -> Response:
            body = await request.body()
            try:
                return Answer(await run_in_threadpool(work, request, body))
            except Exception as error:
                return self._refusal(error)

        return answer

    def _refusal(self, error: Exception) -> Answer:
        if isinstance(error, BadRequest):
            return refuse(error.status, "bad-request", str(error), **({} if error.at is None else {"event": error.at}))
        for kinds, status, word in _ANSWERS:
            if isinstance(error, kinds):
                if status >= 500:
                    self.engine.note("ERROR", "request failed", error=type(error).__name__, reason=str(error))
                return refuse(status, word, _TOLD.get(word) or str(error))
        self.engine.note("ERROR", "request failed", error=type(error).__name__, reason=str(error)[:500])
        return refuse(500, "fault", "the door failed, and its log says why")

    # ------------------------------------------------------------------------------------------------------ events
    def send(self, request: Request, body: bytes) -> dict[str, Any]:
        engine = self.engine
        events = bodies.events_in(bodies.parse(body), engine.clock.now_ms(), engine.clock.token)
        for index, event in enumerate(events):
            try:
                check_event(engine, event)
            except DefinitionError as error:
                raise BadRequest(f"event {index}: {error}", at=index) from None
        return {"events": [{"id": event.id, "runs": ingest(engine, event)} for event in events]}

    def events(self, request: Request, body: bytes) -> dict[str, Any]:
        name = request.query_params.get("name")
        if not name:
            raise BadRequest("say of which name: /api/events?name=order/paid")
        limit = bodies.number(request.query_params.get("limit"), "limit", 1, MAX_PAGE, PAGE)
        before_ms = bodies.number(request.query_params.get("before"), "before", 0, LATEST_MS, LATEST_MS)
        return {"events": recent_events(self.engine.ledger, name, limit, before_ms)}

    def event(self, request: Request, body: bytes) -> dict[str, Any]:
        view = event_view(self.engine.ledger, request.path_params["id"])
        if view is None:
            raise BadRequest("no event of that id was taken in", 404)
        return _with_json(view, "data")

    # -------------------------------------------------------------------------------------------------------- runs
    def runs(self, request: Request, body: bytes) -> dict[str, Any]:
        given = request.query_params
        status, workflow = given.get("status", "open"), given.get("workflow")
        limit = bodies.number(given.get("limit"), "limit", 1, MAX_PAGE, PAGE)
        now_ms = self.engine.clock.now_ms()
        since_ms = bodies.number(given.get("since"), "since", 0, bodies.LATEST_MS, now_ms - DAY_MS)
        if status == "open":
            since_ms = since_ms if "since" in given else 0
            found = open_runs(self.engine.ledger, workflow, since_ms, now_ms + DAY_MS)
        elif status == "failed":
            if now_ms - since_ms > MAX_DAYS * DAY_MS:
                raise BadRequest(f"since= looks back {MAX_DAYS} days at most")
            found = failed_runs(self.engine.store, workflow, min(since_ms, now_ms), now_ms + 1)
        else:
            raise BadRequest("status= takes open (the default) or failed")
        time = "started_ms" if status == "open" else "failed_ms"
        runs = [{"run_id": one.run, "workflow": one.workflow, time: one.at_ms} for one in _first(found, limit + 1)]
        return {"runs": runs[:limit], "more": len(runs) > limit}

    def run(self, request: Request, body: bytes) -> dict[str, Any]:
        engine, run = self.engine, request.path_params["run"]
        view = _with_json(run_view(engine.ledger, run), "output")
        names = {workflow.name for workflow in engine.app}
        return {**view, "waits": why(engine.ledger, run, engine.clock.now_ms(), names)["reasons"]}

    def cancel(self, request: Request, body: bytes) -> dict[str, Any]:
        bodies.fields(body, ())
        run = self._known(request)
        return {"run_id": run, "cancelled": control.cancel(self.engine, run)}

    def retry(self, request: Request, body: bytes) -> dict[str, Any]:
        given = bodies.fields(body, ("once", "request"))
        once, name = bodies.flag(given, "once", True), bodies.text(given, "request", bodies.MAX_REQUEST_CHARS, "")
        run = self._known(request)
        return {"run_id": forks.retry(self.engine, run, once=once, request=name or ""), "parent": run}

    def rerun(self, request: Request, body: bytes) -> dict[str, Any]:
        given = bodies.fields(body, ("from", "data", "input", "request"))
        step = bodies.text(given, "from", bodies.MAX_STEP_CHARS)
        name = bodies.text(given, "request", bodies.MAX_REQUEST_CHARS, "")
        changed: dict[str, Any] = {"data": given["data"]} if "data" in given else {}
        if "input" in given:
            if not isinstance(given["input"], list | dict):
                raise BadRequest('"input" is a list (the step\'s arguments) or an object (its keyword arguments)')
            changed["args" if isinstance(given["input"], list) else "kwargs"] = given["input"]
        run = self._known(request)
        return {"run_id": forks.fork(self.engine, run, step, request=name or "", **changed), "parent": run}

    def _known(self, request: Request) -> str:
        """The id of the run that the path names; raises `UnknownRun`."""
        run: str = request.path_params["run"]
        self.engine.app[run_view(self.engine.ledger, run)["workflow"]]
        return run

    # --------------------------------------------------------------------------------------------------- callbacks
    def complete(self, request: Request, body: bytes) -> dict[str, Any]:
        given = bodies.fields(body, ("data",))
        return {"answer": callbacks.complete(self.engine, request.path_params["token"], given.get("data"))}

    def fail(self, request: Request, body: bytes) -> dict[str, Any]:
        given = bodies.fields(body, ("error", "type"))
        message = bodies.text(given, "error", 2_000)
        if message is None:
            raise BadRequest('say what went wrong: {"error": "..."}')
        kind = bodies.text(given, "type", 256) or "CallbackFailed"
        return {"answer": callbacks.fail(self.engine, request.path_params["token"], message, kind)}

    def beat(self, request: Request, body: bytes) -> dict[str, Any]:
        bodies.fields(body, ())
        return {"answer": callbacks.beat(self.engine, request.path_params["token"])}


_ANSWERS: tuple[tuple[tuple[type[Exception], ...], int, str], ...] = (
    ((UnknownRun, UnknownCallback), 404, "not-found"),
    ((UnknownWorkflow, LayoutMismatch, IllegalRecord), 409, "conflict"),
    ((ItemTooLarge,), 413, "too-large"),
    ((Superseded,), 503, "busy"),
    ((Unavailable,), 503, "unavailable"),
    ((Misconfigured, MiddlewareFailed), 503, "misconfigured"),
    ((DefinitionError,), 400, "bad-request"),
    ((Fault, OnwardError), 500, "fault"),
)
_TOLD = {
    "busy": "others change this run at the moment: send it again",
    "unavailable": "a service did not answer in time: send it again, with the same ids; nothing is done twice",
    "misconfigured": "the door lacks something that it needs, and its log says what",
    "fault": "the door failed, and its log says why",
}
"""What is said where the error's own words are for the log."""


def _with_json(view: dict[str, Any], name: str) -> dict[str, Any]:
    """A view with the JSON that one of its fields holds as text."""
    return view if view[name] is None else {**view, name: json.loads(view[name])}


def _first(found: Iterator[Any], count: int) -> Iterator[Any]:
    for _, one in zip(range(count), found, strict=False):
        yield one
