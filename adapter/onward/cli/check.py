"""`onward check`: would the code that is about to be deployed go on with every unfinished run of a store?

Exit codes: 0 it would, 1 some runs would diverge, 2 the check cannot be carried out, or not to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from ..clock import SystemClock
from ..core.errors import InvalidOption, OnwardError
from ..engine.check import MAX_RUNS, Check, Ended, Finding
from . import target
from .opening import open_store
from .show import plain

if TYPE_CHECKING:
    from ..engine.check import Outcome

MAX_REASONS = 50  # that are told apart; runs with further ones are counted
MAX_RUNS_NAMED = 5  # of each reason; the others are counted
MAX_REPORT_LINES = 60
MAX_LINE_CHARS = 2_000
MAX_STUCK = 3  # workflow functions that never came back: each keeps a core busy, so the check stops
PROGRESS_EVERY_S = 5.0


class Reason:
    """Runs that would diverge alike: the first of them in full, a few by name, and how many there are."""

    __slots__ = ("count", "first", "runs")

    def __init__(self, first: Finding) -> None:
        self.first = first
        self.runs: list[str] = []
        self.count = 0


class Tally:
    """Counts what became of runs, in memory that does not grow with their number."""

    def __init__(self, listed: int, all_listed: bool = True) -> None:
        self.listed = listed  # unfinished runs of the store
        self.all_listed = all_listed  # and there are no others
        self.checked = 0
        self.ended = 0  # before the check came to them
        self.kinds: Counter[str] = Counter()
        self.reasons: dict[tuple[str, ...], Reason] = {}
        self.untold = 0  # runs that would diverge for reasons beyond `MAX_REASONS`

    @property
    def unfinished(self) -> int:
        return self.checked - self.ended

    @property
    def diverge(self) -> int:
        return sum(self.kinds.values())

    def add(self, outcome: Outcome) -> Reason | None:
        """Count an outcome. The reason that it joins, if it is a finding and there is room to tell it."""
        self.checked += 1
        if isinstance(outcome, Ended):
            self.ended += 1
        if not isinstance(outcome, Finding):
            return None
        self.kinds[outcome.kind] += 1
        reason = self._reason(outcome)
        if reason is None:
            self.untold += 1
            return None
        reason.count += 1
        if len(reason.runs) < MAX_RUNS_NAMED:
            reason.runs.append(outcome.run)
        return reason

    def _reason(self, finding: Finding) -> Reason | None:
        """Two findings have one reason if they read the same but for the run's id and numbers."""
        told = (finding.where, finding.message.replace(finding.run, ""))
        alike = (finding.workflow, finding.kind, *(re.sub(r"\d+", "0", text) for text in told))
        if alike not in self.reasons and len(self.reasons) < MAX_REASONS:
            self.reasons[alike] = Reason(finding)
        return self.reasons.get(alike)


def check(options: argparse.Namespace) -> int:
    """Replay the unfinished runs of a store against an app, and tell which would diverge."""
    try:
        return _check_store(options)
    except KeyboardInterrupt:
        print("\nonward: stopped", file=sys.stderr)
        return 130


def _check_store(options: argparse.Namespace) -> int:
    if options.limit is not None and not 1 <= options.limit <= MAX_RUNS:
        raise InvalidOption(f"--limit takes 1 to {MAX_RUNS:,}, not {options.limit}")
    with contextlib.ExitStack() as stack:
        place, store, blobs = open_store(options, stack)
        app, _ = target.load(options.target)
        checking = stack.enter_context(Check(app, store, blobs, SystemClock()))
        runs, complete = checking.unfinished(MAX_RUNS)
        tally, show = Tally(len(runs), complete), _Show(options.json, sys.stdout)
        try:
            stopped = _check_each(checking, runs[: options.limit], tally, show)
        except KeyboardInterrupt:
            show.end(tally, place, "interrupted")
            raise
        except OnwardError:
            if tally.checked:
                show.end(tally, place, "the store could not be read to its end")
            raise
        show.end(tally, place, stopped or ("--limit" if options.limit else f"one check takes {MAX_RUNS:,}"))
        if tally.diverge:
            return 1
        return 0 if complete or options.limit else 2


