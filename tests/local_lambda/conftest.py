"""A handler that does what its event says, and a factory of local Lambdas that run it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.local.lambda_service import LocalLambda

HANDLER = """
import json, os, subprocess, sys, time

performed = 0


def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(what) + "\\n")


def handler(event, context):
    global performed
    performed += 1
    if "Records" in event:
        return messages(event["Records"])
    do = event.get("do", "answer")
    if do == "answer":
        return {"performed": performed, "pid": os.getpid(), "event": event}
    if do == "sleep":
        time.sleep(event["seconds"])
        return {"pid": os.getpid()}
    if do == "exit":
        os._exit(event["code"])
    if do == "raise":
        note(["raise", context.aws_request_id])
        raise ValueError("not today")
    if do == "note":
        note(event)
        return None
    if do == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        return {"pid": os.getpid(), "child": child.pid}
    if do == "context":
        names = ("aws_request_id", "function_name", "function_version", "memory_limit_in_mb", "invoked_function_arn",
                 "log_group_name", "client_context")
        return {name: getattr(context, name) for name in names} | {"left": context.get_remaining_time_in_millis()}
    if do == "environ":
        return dict(os.environ)
    if do == "modules":
        return sorted(sys.modules)
    if do == "large":
        return "x" * event["bytes"]
    if do == "unencodable":
        return {1, 2}
    if do == "loop":
        return loop(event)
    if do == "print":
        print(event["text"])
        return None
    raise NotImplementedError(do)


def messages(records):
    failed = []
    for record in records:
        body = json.loads(record["body"])
        note({"body": body, "receives": record["attributes"]["ApproximateReceiveCount"], "at": time.time(),
              "batch": len(records), "source": record["eventSourceARN"].rpartition(":")[2], "record": record})
        if body == "bad":
            failed.append({"itemIdentifier": record["messageId"]})
        if body == "nonsense":
            failed.append({"itemIdentifier": "no such message"})
        if isinstance(body, dict) and body.get("do") == "loop":
            loop(body)
    return {"batchItemFailures": failed}


def loop(event):
    import boto3

    note(event)
    if event["through"] == "lambda":
        event = {**event, "count": event["count"] + 1}
        boto3.client("lambda").invoke(FunctionName="onward", InvocationType="Event", Payload=json.dumps(event))
    else:
        boto3.client("sqs").send_message(QueueUrl=event["queue"], MessageBody=json.dumps(event))
"""

Make = Callable[..., LocalLambda]


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[Any]]:
    """What the handler wrote down so far."""

    def read() -> list[Any]:
        path = tmp_path / "notes.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Start a local Lambda of the handler above. Each is stopped in the end, and must leave no process."""
    (tmp_path / "example.py").write_text(HANDLER)
    started: list[LocalLambda] = []

    def start(**options: Any) -> LocalLambda:
        env = {"NOTES": str(tmp_path / "notes.jsonl")} | options.pop("env", {})
        handler = options.pop("handler", "example.handler")
        service = LocalLambda(handler, cwd=tmp_path, env=env, **({"seed": 1} | options))
        started.append(service)
        return service.start()

    yield start
    for service in started:
        pids = service.pids
        service.stop()
        assert not [pid for pid in pids if lives(pid)]


def lives(pid: int) -> bool:
    """Whether the process runs; a zombie that waits for its parent does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def soon(check: Callable[[], bool], within_s: float = 5.0) -> bool:
    ends_s = time.monotonic() + within_s
    while time.monotonic() < ends_s:
        if check():
            return True
        time.sleep(0.01)
    return check()
