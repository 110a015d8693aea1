"""What a step is handed, what it may be called, and what it must not do."""

import asyncio
import contextvars
import datetime
import threading
import time

import pytest

from onward import App, OnwardError, StepError, current_step, loop
from onward.core.errors import InvalidName, InvalidOption
from onward.testing import Rehearsal
from onward.testing.rehearsal import START_MS
from tests.rules.acting import ASYNC, SYNC, both, failed_with, failing, records

ODD_NAMES = [
    "a",
    "x" * 256,
    "\N{ROCKET}" * 256,
    "\U0001f469\u200d\U0001f680",
    "\x00\x07\n\x7f",
    "\ud800",
    " ",
    "a#2",
    "L#00000001",
    '"}',
    "a (2)",
    "$",
]


# --------------------------------------------------------------------------------------------- what it knows of itself
@both
def test_a_step_knows_itself_and_its_idempotency_key_is_the_same_over_all_attempts(kind):
    seen = []

    def look():
        now = current_step()
        seen.append((now.run_id, now.workflow, now.step, now.attempt, now.idempotency_key))
        if now.attempt < 3:
            raise ValueError

    async def work(event, step):
        await step.run("look", look)
        await step.run("look", look, retries=4)

    run = kind.go(work)
    assert [entry[:4] for entry in seen] == [
        (run["run_id"], "work", name, attempt) for name in ("look", "look (2)") for attempt in (1, 2, 3)
    ]
    keys = [entry[4] for entry in seen]
    assert len(set(keys[:3])) == len(set(keys[3:])) == 1 and keys[0] != keys[3]


def test_a_coroutine_step_knows_itself_also_in_its_tasks_and_threads():
    async def look():
        await asyncio.sleep(0)
        own = current_step().step
        [task] = await asyncio.gather(asyncio.create_task(deeper()))
        return [own, task, await asyncio.to_thread(lambda: current_step().step)]

    async def deeper():
        return current_step().step

    async def work(event, step):
        return await step.run("look", look)

    assert ASYNC.go(work)["result"] == ["look"] * 3


@both
def test_outside_of_a_step_there_is_no_current_one(kind):
    async def work(event, step):
        await step.run("a", lambda: 1)
        current_step()

    with failed_with(kind.go(work), "OnwardError") as message:
        assert message.startswith("current_step() was called outside a step")
    with pytest.raises(OnwardError, match="outside a step"):
        current_step()


@both
def test_arguments_go_to_the_function(kind):
    async def work(event, step):
        return await step.run("a", lambda *args, **kwargs: [list(args), kwargs], 1, 2, x=3, name_="n")

    assert kind.go(work)["result"] == [[1, 2], {"x": 3, "name_": "n"}]


# ---------------------------------------------------------------------------------------------------------- its name
@both
@pytest.mark.parametrize("fresh", [False, True])
def test_any_name_of_1_to_256_characters_is_a_name(kind, fresh):
    async def work(event, step):
        return [await step.run(name, lambda name=name: ODD_NAMES.index(name)) for name in ODD_NAMES]

    run = kind.go(work, fresh=fresh)
    assert run["result"] == list(range(len(ODD_NAMES))), run["error"]
    assert run["steps_done"] == len(ODD_NAMES) and run["attempts"] == len(ODD_NAMES)


def test_any_name_is_a_name_in_parallel_too():
    async def work(event, step):
        return await asyncio.gather(*(step.run(name, lambda n=n: n) for n, name in enumerate(ODD_NAMES)))

    assert ASYNC.go(work)["result"] == list(range(len(ODD_NAMES)))


@both
@pytest.mark.parametrize("name", ["", "x" * 257, None, 5, b"a", ["a"]], ids=repr)
def test_what_is_no_name_is_refused_and_nothing_performed(kind, name):
    calls = []

    async def work(event, step):
        await step.run(name, calls.append, 1)

    with failed_with(kind.go(work), "InvalidName") as message:
        assert message.startswith("a step name is a string of 1 to 256 characters, not ") and not calls


