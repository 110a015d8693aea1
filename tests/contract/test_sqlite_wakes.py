"""Wakes in the store's own file: they outlive their sender, and are handed to one living process at a time."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from onward.local.store import SqliteStore
from onward.local.wakes import LOOK_S, SqliteWakes, process_lives, this_process
from onward.testing import FakeClock


@pytest.fixture
def wakes(tmp_path):
    store = SqliteStore(tmp_path / "store.db")
    yield SqliteWakes(store, FakeClock())
    store.close()


def test_wakes_come_by_their_time_and_not_before(wakes):
    now_ms = wakes.clock.now_ms()
    wakes.send({"do": "later"}, now_ms + 500)
    wakes.send({"do": "now"})
    first = wakes.claim(this_process())
    assert first.wake == {"do": "now"} and not first.died
    wakes.settle(first)
    assert wakes.claim(this_process()) is None
    assert wakes.next_ms() == now_ms + 500
    wakes.clock.turn(now_ms + 500)
    assert wakes.claim(this_process()).wake == {"do": "later"}


def test_a_wake_that_a_living_process_holds_is_not_handed_out_again(wakes):
    wakes.send({"do": "advance", "run": "r1"})
    assert wakes.claim(this_process()) is not None
    assert wakes.claim(this_process()) is None
    assert wakes.has("r1") and not wakes.has("r2")


def test_a_wake_of_a_dead_process_is_handed_out_with_word_of_its_death(wakes):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        stat = Path(f"/proc/{process.pid}/stat").read_text() if sys.platform == "linux" else ""
        owner = f"{process.pid}:{stat.rpartition(')')[2].split()[19] if stat else ''}"
        assert process_lives(owner)
        wakes.send({"do": "advance", "run": "r1"})
        wakes.claim(owner)
        assert wakes.claim(this_process()) is None
        process.kill()
    assert not process_lives(owner)
    time.sleep(LOOK_S)  # as long as a living process is taken to live on
    again = wakes.claim(this_process())
    assert again.wake == {"do": "advance", "run": "r1"} and again.died


def test_a_process_id_that_is_used_again_is_another_process(wakes):
    assert process_lives(this_process())
    assert not process_lives(f"{this_process().split(':')[0]}:1")


def test_a_wake_that_was_put_back_comes_again_at_its_new_time(wakes):
    wakes.send({"do": "advance"})
    claim = wakes.claim(this_process())
    wakes.put_back(claim, wakes.clock.now_ms() + 1_000)
    assert wakes.claim(this_process()) is None
    wakes.clock.turn(wakes.clock.now_ms() + 1_000)
    again = wakes.claim(this_process())
    assert again.wake == {"do": "advance"} and not again.died
