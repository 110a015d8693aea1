"""`make sim`: tell stories until the time is over, and say what was seen.

python -m tests.sim                          for five minutes, from a fresh seed on
python -m tests.sim --seconds 30 --first 0   for half a minute, from seed 0 on
python -m tests.sim --seed 17                one story, with its log lines where it fails
python -m tests.sim --seed 17 --only kill#3,dropped#1 --keep 0 --cut 4,5    a shrunk one, as a failure prints it
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import time
import traceback
from collections import Counter

from .invariants import NAMES
from .shrink import shrunk
from .story import Story, fails

ENOUGH_INVOCATIONS = 20_000  # in five minutes: the least that this must do
SECONDS = 300.0


def main() -> int:
    options = _parser().parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # what asyncio would say in a process that was killed
    if options.seed is not None:
        return one(options)
    first = secrets.randbelow(1 << 32) if options.first is None else options.first
    return many(first, options.seconds, options.stories, not options.as_is)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long (default: %(default)s)")
    parser.add_argument("--stories", type=int, help="stop after so many stories")
    parser.add_argument("--first", type=int, help="the first seed (default: a fresh one)")
    parser.add_argument("--as-is", action="store_true", help="do not make a failing story small")
    parser.add_argument("--seed", help="tell this one story")
    parser.add_argument("--only", type=_labels, help="the faults that may strike")
    parser.add_argument("--keep", type=_numbers, help="the programs that are told")
    parser.add_argument("--cut", type=_numbers, default=[], help="the nodes that are left out")
    return parser


def _labels(text: str) -> list[str]:
    return [] if text == "none" else text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in _labels(text)]


def one(options: argparse.Namespace) -> int:
    """Tell one story, and what was logged in it where it fails."""
    story, error = fails(lambda: Story(options.seed, only=options.only, keep=options.keep, cut=options.cut))
    print(f"seed {options.seed}: {story.setting}")
    for name, program in story.programs.items():
        print(f"  {name}: {program}")
    print(f"  faults: {', '.join(story.chance.struck) or 'none'}")
    if error is None:
        print("nothing broken")
        return 0
    print("\n".join(story.lines))
    traceback.print_exception(error)
    return 1


def many(first: int, seconds: float, stories: int | None, small: bool) -> int:
    """Tell stories, and sum up; a failing one is made small and ends it."""
    figures: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    checks: Counter[int] = Counter()
    began = time.monotonic()
    seed = first
    while time.monotonic() - began < seconds and (stories is None or seed < first + stories):
        story, error = fails(lambda seed=seed: Story(seed))
        if error is not None:
            return broken(seed, error, small)
        figures += story.figures()
        faults += story.chance.counts
        faults += Counter({kind: n for kind, n in story.witness.counts.items() if kind.startswith("step: ")})
        checks += story.invariants.checks
        seed += 1
    spent_s = time.monotonic() - began
    print(f"seeds {first} to {seed - 1}, {spent_s:.0f} s: {figures['invocations'] / spent_s:,.0f} invocations a second")
    for name, count in figures.items():
        print(f"  {count:>12,}  {name}")
    print("faults by kind")
    for name, count in sorted(faults.items(), key=lambda entry: -entry[1]):
        print(f"  {count:>12,}  {name.replace('_', ' ')}")
    print("invariants checked")
    for number, name in NAMES.items():
        print(f"  {checks[number]:>12,}  {number:>2} {name}")
    print("nothing broken")
    return 0


def broken(seed: int, error: BaseException, small: bool) -> int:
    print(f"seed {seed} breaks: {type(error).__name__}: {error}", file=sys.stderr)
    if not small:
        return 1
    print("making it small ...", file=sys.stderr)
    found = shrunk(seed)
    if found is None:
        print(f"told again it does not fail: it depends on more than its seed (python -m tests.sim --seed {seed})")
        return 1
    command, last = found
    print(f"{type(last).__name__}: {last}\ntell it again:  {command}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
