"""What the tests of a deploy stand on: templates of two apps, plain and with versions."""

from __future__ import annotations

from typing import Any

import pytest

from onward import App
from onward.deploy.plan import Options, Plan, plan
from onward.deploy.sam import template

from .app import app as kinds

REGION = "us-east-1"
CODE = {"Step": "build/step.zip", "Door": "build/door.zip"}


def pinned() -> App:
    """The same app, whose runs stay with the version that started them."""
    made = App("kinds", pin_versions=True)
    made._workflows = dict(kinds._workflows)
    return made


PLANS = {
    "plain": lambda: plan(kinds, Options("tests.infra.app:app", runtime="python3.13")),
    "versions": lambda: plan(
        pinned(), Options("tests.infra.app:app", runtime="python3.13", snapstart=True, tracing=True)
    ),
    "small": lambda: plan(
        kinds,
        Options(
            "tests.infra.app:app",
            runtime="python3.13",
            door=False,
            disposable=True,
            env={"SHOP": "https://shop.example"},
            policies=("arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess",),
        ),
    ),
}


@pytest.fixture(params=sorted(PLANS))
def made(request: pytest.FixtureRequest) -> Plan:
    return PLANS[request.param]()


@pytest.fixture
def sam(made: Plan) -> dict[str, Any]:
    return template(made, CODE)
