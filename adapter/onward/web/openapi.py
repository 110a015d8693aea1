"""What the door takes and answers, in OpenAPI 3.1: what `GET /openapi.json` serves, and the tests' fuzzer reads."""

from __future__ import annotations

from typing import Any

from .bodies import LATEST_MS, MAX_BUS_NAME_CHARS, MAX_EVENTS, MAX_REQUEST_CHARS, MAX_STEP_CHARS

MAX_PAGE = 200
_TEXT = {"type": "string"}
_RUN_ID = {"type": "string", "description": "The id of a run"}
_ANY = {"description": "Any JSON, nested up to 100 deep"}
_MILLISECONDS = {"type": "integer", "minimum": 0, "maximum": LATEST_MS}
_REFUSALS = {
    "400": "What was sent makes no sense; `message` says what, and `event` which one",
    "401": "It is not signed by a key of this door",
    "403": "It may not come in",
    "404": "There is no such thing",
    "405": "There is nothing to be done with that method here",
    "409": "Not with the run, or the app, as it is",
    "413": "It is too large",
    "414": "Path and query are too long",
    "415": "It is not application/json",
    "431": "It has too many headers",
    "503": "Try again later, with the same ids",
}


def description(app: str) -> dict[str, Any]:
    """The description of the door of an app."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Onward: {app}",
            "version": "1",
            "description": "Events in; runs, steps and events to be read.",
        },
        "security": [{"key": [], "time": [], "signature": []}, {"iam": []}],
        "paths": {
            "/e": {"post": _operation("send", "Send 1 to 10 events, all or none", _SENT, body=_EVENTS, needed=True)},
            "/api/runs": {
                "get": _operation("runs", "Runs that have not ended, or that failed", _RUNS, query=_RUNS_QUERY)
            },
            "/api/runs/{run}": {"get": _operation("run", "A run with its steps", _RUN, path=("run",))},
            "/api/runs/{run}/cancel": {"post": _command("cancel", "End a run now", _CANCELLED, {})},
            "/api/runs/{run}/retry": {
                "post": _command("retry", "Do a failed run again from what failed it", _FORK, _RETRY)
            },
            "/api/runs/{run}/rerun": {"post": _command("rerun", "Do an ended run again from a step", _FORK, _RERUN)},
            "/api/events": {
                "get": _operation("events", "The latest events of a name", _EVENT_LIST, query=_EVENTS_QUERY)
            },
            "/api/events/{id}": {
                "get": _operation("event", "An event, and what it came to", _EVENT_VIEW, path=("id",))
            },
            "/api/callbacks/{token}/complete": {
                "post": _command("complete", "Let a step go on", _ANSWER, {"data": _ANY}, "token")
            },
            "/api/callbacks/{token}/fail": {
                "post": _command("fail", "Let a step fail", _ANSWER, _FAILURE, "token", ("error",))
            },
            "/api/callbacks/{token}/beat": {
                "post": _command("beat", "Say that somebody works on it", _ANSWER, {}, "token")
            },
            "/openapi.json": {"get": _operation("description", "This description", {"type": "object"})},
        },
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "Onward-Key"},
                "time": {"type": "apiKey", "in": "header", "name": "Onward-Time"},
                "signature": {"type": "apiKey", "in": "header", "name": "Onward-Signature"},
                "iam": {"type": "http", "scheme": "aws4-hmac-sha256"},
            },
            "schemas": {
                "Refusal": _object(
                    {"error": _TEXT, "message": _TEXT, "event": {"type": "integer"}}, ("error", "message")
                )
            },
        },
    }


def _object(properties: dict[str, Any], required: tuple[str, ...] = (), closed: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def _operation(
    name: str,
    summary: str,
    answer: dict[str, Any],
    *,
    path: tuple[str, ...] = (),
    query: tuple[dict[str, Any], ...] = (),
    body: dict[str, Any] | None = None,
    needed: bool = False,
) -> dict[str, Any]:
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    made: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "parameters": [
            *({"name": one, "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}} for one in path),
            *query,
        ],
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": answer}}},
            **{status: {"description": told, "content": refusal} for status, told in _REFUSALS.items()},
        },
    }
    if body is not None:
        made["requestBody"] = {"required": needed, "content": {"application/json": {"schema": body}}}
    return made


def _command(
    name: str,
    summary: str,
    answer: dict[str, Any],
    fields: dict[str, Any],
    path: str = "run",
    required: tuple[str, ...] = (),
) -> dict[str, Any]:
    body = _object(fields, required, closed=True)
    return _operation(name, summary, answer, path=(path,), body=body, needed=bool(required))


def _parameter(name: str, schema: dict[str, Any], told: str, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": told}


_EVENT = _object(
    {
        "name": {"type": "string", "minLength": 1, "maxLength": MAX_BUS_NAME_CHARS},
        "data": _ANY,
        "id": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": 256,
            "description": "The same id is the same event",
        },
        "at": {
            "description": "When it happened, or is to: epoch milliseconds, or ISO 8601; up to 366 days ahead",
            "oneOf": [_MILLISECONDS, {"type": "string", "format": "date-time"}, {"type": "null"}],
        },
    },
    ("name",),
    closed=True,
)
_EVENTS = {"oneOf": [_EVENT, {"type": "array", "items": _EVENT, "minItems": 1, "maxItems": MAX_EVENTS}]}
_SENT = _object(
    {
        "events": {
            "type": "array",
            "items": _object({"id": _TEXT, "runs": {"type": "array", "items": _RUN_ID}}, ("id", "runs")),
        }
    },
    ("events",),
)
_LIMIT = _parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50}, "How many at most")
_RUNS_QUERY = (
    _parameter("status", {"type": "string", "enum": ["open", "failed"], "default": "open"}, "Which runs"),
    _parameter("workflow", _TEXT, "Of this workflow only"),
    _parameter("since", _MILLISECONDS, "Started or failed from then on (failed: within 31 days; unless given, one)"),
    _LIMIT,
)
_EVENTS_QUERY = (
    _parameter("name", {"type": "string", "minLength": 1, "maxLength": 256}, "The name of the events", required=True),
    _parameter("before", {"type": "integer", "minimum": 0, "maximum": 10**14 - 1}, "Those that arrived before then"),
    _LIMIT,
)
_RUNS = _object(
    {
        "runs": {"type": "array", "items": _object({"run_id": _RUN_ID, "workflow": _TEXT}, ("run_id", "workflow"))},
        "more": {"type": "boolean"},
    },
    ("runs", "more"),
)
_STEP = _object(
    {
        "name": _TEXT,
        "status": _TEXT,
        "attempts": {"type": "integer"},
        "duration_ms": {"type": ["integer", "number", "null"]},
    },
    ("name", "status", "attempts"),
)
_RUN = _object(
    {
        "run_id": _RUN_ID,
        "workflow": _TEXT,
        "status": _TEXT,
        "steps": {"type": "array", "items": _STEP},
        "waits": {"type": "array", "items": {"type": "object"}, "description": "What it waits for, or how it ended"},
        "output": _ANY,
    },
    ("run_id", "workflow", "status", "steps", "waits"),
)
_CANCELLED = _object({"run_id": _RUN_ID, "cancelled": {"type": "boolean"}}, ("run_id", "cancelled"))
_REQUEST = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_REQUEST_CHARS,
    "description": "Another makes another run",
}
_RETRY = {"once": {"type": "boolean", "default": True}, "request": _REQUEST}
_RERUN = {
    "from": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_STEP_CHARS,
        "description": 'A step: "name", or "name (2)"',
    },
    "data": _ANY,
    "input": {"oneOf": [{"type": "array"}, {"type": "object"}], "description": "What the step is called with instead"},
    "request": _REQUEST,
}
_FORK = _object({"run_id": _RUN_ID, "parent": _RUN_ID}, ("run_id", "parent"))
_EVENT_FIELDS = {
    "id": _TEXT,
    "name": _TEXT,
    "at_ms": {"type": "integer"},
    "arrived_ms": {"type": "integer"},
    "runs": {"type": "array", "items": _RUN_ID},
    "not": {"type": "object", "additionalProperties": _TEXT, "description": "By workflow, why it started no run"},
}
_EVENT_LIST = _object({"events": {"type": "array", "items": _object(_EVENT_FIELDS, tuple(_EVENT_FIELDS))}}, ("events",))
_EVENT_VIEW = _object({**_EVENT_FIELDS, "data": _ANY}, tuple(_EVENT_FIELDS))
_ANSWER = _object({"answer": {"type": "string", "enum": ["accepted", "answered before", "too late"]}}, ("answer",))
_FAILURE = {
    "error": {"type": "string", "minLength": 1, "maxLength": 2_000},
    "type": {"type": "string", "minLength": 1, "maxLength": 256},
}
