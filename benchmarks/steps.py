"""Steps in sequence: what one step costs in requests, capacity units and bytes, cold and warm, early and late in a run.

python -m benchmarks.steps
"""

from __future__ import annotations

from typing import Any

from onward import App
from tests import servers

from .metered import metered

SIZES = (10, 100, 400)


def sequence(size: int) -> App:
    """A workflow of that many steps, one after the other."""
    app = App("sequence")

    @app.workflow(on="go")
    def in_sequence(event: Any, step: Any) -> int:
        return sum(step.run(f"load-batch-{n:04d}", int, "1") for n in range(size))

    return app


def main() -> None:
    print("steps in sequence, a figure for each step (warm: the sandbox kept the log; cold: it reads it anew)")
    with servers.dynoxide() as url:
        for fresh in (False, True):
            print(
                f"{'cold' if fresh else 'warm':>6} "
                + "".join(f"{name:>12}" for name in ("wakes", "requests", "WRU", "RRU", "bytes read"))
            )
            for size in SIZES:
                with metered(sequence(size), url, fresh=fresh) as run:
                    assert run.rehearsal.send("go")["result"] == size
                    meter = run.meter
                    values = (
                        run.wakes,
                        sum(meter.requests.values()),
                        meter.write_units,
                        meter.read_units,
                        meter.bytes_read,
                    )
                print(f"{size:>6} " + "".join(f"{value / size:>12.2f}" for value in values))


if __name__ == "__main__":
    main()
