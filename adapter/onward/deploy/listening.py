"""What a deployed app must hear: the event patterns of its rules, and the schedules of its cron triggers.

Theory. The app has a bus of its own, and events of AWS services come on the account's default bus. Each trigger of a
workflow becomes a rule that fits exactly what `Workflow.hears` fits:

    on="order/paid"       {"detail-type": ["order/paid"]}               on its own bus
    on="order/*"          {"detail-type": [{"wildcard": "order/*"}]}    on its own bus
    on=pattern({...})     the pattern itself                            on the default bus where its source can be
                                                                        an AWS service, on its own where another
    on=cron("...")        a schedule, or two where days of month and of week are both given

An event may also be what a run waits for, or what cancels one, and `step.wait_for_event` names that only while it runs.
So one rule more brings whatever else arrives on the app's own bus: events that no name above fits.

Two rules may bring one event twice. That is one event: its id says so.

Pure: an app to frozen values.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..app import App, Workflow
    from ..triggers import Schedule

OWN, DEFAULT = "own", "default"
MAX_PATTERN_CHARS = 2_048  # of a rule, by EventBridge's default quota
MAX_RULES = 300  # of one bus, likewise
SCHEDULED_TIME = "<aws.scheduler.scheduled-time>"  # which EventBridge Scheduler fills in, in ISO 8601


class Rule(NamedTuple):
    """Events that are brought to the function. `bus`: OWN or DEFAULT; `workflows`: for whom."""

    bus: str
    pattern: dict[str, Any]
    workflows: tuple[str, ...]


class Timer(NamedTuple):
    """Times that are told to the function. `expression`, `tz`: in Scheduler's syntax; `payload`: what it sends."""

    expression: str
    tz: str
    payload: dict[str, Any]
    workflow: str


SWEEP = Timer("rate(1 minute)", "UTC", {"onward": 1, "do": "sweep"}, "")


def rules_of(app: App) -> list[Rule]:
    """The rules of an app, one for each pattern, in the order of the workflows. Raises `InvalidOption` where
    EventBridge would not take them."""
    found: dict[str, Rule] = {}
    names: list[str] = []
    for workflow in app:
        for bus, pattern in _patterns(workflow, names):
            key = f"{bus} {json.dumps(pattern, sort_keys=True)}"
            before = found[key].workflows if key in found else ()
            if workflow.name not in before:
                found[key] = Rule(bus, pattern, (*before, workflow.name))
    rest = _rest(names)
    rules = [*found.values(), *([Rule(OWN, rest, ())] if rest is not None else [])]
    for bus in (OWN, DEFAULT):
        count = sum(rule.bus == bus for rule in rules)
        if count > MAX_RULES:
            raise InvalidOption(
                f"app {app.name!r} needs {count} rules on the {bus} bus, and EventBridge has {MAX_RULES}: let triggers "
                f'share a name with * in it ("order/*"), and tell them apart with where='
            )
    return rules


def timers_of(app: App) -> list[Timer]:
    """The schedules of an app: of its cron triggers, and the sweep."""
    return [
        *(timer for workflow in app for schedule in workflow.schedules for timer in _timers(workflow, schedule)),
        SWEEP,
    ]


def _patterns(workflow: Workflow, names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for trigger in workflow.on:
        if isinstance(trigger, str):
            if trigger not in names:
                names.append(trigger)
            yield OWN, {"detail-type": [_spelled(trigger)]}
        elif hasattr(trigger, "fields"):
            if len(json.dumps(trigger.fields, separators=(",", ":"))) > MAX_PATTERN_CHARS:
                raise InvalidOption(
                    f"a pattern of workflow {workflow.name!r} has over {MAX_PATTERN_CHARS:,} characters, which "
                    f"EventBridge does not take in a rule: name less in it, and use where= for the rest"
                )
            for bus in _buses(trigger.fields.get("source")):
                yield bus, trigger.fields


def _timers(workflow: Workflow, schedule: Schedule) -> Iterator[Timer]:
    expressions = schedule.cron.scheduler_expression()
    payload = {"onward": 1, "do": "cron", "workflow": workflow.name, "at": SCHEDULED_TIME}
    for expression in [expressions] if isinstance(expressions, str) else expressions:
        yield Timer(expression, schedule.cron.tz, payload, workflow.name)


def _spelled(name: str) -> str | dict[str, str]:
    """A name as a rule's pattern says it. A backslash escapes there, and nowhere in a trigger."""
    if "*" not in name:
        return name
    while "**" in name:  # which a trigger may have, and a pattern may not; it means the same as one
        name = name.replace("**", "*")
    return {"wildcard": name.replace("\\", "\\\\")}


def _rest(names: list[str]) -> dict[str, Any] | None:
    """Whatever no trigger names; None where that is nothing. Where it is too much to say, it is everything.

    `anything-but` takes names or wildcards, not both. Where there are both, only wildcards are left out, and names
    come twice: that costs an invocation that finds the event taken in already."""
    wildcards = [spelled["wildcard"] for name in names if isinstance(spelled := _spelled(name), dict)]
    if "*" in wildcards:
        return None
    if not names:
        return {"source": [{"prefix": ""}]}
    pattern: dict[str, Any] = {"detail-type": [{"anything-but": {"wildcard": wildcards} if wildcards else names}]}
    is_short = len(json.dumps(pattern, separators=(",", ":"))) <= MAX_PATTERN_CHARS
    return pattern if is_short else {"source": [{"prefix": ""}]}


def _buses(source: Any) -> list[str]:
    """Where events of that source can come from: those of AWS services come on the default bus, and on no other."""
    if not isinstance(source, list) or not all(isinstance(value, str) for value in source):
        return [OWN, DEFAULT]
    kinds = {value.startswith("aws.") for value in source}
    return [*([OWN] if False in kinds else []), *([DEFAULT] if True in kinds else [])]