@both
@pytest.mark.parametrize("fresh", [False, True])
def test_a_repeated_name_is_the_next_step_of_that_name_and_mixes_with_no_other(kind, fresh):
    keys = []

    async def work(event, step):
        def note(n):
            keys.append(current_step().idempotency_key)
            return n

        names = ["a", "a", "a#2", "a (2)", "a", "a (2)"]
        return [await step.run(name, note, n) for n, name in enumerate(names)]

    run = kind.go(work, fresh=fresh)
    assert run["result"] == list(range(6)) and len(set(keys)) == len(keys) == 6
    assert run["steps_done"] == 6 and len(run["steps"]) == 6, "in the view, too, they are six"


# ------------------------------------------------------------------------------------------------------------ nesting
@both
@pytest.mark.parametrize("fill", [False, True])
def test_a_step_inside_a_step_is_refused_with_both_names_and_what_to_do(kind, fill):
    inner = []

    async def work(event, step):
        if kind is ASYNC:

            async def outer():
                await step.run("inner", inner.append, 1)
        else:

            def outer():
                return step._step.run("inner", inner.append, 1)

        await step.run("outer", outer)

    run = kind.go(work, fill=fill)
    with failed_with(run, "StepError") as message:
        assert "NestedStep: step 'inner' was called inside step 'outer'" in message
        assert "return from 'outer' first and call 'inner' in the workflow function" in message
    assert run["attempts"] == 1 and not inner, "no attempt can mend it, so there is none"


def test_a_nested_step_in_parallel_branches_is_refused_too():
    async def work(event, step):
        async def outer(n):
            await step.sleep(f"inner{n}", 1)

        try:
            await asyncio.gather(step.run("o1", outer, 1), step.run("o2", outer, 2))
        except StepError as error:
            return error.message.partition(":")[0]

    assert "was called inside step 'o" in ASYNC.go(work)["result"]


# ------------------------------------------------------------------------------------------------------------ options
@both
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda step: step.run("a", 5), "step 'a': the second argument is the function to perform, not int"),
        (lambda step: step.run("a", len, timeout=0), "step 'a': timeout= takes seconds, "),
        (lambda step: step.run("a", len, timeout=-1), "step 'a': timeout= takes seconds, "),
        (lambda step: step.run("a", len, timeout=True), "step 'a': timeout= takes seconds, "),
        (lambda step: step.run("a", len, timeout="5"), "step 'a': timeout= takes seconds, "),
        (lambda step: step.run("a", len, timeout=float("nan")), "step 'a': timeout= takes seconds, "),
        (lambda step: step.run("a", len, timeout=float("inf")), "step 'a': timeout= takes seconds, "),
        (lambda step: step.run("a", len, retries=-1), "retries= takes 0 to 999"),
        (lambda step: step.run("a", len, retries="x"), "retries= takes 0 to 999"),
        (lambda step: step.run("a", len, once=True, retries=1), "step 'a': once=True means one attempt"),
        (lambda step: step.sleep("a", -1), "step 'a': a sleep takes 0 seconds to 366 days"),
        (lambda step: step.sleep("a", datetime.timedelta(-1)), "step 'a': a sleep takes 0 seconds to 366 days"),
        (lambda step: step.sleep("a", datetime.timedelta(367)), "step 'a': a sleep takes 0 seconds to 366 days"),
        (lambda step: step.sleep("a", float("nan")), "step 'a': a sleep takes 0 seconds to 366 days"),
        (lambda step: step.sleep("a", float("inf")), "step 'a': a sleep takes 0 seconds to 366 days"),
        (lambda step: step.sleep("a", True), "step 'a': a sleep takes 0 seconds to 366 days"),
        (lambda step: step.sleep("a", "5"), "step 'a': a sleep takes 0 seconds to 366 days"),
        (lambda step: step.sleep("a", None), "step 'a': a sleep takes 0 seconds to 366 days"),
        (lambda step: step.sleep_until("a", 5), "step 'a': sleep_until takes a datetime"),
        (lambda step: step.sleep_until("a", datetime.date(2026, 1, 1)), "step 'a': sleep_until takes a datetime"),
        (lambda step: step.sleep_until("a", None), "step 'a': sleep_until takes a datetime"),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)
