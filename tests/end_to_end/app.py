"""Workflows that meet what can happen to a deployed function. What their steps do, they write into a file."""

import asyncio
import json
import os
import signal
import time
from functools import partial
from pathlib import Path

from onward import App, Batch, Concurrency, Retry, StepError, cron, current_step, pattern

from . import polite

app = App("end-to-end")
QUICK = Retry(max_attempts=4, base=0.2, cap=0.2, jitter=False)
MEETING_S = 20.0  # how long a step waits for its siblings, before it gives up
TOO_LONG_S = 60.0


def note(result=None):
    """Write down that this step is performed, by whom and when."""
    step = current_step()
    line = {"run": step.run_id, "step": step.step, "attempt": step.attempt, "key": step.idempotency_key}
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(json.dumps({**line, "pid": os.getpid(), "at": time.time()}) + "\n")
    return result


def notes(run):
    with Path(os.environ["NOTES"]).open() as file:
        return [line for line in map(json.loads, file) if line["run"] == run]


# ------------------------------------------------------------------------------------------------------- stories
@app.workflow(on="story/sequence", retries=QUICK)
def sequence(event, step):
    total = step.run("fetch", note, event.data["n"])
    total += step.run("flaky", fails_once, 10)
    step.sleep("rest", 1)
    return {"total": total + step.run("add", note, 100)}


def fails_once(result):
    note()
    if current_step().attempt == 1:
        raise ConnectionError("not yet")
    return result


@app.workflow(on="story/plain", retries=QUICK)
def plain(event, step):
    return sum(step.run(f"step {n}", note, n) for n in range(event.data["steps"]))


@app.workflow(on="story/gather", retries=QUICK)
async def gather(event, step):
    count, meet = event.data["steps"], event.data.get("meet", 0)
    results = await asyncio.gather(*(step.run(f"side {n}", meets, meet, n) for n in range(count)))
    return await step.run("sum", note, sum(results))


@app.workflow(on="story/parallel", retries=QUICK)
def parallel(event, step):
    count, meet = event.data["steps"], event.data.get("meet", 0)
    return step.parallel(*(partial(step.run, f"side {n}", meets, meet, n) for n in range(count)))


def meets(count, result):
    """Return when `count` steps of this run are being performed at the same time."""
    note()
    ends_s = time.monotonic() + MEETING_S
    while len({line["step"] for line in notes(current_step().run_id)}) < count:
        if time.monotonic() > ends_s:
            raise TimeoutError("the others did not come")
        time.sleep(0.01)
    return result


@app.workflow(on="story/dies", retries=QUICK)
def dies(event, step):
    """`how`: the way in which the step ends its process. `times`: in so many attempts. `rest`: seconds before it."""
    if "rest" in event.data:
        step.sleep("rest", event.data["rest"])
    how, times, options = event.data["how"], event.data["times"], event.data.get("options", {})
    branch = partial(step.run, "deadly", deadly, how, times, **options)
    try:
        if event.data.get("beside"):
            return step.parallel(branch, partial(step.run, "calm", note, "calm"))
        return branch()
    except StepError as error:
        return step.run("report", note, [error.type, error.attempts])


def deadly(how, times):
    note()
    if current_step().attempt > times:
        return "alive"
    if how == "exit":
        os._exit(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "deaf":  # to the alarm by which the engine stops a step, as code in C can be
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(TOO_LONG_S)
    return None


@app.workflow(on="story/slow", retries=QUICK)
def slow(event, step):
    return step.run("slow", lambda: note(time.sleep(event.data["seconds"])))


@app.workflow(on="story/told", retries=0, on_failure=lambda event, step: step.run("tell", note, event.data["error"]))
def told(event, step):
    step.run("bad", fails)


def fails():
    note()
    raise ValueError("always")


# ------------------------------------------------------------------------------------- events, and limits on starts
@app.workflow(on="story/order", retries=QUICK)
def order(event, step):
    """Waits for its payment, and has a run of its own pack it."""
    paid = step.wait_for_event("order/paid", match={"data.order": event.data["order"]}, timeout=MEETING_S)
    return [paid and paid.data["by"], step.invoke("pack", {"order": event.data["order"]})]


@app.workflow(on="story/pack", name="pack", retries=QUICK)
async def pack(event, step):
    return await step.run("pack", note, f"packed {event.data['order']}")


@app.workflow(on="story/limited", retries=QUICK, concurrency=Concurrency(2, key=lambda event: event.data["group"]))
def limited(event, step):
    """Two at a time. `dies`: the first attempt of its step kills its process."""
    step.run("begin", deadly, "kill", 1) if event.data.get("dies") else step.run("begin", note)
    step.run("work", lambda: note(time.sleep(0.15)))
    return step.run("end", note, "ended")


@app.workflow(on="story/batched", retries=QUICK, batch=Batch(3, timeout=1.0, key=lambda event: event.data["group"]))
def batched(event, step):
    return step.run("take", note, [one["data"]["n"] for one in event.data["events"]])


@app.workflow(on="story/once", retries=QUICK, idempotency=lambda event: event.data["key"])
def once(event, step):
    return step.run("once", note, event.data["key"])


@app.workflow(on=[pattern({"source": ["aws.s3"], "detail": {"object": {"key": [{"prefix": "prices/"}]}}})])
async def created(event, step):
    return await step.run("read", note, event.data["object"]["key"])


@app.workflow(on=cron("*/5 * * * *", tz="Europe/Paris"))
def every_five_minutes(event, step):
    return step.run("tick", note, event.data["scheduled"])


# ----------------------------------------------------------------------- what is decided outside, and done once more
@app.workflow(on="story/asks", retries=QUICK)
def asks(event, step):
    try:
        return step.callback("approve", hand_out, timeout=event.data["timeout"])
    except StepError as error:
        return [error.type, error.message]


def hand_out(token):
    """As a mail would: the token goes to whoever is to answer."""
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(json.dumps({"run": current_step().run_id, "step": "mail", "token": token}) + "\n")


@app.workflow(on="story/polls", retries=QUICK)
async def polls(event, step):
    return await step.wait_until("ready", third_time, every=0.2, backoff=2, timeout=MEETING_S)


def third_time():
    note()
    looks = [line for line in notes(current_step().run_id) if line["step"].startswith("ready")]
    return len(looks) if len(looks) >= 3 else None


@app.workflow(on="story/transacts", retries=QUICK)
def transacts(event, step):
    try:
        return [step.transact("pay", writes) for writes in event.data["writes"]]
    except StepError as error:
        return error.type


@app.workflow(on="story/broken", retries=0)
def broken(event, step):
    fine = step.run("fine", note, 1)
    return step.parallel(partial(step.run, "bad", needs, event.data["file"], fine), partial(step.run, "beside", note))


def needs(file, result):
    note()
    return int(Path(file).read_text()) + result


polite.register(app)
