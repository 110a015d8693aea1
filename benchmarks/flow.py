"""Options for the starts of a workflow: what each adds to an event and its run, beside a plain start.

python -m benchmarks.flow
"""

from __future__ import annotations

from typing import Any

from onward import App, Batch, CancelOn, Concurrency, Debounce, Idempotency, RateLimit, Singleton, Throttle
from tests import servers

from .metered import metered

EVENTS = 20
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "delay": {"delay": 60},
    "start_timeout and finish_timeout": {"start_timeout": 600, "finish_timeout": 600},
    "cancel_on": {"cancel_on": CancelOn("stop", {"data.n": "data.n"})},
    "idempotency": {"idempotency": Idempotency(lambda event: event.data["n"])},
    "idempotency, seen before": {"idempotency": Idempotency(lambda event: "k")},
    "singleton": {"singleton": Singleton(lambda event: event.data["n"])},
    "singleton, skipped": {"singleton": Singleton()},
    "rate_limit": {"rate_limit": RateLimit(EVENTS, 60)},
    "rate_limit, dropped": {"rate_limit": RateLimit(1, 60)},
    "debounce": {"debounce": Debounce(60)},
    f"batch of {EVENTS}": {"batch": Batch(EVENTS, 60)},
    "throttle, begins at once": {"throttle": Throttle(1, 1, burst=EVENTS)},
    "throttle, waits its turn": {"throttle": Throttle(1, 1)},
    "concurrency, finds room": {"concurrency": Concurrency(EVENTS)},
    "concurrency, queues": {"concurrency": Concurrency(1)},
    "concurrency of steps, finds room": {"concurrency": Concurrency(EVENTS, of="steps")},
}


def one_step(options: dict[str, Any]) -> App:
    """A workflow of one step."""
    app = App("flow")

    @app.workflow(on="go", **options)
    def work(event: Any, step: Any) -> int:
        return int(step.run("work", int, "1"))

    return app


def measure(options: dict[str, Any], url: str) -> dict[str, float]:
    """What `EVENTS` events cost with these options, from their arrival until their runs have ended, for each event."""
    with metered(one_step(options), url, fresh=False) as run:
        for n in range(EVENTS):
            run.rehearsal.start("go", {"n": n})
        run.deliver()
        return {what: value / EVENTS for what, value in {"wakes": run.wakes, **run.meter.spent()}.items()}


def main() -> None:
    print(f"one of {EVENTS} events and its run of one step, with an option for its start, and how much more that is")
    width = max(map(len, OPTIONS))
    print(f"{'':>{width}} " + "".join(f"{name:>16}" for name in ("wakes", "requests", "WRU", "RRU")))
    with servers.dynoxide() as url:
        plain = measure({}, url)
        for name, options in OPTIONS.items():
            figures = measure(options, url)
            columns = (f"{value:.2f} ({value / plain[what]:.2f}x)" for what, value in figures.items())
            print(f"{name:>{width}} " + "".join(f"{column:>16}" for column in columns))


if __name__ == "__main__":
    main()
