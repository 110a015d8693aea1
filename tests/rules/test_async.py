"""What an async workflow may await, and what it is told when it awaits what nobody brings."""

import asyncio
import time

import pytest

from onward.testing import Rehearsal
from tests.rules.acting import ASYNC, SYNC, failed_with


def test_a_coroutine_function_in_a_sync_workflow_is_an_error_that_says_what_to_do():
    async def fetch():
        return 1

    def work(event, step):
        return step.run("fetch", fetch)

    run = SYNC.go(work)
    with failed_with(run, "StepError") as message:
        assert "step 'fetch' performs a coroutine function, but workflow 'work' is not async" in message
        assert "write `async def work(event, step)` and `await step.run(...)`" in message
    assert run["attempts"] == 1


@pytest.mark.parametrize("make", [lambda: asyncio.Event().wait(), lambda: asyncio.get_running_loop().create_future()])
def test_awaiting_what_no_step_brings_is_an_error_and_no_hang(make):
    done = []

    async def work(event, step):
        await step.run("a", done.append, 1)
        await make()

    with failed_with(ASYNC.go(work), "DefinitionError") as message:
        assert "workflow 'work' waits for something that no step will bring" in message
    assert done == [1]


def test_awaiting_what_no_step_brings_beside_a_step_ends_when_the_step_has_ended():
    async def work(event, step):
        await asyncio.gather(step.run("a", lambda: 1), asyncio.Event().wait())

    run = ASYNC.go(work)
    with failed_with(run, "DefinitionError"):
        assert run["steps_done"] == 1


def test_a_workflow_that_awaits_nothing_at_all():
    async def work(event, step):
        return 1

    assert ASYNC.go(work)["result"] == 1


@pytest.mark.parametrize("fill", [False, True])
def test_real_sleeps_and_threads_between_steps_are_waited_for(fill):
    async def work(event, step):
        a = await step.run("a", lambda: 1)
        await asyncio.sleep(0.005)
        b = await asyncio.to_thread(lambda: time.sleep(0.005) or 2)
        c = await step.run("c", lambda: 3)
        await asyncio.wait_for(asyncio.sleep(0.001), 1)
        return [a, b, c]

    assert ASYNC.go(work, fill=fill)["result"] == [1, 2, 3]


@pytest.mark.parametrize("fill", [False, True])
def test_a_real_sleep_beside_steps_does_not_change_what_is_planned(fill):
    async def work(event, step):
        async def branch(n):
            await asyncio.sleep(0.002 * n)
            return await step.run(f"s{n}", lambda: n)

        return await asyncio.gather(*(branch(n) for n in range(3)))

    with Rehearsal(ASYNC.app(work), fill=fill) as stage:
        run = stage.send("go")
        assert run["result"] == [0, 1, 2] and run["attempts"] == 3


def test_tasks_of_the_workflow_that_are_not_awaited_end_with_it():
    done = []

    async def work(event, step):
        task = asyncio.create_task(step.run("background", done.append, 1))
        await asyncio.sleep(0)
        return task.done()

    run = ASYNC.go(work)
    assert run["result"] is False and not done


async def within_timeout(step, done):
    async with asyncio.timeout(60):
        await step.run("a", done.append, 1)


async def within_wait_for(step, done):
    await asyncio.wait_for(step.run("a", done.append, 1), 60)


async def within_wait(step, done):
    await asyncio.wait([asyncio.ensure_future(step.run("a", done.append, 1))], timeout=60)


@pytest.mark.parametrize("limit", [within_timeout, within_wait_for, within_wait])
def test_a_time_limit_of_asyncio_around_a_step_is_an_error_that_says_what_to_do(limit):
    done = []

    async def work(event, step):
        await limit(step, done)

    with failed_with(ASYNC.go(work), "DefinitionError") as message:
        assert "workflow 'work' puts a time limit of asyncio" in message and "Give the step timeout=" in message
    assert not done


def test_a_time_limit_of_asyncio_around_other_things_is_fine():
    async def work(event, step):
        async with asyncio.timeout(60):
            await asyncio.sleep(0.002)
        a = await step.run("a", lambda: 1)
        return [a, await asyncio.wait_for(asyncio.to_thread(time.sleep, 0.005), 60)]

    assert ASYNC.go(work)["result"] == [1, None]


def test_a_time_limit_of_asyncio_inside_of_a_step_is_fine():
    async def fetch():
        async with asyncio.timeout(60):
            return await asyncio.wait_for(asyncio.sleep(0.001, 7), 60)

    async def work(event, step):
        return await asyncio.gather(step.run("a", fetch), step.run("b", fetch))

    assert ASYNC.go(work)["result"] == [7, 7]


def test_a_time_limit_of_asyncio_that_runs_out_where_no_step_is_awaited():
    async def work(event, step):
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return await step.run("a", lambda: "late")

    assert ASYNC.go(work)["result"] == "late"


def test_one_step_with_two_awaiters():
    calls = []

    async def work(event, step):
        task = asyncio.ensure_future(step.run("a", lambda: calls.append(1) or 7))
        return await asyncio.gather(asyncio.shield(task), asyncio.shield(task))

    assert ASYNC.go(work)["result"] == [7, 7] and calls == [1]


def test_a_step_that_was_cancelled_before_it_was_performed_is_not_performed():
    done = []

    async def work(event, step):
        task = asyncio.ensure_future(step.run("never", done.append, "never"))
        await asyncio.sleep(0)
        task.cancel()
        await step.run("a", done.append, "a")
        return task.cancelled()

    assert ASYNC.go(work)["result"] is True and done == ["a"]
