"""Whatever somebody sends who has read the door's own description: no answer is a 500, and each is one that the
description knows."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from onward.clock import SystemClock
from onward.core.ids import run_id
from onward.core.values import Event
from onward.engine.engine import Engine
from onward.engine.ingest import ingest
from onward.engine.notes import silent
from onward.local.store import SqliteStore
from onward.web.auth import OPEN, Guard
from onward.web.door import make_door

from .app import app, tokens
from .conftest import Wakes

EXAMPLES = 60  # requests for each operation
FAULTS: list[str] = []


def note(level: str, message: str, **fields: object) -> None:
    if level == "ERROR" and message == "request failed":
        FAULTS.append(f"{fields.get('error')}: {fields.get('reason')}")


def a_door_with_runs() -> Any:
    """One run that waits for an answer, one that failed, one that completed."""
    engine = Engine(app, SqliteStore(":memory:"), Wakes(), None, SystemClock(), note=note)
    for name, data, id in (
        ("order/approved", {"amount": 5}, "asks"),
        ("order/paid", {"broken": True}, "broken"),
        ("order/paid", {}, "fine"),
    ):
        for run in ingest(engine, Event(name, data, id, engine.clock.now_ms())):
            engine.handle({"do": "advance", "run": run, "seq": 1})
    while engine.wakes.sent:  # type: ignore[attr-defined]
        engine.handle(engine.wakes.sent.pop())  # type: ignore[attr-defined]
    return make_door(engine, Guard(frozenset({OPEN}), {}, lambda: 0.0), silent)


door = a_door_with_runs()
RUNS = [run_id("approve", "asks"), run_id("ship", "broken"), run_id("ship", "fine")]
schema = schemathesis.openapi.from_asgi("/openapi.json", door)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_of_the_description_is_a_500(case: Any) -> None:
    FAULTS.clear()
    response = case.call()
    assert not FAULTS
    case.validate_response(response, checks=[not_a_server_error, status_code_conformance, response_schema_conformance])


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_nor_is_one_for_something_that_is_there(case: Any) -> None:
    """Ids that nobody could guess are put in, so that the fuzzer comes past «there is no such run»."""
    FAULTS.clear()
    path = dict(case.path_parameters or {})
    size = len(repr(case.body)) + len(repr(case.query))
    if "run" in path:
        path["run"] = RUNS[size % len(RUNS)]
    if "token" in path:
        path["token"] = tokens[0]
    if "id" in path:
        path["id"] = ("asks", "broken", "fine")[size % 3]
    case.path_parameters = path
    response = case.call()
    assert not FAULTS
    case.validate_response(response, checks=[not_a_server_error, status_code_conformance, response_schema_conformance])


def test_the_fuzzer_sees_every_route_of_the_door() -> None:
    """The description leaves none out."""
    described = {(path, method.upper()) for path, methods in schema.raw_schema["paths"].items() for method in methods}
    routes = {
        (route.path.replace(":path", ""), method)
        for route in door._app.routes
        for method in route.methods
        if method != "HEAD"
    }
    assert described == routes


def test_a_fault_behind_the_door_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above could not fail."""
    monkeypatch.setattr("onward.web.door.run_view", lambda *_: 1 / 0)
    FAULTS.clear()
    case = schema["/api/runs/{run}"]["GET"].Case(path_parameters={"run": RUNS[0]})
    response = case.call()
    assert (response.status_code, FAULTS) == (500, ["ZeroDivisionError: division by zero"])
    FAULTS.clear()
