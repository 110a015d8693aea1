"""On a laptop a death is told at once, however many deaths there were before: what they left behind to look again later
is not taken for the wake that carries the run on."""

import json

import pytest

from onward import App
from onward.core.values import Event
from onward.engine.ingest import ingest
from onward.engine.views import run_view
from onward.entry.local import Local

LATER_MS = 15 * 60 * 1000


def standing(tmp_path, steps_done):
    """A run whose process died after `steps_done` steps, between its append and its next wake; and behind it a wake of
    an earlier death, which looks again much later. The file is opened anew."""
    app = App("laptop")

    @app.workflow(on="go")
    def work(event, step):
        return [step.run(f"step {n}", lambda n=n: n) for n in range(4)]

    before = Local(app, tmp_path / "store.db")
    [run] = ingest(before.engine, Event("go", {}, "e", before.clock.now_ms()))
    for _ in range(steps_done):
        before.work_once()
    with before.store.transaction() as db:
        db.execute("DELETE FROM wakes")
        rows = [(0, steps_done, "1:dead"), (LATER_MS, steps_done - 1, None)]
        for after_ms, seq, owner in rows:
            wake = json.dumps({"onward": 1, "do": "advance", "run": run, "seq": seq})
            at_ms = before.clock.now_ms() + after_ms
            db.execute("INSERT INTO wakes (at_ms, wake, owner) VALUES (?, ?, ?)", (at_ms, wake, owner))
    before.close()
    return Local(app, tmp_path / "store.db"), run


@pytest.mark.parametrize("resumed", [False, True])
def test_a_second_death_does_not_wait_for_the_look_of_the_first(tmp_path, resumed):
    local, run = standing(tmp_path, steps_done=2)
    if resumed:
        with local.store.transaction() as db:
            db.execute("DELETE FROM wakes WHERE owner IS NOT NULL")
        local.resume_each([run])
    while local.work_once():
        pass
    view = run_view(local.engine.ledger, run)
    local.close()
    assert (view["status"], view["attempts"]) == ("completed", 4)
