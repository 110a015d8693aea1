"""What stands in an AWS account for one app: parameters, resources and outputs, in CloudFormation's own words.

Theory. The plan is made once, from the app and a handful of options, and written down twice: as a SAM template and as a
CDK construct. So the two cannot differ in what they make. A property is here because the engine leans on it:

    resource                   what is on purpose
    Table                   on-demand, point-in-time recovery, the sparse index `due`, deletion protection; kept when
                            the stack goes
    Step                    RecursiveLoop: Allow (the chain of steps is no accident), reserved concurrency (nor may it
                            take the whole account), arm64 (a fifth cheaper)
    StepInvokes             no retries of Lambda's own: the engine has its policy in the log. What fails for good, or
                            waits for over an hour, comes back through the queue
    Wakes                   wakes of the next 15 minutes, and word of invocations that died; visible again after six
                            times the function's timeout, as AWS advises
    DeadLetters             what nobody could deliver: events, times, messages. An alarm looks at it
    Bus, Rule..., Timer...  what the app's triggers hear (see listening.py); the sweep, once a minute
    Values                  values over 64 KiB: encrypted, private, over TLS only; kept when the stack goes
    Door, DoorUrl           the HTTP door, a function of its own, behind IAM unless a key is given
    ...Role                 see permissions.py

Pure: an app and options to one frozen value. Raises `InvalidOption` for what cannot be deployed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import InvalidOption
from . import permissions
from .listening import DEFAULT, Rule, Timer, rules_of, timers_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..app import App

Block = dict[str, Any]

RUNTIMES = ("python3.11", "python3.12", "python3.13", "python3.14")
SNAPSTART_RUNTIMES = RUNTIMES[1:]
MIN_MEMORY_MB, MAX_MEMORY_MB = 128, 10_240
MAX_TIMEOUT_S = 900
EVENT_AGE_S = 3_600  # after which an asynchronous event that found no room comes back through the queue
VISIBILITY_FACTOR = 6  # of the function's timeout, as AWS advises
DEAD_LETTER_DAYS_S = 14 * 24 * 3_600
WAKES_KEPT_S = 4 * 24 * 3_600
DELIVERIES = 5  # of a message, before it is a dead letter
BATCH_SIZE = 10
POLLERS = 10  # batches of the queue at a time
ALIAS = "live"
LIVE_ALIAS = "StepAliaslive"  # as SAM calls it
LIVE_RUNTIME = "python3.13"
EXPIRES = "expires"  # the table's TTL attribute
DOOR_TIMEOUT_S = 30
DOOR_MEMORY_MB = 512
STUCK_PERIOD_S = 300
RETENTIONS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)
LINES = {"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "WARN"}  # without START, END, REPORT
STEP_HANDLER = "onward.entry.function.handler"
DOOR_HANDLER = "onward.entry.door.handler"


class Options(NamedTuple):
    """How an app is deployed. `app`: "module:attribute". `env`: variables of the step function beside Onward's own.
    `policies`: ARNs of managed policies that the user's own steps need. `door`: whether there is an HTTP door.
    `disposable`: nothing is kept when the stack goes. `snapstart`, `tracing`: as on Lambda."""

    app: str
    runtime: str = LIVE_RUNTIME
    memory_mb: int = 512
    timeout_s: int = 60
    env: Mapping[str, str] = {}
    policies: Sequence[str] = ()
    door: bool = True
    disposable: bool = False
    snapstart: bool = False
    tracing: bool = False


class Plan(NamedTuple):
    """`resources`, `parameters`, `conditions` and `outputs` as CloudFormation has them, by logical id; `versions`:
    whether the step function is called by its alias; `functions`: the logical ids of the functions whose code is to be
    filled in."""

    description: str
    parameters: dict[str, Block]
    conditions: dict[str, Any]
    resources: dict[str, Block]
    outputs: dict[str, Block]
    versions: bool
    functions: tuple[str, ...]


def plan(app: App, options: Options) -> Plan:
    """All that stands for an app."""
    _check(options)
    versions = app.pin_versions or options.snapstart
    called = ref(LIVE_ALIAS) if versions else att("Step", "Arn")
    kept = "Delete" if options.disposable else "Retain"
    resources: dict[str, Block] = {
        **_state(kept, options),
        **_queues(options),
        **_function("Step", STEP_HANDLER, options, _step_environment(options), options.timeout_s, options.memory_mb),
        **_step_calls(called, versions, options),
        "Bus": {"Type": "AWS::Events::EventBus", "Properties": {"Name": sub("${AWS::StackName}")}},
        **_rules(rules_of(app), called),
        **_timers(timers_of(app), called),
        **(_door(called, options) if options.door else {}),
        **_alarms(app),
    }
    functions = ("Step", "Door") if options.door else ("Step",)
    return Plan(
        f"Onward: the workflows of app {app.name}",
        _parameters(options),
        _conditions(options),
        resources,
        _outputs(options, called),
        versions,
        functions,
    )


# ----------------------------------------------------------------------------------------------------------- words
def ref(name: str) -> Block:
    return {"Ref": name}


def att(name: str, attribute: str) -> Block:
    return {"Fn::GetAtt": [name, attribute]}


def sub(text: str) -> Block:
    return {"Fn::Sub": text}


def when(condition: str, then: Any, otherwise: Any = None) -> Block:
    return {"Fn::If": [condition, then, ref("AWS::NoValue") if otherwise is None else otherwise]}


def arn(service: str, rest: str) -> Block:
    return sub(f"arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{rest}")


def _check(options: Options) -> None:
    module, colon, attribute = options.app.partition(":")
    if not colon or not module or not attribute.isidentifier() or not all(map(str.isidentifier, module.split("."))):
        raise InvalidOption(f"the app is named as module:variable (handlers.demo:app), not {options.app!r:.80}")
    if options.runtime not in RUNTIMES:
        raise InvalidOption(f"the runtime is one of {', '.join(RUNTIMES)}, not {options.runtime!r:.80}")
    if options.snapstart and options.runtime not in SNAPSTART_RUNTIMES:
        raise InvalidOption(f"SnapStart needs {SNAPSTART_RUNTIMES[0]} or newer, not {options.runtime}")
    if not MIN_MEMORY_MB <= options.memory_mb <= MAX_MEMORY_MB:
        raise InvalidOption(f"a function has {MIN_MEMORY_MB} to {MAX_MEMORY_MB:,} MB, not {options.memory_mb:,}")
    if not 5 <= options.timeout_s <= MAX_TIMEOUT_S:
        raise InvalidOption(f"an invocation may take 5 to {MAX_TIMEOUT_S} seconds, not {options.timeout_s}")
    for name in options.env:
        if name.startswith("AWS_") or name in (
            "ONWARD_APP",
            "ONWARD_TABLE",
            "ONWARD_QUEUE_URL",
            "ONWARD_BUCKET",
            "ONWARD_BUS",
        ):
            raise InvalidOption(f"the variable {name} is set by Lambda or by the template: leave it out")


# -------------------------------------------------------------------------------------------------------- parameters
def _parameters(options: Options) -> dict[str, Block]:
    found: dict[str, Block] = {
        "ReservedConcurrency": {
            "Type": "Number",
            "Default": 50,
            "MinValue": -1,
            "MaxValue": 100_000,
            "Description": "Invocations of the step function at a time, at most; -1: as many as the account has. "
            "(Lambda keeps 100 of an account unreserved, so a new account may have to take -1.)",
        },
        "LogRetentionDays": {
            "Type": "Number",
            "Default": 30,
            "AllowedValues": list(RETENTIONS),
            "Description": "For how many days log lines are kept.",
        },
        "ValuesDays": {
            "Type": "Number",
            "Default": 0,
            "MinValue": 0,
            "Description": "After how many days values over 64 KiB are removed from the bucket; 0: never. "
            "A run that needs such a value after that fails.",
        },
        "AlarmTopicArn": {
            "Type": "String",
            "Default": "",
            "Description": "The SNS topic that is told of alarms; empty: nobody is told, and the console shows them.",
        },
    }
    if options.door:
        found["DoorKeys"] = {
            "Type": "String",
            "Default": "",
            "NoEcho": True,
            "Description": "Signing keys of the HTTP door, as id:secret,id:secret. Empty: the door takes requests that "
            "are signed for IAM, and no others.",
        }
    return found


def _conditions(options: Options) -> dict[str, Any]:
    def given(name: str, empty: Any) -> Block:
        return {"Fn::Not": [{"Fn::Equals": [ref(name), empty]}]}

    found = {
        "HasReservedConcurrency": given("ReservedConcurrency", -1),
        "HasAlarmTopic": given("AlarmTopicArn", ""),
        "ForgetsValues": given("ValuesDays", 0),
    }
    if options.door:
        found["HasDoorKeys"] = given("DoorKeys", "")
    return found


# ------------------------------------------------------------------------------------------------------------- state
def _state(kept: str, options: Options) -> dict[str, Block]:
    from ..aws.table import SCHEMA

    table = {
        **SCHEMA,
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
        "TimeToLiveSpecification": {"AttributeName": EXPIRES, "Enabled": True},
        "DeletionProtectionEnabled": not options.disposable,
        "SSESpecification": {"SSEEnabled": False},  # with DynamoDB's own key, which is always on and costs nothing
    }
    values = {
        "BucketEncryption": {
            "ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
        },
        "PublicAccessBlockConfiguration": {
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        },
        "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        "LifecycleConfiguration": {
            "Rules": [
                {
                    "Id": "abandoned-uploads",
                    "Status": "Enabled",
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                },
                when("ForgetsValues", {"Id": "old-values", "Status": "Enabled", "ExpirationInDays": ref("ValuesDays")}),
            ]
        },
    }
    over_tls = {
        "Sid": "OverTlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [att("Values", "Arn"), sub("${Values.Arn}/*")],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    fate = {"DeletionPolicy": kept, "UpdateReplacePolicy": kept}
    return {
        "Table": {"Type": "AWS::DynamoDB::Table", **fate, "Properties": table},
        "Values": {"Type": "AWS::S3::Bucket", **fate, "Properties": values},
        "ValuesPolicy": {
            "Type": "AWS::S3::BucketPolicy",
            "Properties": {
                "Bucket": ref("Values"),
                "PolicyDocument": {"Version": "2012-10-17", "Statement": [over_tls]},
            },
        },
    }


def _queues(options: Options) -> dict[str, Block]:
    def from_events(queue: str) -> Block:
        return {
            "Sid": "EventsThatCouldNotBeDelivered",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": att(queue, "Arn"),
            "Condition": {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}},
        }

    return {
        "DeadLetters": {
            "Type": "AWS::SQS::Queue",
            "Properties": {"MessageRetentionPeriod": DEAD_LETTER_DAYS_S, "SqsManagedSseEnabled": True},
        },
        "DeadLettersPolicy": {
            "Type": "AWS::SQS::QueuePolicy",
            "Properties": {
                "Queues": [ref("DeadLetters")],
                "PolicyDocument": {"Version": "2012-10-17", "Statement": [from_events("DeadLetters")]},
            },
        },
        "Wakes": {
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "MessageRetentionPeriod": WAKES_KEPT_S,
                "VisibilityTimeout": VISIBILITY_FACTOR * options.timeout_s,
                "SqsManagedSseEnabled": True,
                "RedrivePolicy": {"deadLetterTargetArn": att("DeadLetters", "Arn"), "maxReceiveCount": DELIVERIES},
            },
        },
    }


# --------------------------------------------------------------------------------------------------------- functions
def _function(
    name: str, handler: str, options: Options, environment: Block, timeout_s: int, memory_mb: int
) -> dict[str, Block]:
    """A function with its role and its log group. Its code is filled in by who writes the plan down."""
    grants = permissions.STEP if name == "Step" else permissions.DOOR
    managed: Block = {"ManagedPolicyArns": list(options.policies)} if name == "Step" and options.policies else {}
    function: Block = {
        "Handler": handler,
        "Runtime": options.runtime,
        "Architectures": ["arm64"],
        "MemorySize": memory_mb,
        "Timeout": timeout_s,
        "Role": att(f"{name}Role", "Arn"),
        "Environment": {"Variables": environment},
        "LoggingConfig": {**LINES, "LogGroup": ref(f"{name}Lines")},
    }
    if name == "Step":
        function["RecursiveLoop"] = "Allow"
        function["ReservedConcurrentExecutions"] = when("HasReservedConcurrency", ref("ReservedConcurrency"))
    if options.tracing:
        function["TracingConfig"] = {"Mode": "Active"}
        grants = (*grants, permissions.TRACE)
    if options.snapstart and name == "Step":
        function["SnapStart"] = {"ApplyOn": "PublishedVersions"}
    return {
        f"{name}Lines": {
            "Type": "AWS::Logs::LogGroup",
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": {"RetentionInDays": ref("LogRetentionDays")},
        },
        f"{name}Role": _role("lambda.amazonaws.com", name, permissions.statements(grants, _resources(name)), managed),
        name: {"Type": "AWS::Lambda::Function", "Properties": function},
        f"{name}Wakes": {
            "Type": "AWS::IAM::RolePolicy",
            "Properties": {
                "PolicyName": "wake-runs",
                "RoleName": ref(f"{name}Role"),
                "PolicyDocument": _document(permissions.statements(permissions.INVOKE, _resources(name))),
            },
        },
    }


def _role(service: str, name: str, granted: list[Block], more: Block, condition: Block | None = None) -> Block:
    trusted = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": _document([trusted | ({"Condition": condition} if condition else {})]),
            "Policies": [{"PolicyName": name.lower(), "PolicyDocument": _document(granted)}],
            **more,
        },
    }


def _document(statements: list[Block]) -> Block:
    return {"Version": "2012-10-17", "Statement": statements}


def _resources(function: str) -> dict[str, permissions.Resource]:
    """The ARNs behind the names of permissions.py."""
    return {
        "table": att("Table", "Arn"),
        "due index": sub("${Table.Arn}/index/due"),
        "values": sub("${Values.Arn}/*"),
        "step function": att("Step", "Arn"),
        "its versions": sub("${Step.Arn}:*"),
        "wakes": att("Wakes", "Arn"),
        "bus": att("Bus", "Arn"),
        "step lines": att("StepLines", "Arn"),
        "door lines": att("DoorLines", "Arn"),
        "dead letters": att("DeadLetters", "Arn"),
        "anything": "*",
    }


def _step_environment(options: Options) -> Block:
    return {**options.env, **_environment(options), "ONWARD_BUS": ref("Bus")}


def _environment(options: Options) -> Block:
    return {
        "ONWARD_APP": options.app,
        "ONWARD_TABLE": ref("Table"),
        "ONWARD_QUEUE_URL": ref("Wakes"),
        "ONWARD_BUCKET": ref("Values"),
    }


def _step_calls(called: Block, versions: bool, options: Options) -> dict[str, Block]:
    """What calls the step function: Lambda's own queue, and ours."""
    made: dict[str, Block] = {
        "StepInvokes": {
            "Type": "AWS::Lambda::EventInvokeConfig",
            "Properties": {
                "FunctionName": ref("Step"),
                "Qualifier": ALIAS if versions else "$LATEST",
                "MaximumRetryAttempts": 0,
                "MaximumEventAgeInSeconds": EVENT_AGE_S,
                "DestinationConfig": {"OnFailure": {"Destination": att("Wakes", "Arn")}},
            },
        },
        "StepQueue": {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": {
                "FunctionName": called,
                "EventSourceArn": att("Wakes", "Arn"),
                "BatchSize": BATCH_SIZE,
                "FunctionResponseTypes": ["ReportBatchItemFailures"],
                "ScalingConfig": {"MaximumConcurrency": POLLERS},
            },
        },
    }
    if versions:
        made["StepInvokes"]["DependsOn"] = [LIVE_ALIAS]
    return made


