"""Each kind of chaos does what its name says, at the ports and nowhere else."""

import json
from collections import Counter

import pytest

from onward.chaos import CALLS, Killed, Mixture, surround
from onward.core.errors import Unavailable
from onward.ports import Item, Put
from onward.testing import FakeClock

TRIES = 2_000


class World:
    """Ports that write down what reaches them."""

    reach_ms = 900_000

    def __init__(self):
        self.reached = []
        self.lines = []

    def write(self, writes, also=()):
        self.reached.append("write")

    def read(self, partition, first, last, *, limit=None, newest_first=False):
        self.reached.append("read")
        return []

    def send(self, wake, at_ms=None):
        self.reached.append(("send", at_ms))

    def put(self, content):
        self.reached.append("put")
        return "sha256:"

    def note(self, level, message, **fields):
        self.lines.append((level, message, fields))


def trouble(process="", **mixture):
    world, clock = World(), FakeClock()
    mischief, ports = surround(
        Mixture(**{"seed": 1, **mixture}), (world, world, world), clock, world.note, process=process
    )
    return world, clock, mischief, ports


WRITE = [Put(Item("run#r", "L#0", "token", "{}"))]
WAKE = {"do": "advance", "run": "r", "seq": 1}


def do_all(ports):
    store, wakes, blobs = ports
    store.read("run#r", "a", "b")
    store.write(WRITE)
    wakes.send(WAKE)
    blobs.put(b"")


@pytest.mark.parametrize("kind", ["drop", "duplicate", "delay", "throttle", "lose", "kill"])
def test_outside_of_an_invocation_nothing_happens(kind):
    world, _, mischief, ports = trouble(**{kind: 1.0})
    do_all(ports)
    assert world.reached == ["read", "write", ("send", None), "put"]
    assert not mischief.counts


def test_a_throttled_call_reaches_nothing_and_a_lost_reply_comes_after_the_call():
    for kind, reached in (("throttle", []), ("lose", ["write"])):
        world, _, mischief, (store, _, _) = trouble(**{kind: 1.0})
        with pytest.raises(Unavailable, match=r"chaos: .*store\.write"):
            mischief.survives("r", lambda store=store: store.write(WRITE))
        assert world.reached == reached


@pytest.mark.parametrize("kind", ["throttle", "lose"])
def test_it_befalls_every_port(kind):
    world, _, mischief, (store, wakes, blobs) = trouble(**{kind: 1.0})
    for call in (
        lambda: store.read("run#r", "a", "b"),
        lambda: wakes.send(WAKE),
        lambda: blobs.put(b""),
    ):
        with pytest.raises(Unavailable):
            mischief.survives("r", call)
    assert list(mischief.counts.values()) == [3]
    assert len(world.reached) == (3 if kind == "lose" else 0)


def test_a_wake_is_dropped_doubled_or_late():
    def sent(**mixture):
        world, clock, mischief, (_, wakes, _) = trouble(**mixture)
        assert mischief.survives("r", lambda: wakes.send(WAKE))
        return [at_ms if at_ms is None else at_ms - clock.now_ms() for _, at_ms in world.reached]

    assert sent(drop=1.0) == []
    assert sent(duplicate=1.0) == [None, None]
    [late_ms] = sent(delay=1.0, delay_s=2.0)
    assert 0 < late_ms < 2_000


def test_a_late_wake_is_never_beyond_the_reach_of_its_queue():
    world, clock, mischief, (_, wakes, _) = trouble(delay=1.0, delay_s=600.0, horizon=2_400.0)
    at_ms = clock.now_ms() + world.reach_ms - 1
    for _ in range(50):
        mischief.survives("r", lambda: wakes.send(WAKE, at_ms))
    times = [at - clock.now_ms() for _, at in world.reached]
    assert set(times) == {world.reach_ms}


def test_waits_within_reach_end_within_the_horizon():
    _, _, mischief, (_, wakes, _) = trouble(horizon=10.0)
    assert wakes.reach_ms == 5_000
    assert mischief.horizon_ms(30_000) == 60_000, "a horizon is never shorter than two invocations"
    assert wakes.reach_ms == 30_000
    mischief.horizon_ms(900_000)
    assert wakes.reach_ms == World.reach_ms


def test_a_killed_invocation_reaches_nothing_more_whoever_swallows_its_death():
    deaths = Counter()
    for seed in range(200):
        world, _, mischief, ports = trouble(kill=1.0, seed=seed)

        def work(ports=ports, world=world):
            for _ in range(CALLS // 2):
                for call in (lambda: ports[0].write(WRITE), lambda: ports[1].send(WAKE)):
                    before = len(world.reached)
                    try:
                        call()
                    except BaseException as death:
                        assert isinstance(death, Killed)
                        world.dead_at = world.__dict__.get("dead_at", len(world.reached))
                        assert len(world.reached) == world.dead_at, "a dead process wrote"
                    else:
                        assert len(world.reached) == before + 1

        assert mischief.survives("r", work) is False
        assert mischief.counts == {"invocation killed": 1}
        deaths[world.lines[-1][2]["when"]] += 1
    assert set(deaths) == {f"{side} {name}" for side in ("before", "after") for name in ("store.write", "wakes.send")}


def test_an_invocation_of_few_calls_dies_at_its_end():
    world, _, mischief, (store, _, _) = trouble(kill=1.0)
    ends = Counter()
    for _ in range(TRIES):
        assert not mischief.survives("r", lambda: store.write(WRITE))
        ends[world.lines[-1][2]["when"]] += 1
    assert set(ends) == {"before store.write", "after store.write", "at its end"}


def test_the_kills_are_as_many_as_was_asked_for():
    _, _, mischief, (store, _, _) = trouble(kill=0.1)
    survived = sum(mischief.survives("r", lambda: store.write(WRITE)) for _ in range(TRIES))
    assert TRIES - survived == mischief.counts["invocation killed"]
    assert 0.08 * TRIES < TRIES - survived < 0.12 * TRIES


def test_what_the_work_itself_raises_comes_through():
    _, _, mischief, _ = trouble(kill=0.0)
    with pytest.raises(ZeroDivisionError):
        mischief.survives("r", lambda: 1 / 0)


def test_the_same_seed_draws_the_same_for_one_process_and_another_for_the_next():
    def lines(process, seed):
        world, _, mischief, (_, wakes, _) = trouble(process, seed=seed, drop=0.3, duplicate=0.3)
        for _ in range(50):
            mischief.survives("r", lambda: wakes.send(WAKE))
        return world.lines

    assert lines("a", 1) == lines("a", 1)
    assert lines("a", 1)[1:] != lines("b", 1)[1:]
    assert lines("a", 1)[1:] != lines("a", 2)[1:]


def test_each_act_is_a_line_with_its_run_and_is_counted_in_words():
    world, _, mischief, (store, wakes, _) = trouble(drop=1.0)
    assert mischief.summary() == "chaos: nothing befell"
    mischief.survives("r", lambda: wakes.send(WAKE))
    assert world.lines[-1] == ("WARNING", "chaos: wake dropped", {"run_id": "r"})
    mischief.mixture.lose = 1.0
    for _ in range(2):
        with pytest.raises(Unavailable):
            mischief.survives(None, lambda: store.write(WRITE))
    assert world.lines[-1] == ("WARNING", "chaos: reply lost", {"run_id": "r", "call": "store.write"})
    assert mischief.summary() == "chaos: 2 replies lost, 1 wake dropped"
    assert json.dumps(world.lines)