def _check_each(checking: Check, runs: list[str], tally: Tally, show: _Show) -> str:
    """Check these runs and tell what comes of them; why it was stopped before their end, or ""."""
    for run in runs:
        with contextlib.redirect_stdout(sys.stderr):  # what workflow functions print is no part of the report
            outcome = checking.run(run)
        show.outcome(outcome, tally.add(outcome))
        show.progress(tally)
        if checking.stuck == MAX_STUCK:
            return f"{MAX_STUCK} workflow functions never came back"
    return ""


# --------------------------------------------------------------------------------------------------------- showing
class _Show:
    """Tells findings as they come, and the sum at the end: as lines, or as one JSON object."""

    def __init__(self, as_json: bool, out: TextIO) -> None:
        self._as_json = as_json
        self._out = out
        self._said = time.monotonic()

    def outcome(self, outcome: Outcome, reason: Reason | None) -> None:
        if self._as_json or reason is None or not isinstance(outcome, Finding) or reason.count > MAX_RUNS_NAMED:
            return
        if reason.count > 1:
            self._print(f"{_head(outcome)}: like {reason.first.run}")
            return
        self._print(f"{_head(outcome)}")
        for line in _beneath(outcome):
            self._print(f"    {line}")

    def progress(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._said >= PROGRESS_EVERY_S:
            self._said = now
            print(
                f"{tally.checked:,} of {tally.listed:,} runs checked, {tally.diverge:,} would diverge", file=sys.stderr
            )

    def end(self, tally: Tally, place: str, stopped: str) -> None:
        """The sum. `stopped`: why runs were left out, where some were."""
        if self._as_json:
            print(json.dumps(_as_json(tally, place, stopped)), file=self._out, flush=True)
            return
        for reason in tally.reasons.values():
            if reason.count > MAX_RUNS_NAMED:
                self._print(f"... and {reason.count - MAX_RUNS_NAMED:,} more runs like {reason.first.run}")
        if tally.untold:
            self._print(f"... and {tally.untold:,} more runs for reasons that are not told ({MAX_REASONS} are)")
        if tally.diverge:
            self._print("")
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in tally.kinds.most_common())
        fit, runs = tally.unfinished - tally.diverge, "run" if tally.unfinished == 1 else "runs"
        self._print(
            f"{tally.unfinished:,} unfinished {runs}: {fit:,} fit, {tally.diverge:,} would diverge"
            f"{f' ({kinds})' if kinds else ''}; {place}"
        )
        if missing := tally.listed - tally.checked:
            self._print(f"not all: {missing:,} of {tally.listed:,} runs were not checked ({stopped})")
        if not tally.all_listed:
            self._print(f"not all: the store has more than {tally.listed:,} runs, and the others were not checked")

    def _print(self, line: str) -> None:
        print(_short(line), file=self._out, flush=True)


def _head(finding: Finding) -> str:
    return " ".join(part for part in (finding.run, finding.workflow, finding.kind, finding.where) if part)


def _beneath(finding: Finding) -> Iterator[str]:
    """The message of a finding and what belongs beneath it."""
    lines = [*finding.message.splitlines(), *finding.report.splitlines()]
    yield from lines[:MAX_REPORT_LINES]
    if len(lines) > MAX_REPORT_LINES:
        yield f"... {len(lines) - MAX_REPORT_LINES} lines left out"


def _short(line: str) -> str:
    line = plain(line[: MAX_LINE_CHARS + 1])
    return line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]}..."


def _as_json(tally: Tally, place: str, stopped: str) -> dict[str, Any]:
    return {
        "unfinished": tally.unfinished,
        "fit": tally.unfinished - tally.diverge,
        "diverge": tally.diverge,
        "kinds": dict(tally.kinds),
        "not_checked": tally.listed - tally.checked,
        "all_listed": tally.all_listed,
        "stopped": stopped if tally.checked < tally.listed else None,
        "place": place,
        "reasons": [
            {
                "kind": reason.first.kind,
                "workflow": reason.first.workflow,
                "where": reason.first.where,
                "message": reason.first.message,
                "report": reason.first.report.splitlines(),
                "runs": reason.runs,
                "count": reason.count,
            }
            for reason in tally.reasons.values()
        ],
        "untold": tally.untold,
    }
