"""What the deployed functions may do: every action on purpose, each on the resource that it is about.

One table. A row is what somebody does, the actions for it, and on what; who may do it says `STEP`, `DOOR` or `TIMERS`.
A test walks every call that the engine makes of AWS, and holds this table to allow each and nothing more.

TransactWriteItems has no action of its own: each item in it is authorised by the action that would write it alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Resource = str | dict[str, Any]


class Grant(NamedTuple):
    """`what`: a word for people. `on`: names of resources below."""

    what: str
    actions: tuple[str, ...]
    on: tuple[str, ...]


READ_LOGS_OF_RUNS = Grant("ReadRuns", ("dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"), ("table",))
WRITE_LOGS_OF_RUNS = Grant("WriteRuns", ("dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:UpdateItem"), ("table",))
FIND_WHAT_IS_DUE = Grant("FindDue", ("dynamodb:Query",), ("due index",))
KEEP_VALUES = Grant("KeepValues", ("s3:GetObject", "s3:PutObject"), ("values",))
WAKE_NOW = Grant("WakeNow", ("lambda:InvokeFunction",), ("step function", "its versions"))
WAKE_LATER = Grant("WakeLater", ("sqs:SendMessage",), ("wakes",))
TAKE_WAKES = Grant("TakeWakes", ("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"), ("wakes",))
SEND_EVENTS = Grant("SendEvents", ("events:PutEvents",), ("bus",))
WRITE_STEP_LINES = Grant("WriteLines", ("logs:CreateLogStream", "logs:PutLogEvents"), ("step lines",))
WRITE_DOOR_LINES = Grant("WriteLines", ("logs:CreateLogStream", "logs:PutLogEvents"), ("door lines",))
TRACE = Grant("Trace", ("xray:PutTelemetryRecords", "xray:PutTraceSegments"), ("anything",))  # X-Ray names no resource
TELL_TIMES = Grant("TellTimes", ("lambda:InvokeFunction",), ("called function",))
KEEP_UNTOLD_TIMES = Grant("KeepUntold", ("sqs:SendMessage",), ("dead letters",))

_ENGINE = (READ_LOGS_OF_RUNS, WRITE_LOGS_OF_RUNS, KEEP_VALUES, WAKE_LATER)
STEP = (*_ENGINE, FIND_WHAT_IS_DUE, TAKE_WAKES, SEND_EVENTS, WRITE_STEP_LINES)
DOOR = (*_ENGINE, WRITE_DOOR_LINES)
"""The door answers for runs that are read and written; the sweep and the bus are no business of its."""
INVOKE = (WAKE_NOW,)
"""Of both: by a policy beside the role, because the function's ARN follows from the function and that from its role."""
TIMERS = (TELL_TIMES, KEEP_UNTOLD_TIMES)


def statements(grants: tuple[Grant, ...], resources: dict[str, Resource]) -> list[dict[str, Any]]:
    """IAM statements. `resources`: the ARNs by the names above."""
    return [
        {
            "Sid": grant.what,
            "Effect": "Allow",
            "Action": list(grant.actions),
            "Resource": [resources[name] for name in grant.on] if len(grant.on) > 1 else resources[grant.on[0]],
        }
        for grant in grants
    ]