def test_an_option_that_makes_no_sense_is_refused(kind, call, message):
    async def work(event, step):
        await call(step)

    with failed_with(kind.go(work), "InvalidOption") as said:
        assert said.startswith(message)


def test_parallel_takes_functions_only():
    def work(event, step):
        step.parallel(step.run("a", lambda: 1))

    with failed_with(SYNC.go(work), "InvalidOption") as message:
        assert "step.parallel takes up to 10000 functions without arguments" in message


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on": ""}, InvalidName, "on= is a string of 1 to 256 characters"),
        ({"on": None}, InvalidOption, "on= takes names of events"),
        ({"name": "x" * 257}, InvalidName, "the name of a workflow is a string of 1 to 256 characters"),
        ({"name": ""}, InvalidName, "the name of a workflow is a string of 1 to 256 characters"),
        ({"name": 5}, InvalidName, "the name of a workflow is a string of 1 to 256 characters"),
        ({"retries": -1}, InvalidOption, "retries= takes 0 to 999"),
        ({"max_steps": 0}, InvalidOption, "max_steps= takes 1 to 1,000,000, not 0"),
        ({"max_steps": True}, InvalidOption, "max_steps= takes 1 to 1,000,000, not True"),
        ({"steps_per_invocation": 2}, InvalidOption, 'steps_per_invocation= takes 1 or "fill", not 2'),
        ({"steps_per_invocation": "all"}, InvalidOption, 'steps_per_invocation= takes 1 or "fill"'),
        ({"on_failure": "tell"}, InvalidOption, "on_failure= takes a function (event, step), not str"),
    ],
    ids=str,
)
def test_an_option_of_a_workflow_that_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error) as caught:
        App("rules").workflow(**{"on": "go", **options})(lambda event, step: None)
    assert message in str(caught.value)


def test_two_workflows_of_one_name_are_refused():
    app = App("rules")

    @app.workflow(on="a")
    def work(event, step):
        pass

    with pytest.raises(InvalidName, match=r"app 'rules' has two workflows called 'work': give one of them name=\.\.\."):
        app.workflow(on="b")(lambda event, step: None) and app.workflow(on="b", name="work")(work.fn)


@pytest.mark.parametrize("what", [5, "work", None])
def test_only_a_function_is_a_workflow(what):
    with pytest.raises(InvalidOption, match=r"@app.workflow decorates a function \(event, step\), not "):
        App("rules").workflow(on="go")(what)


@pytest.mark.parametrize("name", ["", "x" * 257, 5, None])
def test_an_app_has_a_name(name):
    with pytest.raises(InvalidName, match="the name of an app is a string of 1 to 256 characters"):
        App(name)


# ------------------------------------------------------------------------------------------------------------- limits
@both
def test_a_step_that_runs_over_its_time_is_stopped_and_tried_again(kind):
    calls = []

    def slow():
        calls.append(1)
        if len(calls) == 1:
            time.sleep(5)
        return "in time"

    async def work(event, step):
        return await step.run("slow", slow, timeout=0.05)

    with Rehearsal(kind.app(work)) as stage:
        run = stage.send("go")
        failed = records(stage, run["run_id"])[1]
    assert run["result"] == "in time" and run["attempts"] == 2
    assert failed["e"]["type"] == "StepTimeout" and "stopped after 0.05 s" in failed["e"]["message"]


def test_a_coroutine_step_that_runs_over_its_time_is_stopped_and_tried_again():
    ended = []

    async def slow():
        try:
            await asyncio.sleep(5)
        finally:
            ended.append(1)

    async def work(event, step):
        await step.run("slow", slow, timeout=0.05, retries=1)

    run = ASYNC.go(work)
    with failed_with(run, "StepError") as message:
        assert "StepTimeout: the step was stopped after 0.0" in message
    assert ended == [1, 1], "its finally blocks ran"


def test_a_time_error_of_the_users_own_is_no_step_timeout():
    async def own():
        async with asyncio.timeout(0):
            await asyncio.sleep(5)

    async def work(event, step):
        await step.run("own", own, timeout=5, retries=0)

    with failed_with(ASYNC.go(work), "StepError") as message:
        assert ": TimeoutError: " in message


