"""A shop for each test, and a step for the functions that ask which step they are in."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace

import pytest

from handlers.demo import client
from handlers.demo.shop import Shop
from onward import NonRetriable, RetryAfter, StepError

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def honest_shop():
    with Shop(misbehave=0, rate_per_s=0) as shop:
        yield shop


@pytest.fixture
def in_step(monkeypatch):
    """`in_step("key")`: from now on the code runs in the step that has that idempotency key."""

    def enter(key):
        monkeypatch.setattr(client, "current_step", lambda: SimpleNamespace(idempotency_key=key))

    enter("the step of this test")
    return enter


@pytest.fixture
def ask():
    """Send one request and return (status, headers, reply); raises what the connection raises."""

    def send(shop, endpoint, body, key=None, method="POST"):
        connection = HTTPConnection(shop.url.removeprefix("http://"), timeout=10)
        try:
            text = body if isinstance(body, bytes) else json.dumps(body)
            connection.request(method, endpoint, text, {"Idempotency-Key": key} if key else {})
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())
        finally:
            connection.close()

    return send


@pytest.fixture
def real():
    """The path of a file of the real input."""

    def path(name):
        if not (REAL / name).exists():
            pytest.skip(f"the real input is not there: ../shared/data/{name}")
        return str(REAL / name)

    return path


class Steps:
    """Performs each step at once, again while it fails, and remembers how often: enough to walk through a job."""

    def __init__(self, in_step, max_attempts=8):
        self.in_step = in_step
        self.max_attempts = max_attempts
        self.attempts = {}

    def run(self, name, fn, *args):
        assert name not in self.attempts
        self.in_step(f"run/{name}")
        self.attempts[name] = 0
        while True:
            self.attempts[name] += 1
            try:
                return json.loads(json.dumps(fn(*args)))
            except RetryAfter as error:
                time.sleep(error.when)
            except Exception as error:
                if isinstance(error, NonRetriable) or self.attempts[name] == self.max_attempts:
                    raise StepError(name, self.attempts[name], type(error).__name__, str(error)) from error


@pytest.fixture
def steps(in_step):
    return Steps(in_step)
