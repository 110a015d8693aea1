"""ONWARD_CHAOS in the variables of a deployed handler, in the local Lambda."""

import json
from collections import Counter

import pytest

from onward.core.codec import decode
from onward.engine.views import unfinished
from onward.local.lambda_service import LocalLambda
from tests.end_to_end.chaos_handler import CASES_CHOSEN
from tests.end_to_end.conftest import AS_DEPLOYED, REPOSITORY
from tests.end_to_end.deployment import Sandboxed
from tests.end_to_end.test_chaos import ALSO

STRONG = "duplicate=0.2 delay=0.2 delay_s=0.3 drop=0.1 kill=0.1 kill_s=0.02 lose=0.03 throttle=0.03 horizon=1 seed=2"
TIMEOUT_S = 2.0  # so the horizon is 4 s
TICK_S = 0.5


@pytest.fixture
def service(deploy, tmp_path, request):
    """A function with chaos in its variables, ticks, and what looks at its table."""
    settings, ledger = getattr(deploy, request.param)()
    env = {**settings, "NOTES": str(tmp_path / "notes.jsonl"), "ONWARD_CHAOS": STRONG}
    options = {**AS_DEPLOYED, "timeout_s": TIMEOUT_S, "concurrency": 4, "tick_s": TICK_S}
    with LocalLambda(
        "tests.chaos.handler.handler",
        env=env,
        cwd=REPOSITORY,
        tick_payload={"onward": 1, "do": "sweep"},
        visibility_timeout_s=2.0,
        max_receive_count=None,
        **options,
    ) as lambda_:
        env["ONWARD_QUEUE_URL"] = lambda_.queue_url
        yield Sandboxed(lambda_, ledger, tmp_path / "notes.jsonl")


@pytest.mark.parametrize("service", ["table", "file"], indirect=True)
def test_the_corpus_comes_to_its_results_under_every_kind_of_chaos(service):
    runs = [(case, service.start(case.name, case.data)) for case in CASES_CHOSEN]
    for case, run in runs:
        view = service.follow(run)
        assert view["status"] == case.status, view
        result = None if view["output"] is None else decode(view["output"])
        assert result in [*case.results, *ALSO.get(case.name, [])], (case, view)
        performed = Counter(line["key"] for line in service.notes(run))
        assert not case.once or all(times == 1 for times in performed.values()), case
    assert not unfinished(service.ledger, len(runs))
    lines = [json.loads(text) for line in service.lambda_.log_lines if (text := line.partition("] ")[2])[:1] == "{"]
    told = Counter(line["message"] for line in lines if line["message"].startswith("chaos"))
    print(f"\n{dict(told)}")
    stats = service.lambda_.stats
    assert 0 < told["chaos is on"] <= stats.cold, "said at INIT"
    kinds = ("wake duplicated", "wake delayed", "wake dropped", "invocation killed", "reply lost", "call throttled")
    assert all(told[f"chaos: {kind}"] for kind in kinds), told
    assert stats.crashes + stats.redelivered >= told["chaos: invocation killed"] > 0, "a kill ends the process"
    moments = Counter(line["when"].partition(" ")[0] for line in lines if line["message"] == "chaos: invocation killed")
    assert set(moments) <= {"before", "after", "at"}, moments
    assert all(line["level"] == "WARNING" for line in lines if line["message"].startswith("chaos"))
    assert not service.lambda_.stats.killed + service.lambda_.stats.lost, "nothing but ONWARD_CHAOS was on"
