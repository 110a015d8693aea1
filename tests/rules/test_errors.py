"""What happens to a step that fails, and to its run."""

import asyncio
import datetime
import itertools
import pathlib
import sys

import pytest

import onward
from onward import NonRetriable, Retry, RetryAfter, StepError, current_step
from onward.testing import Rehearsal
from tests.rules.acting import ASYNC, STEADY, SYNC, both, failed_with, failing, records

DEFAULTS = {"retries": 4}
AT = datetime.datetime(2025, 12, 1, 0, 1, 30)  # 90 seconds after a rehearsal starts


OURS = str(pathlib.Path(onward.__file__).parent)


class Teapot(Exception):
    pass


def brew(kind):
    raise Teapot(f"no {kind}")  # the user's own line


@both
def test_a_step_is_tried_again_four_times_unless_told_otherwise(kind):
    calls = []

    async def work(event, step):
        await step.run("bad", failing(Teapot("no"), calls))

    run = kind.go(work, options=DEFAULTS)
    assert len(calls) == 5 and run["attempts"] == 5 and run["retries"] == 4 and run["status"] == "failed"


@both
@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (Retry(3), 3)])
def test_a_policy_of_the_workflow(kind, retries, attempts):
    async def work(event, step):
        await step.run("bad", failing(Teapot))

    assert kind.go(work, options={"retries": retries})["attempts"] == attempts


@both
@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (Retry(3), 3)])
def test_a_policy_of_the_step_stands_before_the_workflows(kind, retries, attempts):
    async def work(event, step):
        await step.run("bad", failing(Teapot), retries=retries)

    assert kind.go(work)["attempts"] == attempts


@both
@pytest.mark.parametrize("fill", [False, True])
def test_the_waits_between_attempts_grow(kind, fill):
    times = []

    async def work(event, step):
        await step.run("bad", lambda: times.append(stage.clock.now_ms()) or brew("tea"))

    with Rehearsal(kind.app(work, retries=STEADY), fill=fill) as stage:
        stage.send("go")
    assert [late - soon for soon, late in itertools.pairwise(times)] == [1_000, 2_000, 4_000, 8_000]


@pytest.mark.parametrize("seed", range(3))
def test_the_default_waits_lie_within_full_jitter(seed):
    times = []

    def work(event, step):
        step.run("bad", lambda: times.append(stage.clock.now_ms()) or brew("tea"))

    with Rehearsal(SYNC.app(work, **DEFAULTS), seed=seed) as stage:
        stage.send("go")
    waits = [late - soon for soon, late in itertools.pairwise(times)]
    assert all(0 <= wait <= longest for wait, longest in zip(waits, (1_000, 2_000, 4_000, 8_000), strict=True))
    assert len(set(waits)) == 4


@both
@pytest.mark.parametrize(
    "when",
    [
        90,
        90.0,
        "90",
        datetime.datetime(2025, 12, 1, 0, 1, 30),
        datetime.datetime(2025, 12, 1, 0, 1, 30, tzinfo=datetime.UTC),
    ],
    ids=str,
)
def test_a_step_chooses_when_it_is_tried_again(kind, when):
    times = []

    def later():
        times.append(stage.clock.now_ms())
        if len(times) == 1:
            raise RetryAfter(when)
        return "ok"

    async def work(event, step):
        return await step.run("later", later)

    with Rehearsal(kind.app(work)) as stage:
        run = stage.send("go")
    assert run["result"] == "ok" and times[1] - times[0] == 90_000 and run["attempts"] == 2


@both
def test_a_time_in_the_past_is_now_and_each_asking_consumes_an_attempt(kind):
    async def work(event, step):
        await step.run("later", failing(RetryAfter(datetime.datetime(2001, 1, 1))), retries=2)

    with Rehearsal(kind.app(work)) as stage:
        started = stage.clock.now_ms()
        run = stage.send("go")
        assert stage.clock.now_ms() == started
    assert run["attempts"] == 3
    with failed_with(run, "StepError") as message:
        assert "step 'later' failed for good after it was performed 3 times: RetryAfter: asked to be retried" in message


@both
def test_a_retry_after_that_is_no_time_fails_the_step_and_says_so(kind):
    async def work(event, step):
        await step.run("later", lambda: (_ for _ in ()).throw(RetryAfter("Wed, 21 Oct 2026 07:28:00 GMT")))

    run = kind.go(work)
    with failed_with(run, "StepError") as message:
        assert "InvalidOption: RetryAfter takes seconds" in message and run["attempts"] == 1


@both
def test_non_retriable_fails_that_step_only_and_can_be_caught(kind):
    async def work(event, step):
        try:
            await step.run("bad", failing(NonRetriable("no such client")))
        except StepError as error:
            return [error.type, error.message, error.attempts, await step.run("good", lambda: 1)]

    run = kind.go(work)
    assert run["result"] == ["NonRetriable", "no such client", 1, 1] and run["status"] == "completed"


@both
def test_a_subclass_of_non_retriable_is_one(kind):
    class NoSuchClient(NonRetriable):
        pass

    async def work(event, step):
        await step.run("bad", failing(NoSuchClient("7")))

    assert kind.go(work)["attempts"] == 1


@both
def test_non_retriable_in_the_workflow_itself_fails_the_run(kind):
    async def work(event, step):
        raise NonRetriable("stop here")

    with failed_with(kind.go(work), "NonRetriable") as message:
        assert message == "stop here"