def test_a_steps_own_except_exception_does_not_catch_the_end_of_its_time():
    def stubborn():
        try:
            time.sleep(5)
        except Exception:
            return "swallowed"

    with failed_with(
        SYNC.go(lambda event, step: step.run("s", stubborn, timeout=0.02, retries=0)), "StepError"
    ) as message:
        assert "StepTimeout" in message


def in_a_thread(work):
    def worker():
        work()
        if (kept := getattr(loop._threads, "loop", None)) is not None:
            kept.close()

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()


DEEP = contextvars.ContextVar("DEEP", default="unset")


@both
def test_the_limit_holds_in_a_worker_thread_too_and_context_variables_reach_the_step(kind):
    given_up = threading.Event()
    results = []

    async def work(event, step):
        seen = await step.run("quick", lambda: [DEEP.get(), current_step().step], timeout=5)
        try:
            await step.run("slow", given_up.wait, 5, timeout=0.05, retries=0)
        except StepError as error:
            return [seen, error.type]

    def worker():
        DEEP.set("set")
        results.append(kind.go(work)["result"])

    in_a_thread(worker)
    given_up.set()
    assert results == [[["set", "quick"], "StepTimeout"]]


@both
def test_an_error_in_a_worker_thread_passes_through_the_limit(kind):
    results = []

    async def work(event, step):
        await step.run("bad", failing(ValueError("mine")), timeout=5, retries=0)

    in_a_thread(lambda: results.append(kind.go(work)["error"]["message"]))
    assert "ValueError: mine" in results[0]


@both
@pytest.mark.parametrize("fill", [False, True])
def test_a_run_has_a_bound_on_its_steps(kind, fill):
    calls = []

    async def work(event, step):
        for n in range(event.data["steps"]):
            await step.run("same", calls.append, n)

    assert kind.go(work, {"steps": 3}, options={"max_steps": 3}, fill=fill)["status"] == "completed"
    calls.clear()
    run = kind.go(work, {"steps": 4}, options={"max_steps": 3}, fill=fill)
    with failed_with(run, "OnwardError") as message:
        assert "workflow 'work' called more than 3 steps in one run: raise max_steps=" in message
    assert calls == [0, 1, 2]


def test_the_bound_counts_steps_in_parallel():
    calls = []

    async def work(event, step):
        await asyncio.gather(*(step.run(f"s{n}", calls.append, n) for n in range(4)))

    with failed_with(ASYNC.go(work, options={"max_steps": 3}), "OnwardError"):
        assert not calls


@both
def test_a_long_sleep_as_the_last_step_that_is_allowed(kind):
    async def work(event, step):
        await step.sleep("rest", datetime.timedelta(days=3))
        return "rested"

    assert kind.go(work, options={"max_steps": 1})["result"] == "rested"


# ------------------------------------------------------------------------------------------------------------ sleeping
@both
@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize(
    ("duration", "seconds"),
    [(0, 0), (0.5, 0.5), (90, 90), (datetime.timedelta(hours=1), 3600), (datetime.timedelta(days=366), 366 * 86_400)],
    ids=str,
)
def test_a_sleep_lasts_as_long_as_it_says(kind, fill, duration, seconds):
    woken = []

    async def work(event, step):
        await step.sleep("rest", duration)
        await step.run("woken", lambda: woken.append(stage.clock.now_ms()))

    with Rehearsal(kind.app(work), fill=fill) as stage:
        run = stage.send("go")
        assert run["status"] == "completed", run["error"]
    assert woken == [START_MS + seconds * 1000]


@both
@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        (datetime.datetime(2025, 12, 1, 0, 0, 7), 7),
        (datetime.datetime(2025, 12, 1, 2, 0, 7, tzinfo=datetime.timezone(datetime.timedelta(hours=2))), 7),
        (datetime.datetime(2001, 1, 1), 0),
    ],
    ids=str,
)
def test_a_sleep_until_a_moment(kind, when, seconds):
    woken = []

    async def work(event, step):
        await step.sleep_until("rest", when)
        await step.run("woken", lambda: woken.append(stage.clock.now_ms()))

    with Rehearsal(kind.app(work)) as stage:
        stage.send("go")
    assert woken == [START_MS + seconds * 1000]
