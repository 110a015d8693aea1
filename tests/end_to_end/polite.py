"""Workflows under limits, and workflows that are ended from outside: each as a function and as a coroutine. Their
events are of a group, so that one test does not meet the other, and their steps write down what they were told."""

import json
import os
import time
from pathlib import Path

from onward import CancelOn, Concurrency, Debounce, RateLimit, Singleton, StepError, Throttle, current_step

APART_S = 0.5  # of throttled starts
REST_S = 1.0  # until a debounced event is taken
DELAY_S = 1.0
HELD_S = 60.0  # that a run waits to be let go
SHORT_S = 1.0  # start_timeout= and finish_timeout=
KINDS = ("sync", "async")


def jot(said):
    """Write down what this step was told."""
    step = current_step()
    line = {"run": step.run_id, "step": step.step, "attempt": step.attempt, "at": time.time(), **said}
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def jot_twice(said):
    """Write it down as one begins, and as one ends."""
    jot({**said, "edge": "in"})
    time.sleep(0.05)
    jot({**said, "edge": "out"})


def work(event, step):
    """Begin; if told to, stay until one is let go; end."""
    said = event.data
    step.run("begin", jot, said)
    if said.get("stays"):
        step.wait_for_event("story/let_go", match={"data.group": said["group"]}, timeout=HELD_S)
    step.run("end", jot, said)


async def async_work(event, step):
    said = event.data
    await step.run("begin", jot, said)
    if said.get("stays"):
        await step.wait_for_event("story/let_go", match={"data.group": said["group"]}, timeout=HELD_S)
    await step.run("end", jot, said)


def calls(event, step):
    for call in range(2):
        step.run(f"call {call}", jot_twice, event.data)


async def async_calls(event, step):
    for call in range(2):
        await step.run(f"call {call}", jot_twice, event.data)


def meets(event, step):
    """Whichever event comes first, an event that it sends itself, and a run that fails."""
    group = {"data.group": event.data["group"]}
    first = step.wait_for_any("first", {"story/this": group, "story/that": group}, timeout=HELD_S)
    sent = step.send_event("story/sent", {"group": event.data["group"]})
    came = step.wait_for_event("story/sent", match=group, timeout=HELD_S)
    try:
        step.invoke("fails", event.data)
    except StepError as error:
        return [first.name, came.id == sent, error.type]


async def async_meets(event, step):
    group = {"data.group": event.data["group"]}
    first = await step.wait_for_any("first", {"story/this": group, "story/that": group}, timeout=HELD_S)
    sent = await step.send_event("story/sent", {"group": event.data["group"]})
    came = await step.wait_for_event("story/sent", match=group, timeout=HELD_S)
    try:
        await step.invoke("fails", event.data)
    except StepError as error:
        return [first.name, came.id == sent, error.type]


def fails(event, step):
    step.run("bad", complain, retries=0)


def complain():
    raise ValueError("always")


def tell(event, step):
    """For on_failure= and on_cancel=: write down of what event the run was that ended so."""
    step.run("tell", jot, {**event.data["event"]["data"], "told": event.name})


def group(event):
    return event.data["group"]


def rank(event):
    return event.data.get("rank", 0)


LIMITED = {
    "debounced": {"debounce": Debounce(REST_S, key=group)},
    "throttled": {"throttle": Throttle(1, period=APART_S, burst=2, key=group)},
    "rated": {"rate_limit": RateLimit(2, period=600, key=group)},
    "single": {"singleton": Singleton(key=group)},
    "newest": {"singleton": Singleton(key=group, mode="cancel"), "on_cancel": tell},
    "ranked": {"concurrency": Concurrency(1, key=group), "priority": rank},
    "delayed": {"delay": DELAY_S},
    "stopped": {"cancel_on": CancelOn("story/stop", match={"data.group": "data.group"}), "on_cancel": tell},
    "hasty": {"finish_timeout": SHORT_S, "on_failure": tell},
    "impatient": {"concurrency": Concurrency(1, key=group), "start_timeout": SHORT_S, "on_failure": tell},
}


def register(app):
    for kind, does in zip(KINDS, ((work, calls, meets), (async_work, async_calls, async_meets)), strict=True):
        works, takes_turns, looks_out = does
        for name, options in LIMITED.items():
            app.workflow(on=f"story/{name}.{kind}", name=f"{name}.{kind}", retries=0, **options)(works)
        turns = Concurrency(1, of="steps", key=group)
        app.workflow(on=f"story/turns.{kind}", name=f"turns.{kind}", retries=0, concurrency=turns)(takes_turns)
        app.workflow(on=f"story/meets.{kind}", name=f"meets.{kind}", retries=0)(looks_out)
    app.workflow(on="story/fails", name="fails", retries=0)(fails)