@both
@pytest.mark.parametrize("fresh", [False, True])
def test_a_step_error_carries_type_message_attempts_and_the_users_own_traceback(kind, fresh):
    caught = []

    async def work(event, step):
        try:
            await step.run("brew", brew, "coffee", retries=1)
        except StepError as error:
            caught.append(error)
            raise

    run = kind.go(work, fresh=fresh)
    for error in caught:
        assert (error.step, error.attempts, error.message) == ("brew", 2, "no coffee")
        assert error.type == f"{__name__}.Teapot"
        assert 'raise Teapot(f"no {kind}")  # the user\'s own line' in error.traceback
        assert error.traceback.startswith("Traceback (most recent call last):\n")
        assert OURS not in error.traceback
    with failed_with(run, "StepError") as message:
        assert message.startswith("step 'brew' failed for good after it was performed 2 times: ")


def test_the_traceback_of_a_coroutine_step_shows_the_users_code_only():
    async def inner():
        await asyncio.sleep(0)
        brew("mate")

    async def work(event, step):
        try:
            await step.run("brew", inner, retries=0)
        except StepError as error:
            return error.traceback

    trace = ASYNC.go(work)["result"]
    assert "in inner" in trace and "the user's own line" in trace
    assert OURS not in trace and "asyncio" not in trace


def test_a_wrong_call_of_the_users_function_says_so():
    def work(event, step):
        step.run("brew", brew, retries=0)

    with failed_with(SYNC.go(work), "StepError") as message:
        assert "TypeError: brew() missing 1 required positional argument: 'kind'" in message


@both
def test_an_uncaught_error_of_a_step_fails_the_run_and_calls_on_failure(kind):
    told = []

    async def tell(event, step):
        told.append((event.name, event.data))
        return await step.run("tell", lambda: "told")

    async def work(event, step):
        await step.run("brew", brew, "tea", retries=0)

    app = kind.app(
        work, on_failure=tell if kind is ASYNC else __import__("tests.rules.acting").rules.acting.as_sync(tell)
    )
    with Rehearsal(app) as stage:
        run = stage.send("go", {"client": 7, "$": 1, "price": datetime.date(2026, 1, 1)}, id="event-1")
    [(name, data), *_] = told
    assert name == "onward/run.failed"
    assert data["run_id"] == run["run_id"] and data["workflow"] == "work"
    assert data["error"]["type"] == "StepError" and "Teapot: no tea" in data["error"]["message"]
    assert data["event"] == {
        "name": "go",
        "id": "event-1",
        "data": {"client": 7, "$": 1, "price": datetime.date(2026, 1, 1)},
    }


@both
def test_an_error_of_the_workflow_itself_fails_the_run_with_the_users_line(kind):
    async def work(event, step):
        await step.run("a", lambda: 1)
        brew("maté")

    run = kind.go(work)
    with failed_with(run, f"{__name__}.Teapot") as message:
        assert message == "no maté"
    assert "the user's own line" in run["error"]["traceback"] and OURS not in run["error"]["traceback"]
    assert run["attempts"] == 1, "what is finished is not performed again, and the workflow is not retried"


@both
def test_a_step_that_ends_the_process_politely_is_a_failed_attempt(kind):
    calls = []

    def leave():
        calls.append(1)
        sys.exit(3)

    async def work(event, step):
        await step.run("bad", leave, retries=1)

    with failed_with(kind.go(work), "StepError") as message:
        assert "SystemExit: 3" in message and len(calls) == 2


def test_a_coroutine_step_that_cancels_itself_is_a_failed_attempt():
    async def cancelled():
        raise asyncio.CancelledError

    async def work(event, step):
        await step.run("bad", cancelled, retries=1)

    run = ASYNC.go(work)
    with failed_with(run, "StepError") as message:
        assert "CancelledError" in message and run["attempts"] == 2


@both
def test_an_error_whose_message_cannot_be_shown_is_an_error_all_the_same(kind):
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError

    async def work(event, step):
        await step.run("bad", failing(Broken()), retries=0)

    with failed_with(kind.go(work), "StepError") as message:
        assert "(its message cannot be shown: RuntimeError)" in message


@both
def test_a_huge_message_and_a_lone_surrogate_are_kept_within_bounds(kind):
    async def work(event, step):
        await step.run("bad", failing(Teapot("\ud800" + "x" * 1_000_000)), retries=0)

    with Rehearsal(kind.app(work)) as stage:
        run = stage.send("go")
        body = next(body for body in records(stage, run["run_id"]) if body["k"] == "broken")
    assert len(body["e"]["message"]) <= 2_000 and "characters left out" in body["e"]["message"]
    assert len(body["e"]["traceback"]) <= 8_000


@both
@pytest.mark.parametrize("error", [None, Teapot("no")])
def test_a_step_declared_once_is_performed_once_even_when_it_raises(kind, error):
    calls = []

    async def work(event, step):
        def charge():
            calls.append(current_step().attempt)
            if error:
                raise error
            return "charged"

        try:
            return await step.run("charge", charge, once=True)
        except StepError as caught:
            return [caught.type.rpartition(".")[2], caught.attempts]

    run = kind.go(work)
    assert calls == [1] and run["result"] == (["Teapot", 1] if error else "charged")
