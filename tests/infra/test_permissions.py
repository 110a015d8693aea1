"""The roles of the template allow every call that the engine can make of AWS, on the resource that it is about, and no
other. The calls are read from the sources, so a new one fails here until somebody has said who may make it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.aws.dynamodb import DynamoStore
from onward.core.errors import OnwardError
from onward.deploy.plan import Options, Plan, plan
from onward.ports import Drop, Item, Put, Swap

from .app import app
from .conftest import PLANS

SOURCES = Path(__file__).parents[2] / "adapter" / "onward"
TABLE, INDEX, VALUES = "${Table.Arn}", "${Table.Arn}/index/due", "${Values.Arn}/*"
WAKES, BUS, STEP, VERSIONS = "${Wakes.Arn}", "${Bus.Arn}", "${Step.Arn}", "${Step.Arn}:*"

# What IAM asks for, for each operation of the wire, and whose the call is: "engine" (of both functions), "step", or
# "command" (somebody's own credentials). TransactWriteItems asks for what each of its items would ask for alone.
CALLS: dict[tuple[str, str], tuple[str, list[tuple[str, str]]]] = {
    ("dynamodb", "GetItem"): ("engine", [("dynamodb:GetItem", TABLE)]),
    ("dynamodb", "BatchGetItem"): ("engine", [("dynamodb:BatchGetItem", TABLE)]),
    ("dynamodb", "Query"): ("engine", [("dynamodb:Query", TABLE)]),
    ("dynamodb", "Query of the index"): ("step", [("dynamodb:Query", INDEX)]),
    ("dynamodb", "PutItem"): ("engine", [("dynamodb:PutItem", TABLE)]),
    ("dynamodb", "DeleteItem"): ("engine", [("dynamodb:DeleteItem", TABLE)]),
    ("dynamodb", "UpdateItem"): ("engine", [("dynamodb:UpdateItem", TABLE)]),
    ("dynamodb", "TransactWriteItems"): ("engine", [("dynamodb:PutItem", TABLE), ("dynamodb:DeleteItem", TABLE)]),
    ("dynamodb", "CreateTable"): ("command", []),
    ("dynamodb", "DescribeTable"): ("command", []),
    ("lambda", "Invoke"): ("engine", [("lambda:InvokeFunction", STEP), ("lambda:InvokeFunction", VERSIONS)]),
    ("sqs", "SendMessage"): ("engine", [("sqs:SendMessage", WAKES)]),
    ("events", "PutEvents"): ("step", [("events:PutEvents", BUS)]),
    ("s3", "PutObject"): ("engine", [("s3:PutObject", VALUES)]),
    ("s3", "GetObject"): ("engine", [("s3:GetObject", VALUES)]),
}
OF_LAMBDA_ITSELF = {
    "Step": [
        ("sqs:ReceiveMessage", WAKES),  # the event source mapping polls with the function's role
        ("sqs:DeleteMessage", WAKES),
        ("sqs:GetQueueAttributes", WAKES),
        ("sqs:SendMessage", WAKES),  # the on-failure destination
        ("logs:CreateLogStream", "${StepLines.Arn}"),
        ("logs:PutLogEvents", "${StepLines.Arn}"),
    ],
    "Door": [("logs:CreateLogStream", "${DoorLines.Arn}"), ("logs:PutLogEvents", "${DoorLines.Arn}")],
}


# -------------------------------------------------------------------------------------- what the sources can ask for
def calls_in_the_sources() -> set[tuple[str, str]]:
    """(service, operation) of every call to the wire. Where an operation is put together, its parts are put together
    here as well; where that is not possible, the test fails."""
    found: set[tuple[str, str]] = set()
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found |= set(_asked(node, node.func.attr, path))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Call":
                service, operation = node.args[0], node.args[1]
                if isinstance(service, ast.Constant) and isinstance(operation, ast.Constant):
                    found.add((service.value, operation.value))
    return found


def _asked(node: ast.Call, method: str, path: Path) -> Iterator[tuple[str, str]]:
    if method == "json" and len(node.args) >= 3 and "local" not in path.parts:
        service, operation = node.args[0], node.args[1]
        if isinstance(service, ast.Constant) and isinstance(operation, ast.Constant):
            yield service.value, operation.value
        else:
            where = f"{path.name}:{node.lineno}"
            assert path.name in ("dynamodb.py", "send.py"), f"{where}: say which operations that can be"
    elif method == "_call" and path.name == "dynamodb.py":
        operation = node.args[0]
        if isinstance(operation, ast.Constant):
            yield "dynamodb", operation.value
        else:
            assert ast.unparse(operation) == "f'{verb}Item'", f"{path.name}:{node.lineno}: {ast.unparse(operation)}"
            yield from (("dynamodb", f"{verb}Item") for verb in ("Put", "Delete"))


def test_every_call_in_the_sources_is_known_here_and_no_other() -> None:
    assert calls_in_the_sources() == set(CALLS) - {("dynamodb", "Query of the index")}


class Recording:
    """A wire that answers nothing, and keeps what it was asked for."""

    attempts = 1
    meter = None

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def json(self, service: str, operation: str, request: dict[str, Any], *_: Any) -> dict[str, Any]:
        self.asked.append((operation, request))
        return {"Items": [], "Attributes": {}, "Responses": {}}

    def wait(self, *_: Any) -> None: ...


def test_a_transaction_of_the_stores_own_puts_and_deletes_and_nothing_else() -> None:
    wire = Recording()
    item = Item("p", "s", "t", "{}")
    writes = [Put(item), Swap(Item("p", "s2", "t", "{}"), "old"), Drop("p", "s3"), Drop("p", "s4", "old")]
    DynamoStore(wire, "runs").write(writes)  # type: ignore[arg-type]
    for write in writes:
        DynamoStore(wire, "runs").write([write])  # type: ignore[arg-type]
    transactions = [request["TransactItems"] for operation, request in wire.asked if "Transact" in operation]
    verbs = {verb for entries in transactions for entry in entries for verb in entry}
    assert verbs == {"Put", "Delete"}
    assert {operation for operation, _ in wire.asked} == {"TransactWriteItems", "PutItem", "DeleteItem"}


def test_the_index_is_asked_by_queries_alone() -> None:
    wire = Recording()
    DynamoStore(wire, "runs").due(1, 10)  # type: ignore[arg-type]
    assert {(operation, request["IndexName"]) for operation, request in wire.asked} == {("Query", "due")}


# --------------------------------------------------------------------------------------------- what the roles allow
def allowed(made: Plan, function: str) -> set[tuple[str, str]]:
    """(action, resource) that the role of a function allows. Resources as `${Id.Attribute}`."""
    statements = [
        statement
        for policy in made.resources[f"{function}Role"]["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    for block in made.resources.values():
        properties = block["Properties"]
        if block["Type"] == "AWS::IAM::RolePolicy" and properties["RoleName"] == {"Ref": f"{function}Role"}:
            statements += properties["PolicyDocument"]["Statement"]
    return {
        (action, _spelled(resource))
        for statement in statements
        for action in statement["Action"]
        for resource in (statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]])
        if statement["Effect"] == "Allow"
    }


def _spelled(resource: Any) -> str:
    if isinstance(resource, str):
        return resource
    if "Fn::GetAtt" in resource:
        return "${" + ".".join(resource["Fn::GetAtt"]) + "}"
    text: str = resource["Fn::Sub"]
    return text


def wanted(function: str) -> set[tuple[str, str]]:
    whose = {"Step": ("engine", "step"), "Door": ("engine",)}[function]
    calls = {pair for who, pairs in CALLS.values() if who in whose for pair in pairs}
    return calls | set(OF_LAMBDA_ITSELF[function])


@pytest.mark.parametrize("function", ["Step", "Door"])
def test_a_role_allows_what_its_function_asks_for_and_nothing_more(function: str) -> None:
    made = plan(app, Options("a:b"))
    assert allowed(made, function) == wanted(function)


def test_traces_are_allowed_where_they_are_asked_for_and_are_the_one_star() -> None:
    traced = allowed(plan(app, Options("a:b", tracing=True)), "Step") - wanted("Step")
    assert traced == {("xray:PutTraceSegments", "*"), ("xray:PutTelemetryRecords", "*")}


def test_schedules_may_call_the_function_and_keep_what_they_could_not_tell() -> None:
    made = PLANS["versions"]()
    (policy,) = made.resources["TimersRole"]["Properties"]["Policies"]
    granted = {(*found["Action"], *found["Resource"].values()) for found in map(_with_names, _statements(policy))}
    assert granted == {("lambda:InvokeFunction", "StepAliaslive"), ("sqs:SendMessage", "${DeadLetters.Arn}")}
    for block in made.resources.values():
        if block["Type"] == "AWS::Scheduler::Schedule":
            assert block["Properties"]["Target"]["RoleArn"] == {"Fn::GetAtt": ["TimersRole", "Arn"]}


def _with_names(statement: dict[str, Any]) -> dict[str, Any]:
    resource = statement["Resource"]
    return {**statement, "Resource": resource if "Ref" in resource else {"is": _spelled(resource)}}


def test_no_statement_names_everything_where_a_resource_can_be_named(made: Plan) -> None:
    for id, block in made.resources.items():
        for statement in _statements(block["Properties"]):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if statement["Effect"] == "Deny":
                continue
            assert not [action for action in actions if "*" in action], id
            if statement.get("Resource") == "*":
                assert all(action.startswith("xray:") for action in actions), id


def _statements(properties: Any) -> Iterator[dict[str, Any]]:
    if isinstance(properties, dict):
        if "Effect" in properties:
            yield properties
        for value in properties.values():
            yield from _statements(value)
    elif isinstance(properties, list):
        for value in properties:
            yield from _statements(value)


def test_what_aws_services_may_do_is_bound_to_this_account_or_to_one_rule(made: Plan) -> None:
    for block in made.resources.values():
        if block["Type"] == "AWS::SQS::QueuePolicy":
            for statement in block["Properties"]["PolicyDocument"]["Statement"]:
                assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
        if block["Type"] == "AWS::Lambda::Permission" and block["Properties"]["Principal"] != "*":
            assert block["Properties"]["SourceArn"]


def test_a_role_that_lacks_one_action_is_found() -> None:
    """The comparison above can fail."""
    made = plan(app, Options("a:b"))
    statements = made.resources["StepRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    statements[0]["Action"].remove("dynamodb:Query")
    assert allowed(made, "Step") != wanted("Step")
    assert json.dumps(made.resources)
    with pytest.raises(OnwardError):
        plan(app, Options("a"))