# -------------------------------------------------------------------------------------------------- events and times
def _rules(rules: Sequence[Rule], called: Block) -> dict[str, Block]:
    made: dict[str, Block] = {}
    for rule in rules:
        id = f"Rule{_digest(rule.bus, repr(rule.pattern))}"
        bus = "default" if rule.bus == DEFAULT else ref("Bus")
        whom = ", ".join(rule.workflows) if rule.workflows else "whatever else arrives: runs may wait for it"
        made[id] = {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "Description": f"Onward: {whom}"[:512],
                "EventBusName": bus,
                "EventPattern": rule.pattern,
                "Targets": [
                    {
                        "Id": "step",
                        "Arn": called,
                        "DeadLetterConfig": {"Arn": att("DeadLetters", "Arn")},
                        "RetryPolicy": {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185},
                    }
                ],
            },
        }
        made[f"{id}Calls"] = {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": called,
                "Principal": "events.amazonaws.com",
                "SourceArn": att(id, "Arn"),
            },
        }
    return made


def _timers(timers: Sequence[Timer], called: Block) -> dict[str, Block]:
    granted = permissions.statements(permissions.TIMERS, _resources("Step") | {"called function": called})
    trusted = {"StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")}}
    made = {"TimersRole": _role("scheduler.amazonaws.com", "timers", granted, {}, trusted)}
    for timer in timers:
        id = f"Timer{_digest(timer.workflow, timer.expression, timer.tz)}" if timer.workflow else "Sweep"
        made[id] = {
            "Type": "AWS::Scheduler::Schedule",
            "Properties": {
                "Description": f"Onward: {timer.workflow or 'wakes runs whose wake was lost'}"[:512],
                "ScheduleExpression": timer.expression,
                "ScheduleExpressionTimezone": timer.tz,
                "FlexibleTimeWindow": {"Mode": "OFF"},
                "Target": {
                    "Arn": called,
                    "RoleArn": att("TimersRole", "Arn"),
                    "Input": _json(timer.payload),
                    # A time is told late rather than never; a sweep that is late is replaced by the next.
                    "RetryPolicy": {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
                    if timer.workflow
                    else {"MaximumEventAgeInSeconds": 60, "MaximumRetryAttempts": 0},
                    **({"DeadLetterConfig": {"Arn": att("DeadLetters", "Arn")}} if timer.workflow else {}),
                },
            },
        }
    return made


def _json(payload: Block) -> str:
    import json

    return json.dumps(payload, separators=(",", ":"))


def _digest(*texts: str) -> str:
    """Ten hex digits: logical ids must not change while what they stand for does not."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:10]


# ---------------------------------------------------------------------------------------------------------- the door
def _door(called: Block, options: Options) -> dict[str, Block]:
    environment = {
        **_environment(options),
        "ONWARD_FUNCTION": called,
        "ONWARD_AUTH": when("HasDoorKeys", "key", "iam"),
        "ONWARD_KEYS": when("HasDoorKeys", ref("DoorKeys"), ""),
    }
    open_to_all = {"Condition": "HasDoorKeys", "Type": "AWS::Lambda::Permission"}
    return {
        **_function("Door", DOOR_HANDLER, options, environment, DOOR_TIMEOUT_S, DOOR_MEMORY_MB),
        "DoorUrl": {
            "Type": "AWS::Lambda::Url",
            "Properties": {
                "TargetFunctionArn": att("Door", "Arn"),
                "AuthType": when("HasDoorKeys", "NONE", "AWS_IAM"),
                "InvokeMode": "BUFFERED",
            },
        },
        # With keys, Lambda lets everybody through and the door looks at the signature. Both are needed since 2025.
        "DoorUrlCalls": open_to_all
        | {
            "Properties": {
                "Action": "lambda:InvokeFunctionUrl",
                "FunctionName": att("Door", "Arn"),
                "FunctionUrlAuthType": "NONE",
                "Principal": "*",
            }
        },
        "DoorCalls": open_to_all
        | {
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": att("Door", "Arn"),
                "InvokedViaFunctionUrl": True,
                "Principal": "*",
            }
        },
    }


# ------------------------------------------------------------------------------------------------------------ alarms
def _alarms(app: App) -> dict[str, Block]:
    def alarm(text: str, metric: Block, period_s: int, of: tuple[int, int] = (1, 1)) -> Block:
        return {
            "Type": "AWS::CloudWatch::Alarm",
            "Properties": {
                "AlarmDescription": text,
                **metric,
                "Period": period_s,
                "EvaluationPeriods": of[1],
                "DatapointsToAlarm": of[0],
                "Threshold": 1,
                "ComparisonOperator": "GreaterThanOrEqualToThreshold",
                "TreatMissingData": "notBreaching",
                "AlarmActions": when("HasAlarmTopic", [ref("AlarmTopicArn")]),
            },
        }

    def metric(namespace: str, name: str, statistic: str, dimension: str, value: Any) -> Block:
        return {
            "Namespace": namespace,
            "MetricName": name,
            "Statistic": statistic,
            "Dimensions": [{"Name": dimension, "Value": value}],
        }

    letters = metric(
        "AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum", "QueueName", att("DeadLetters", "QueueName")
    )
    return {
        "DeadLettersAlarm": alarm(
            "Something could not be delivered. Read the messages of the dead-letter queue, mend what is wrong, and "
            "send them back to their source.",
            letters,
            300,
        ),
        "StuckRunsAlarm": alarm(
            "The sweep found runs to which nothing happened in time, again and again. `onward logs RUN` and "
            "`onward why RUN` say more.",
            metric("Onward", "RunsStuck", "Sum", "app", app.name),
            STUCK_PERIOD_S,
        ),
        "ThrottlesAlarm": alarm(
            "The step function is throttled: raise ReservedConcurrency, or limit the work with concurrency=.",
            metric("AWS/Lambda", "Throttles", "Sum", "FunctionName", ref("Step")),
            300,
            (3, 3),
        ),
    }


def _outputs(options: Options, called: Block) -> dict[str, Block]:
    found = {
        "BusName": {"Description": "Where events go: ONWARD_BUS of who sends them", "Value": ref("Bus")},
        "TableName": {"Description": "The state of all runs: onward why RUN --table", "Value": ref("Table")},
        "FunctionName": {"Description": "What is woken: --function", "Value": called},
        "BucketName": {"Description": "Values over 64 KiB: --bucket", "Value": ref("Values")},
        "DeadLettersUrl": {"Description": "What nobody could deliver", "Value": ref("DeadLetters")},
        "LogGroupName": {"Description": "The lines of all steps: onward logs RUN", "Value": ref("StepLines")},
    }
    if options.door:
        found["DoorAddress"] = {"Description": "The HTTP door: ONWARD_URL", "Value": att("DoorUrl", "FunctionUrl")}
    return found
