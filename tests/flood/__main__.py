"""`python -m tests.flood`: the flood, and a table of figures. Exit code 1 when counts in are not counts out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .count import PER_SWEEP, Count, count
from .options import Flood, Told
from .witness import performed

STORES = ("sqlite", "dynoxide")


def run(options: Flood, folder: Path) -> tuple[Told, Count]:
    """The flood, what it told, and what its store and its witness hold."""
    if options.store == "sqlite":
        from .laptop import flood
    else:
        from .deployed import flood
    told = flood(options, folder)
    return told, judge(told, count(told.accepted, told.items, performed(folder / "effects")))


def judge(told: Told, figures: Count) -> Count:
    """Add what the counts alone do not say: that repeated effects are explained, and that nobody gave up."""
    explained = told.kills + told.deaths + told.duplicates + told.sweeps * PER_SWEEP
    if figures.repeated > explained:
        figures.wrong(f"repeated: {figures.repeated} effects, and {explained} kills, deaths, duplicates and sweeps")
    if told.gave_up:
        figures.wrong("gave up: runs were open when the time was over")
    return figures


def table(options: Flood, told: Told, figures: Count) -> str:
    rows: list[tuple[str, object]] = [
        ("store", options.store),
        ("sandboxes", told.sandboxes),
        ("events in", figures.events),
        ("deliveries of events", told.deliveries),
        ("runs made", figures.runs),
        ("runs completed", figures.completed),
        ("runs left open", figures.left_open),
        ("step results recorded", figures.results),
        ("attempts recorded", figures.attempts),
        ("effects seen by the witness", figures.effects),
        ("effects repeated", figures.repeated),
        ("wakes delivered twice", told.duplicates),
        ("wakes lost", told.lost),
        ("kills", told.kills),
        ("deaths noticed", told.deaths),
        ("throttles", told.throttles),
        ("runs woken by a sweep", told.sweeps),
        ("invocations", "not counted" if told.invocations is None else told.invocations),
        ("wall time, s", round(told.wall_s, 1)),
        ("events a second", round(figures.events / told.wall_s, 1) if told.wall_s else 0),
    ]
    lines = [
        f"{name:<29}{value:>12,}" if isinstance(value, int | float) else f"{name:<29}{value!s:>12}"
        for name, value in rows
    ]
    lines += [f"WRONG  {wrong}" for wrong in figures.wrongs]
    lines.append("counts in are not counts out" if figures.wrongs else "counts in equal counts out")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.flood", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument(
        "--sandboxes", type=int, default=100, help="at work at once (on SQLite: workers, ten a process)"
    )
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--kills", type=int, default=100, help="about how many")
    parser.add_argument("--window", type=int, default=500, help="runs open at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where store and witness are kept (default: removed in the end)")
    parser.add_argument("--verbose", action="store_true", help="print what the engine logged, by message")
    given = vars(parser.parse_args(arguments))
    folder = given.pop("folder")
    options = Flood(**given)
    with tempfile.TemporaryDirectory() as temporary:
        told, figures = run(options, folder or Path(temporary))
    if options.verbose:
        print(*(f"{number:>9,} {text}" for text, number in told.lines.most_common()), sep="\n", file=sys.stderr)
    print(table(options, told, figures))
    return 1 if figures.wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
