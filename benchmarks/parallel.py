"""Parallel steps in one run: wakes, writes and bytes read grow in proportion to the number of steps.

python -m benchmarks.parallel
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from onward import App
from tests import servers

from .metered import metered

SIZES = (10, 100, 1_000)


def gather(size: int, performed: Counter[int]) -> App:
    """A workflow that awaits that many steps together."""
    app = App("parallel")

    def work(number: int) -> int:
        performed[number] += 1
        return number

    @app.workflow(on="go")
    async def fan_out(event: Any, step: Any) -> int:
        return sum(await asyncio.gather(*(step.run(f"load-batch-{n:04d}", work, n) for n in range(size))))

    return app


def measure(size: int, url: str, fresh: bool) -> dict[str, float]:
    """The figures of one run of that many steps; asserts that each was performed once."""
    performed: Counter[int] = Counter()
    with metered(gather(size, performed), url, fresh=fresh) as run:
        view = run.rehearsal.send("go")
        assert view["result"] == size * (size - 1) // 2
        assert performed == Counter(range(size)), "a step was performed twice, or not at all"
        meter = run.meter
        return {
            "wakes": run.wakes,
            "writes": sum(
                n for name, n in meter.requests.items() if name in ("PutItem", "UpdateItem", "TransactWriteItems")
            ),
            "reads": sum(n for name, n in meter.requests.items() if name in ("Query", "GetItem", "BatchGetItem")),
            "WRU": meter.write_units,
            "RRU": meter.read_units,
            "bytes read": meter.bytes_read,
        }


def main() -> None:
    print("parallel steps in one run, a figure for each step (every sandbox cold, then all warm)")
    with servers.dynoxide() as url:
        for fresh in (True, False):
            print(
                f"{'cold' if fresh else 'warm':>6} "
                + "".join(f"{name:>12}" for name in ("wakes", "writes", "reads", "WRU", "RRU", "bytes read"))
            )
            for size in SIZES:
                figures = measure(size, url, fresh)
                print(f"{size:>6} " + "".join(f"{value / size:>12.2f}" for value in figures.values()))


if __name__ == "__main__":
    main()
