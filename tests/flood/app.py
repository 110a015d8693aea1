"""A cheap workflow with everything in it: steps in sequence, a step that fails once, two steps beside each other.

One event in `STEPWISE` is done with one step for each invocation, the others with as many as fit.
"""

from functools import partial

from onward import App, Retry, current_step

from .witness import Witness

STEPWISE = 5  # one event in so many
FAILS = 4  # one event in so many has a step that fails at its first attempt
EVENTS = {True: "flood/stepwise", False: "flood/filled"}
STEPS = ["price", "check", "left", "right", "sum"]

app = App("flood")
witness = Witness.of_environment()
retries = Retry(max_attempts=12, base=0.2, cap=2.0)


def event_of(n):
    """The name and the data of event number `n`."""
    return EVENTS[n % STEPWISE == 0], {"n": n}


def workflow_of(n):
    return event_of(n)[0].partition("/")[2]


def output_of(n):
    """What the run of event number `n` must come to."""
    return {"n": n, "sum": 3 * n + (3 * n + 1) + (3 * n + 2)}


def effect(result):
    """Do something to the world, once for each performance."""
    step = current_step()
    witness.saw(step.run_id, step.step, step.attempt)
    return result


def check(n):
    effect(None)
    if n % FAILS == 0 and current_step().attempt == 1:
        raise ConnectionError("not yet")
    return n


def flow(event, step):
    n = event.data["n"]
    price = step.run("price", effect, 3 * n)
    step.run("check", check, n)
    left, right = step.parallel(
        partial(step.run, "left", effect, price + 1), partial(step.run, "right", effect, price + 2)
    )
    return {"n": n, "sum": step.run("sum", effect, price + left + right)}


app.workflow(on=EVENTS[True], name="stepwise", retries=retries)(flow)
app.workflow(on=EVENTS[False], name="filled", retries=retries, steps_per_invocation="fill")(flow)
