"""The signal that leaves a workflow between two steps: what lets it pass, and what is told that it does not."""

import asyncio
import contextlib

import pytest

from onward.testing import Rehearsal
from tests.rules.acting import ASYNC, SYNC, both, failed_with


def swallowed_by_a_bare_except(event, step):
    try:
        step.run("a", lambda: 1)
    except:  # noqa: E722
        return "swallowed"


def swallowed_by_except_base_exception(event, step):
    with_error = None
    try:
        step.run("a", lambda: 1)
    except BaseException as error:
        with_error = str(error)
    return with_error


def swallowed_by_suppress(event, step):
    with contextlib.suppress(BaseException):
        step.run("a", lambda: 1)


def swallowed_by_another_error(event, step):
    try:
        step.run("a", lambda: 1)
    except BaseException as error:
        raise RuntimeError("something else") from error


def swallowed_in_a_sleep(event, step):
    try:
        step.sleep("rest", 60)
    except BaseException:
        return


def swallowed_by_return_in_finally(event, step):
    try:
        step.run("a", lambda: 1)
    finally:
        return "swallowed"  # noqa: B012


def swallowed_around_parallel_steps(event, step):
    try:
        step.parallel(lambda: step.run("a", lambda: 1), lambda: step.run("b", lambda: 2))
    except BaseException:
        return


def swallowed_in_a_branch(event, step):
    def branch():
        try:
            return step.run("a", lambda: 1)
        except BaseException:
            return None

    return step.parallel(branch, lambda: step.run("b", lambda: 2))


def swallowed_in_a_nested_branch_by_another_error(event, step):
    def branch():
        try:
            return step.parallel(lambda: step.run("a", lambda: 1))
        except BaseException as error:
            raise ValueError("something else") from error

    try:
        return step.parallel(branch, lambda: step.run("b", lambda: 2))
    except ValueError:
        return None


async def swallowed_by_a_bare_except_async(event, step):
    try:
        await step.run("a", lambda: 1)
    except:  # noqa: E722
        return "swallowed"


async def swallowed_by_except_cancelled(event, step):
    try:
        await step.run("a", lambda: 1)
    except asyncio.CancelledError:
        return "swallowed"


async def swallowed_by_suppress_async(event, step):
    with contextlib.suppress(asyncio.CancelledError):
        await step.run("a", lambda: 1)


async def swallowed_around_gather(event, step):
    try:
        await asyncio.gather(step.run("a", lambda: 1), step.run("b", lambda: 2))
    except asyncio.CancelledError:
        return "swallowed"


async def swallowed_by_another_error_async(event, step):
    try:
        await step.run("a", lambda: 1)
    except asyncio.CancelledError:
        raise RuntimeError("something else") from None


SWALLOWERS = [
    swallowed_by_a_bare_except,
    swallowed_by_except_base_exception,
    swallowed_by_suppress,
    swallowed_by_another_error,
    swallowed_in_a_sleep,
    swallowed_by_return_in_finally,
    swallowed_around_parallel_steps,
    swallowed_in_a_branch,
    swallowed_in_a_nested_branch_by_another_error,
    swallowed_by_a_bare_except_async,
    swallowed_by_except_cancelled,
    swallowed_by_suppress_async,
    swallowed_around_gather,
    swallowed_by_another_error_async,
]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("story", SWALLOWERS, ids=lambda story: story.__name__)
def test_a_workflow_that_swallows_the_signal_fails_and_is_told_so(story, fresh):
    with Rehearsal(ASYNC.app(story), fresh=fresh) as stage:
        run = stage.send("go")
        assert not list(stage.open_heads())
    with failed_with(run, "LeaveSwallowed") as message:
        assert message.startswith("workflow 'work' caught the signal by which Onward leaves it between two steps (run ")
        assert run["run_id"] in message and "Write `except Exception` instead" in message


@both
@pytest.mark.parametrize("fill", [False, True])
def test_except_exception_does_not_see_the_signal(kind, fill):
    async def work(event, step):
        seen = []
        for name in "abc":
            try:
                seen.append(await step.run(name, lambda name=name: name))
            except Exception as error:
                seen.append(repr(error))
        return seen

    assert kind.go(work, fill=fill)["result"] == ["a", "b", "c"]


