"""On a laptop a step may take longer than any invocation on Lambda: the sweep leaves a run alone that is worked on."""

from onward import App
from onward.core.values import Event
from onward.engine.ingest import ingest
from onward.engine.views import run_view
from onward.entry.local import Local
from onward.testing import FakeClock

DAY_MS = 24 * 3600 * 1000


def test_a_step_of_a_day_is_not_performed_again_beside_itself(tmp_path):
    clock, performed = FakeClock(), []
    app = App("slow")

    def takes_a_day(local):
        performed.append(1)
        began_ms = clock.now_ms()
        while clock.now_ms() < began_ms + DAY_MS:
            clock.turn(clock.now_ms() + 10 * 60 * 1000)
            while local.work_once():  # as another worker does meanwhile
                pass
        return "done"

    @app.workflow(on="go")
    def work(event, step):
        return step.run("slow", takes_a_day, local)

    local = Local(app, tmp_path / "store.db", clock=clock)
    [run] = ingest(local.engine, Event("go", {}, "e", clock.now_ms()))
    while local.work_once():
        pass
    view = run_view(local.engine.ledger, run)
    assert (view["status"], view["output"], performed) == ("completed", '"done"', [1])
    local.close()
