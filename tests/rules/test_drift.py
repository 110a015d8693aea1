"""A deploy in the middle of a run: the code changes while its log stays."""

import asyncio
from functools import partial

import pytest

from onward import App
from onward.core.errors import UnknownWorkflow
from onward.engine.sweep import MAX_STALLS
from onward.testing import Rehearsal
from tests.rules.acting import ASYNC, SYNC, Notes, both, failed_with


class Story:
    """A workflow of named steps, some of which may fail; it counts what is performed."""

    def __init__(self):
        self.done = []

    def steps(self, *names, sleeps=(), fails=()):
        def do(name):
            self.done.append(name)
            if name in fails:
                raise ValueError(name)
            return name

        async def work(event, step):
            seen = []
            for name in names:
                if name in sleeps:
                    await step.sleep(name, 60)
                else:
                    seen.append(await step.run(name, do, name))
            return seen

        return work


def deployed_in_the_middle(kind, old, new, *, after, fresh, told=None):
    """Deliver `after` wakes to the old code, then everything to the new one; the view of the run."""
    with Rehearsal(kind.app(old), fresh=fresh) as stage:
        [run] = stage.start("go")
        for _ in range(after):
            stage.step()
        options = {} if told is None else {"on_failure": lambda event, step: told.append(event.data["error"]["type"])}
        stage.app = kind.app(new, **options)
        stage.engine = stage.new_engine()
        stage.drain()
        assert not list(stage.open_heads())
        return stage.view(run)


deploys = pytest.mark.parametrize("fresh", [False, True])


@both
@deploys
@pytest.mark.parametrize(
    ("new", "finished"),
    [
        (["x", "b", "c"], "a"),  # renamed
        (["b", "c"], "a"),  # removed
        (["n", "a", "b", "c"], "a"),  # one put in front
        (["c", "a", "b"], "a"),  # one that is not finished moved to the front
        (["a", "c", "b"], "b"),
        (["a", "n", "b", "c"], "b"),
    ],
    ids=" ".join,
)
def test_finished_steps_that_the_code_no_longer_has_at_their_place_are_a_drift(kind, fresh, new, finished):
    story, told = Story(), []
    after = 1 if finished == "a" else 2
    run = deployed_in_the_middle(
        kind, story.steps("a", "b", "c"), story.steps(*new), after=after, fresh=fresh, told=told
    )
    assert story.done == ["a", "b"][:after], "nothing was performed by the new code"
    assert told == ["Drift"]
    with failed_with(run, "Drift") as message:
        assert f"the log has finished step '{finished}', which the code does not call" in message
        assert f"of run {run['run_id']}" in message and "Nothing was performed." in message
        head, *table = message.split("\n")
        assert head.endswith("Deploy code that still has the finished steps under their names, or start a new run.")
        assert [cell.strip() for cell in table[0].split("|")] == ["log", "code"]
        called = [line.split("|")[1].strip() for line in table[1:]]
        logged = [line.split("|")[0].strip("! ") for line in table[1:]]
        assert finished in logged and [name for name in new if name in called] == [name for name in called if name]
        assert any(line.startswith("  !") for line in table)


@both
@deploys
def test_finished_steps_may_change_places(kind, fresh):
    story = Story()
    run = deployed_in_the_middle(kind, story.steps("a", "b", "c"), story.steps("b", "a", "c"), after=2, fresh=fresh)
    assert run["result"] == ["b", "a", "c"] and story.done == ["a", "b", "c"]


@both
@deploys
def test_a_step_may_be_put_behind_the_finished_ones(kind, fresh):
    story = Story()
    run = deployed_in_the_middle(kind, story.steps("a", "c"), story.steps("a", "b", "c"), after=1, fresh=fresh)
    assert run["result"] == ["a", "b", "c"] and story.done == ["a", "b", "c"]


@both
@deploys
@pytest.mark.parametrize("new", [["a", "mended"], ["a"]], ids=" ".join)
def test_a_step_that_only_failed_so_far_may_be_renamed_or_removed(kind, fresh, new):
    story = Story()
    run = deployed_in_the_middle(kind, story.steps("a", "bad", fails=["bad"]), story.steps(*new), after=3, fresh=fresh)
    assert run["result"] == new and story.done == ["a", "bad", "bad", *new[1:]]


@both
@deploys
def test_removing_a_finished_step_that_was_the_last_completes_the_run(kind, fresh):
    story, notes = Story(), Notes()
    with Rehearsal(kind.app(story.steps("a", "b")), fresh=fresh, note=notes) as stage:
        [run] = stage.start("go")
        stage.step()
        stage.step()
        stage.app = kind.app(story.steps("a"))
        stage.engine = stage.new_engine()
        stage.drain()
        assert stage.view(run)["result"] == ["a"]
    [line] = notes.of("finished steps are no longer called")
    assert line["run_id"] == run and line["steps"] == ["b"]


@both
@deploys
def test_a_sleep_that_began_is_a_finished_step(kind, fresh):
    story = Story()
    old, new = story.steps("rest", "a", sleeps=["rest"]), story.steps("nap", "a", sleeps=["nap"])
    with failed_with(deployed_in_the_middle(kind, old, new, after=1, fresh=fresh), "Drift") as message:
        assert "'rest'" in message and "'nap'" in message and not story.done