@both
@pytest.mark.parametrize("fill", [False, True])
def test_finally_blocks_and_context_managers_around_steps_are_fine(kind, fill):
    entered, left = [], []

    @contextlib.contextmanager
    def span(name):
        entered.append(name)
        try:
            yield
        finally:
            left.append(name)

    async def work(event, step):
        with span("outer"):
            first = await step.run("a", lambda: 1)
            try:
                with span("inner"):
                    second = await step.run("b", lambda: 2)
            finally:
                left.append("finally")
        return first + second

    run = kind.go(work, fill=fill)
    assert run["result"] == 3 and run["attempts"] == 2
    assert len(entered) + left.count("finally") == len(left)


@both
@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_step_in_a_finally_block_is_performed_once_at_its_time(kind, fill, fails):
    done = []

    def main():
        done.append("main")
        if fails:
            raise ValueError("no")

    async def work(event, step):
        try:
            await step.run("main", main, retries=0)
        finally:
            await step.run("cleanup", done.append, "cleanup")
        return "ok"

    run = kind.go(work, fill=fill)
    assert done == ["main", "cleanup"] and run["steps_done"] == (1 if fails else 2)
    assert run["status"] == ("failed" if fails else "completed"), run["error"]


@both
def test_catching_the_signal_and_raising_it_again_is_fine(kind):
    async def work(event, step):
        try:
            return await step.run("a", lambda: 1)
        except BaseException:
            raise

    assert kind.go(work)["result"] == 1


@pytest.mark.parametrize("fill", [False, True])
def test_a_step_in_a_finally_block_of_a_parallel_branch_is_performed_after_the_branch(fill):
    done = []

    def work(event, step):
        def branch(name):
            try:
                return step.parallel(lambda: step.run(name, done.append, name))
            finally:
                step.run(f"{name}-end", done.append, f"{name}-end")

        step.parallel(lambda: branch("a"), lambda: branch("b"))
        return "ok"

    run = SYNC.go(work, fill=fill)
    assert run["result"] == "ok", run["error"]
    assert len(done) == 4 and all(done.index(name) < done.index(f"{name}-end") for name in "ab"), done


def test_a_task_group_with_finally_blocks_that_call_steps():
    done = []

    async def branch(step, name):
        try:
            return await step.run(name, done.append, name)
        finally:
            await step.run(f"{name}-end", done.append, f"{name}-end")

    async def work(event, step):
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(branch(step, name))
        return "ok"

    run = ASYNC.go(work)
    assert run["result"] == "ok", run["error"]
    assert sorted(done) == ["a", "a-end", "b", "b-end"]


def test_awaiting_something_else_while_the_workflow_is_left_is_fine():
    closed = []

    async def work(event, step):
        try:
            await step.run("a", lambda: 1)
            await step.run("b", lambda: 2)
        finally:
            await asyncio.sleep(0.001)
            closed.append(1)
        return "ok"

    assert ASYNC.go(work)["result"] == "ok" and len(closed) == 3


def test_a_step_called_behind_a_swallowed_signal_is_not_performed_then():
    done = []

    def work(event, step):
        with contextlib.suppress(BaseException):
            step.run("a", done.append, "a")
        step.run("b", done.append, "b")
        return "ok"

    run = SYNC.go(work)
    assert done == ["a", "b"] and run["result"] == "ok", "the next step raised the signal again, and it passed"


@pytest.mark.parametrize("how", ["group", "task"])
def test_a_result_that_no_longer_fits_fails_the_run_from_within_a_task(how):
    made, done = [], []

    def make():
        made.append(1)
        return "text"

    async def work(event, step):
        what = int if made else None
        if how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(step.run("a", make, output_type=what))
                group.create_task(step.sleep("nap", 1))
        else:
            task = asyncio.create_task(step.run("a", make, output_type=what))
            await step.run("b", lambda: 1)
            await step.run("c", done.append, "c")
            await task
        return "ok"

    with failed_with(ASYNC.go(work), "NotEncodable") as message:
        assert "the result of step 'a' in the log does not fit its output_type=" in message
    assert made == [1] and not done
