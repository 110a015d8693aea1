"""How a run is shown in a terminal: a line while it goes, a table when it has ended, and one JSON object."""

from __future__ import annotations

import json
import time
from typing import Any, TextIO

from ..core.codec import decode
from ..core.status import COMPLETED, ENDED

MAX_ROWS = 30  # of the table: the rows that are left out are counted
MAX_NAME_CHARS = 40
MAX_OUTPUT_CHARS = 400
MAX_TRACEBACK_LINES = 30
BAR_CELLS = 24
_PLAIN_EVERY_S = 5.0  # without a terminal, a line that often
_GLYPHS = {
    "completed": "✓",
    "failed": "✗",
    "retrying": "↻",
    "sleeping": "z",
    "running": "…",
    "cancelled": "-",
    "queued": "·",
}


class Progress:
    """One line that is written over while the runs go: a bar of the steps, and what happens now."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._began = time.monotonic()
        self._said = self._began
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def show(self, views: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        if not self._terminal and now - self._said < _PLAIN_EVERY_S:
            return
        self._said = now
        line = self.line(views, now - self._began)
        if self._terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def line(self, views: list[dict[str, Any]], spent_s: float) -> str:
        """The line: how many steps are done is known, how many will follow is not, so the bar counts on."""
        done = sum(view["steps_done"] for view in views)
        retries = sum(view["retries"] for view in views)
        filled = done % BAR_CELLS if done % BAR_CELLS or not done else BAR_CELLS
        now = next((step for view in views for step in reversed(view["steps"]) if step["status"] not in ENDED), None)
        doing = f" · {now['status']} {_short(now['name'])}" if now else ""
        return (
            f"{'█' * filled}{'░' * (BAR_CELLS - filled)} {done} steps done · {retries} retries · {spent_s:.0f} s{doing}"
        )


def table(view: dict[str, Any]) -> str:
    """The steps of a run with their attempts, retries and durations, and how it ended."""
    steps = view["steps"]
    shown = steps if len(steps) <= MAX_ROWS else _telling(steps)
    rows = [("", "step", "attempts", "retries", "duration")]
    for step in shown:
        glyph = _GLYPHS.get(step["status"], " ")
        attempts, retries = str(step["attempts"] or ""), str(max(step["attempts"] - 1, 0) or "")
        rows.append((glyph, _short(step["name"]), attempts, retries, _ms(step["duration_ms"])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if len(shown) < len(steps):
        lines.append(
            f"   ... and {len(steps) - len(shown)} more steps (the first, the last and the retried ones are shown)"
        )
    lines.append("")
    lines.append(
        f"run {view['run_id']} of {plain(view['workflow'])} {view['status']}: {view['steps_done']} steps done, "
        f"{view['attempts']} attempts, {view['retries']} retries, {duration_s(view):.1f} s"
    )
    if view["error"]:
        lines.extend(map(plain, f"{view['error']['type']}: {view['error']['message']}".splitlines()))
        told = next(
            (step["error"] for step in reversed(steps) if step["status"] == "failed" and step["error"]), view["error"]
        )
        lines.extend(f"  {plain(line)}" for line in told["traceback"].splitlines()[-MAX_TRACEBACK_LINES:])
    if view["status"] == COMPLETED:
        output = f"(cannot be read: {view['unreadable']})" if view["output"] is None else view["output"]
        shown = output if len(output) <= MAX_OUTPUT_CHARS else output[:MAX_OUTPUT_CHARS] + "..."
        lines.append(f"output: {plain(shown)}")
    return "\n".join(lines)


def as_json(view: dict[str, Any]) -> str:
    """The run as one line of JSON."""
    fields = {key: view[key] for key in ("run_id", "workflow", "status", "steps_done", "attempts", "retries")}
    fields["duration_s"] = round(duration_s(view), 3)
    fields["output"] = None if view["output"] is None else decode(view["output"])
    if view["unreadable"]:
        fields["unreadable"] = view["unreadable"]
    if view["error"]:
        fields["error"] = {"type": view["error"]["type"], "message": view["error"]["message"]}
    return json.dumps(fields, default=str)


def duration_s(view: dict[str, Any]) -> float:
    """Seconds from the start of the run to its end, or until now."""
    ended_ms = view["ended_ms"] or time.time() * 1000
    return float((ended_ms - view["started_ms"]) / 1000)


def _telling(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps worth a row when there are too many: those that were retried or failed, the first and the last."""
    odd = {place for place, step in enumerate(steps) if step["attempts"] > 1 or step["status"] != "completed"}
    edges = [0, 1, len(steps) - 2, len(steps) - 1]
    chosen = set(edges) | set(sorted(odd)[: MAX_ROWS - len(edges)])
    return [steps[place] for place in sorted(chosen)]


def plain(text: str) -> str:
    """`text` for a terminal: what is not printable (control characters, escape sequences, marks that turn the direction
    of writing, lone surrogates) stands there as Python would escape it, so no text from outside can steer it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _short(name: str) -> str:
    name = "".join(char if char.isprintable() else "?" for char in name)
    return name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1] + "…"


def _ms(duration_ms: int | None) -> str:
    if duration_ms is None:
        return ""
    return f"{duration_ms} ms" if duration_ms < 10_000 else f"{duration_ms / 1000:.1f} s"
