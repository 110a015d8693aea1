"""Several processes open one new file at once, and write to it together: nothing is lost, nobody is turned away."""

import os
import subprocess
import sys
from pathlib import Path

from onward.local.store import SqliteStore

PROCESSES = 6
ITEMS = 40
PROGRAM = """
import sys
from onward.local.store import SqliteStore
from onward.ports import Item, Put
sys.stdin.read(1)
store = SqliteStore(sys.argv[1])
won = 0
for n in range(int(sys.argv[3])):
    won += store.write([Put(Item("p", f"L#{n:04d}", sys.argv[2], "{}"))]) is None
    store.mark("p", "M", {"done": [sys.argv[2] + str(n)]}) if n < 10 else None
print(won)
store.close()
"""


def test_of_several_processes_one_wins_each_place_and_all_go_on(tmp_path):
    path = tmp_path / "store.db"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "adapter")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path, f"w{n}", str(ITEMS)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(PROCESSES)
    ]
    for process in processes:
        process.stdin.write("x")
        process.stdin.flush()
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, [errors for _, errors in ended]
    assert sum(int(out) for out, _ in ended) == ITEMS
    store = SqliteStore(path)
    assert len(store.read("p", "L#", "L~")) == ITEMS
    assert len(store.marks("p", "M")["done"]) == 10 * PROCESSES
    store.close()
