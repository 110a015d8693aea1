"""The rules of a deployed app bring what its workflows hear, and everything else that a run may wait for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from onward import App, cron, pattern
from onward.core.errors import InvalidOption
from onward.core.pattern import check_pattern, matches
from onward.core.values import Event
from onward.deploy.listening import DEFAULT, MAX_PATTERN_CHARS, OWN, rules_of, timers_of

from .app import app

NAMES = [
    "order/paid",
    "order/",
    "orders",
    "order/a/b",
    "price",
    "a*b",
    "a\\b",
    "a\\xb",
    "axxb",
    "",
    "onward/x",
    "Order/paid",
]


def envelope(name: str, source: str = "shop", detail: Any = None) -> dict[str, Any]:
    event = {"detail-type": name, "source": source, "detail": detail or {}, "id": "1", "version": "0"}
    return event | {"time": "2026-11-24T06:00:00Z", "resources": [], "account": "123456789012", "region": "eu-west-3"}


def brought(app: App, bus: str, arrived: dict[str, Any]) -> int:
    """How many rules of a bus bring an event."""
    return sum(rule.bus == bus and matches(rule.pattern, arrived) for rule in rules_of(app))


def listening_to(*on: Any) -> App:
    made = App("made")
    for number, trigger in enumerate(on):
        made.workflow(on=trigger, name=f"w{number}")(lambda event, step: None)
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "triggers",
    [
        ["order/paid"],
        ["order/*"],
        ["*"],
        ["a*b"],
        ["a\\b", "a\\*"],
        ["**x**"],
        ["order/paid", "or*"],
        [cron("* * * * *")],
    ],
)
def test_whatever_arrives_on_the_apps_own_bus_is_brought_and_names_alone_bring_it_once(
    triggers: Any, name: str
) -> None:
    made = listening_to(*triggers)
    arrived = envelope(name)
    heard = sum(workflow.hears(Event(name, {}, "1", 0, arrived)) for workflow in made)
    times = brought(made, OWN, arrived)
    assert times >= 1, "a run may wait for it"
    if len(triggers) == 1:
        assert times == 1
    rules = [rule for rule in rules_of(made) if rule.workflows and matches(rule.pattern, arrived)]
    assert sum(len(rule.workflows) for rule in rules) == heard, "a rule fits what its workflow hears, and no more"
    assert brought(made, DEFAULT, arrived) == 0


def test_events_of_aws_services_come_from_the_default_bus() -> None:
    created = envelope("Object Created", "aws.s3")
    assert brought(app, DEFAULT, created) == 1
    assert brought(app, DEFAULT, envelope("order/paid")) == 0
    assert brought(app, DEFAULT, envelope("x", "aws.ec2", {"kind": "anything"})) == 1
    assert brought(app, OWN, envelope("x", detail={"kind": "anything"})) >= 1


def test_workflows_that_share_a_trigger_share_a_rule() -> None:
    (rule,) = [rule for rule in rules_of(app) if rule.pattern == {"detail-type": ["order/paid"]}]
    assert rule.workflows == ("orders", "receipts")


def test_every_pattern_is_one_that_eventbridge_takes() -> None:
    many = listening_to(*(f"a/rather/long/name/of/an/event/{number:03d}" for number in range(100)))
    for made in (app, many, listening_to("*"), listening_to("a\\*b")):
        for rule in rules_of(made):
            check_pattern(rule.pattern)
            assert len(json.dumps(rule.pattern, separators=(",", ":"))) <= MAX_PATTERN_CHARS
    assert brought(many, OWN, envelope("none of these")) == 1


def test_what_eventbridge_would_not_take_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidOption, match=r"needs 301 rules .* share a name with \*"):
        rules_of(listening_to(*(f"event-{number}" for number in range(300))))
    with pytest.raises(InvalidOption, match="use where= for the rest"):
        rules_of(listening_to(pattern({"detail": {"sku": [f"sku-{number:05d}" for number in range(200)]}})))


def test_a_cron_trigger_is_a_schedule_and_two_where_either_kind_of_day_will_do() -> None:
    timers = timers_of(app)
    assert [(timer.expression, timer.tz, timer.workflow) for timer in timers] == [
        ("cron(0/5 * * * ? *)", "Europe/Paris", "nightly"),
        ("cron(0 6 1 * ? *)", "UTC", "nightly"),
        ("cron(0 6 ? * MON *)", "UTC", "nightly"),
        ("rate(1 minute)", "UTC", ""),
    ]


def test_a_schedule_sends_what_the_engine_takes() -> None:
    from onward.engine.engine import check_wake

    for timer in timers_of(app):
        told = json.loads(json.dumps(timer.payload).replace("<aws.scheduler.scheduled-time>", "2026-11-24T06:00:00Z"))
        assert told.pop("onward") == 1
        check_wake(told)
