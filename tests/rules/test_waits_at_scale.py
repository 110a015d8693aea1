"""However many runs wait for an event of one name, an event costs what it costs where one does. The benchmark shows it
for 100,000 (`python -m benchmarks.waits`)."""

from __future__ import annotations

from benchmarks.metered import Meter, Metered
from benchmarks.waits import measure, waiting
from onward.testing import Rehearsal
from tests.sim.mirrors import simulated_store


def test_an_event_costs_the_same_among_five_thousand_waits_on_its_name_as_alone():
    store, meter = simulated_store(), Meter()
    store.wire.meter = meter
    with Rehearsal(waiting(), store=store) as stage:
        alone, among_many = measure(Metered(stage, meter), (1, 5_000))
    assert alone == among_many
    assert alone["requests"] and alone["WRU"] and alone["RRU"]
