"""Every case of the corpus, done again from each of its steps: it comes to what the case says, and what it was copied
from stays as it was, wherever the process that makes the fork dies."""

import itertools

import pytest

from onward.core.errors import Unavailable
from onward.core.log import partition_of
from onward.engine import forks
from onward.engine.engine import Engine
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from onward.testing import Rehearsal
from tests.corpus import CASES, Effects
from tests.faults import MODES, Faulty, Killed, Trip


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture
def stage(case, tmp_path):
    store = SqliteStore(":memory:")
    with Rehearsal(case.build(Effects()), store=store, blobs=FolderBlobs(tmp_path), fresh=True) as stage:
        yield stage
    store.close()


def items_of(stage, run):
    """What the store has of a run, but for its marks and its timer, which are no part of it."""
    return [
        (item.sort, item.token, item.body, item.value, item.due_ms)
        for first, last in (("H", "L~"), ("S#", "S~"))
        for item in stage.store.read(partition_of(run), first, last)
    ]


def results_of(case):
    """A fork that sends an event again finds the one that its parent has sent, which was there before."""
    return [*case.results, *([[False, 7]] if str(case) == "an_event_that_is_sent_and_waited_for" else [])]


def places_of(stage, run):
    return [None, *(step["name"] for step in stage.view(run)["steps"])]


def test_a_case_done_again_from_any_of_its_steps_comes_to_what_it_says(case, stage):
    parent = stage.send("go", case.data)["run_id"]
    before = items_of(stage, parent)
    for step in places_of(stage, parent):
        run = forks.fork(stage.engine, parent, step)
        stage.drain()
        view = stage.view(run)
        assert (view["status"], view["result"] in results_of(case)) == (case.status, True), (step, view)
        assert items_of(stage, parent) == before, f"the parent was altered by a fork from {step}"
        assert not list(stage.open_heads())


def test_a_fork_survives_the_death_of_who_makes_it_at_every_call(case, stage):
    parent = stage.send("go", case.data)["run_id"]
    before = items_of(stage, parent)
    for step, mode in itertools.product(places_of(stage, parent), MODES):
        for at in itertools.count(1):
            request, trip = f"{mode}-{at}", Trip(at, mode)
            ports = [Faulty(port, trip) for port in (stage.store, stage.queue, stage.blobs)]
            try:
                forks.fork(Engine(stage.app, *ports, stage.clock), parent, step, request=request)
            except (Killed, Unavailable):
                pass
            stage.drain()
            run = forks.fork(stage.engine, parent, step, request=request)
            stage.drain()
            view, where = stage.view(run), f"from {step}, {mode} call {at} ({trip.tripped})"
            assert (view["status"], view["result"] in results_of(case)) == (case.status, True), (where, view)
            assert items_of(stage, parent) == before, f"{where}: the parent was altered"
            assert not list(stage.open_heads()), f"{where}: a run was left open"
            if trip.tripped is None:
                break