@both
@deploys
@pytest.mark.parametrize("early", [True, False], ids=["asleep", "over"])
def test_a_sleep_of_the_log_never_passes_for_a_step_that_was_performed(kind, fresh, early):
    story = Story()
    old, new = story.steps("a", "rest", "b", sleeps=["rest"]), story.steps("a", "rest", "b")
    with Rehearsal(kind.app(old), fresh=fresh) as stage:
        [run] = stage.start("go")
        stage.step()
        stage.step()
        stage.app = kind.app(new)
        stage.engine = stage.new_engine()
        if early:  # a wake that comes twice finds the run asleep
            stage.deliver({"do": "advance", "run": run, "seq": 3})
        stage.drain()
        with failed_with(stage.view(run), "Drift") as message:
            assert "the log has slept in step 'rest', where the code performs a function" in message
    assert story.done == ["a"]


@pytest.mark.parametrize("make", ["branches", "gather"])
@deploys
def test_a_sleep_in_flight_never_passes_for_a_step_that_was_performed(make, fresh):
    done = []

    def app(sleeps):
        def rest(step):
            return step.sleep("rest", 60) if sleeps else step.run("rest", lambda: done.append("rest") or "rested")

        def branches(event, step):
            step.parallel(partial(rest, step), partial(step.run, "a", lambda: done.append("a")))
            return step.run("b", lambda: done.append("b"))

        async def gather(event, step):
            await asyncio.gather(rest(step), step.run("a", lambda: done.append("a")))
            return await step.run("b", lambda: done.append("b"))

        return ASYNC.app(branches if make == "branches" else gather)

    with Rehearsal(app(True), fresh=fresh) as stage:
        [run] = stage.start("go")
        while "b" not in done:
            stage.step()
        stage.app = app(False)
        stage.engine = stage.new_engine()
        stage.drain()
        with failed_with(stage.view(run), "Drift") as message:
            assert "the log has slept in step 'rest'" in message
    assert done == ["a", "b"]


@both
@deploys
def test_one_less_of_a_repeated_name_is_a_drift(kind, fresh):
    story = Story()
    old, new = story.steps("a", "a", "b"), story.steps("a", "b")
    with failed_with(deployed_in_the_middle(kind, old, new, after=2, fresh=fresh), "Drift") as message:
        assert "finished step 'a (2)'" in message and story.done == ["a", "a"]


# ------------------------------------------------------------------------------------------------ steps in parallel
def gathered(done, *names):
    async def work(event, step):
        return await asyncio.gather(*(step.run(name, lambda name=name: done.append(name) or name) for name in names))

    return work


def branched(done, *names):
    def work(event, step):
        return step.parallel(*(partial(step.run, name, lambda name=name: done.append(name) or name) for name in names))

    return work


@pytest.mark.parametrize("make", [branched, gathered])
@deploys
@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("new", ["ax", "a", "abc", "xy"])
def test_parallel_steps_that_changed_while_in_flight_are_a_drift(make, fresh, after, new):
    done = []
    run = deployed_in_the_middle(ASYNC, make(done, *"ab"), make(done, *new), after=after, fresh=fresh)
    assert len(done) == after - 1, "nothing was performed by the new code"
    with failed_with(run, "Drift") as message:
        assert "record 1 put 2 steps in flight here, but calls " in message
        assert "\n" in message and "log" in message


@pytest.mark.parametrize("make", [branched, gathered])
@deploys
def test_parallel_steps_may_change_their_order(make, fresh):
    done = []
    run = deployed_in_the_middle(ASYNC, make(done, *"abc"), make(done, *"cab"), after=2, fresh=fresh)
    assert run["result"] == ["c", "a", "b"] and sorted(done) == ["a", "b", "c"]


# --------------------------------------------------------------------------------------- a workflow that is gone
@both
@pytest.mark.parametrize("old", ["sequence", "parallel"])
def test_a_run_whose_workflow_is_gone_stands_says_so_and_goes_on_when_it_is_back(kind, old):
    done, notes, story = [], Notes(), Story()
    before = kind.app(story.steps("a", "b")) if old == "sequence" else ASYNC.app(gathered(done, *"ab"))
    with Rehearsal(before, note=notes) as stage:
        [run] = stage.start("go")
        stage.step()
        stage.app = App("rules")
        stage.engine = stage.new_engine()
        wake = stage.queue.take()[1]
        with pytest.raises(UnknownWorkflow, match="app 'rules' has no workflow 'work'; it has none"):
            stage.deliver(wake)
        [line] = notes.of("the workflow of a run is gone")
        assert (line["run_id"], line["workflow"]) == (run, "work") and "no workflow 'work'" in line["reason"]
        assert stage.view(run)["status"] == "running"
        stage.app = before
        stage.engine = stage.new_engine()
        stage.drain()
        assert stage.view(run)["result"] == ["a", "b"]


def test_a_run_whose_workflow_stays_away_fails_in_the_end_and_says_why():
    with Rehearsal(SYNC.app(Story().steps("a", "b"))) as stage:
        [run] = stage.start("go")
        stage.step()
        stage.app = App("rules")
        stage.engine = stage.new_engine()
        for _ in range(4 * MAX_STALLS):
            try:
                if not stage.step() and not stage.sweep():
                    break
            except UnknownWorkflow:
                continue
        else:
            raise AssertionError("it goes on for ever")
        with failed_with(stage.view(run), "UnknownWorkflow") as message:
            assert "app 'rules' has no workflow 'work'" in message
