"""What may stand in `on=` besides the names of events: patterns of EventBridge, and times.

@app.workflow(on=pattern({"source": ["aws.s3"], "detail-type": ["Object Created"]}))
@app.workflow(on=["prices/changed", cron("*/5 * * * *", tz="Europe/Paris")])
"""

from __future__ import annotations

from .core.cron import Cron
from .core.errors import InvalidOption
from .core.pattern import check_pattern, matches
from .step import span_ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any

    from .core.values import Event

SOURCE = "onward"  # of events that did not come from a bus, as a pattern sees them
MAX_JITTER_MS = 24 * 60 * 60 * 1000


class Pattern:
    """Events that match an EventBridge pattern."""

    __slots__ = ("fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        check_pattern(fields)
        self.fields = fields

    def fits(self, event: Event) -> bool:
        """Whether the event matches; raises `InvalidEvent` where that takes too much to tell."""
        return matches(self.fields, event.envelope or _envelope(event))

    def __repr__(self) -> str:
        return f"pattern({self.fields!r:.200})"


class Schedule:
    """Times at which a workflow starts. `jitter_ms`: each start comes up to so much later."""

    __slots__ = ("cron", "jitter_ms")

    def __init__(self, cron: Cron, jitter_ms: int) -> None:
        self.cron = cron
        self.jitter_ms = jitter_ms

    def __repr__(self) -> str:
        return f"cron({self.cron.expression!r}, tz={self.cron.tz!r})"


def pattern(fields: dict[str, Any]) -> Pattern:
    """Events that match an EventBridge pattern, with EventBridge's own rules (see `onward.core.pattern`). It sees the
    whole envelope: `source`, `detail-type`, `account`, `region`, `resources`, and the event's data as `detail`. Events
    that did not come from a bus have the source "onward". Raises `InvalidOption` for what EventBridge would refuse."""
    return Pattern(fields)


def cron(expression: str, *, tz: str = "UTC", jitter: float | timedelta = 0) -> Schedule:
    """Times, as five fields (minute, hour, day of month, month, day of week) in a time zone.

    `jitter`: seconds or a timedelta, up to a day; each start is put off by a part of it that follows from the workflow
    and the time, so that many schedules do not start at once. The run's event is named `onward/scheduled`; its data
    has `scheduled`, the time in ISO 8601. Each time starts one run, however often it is told. Raises `InvalidOption`.
    """
    jitter_ms = span_ms(jitter)
    if jitter_ms is None or jitter_ms > MAX_JITTER_MS:
        raise InvalidOption(f"jitter= takes 0 seconds to a day, not {jitter!r:.80}")
    return Schedule(Cron(expression, tz=tz), jitter_ms)


def _envelope(event: Event) -> dict[str, Any]:
    """An event that did not come from a bus, as it would stand on one."""
    return {
        "version": "0",
        "id": event.id,
        "detail-type": event.name,
        "source": SOURCE,
        "time": event.at.isoformat().replace("+00:00", "Z"),
        "resources": [],
        "detail": event.data,
    }
