"""A template, standing: what CloudFormation would make of it on AWS, made of what plays AWS on this machine.

    DynamoDB         dynoxide
    S3, SQS,         moto's server. Its buses deliver to queues but not to functions, and its Scheduler never fires: so
    EventBridge      a rule gets a queue in between, and what is here pumps
    Lambda           the local Lambda under AWS's own runtime client, a service for each function, with the zips as
                     they were packed

Every name, setting and connection is read from the template: what it forgets is missing here as well.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from onward.aws.dynamodb import DynamoStore
from onward.aws.wire import Wire
from onward.clock import SystemClock
from onward.engine.ledger import Ledger
from onward.local.lambda_service import LocalLambda

from .values import Values

ACCOUNT, REGION = "123456789012", "us-east-1"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
}
POLL_S = 0.05
POLLERS = 4  # batches of the wake queue at a time


class Stack:
    """`template`: after SAM's transform. `code`: for each function, its zip. `destination`: whether word of invocations
    that failed is passed on. `env`: variables over those of the template."""

    def __init__(
        self,
        name: str,
        template: Mapping[str, Any],
        code: Mapping[str, Path],
        *,
        folder: Path,
        dynoxide_url: str,
        moto_url: str,
        parameters: Mapping[str, Any] = {},
        destination: bool = True,
        runtime: Any = "awslambdaric",
    ) -> None:
        self.name = name
        self.template = template
        self.code = code
        self.folder = folder
        self.dynoxide_url = dynoxide_url
        self.moto_url = moto_url
        self.destination = destination
        self.runtime = runtime
        pseudo = {"AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "AWS::Partition": "aws", "AWS::StackName": name}
        self.values = Values(template, parameters, pseudo)
        self.functions: dict[str, LocalLambda] = {}
        self.failures: list[dict[str, Any]] = []  # what Lambda said of invocations that came to nothing
        self.sweeps = 0
        self._on_the_way: queue.Queue[str] = queue.Queue()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open = contextlib.ExitStack()
        self._sqs = self._client("sqs", moto_url)

    def _client(self, service: str, url: str) -> Any:
        session = boto3.Session("test", "test", region_name=REGION)
        client = session.client(service, endpoint_url=url, config=Config(max_pool_connections=20))
        self._open.callback(client.close)
        return client

    # ------------------------------------------------------------------------------------------------------- making
    def __enter__(self) -> Stack:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        self._open.close()

    def _make(self) -> None:
        resources = {
            id: block
            for id, block in self.template["Resources"].items()
            if "Condition" not in block or self.values.holds(block["Condition"])
        }
        left = dict(resources)
        while left:
            made = [id for id in left if self._try(id, left[id])]
            assert made, f"nobody knows how to make { ({id: block['Type'] for id, block in left.items()}) }"
            for id in made:
                del left[id]
        for id, block in resources.items():
            start = getattr(self, f"_start_{block['Type'].split('::', 1)[1].replace('::', '_').lower()}", None)
            if start is not None:
                start(id, self.values.of(block["Properties"]))

    def _try(self, id: str, block: dict[str, Any]) -> bool:
        """Make a resource, if what it refers to stands."""
        try:
            properties = self.values.of(block.get("Properties", {}))
        except KeyError:
            return False
        make = getattr(self, f"_make_{block['Type'].split('::', 1)[1].replace('::', '_').lower()}", None)
        if make is None:
            assert block["Type"] in _UNPLAYED, f"what is {block['Type']} here?"
            attributes = {"Ref": id, "Arn": f"arn:aws:unplayed:{REGION}:{ACCOUNT}:{id}"}
        else:
            attributes = make(id, properties)
        self.values.attributes[id] = attributes
        return True

    def _make_dynamodb_table(self, id: str, properties: dict[str, Any]) -> dict[str, Any]:
        name = f"{self.name}-{id}"
        known = (
            "BillingMode",
            "AttributeDefinitions",
            "KeySchema",
            "GlobalSecondaryIndexes",
            "DeletionProtectionEnabled",
        )
        dynamodb = self._client("dynamodb", self.dynoxide_url)
        dynamodb.create_table(TableName=name, **{one: properties[one] for one in known})
        dynamodb.get_waiter("table_exists").wait(TableName=name)
        return {"Ref": name, "Arn": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"}

    def _make_s3_bucket(self, id: str, properties: dict[str, Any]) -> dict[str, Any]:
        name = f"{self.name}-{id}".lower()
        self._client("s3", self.moto_url).create_bucket(Bucket=name)
        return {"Ref": name, "Arn": f"arn:aws:s3:::{name}"}

    def _make_sqs_queue(self, id: str, properties: dict[str, Any]) -> dict[str, Any]:
        attributes = {
            name: json.dumps(value) if isinstance(value, dict) else str(value).lower()
            for name, value in properties.items()
            if name != "RedrivePolicy"
        }
        if "RedrivePolicy" in properties:
            attributes["RedrivePolicy"] = json.dumps(properties["RedrivePolicy"])
        url = self._sqs.create_queue(QueueName=f"{self.name}-{id}", Attributes=attributes)["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        return {"Ref": url, "Arn": arn, "QueueName": f"{self.name}-{id}"}

    def _make_events_eventbus(self, id: str, properties: dict[str, Any]) -> dict[str, Any]:
        self._client("events", self.moto_url).create_event_bus(Name=properties["Name"])
        return {"Ref": properties["Name"], "Arn": f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{properties['Name']}"}

    def _make_events_rule(self, id: str, properties: dict[str, Any]) -> dict[str, Any]:
        events, name = self._client("events", self.moto_url), f"{self.name}-{id}"
        between = self._make_sqs_queue(f"{id}-between", {})
        bus = properties["EventBusName"]
        events.put_rule(Name=name, EventBusName=bus, EventPattern=json.dumps(properties["EventPattern"]))
        events.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": "1", "Arn": between["Arn"]}])
        return {"Ref": name, "Arn": f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{bus}/{name}", "between": between["Ref"]}

    def _make_lambda_function(self, id: str, properties: dict[str, Any]) -> dict[str, Any]:
        home = self.folder / id
        with zipfile.ZipFile(self.code[id]) as archive:
            archive.extractall(home)
        config = self._invoke_config(id)
        service = LocalLambda(
            properties["Handler"],
            env={**properties["Environment"]["Variables"], **self._endpoints()},
            cwd=home,
            function_name=f"{self.name}-{id}",
            timeout_s=properties["Timeout"],
            memory_mb=properties["MemorySize"],
            concurrency=min(properties.get("ReservedConcurrentExecutions", 4), 4),  # two cores
            maximum_retry_attempts=config.get("MaximumRetryAttempts", 2),
            maximum_event_age_s=config.get("MaximumEventAgeInSeconds", 21_600),
            on_failure=self._came_to_nothing if "DestinationConfig" in config else "none",
            recursive_loop=properties.get("RecursiveLoop", "Terminate"),
            runtime=self.runtime,
            throttle_backoff_s=None,
            seed=1,
        ).start()
        self._open.callback(service.stop)
        self.functions[id] = service
        return {"Ref": service.function.name, "Arn": service.function.arn}

    def _invoke_config(self, function: str) -> dict[str, Any]:
        for block in self.template["Resources"].values():
            if block["Type"] == "AWS::Lambda::EventInvokeConfig" and block["Properties"]["FunctionName"] == {
                "Ref": function
            }:
                found: dict[str, Any] = block["Properties"]
                return found
        return {}

    def _make_lambda_url(self, id: str, properties: dict[str, Any]) -> dict[str, Any]:
        return {
            "Ref": id,
            "FunctionUrl": f"https://{id.lower()}.lambda-url.{REGION}.on.aws/",
            "AuthType": properties["AuthType"],
        }

    def _endpoints(self) -> dict[str, str]:
        found = {"AWS_ENDPOINT_URL_DYNAMODB": self.dynoxide_url}
        found |= {f"AWS_ENDPOINT_URL_{name}": self.moto_url for name in ("SQS", "S3", "EVENTBRIDGE")}
        if "Step" in self.functions:
            found["AWS_ENDPOINT_URL_LAMBDA"] = self.functions["Step"].url
        return found

    # ------------------------------------------------------------------------------------------------------ pumping
    def _start(self, work: Callable[[], bool]) -> None:
        """Do this again and again; it says whether there was anything to do."""

        def loop() -> None:
            while not self._stopping.is_set():
                if not work():
                    self._stopping.wait(POLL_S)

        thread = threading.Thread(target=loop, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _called(self, arn: str) -> LocalLambda:
        (service,) = [one for one in self.functions.values() if arn.startswith(one.function.arn)]
        return service

    def _start_events_rule(self, id: str, properties: dict[str, Any]) -> None:
        url = self.values.attributes[id]["between"]
        targets = [self._called(target["Arn"]) for target in properties["Targets"]]

        def deliver() -> bool:
            found = self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            for message in found:
                for target in targets:
                    target.invoke_async({"account": ACCOUNT, **json.loads(message["Body"])})
                self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            return bool(found)

        self._start(deliver)

    def _start_lambda_eventsourcemapping(self, id: str, properties: dict[str, Any]) -> None:
        (url,) = [
            one["Ref"] for one in self.values.attributes.values() if one.get("Arn") == properties["EventSourceArn"]
        ]
        target = self._called(properties["FunctionName"])
        assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        pool = ThreadPoolExecutor(POLLERS)
        self._open.callback(pool.shutdown)
        room = threading.Semaphore(POLLERS)

        def deliver(found: list[dict[str, Any]]) -> None:
            try:
                answer, error = target.invoke(
                    {"Records": [_record(message, properties["EventSourceArn"]) for message in found]}
                )
                if error is not None:
                    return
                failed = {one["itemIdentifier"] for one in answer["batchItemFailures"]}
                for message in found:
                    if message["MessageId"] not in failed:
                        self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            finally:
                room.release()

        def poll() -> bool:
            if not room.acquire(timeout=POLL_S):
                return True
            most = properties["BatchSize"]
            found = self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=most, AttributeNames=["All"]).get(
                "Messages"
            )
            if not found:
                room.release()
                return False
            pool.submit(deliver, found)
            return True

        self._start(poll)

    def _came_to_nothing(self, record: dict[str, Any]) -> None:
        """Lambda's on-failure destination: a queue of the template's."""
        self.failures.append(record)
        if self.destination:
            self._on_the_way.put(json.dumps(record))

    def _start_lambda_eventinvokeconfig(self, id: str, properties: dict[str, Any]) -> None:
        arn = properties["DestinationConfig"]["OnFailure"]["Destination"]
        (url,) = [one["Ref"] for one in self.values.attributes.values() if one.get("Arn") == arn]

        def hand_over() -> bool:
            try:
                body = self._on_the_way.get(timeout=POLL_S)
            except queue.Empty:
                return False
            self._sqs.send_message(QueueUrl=url, MessageBody=body)
            return True

        self._start(hand_over)

    # ------------------------------------------------------------------------------------------------- for its user
    def output(self, name: str) -> str:
        """An output of the stack."""
        text: str = self.values.of(self.template["Outputs"][name]["Value"])
        return text

    def tell_time(self, schedule: str = "Sweep", at: str = "2026-11-24T06:00:00Z") -> None:
        """Let a schedule of the template fire."""
        target = self.values.of(self.template["Resources"][schedule]["Properties"]["Target"])
        if schedule == "Sweep":
            self.sweeps += 1
        payload = json.loads(target["Input"].replace("<aws.scheduler.scheduled-time>", at))
        self._called(target["Arn"]).invoke_async(payload)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """A look at the table."""
        wire = Wire(endpoint_url=self.dynoxide_url, environ=KEYS)
        try:
            yield Ledger(DynamoStore(wire, self.output("TableName")), None, SystemClock())
        finally:
            wire.close()

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log lines of the step function that say this."""
        found = []
        for line in self.functions["Step"].log_lines:
            text = line.partition("] ")[2]
            if text.startswith("{"):
                told = json.loads(text)
                if told.get("message") == message:
                    found.append(told)
        return found


_UNPLAYED = {
    "AWS::CloudWatch::Alarm",
    "AWS::IAM::Role",
    "AWS::IAM::RolePolicy",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Lambda::Permission",
    "AWS::Logs::LogGroup",
    "AWS::S3::BucketPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::Scheduler::Schedule",
}
"""What is not played as a thing of its own. (What two of them connect is started when all stands; IAM is not played at
all: tests/infra holds the roles against the engine's calls.)"""


def _record(message: dict[str, Any], arn: str) -> dict[str, Any]:
    """A message as Lambda's event source mapping hands it over."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": {},
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": REGION,
    }
