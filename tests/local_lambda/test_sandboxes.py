"""Cold and warm, one at a time, killed and replaced, and gone in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from onward.core.errors import InvalidOption
from onward.local.chaos import Chaos
from onward.local.lambda_service import LocalLambda

from .conftest import HANDLER, Make, lives, soon


def test_a_sandbox_is_cold_first_and_warm_after_and_keeps_its_module(make: Make) -> None:
    service = make()
    first, second = service.invoke({})[0], service.invoke({})[0]
    assert (first["performed"], second["performed"]) == (1, 2)
    assert first["pid"] == second["pid"]
    assert (service.stats.cold, service.stats.warm) == (1, 1)
    assert len(service.stats.init_ms) == 1


def test_no_process_is_started_before_something_is_invoked(make: Make) -> None:
    assert make().pids == []


def test_two_at_once_get_two_sandboxes(make: Make) -> None:
    service = make()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(service.invoke, [{"do": "sleep", "seconds": 0.3}] * 2))
    assert len({payload["pid"] for payload, error in answers}) == 2


def test_a_sandbox_serves_one_at_a_time(make: Make) -> None:
    service = make(concurrency=1, throttle_backoff_s=None)
    began_s = time.monotonic()
    for _ in range(3):
        service.invoke_async({"do": "sleep", "seconds": 0.2})
    assert service.drain(10)
    assert time.monotonic() - began_s >= 0.6
    assert service.stats.cold == 1


def test_a_synchronous_call_beyond_the_limit_is_throttled(make: Make) -> None:
    service = make(concurrency=1)
    service.invoke_async({"do": "sleep", "seconds": 0.5})
    payload, error = service.invoke({})
    assert payload is None
    assert error == {"errorType": "TooManyRequestsException", "errorMessage": "Rate Exceeded."}
    assert service.stats.throttles == 1
    assert service.drain(5)


def test_a_timeout_kills_the_sandbox_and_a_fresh_one_follows(make: Make) -> None:
    service = make(timeout_s=0.5)
    before = service.invoke({})[0]
    payload, error = service.invoke({"do": "sleep", "seconds": 30})
    assert payload is None and error is not None
    assert error["errorType"] == "Sandbox.Timedout"
    assert error["errorMessage"].endswith("Error: Task timed out after 0.50 seconds")
    assert not lives(before["pid"])
    after = service.invoke({})[0]
    assert after["performed"] == 1 and after["pid"] != before["pid"]
    assert service.stats.timeouts == 1
    assert any("Task timed out after 0.50 seconds" in line for line in service.log_lines)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(3, "Runtime exited with error: exit status 3"), (0, "Runtime exited without providing a reason")],
)
def test_a_process_that_exits_is_an_exit_error_and_is_replaced(make: Make, code: int, reason: str) -> None:
    service = make()
    _, error = service.invoke({"do": "exit", "code": code})
    assert error is not None
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].startswith("RequestId: ") and error["errorMessage"].endswith(f" Error: {reason}")
    assert service.invoke({})[1] is None
    assert (service.stats.crashes, service.stats.cold) == (1, 2)


def test_a_process_that_is_killed_says_by_which_signal(make: Make) -> None:
    service = make()
    pid = service.invoke({})[0]["pid"]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.invoke, {"do": "sleep", "seconds": 30})
        assert soon(lambda: service.stats.invocations == 2)
        os.kill(pid, signal.SIGKILL)
        error = answer.result(5)[1]
    assert error is not None and error["errorMessage"].endswith("Runtime exited with error: signal: killed")


def test_a_sandbox_that_died_idle_is_not_used(make: Make) -> None:
    service = make()
    pid = service.invoke({})[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert soon(lambda: service.pids == [])
    assert service.invoke({})[1] is None


def test_an_idle_sandbox_ends(make: Make) -> None:
    service = make(idle_s=0.1)
    pid = service.invoke({})[0]["pid"]
    assert soon(lambda: not lives(pid))
    assert service.invoke({})[0]["performed"] == 1


def test_a_handler_that_cannot_be_imported_is_an_init_error(make: Make, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    service = make(handler="broken.handler")
    _, error = service.invoke({})
    assert error is not None
    assert error["errorType"] == "Runtime.ImportModuleError"
    assert error["errorMessage"] == "Unable to import module 'broken': No module named 'no_such_module'"


def test_a_missing_handler_is_named(make: Make) -> None:
    _, error = make(handler="example.nothing").invoke({})
    assert error is not None and error["errorType"] == "Runtime.HandlerNotFound"


def test_a_long_init_is_repeated_on_the_functions_own_time(make: Make, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.6)\ndef handler(event, context): return 'ready'\n")
    service = make(handler="slow.handler", init_s=0.3, timeout_s=5)
    assert service.invoke({}) == ("ready", None)
    assert service.stats.init_errors == 1


def test_an_init_that_outlasts_the_timeout_is_a_timeout(make: Make, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    _, error = make(handler="slow.handler", init_s=0.2, timeout_s=0.4).invoke({})
    assert error is not None and error["errorType"] == "Sandbox.Timedout"


def test_an_answer_over_six_megabytes_is_refused(make: Make) -> None:
    service = make()
    _, error = service.invoke({"do": "large", "bytes": 6_300_000})
    assert error is not None and error["errorType"] == "Function.ResponseSizeTooLarge"
    assert len(service.invoke({"do": "large", "bytes": 6_000_000})[0]) == 6_000_000


def test_what_sandboxes_print_is_kept_with_their_name(make: Make) -> None:
    service = make()
    service.invoke({"do": "print", "text": "good morning"})
    assert "[sandbox-1] good morning" in service.log_lines


def test_the_laptops_environment_does_not_reach_the_function(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "the-real-account")
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    service = make(env={"TABLE": "orders"}, memory_mb=256)
    environ = service.invoke({"do": "environ"})[0]
    assert "AWS_PROFILE" not in environ and "SECRET_OF_MINE" not in environ
    assert environ["TABLE"] == "orders"
    assert environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert environ["AWS_ENDPOINT_URL_SQS"] == service.url
    assert environ["_X_AMZN_TRACE_ID"].startswith("Root=1-")


def test_a_variable_that_is_set_after_the_start_is_seen_by_the_next_cold_start(make: Make) -> None:
    service = make()
    service.env["QUEUE_URL"] = service.queue_url
    assert service.invoke({"do": "environ"})[0]["QUEUE_URL"] == service.queue_url


def test_no_process_is_left_after_stop(make: Make) -> None:
    service = make(timeout_s=60)
    started = service.invoke({"do": "child"})[0]
    service.invoke_async({"do": "sleep", "seconds": 60})
    service.invoke_async({"do": "sleep", "seconds": 60})
    assert soon(lambda: service.stats.cold == 2)
    pids = [*service.pids, started["child"]]
    began_s = time.monotonic()
    service.stop()
    assert time.monotonic() - began_s < 30  # and not the 60 s that they sleep
    assert soon(lambda: not any(map(lives, pids)))
    assert not [thread for thread in threading.enumerate() if thread.name == "local-lambda"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal for a closed pipe is Linux's")
@pytest.mark.parametrize("runtime", ["own", "awslambdaric"])
def test_no_sandbox_outlives_a_service_that_was_killed(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "example.py").write_text(HANDLER)
    script = (
        "from onward.local.lambda_service import LocalLambda\n"
        "import time\n"
        f"service = LocalLambda('example.handler', cwd={str(tmp_path)!r}, runtime={runtime!r}, timeout_s=60).start()\n"
        "print(service.invoke({})[0]['pid'], flush=True)\n"
        "service.invoke_async({'do': 'sleep', 'seconds': 60})\n"
        "time.sleep(60)\n"
    )
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.1)
        assert lives(pid)
        parent.kill()
    assert soon(lambda: not lives(pid))


def test_a_service_can_be_started_again(make: Make) -> None:
    service = make()
    assert service.invoke({})[1] is None
    service.stop()
    service.start()
    assert service.invoke({})[0]["performed"] == 1


def test_a_service_that_does_not_run_says_so() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        LocalLambda("example.handler").invoke({})


@pytest.mark.parametrize(
    "options", [{"concurrency": 0}, {"timeout_s": 901}, {"maximum_retry_attempts": 3}, {"runtime": "other"}]
)
def test_options_that_lambda_would_refuse_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        LocalLambda("example.handler", **options)


def test_killed_at_random_every_event_is_still_performed_by_its_retries(make: Make) -> None:
    service = make(chaos=Chaos(kill=0.3, kill_s=0.02), retry_delays_s=(0, 0), throttle_backoff_s=None, concurrency=2)
    for _ in range(20):
        service.invoke_async({"do": "sleep", "seconds": 0.02})
    assert service.drain(30)
    assert service.stats.killed > 0
    assert service.stats.crashes == service.stats.retries + service.stats.dropped
