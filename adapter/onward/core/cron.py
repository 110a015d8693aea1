"""Cron expressions: five fields, in a time zone.

    minute 0-59 · hour 0-23 · day of month 1-31 · month 1-12 or JAN-DEC · day of week 0-7 or SUN-SAT (0 and 7: Sunday)

A field is `*`, a number, a range `a-b`, `*` or a range with a step (`*/n`, `a-b/n`), or a list of these. Where day of
month and day of week are both restricted, a day that satisfies either will do, as in Vixie cron. (There, `*/2` in one
of them asks for both. EventBridge Scheduler cannot say that, so it is refused here.)

When clocks change, a schedule follows the clock on the wall as EventBridge Scheduler does ("Daylight savings time on
EventBridge Scheduler" in its user guide), so that a laptop and a deployment agree. A time that does not exist is
skipped: `30 2 * * *` in Paris does not fire on the last Sunday of March. (Vixie cron would run it right after the
gap.) A time that exists twice fires once, the first time, so what fires every few minutes is silent while an hour is
repeated. Where that matters, leave the time zone at UTC, or keep clear of the hours in which clocks change.
"""

from __future__ import annotations

from .errors import InvalidOption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date, tzinfo
    from typing import NoReturn

MAX_EXPRESSION_CHARS = 256  # the bound of EventBridge Scheduler
MAX_ZONE_CHARS = 50  # likewise
MAX_YEARS = 40  # within which a time comes, or it never does; from one 29 February to the next it can be 8

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _WEEKDAYS),
)
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # at most, by month


class Cron:
    """When something is to happen again and again: `Cron("*/5 * * * *", tz="Europe/Paris")`.

    `tz`: the name of an IANA time zone. Whether there is one of that name is looked up when it is first needed, by
    `next_ms` or `scheduler_expression`: a step handler that merely names a schedule does not pay for `zoneinfo`.
    """

    __slots__ = ("_days", "_either", "_hours", "_minutes", "_months", "_weekdays", "_zone", "expression", "tz")

    def __init__(self, expression: str, tz: str = "UTC") -> None:
        if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION_CHARS:
            raise InvalidOption(
                f"cron takes five fields in a string of up to {MAX_EXPRESSION_CHARS} characters, not {expression!r:.80}"
            )
        texts = expression.upper().split()
        if len(texts) != len(_FIELDS):
            raise InvalidOption(
                f'cron("{expression:.80}") has {len(texts)} fields; it takes five: '
                + ", ".join(name for name, *_ in _FIELDS)
            )
        if not _is_zone_name(tz):
            raise InvalidOption(f'tz= takes the name of a time zone such as "Europe/Paris", not {tz!r:.80}')
        self.expression = " ".join(texts)
        self.tz = tz
        self._zone: tzinfo | None = None
        minutes, hours, days, months, weekdays = (
            self._parse(text, *field) for text, field in zip(texts, _FIELDS, strict=True)
        )
        self._minutes = sorted(minutes)
        self._hours = sorted(hours)
        self._months = months
        self._days = days
        self._weekdays = {weekday % 7 for weekday in weekdays}
        self._either = False  # of day of month and day of week
        self._settle_days(texts[2], texts[4])

    def _settle_days(self, days_text: str, weekdays_text: str) -> None:
        any_day, any_weekday = len(self._days) == 31, len(self._weekdays) == 7
        if days_text[0] == "*" or weekdays_text[0] == "*":
            if not any_day and not any_weekday:
                starred, full = (days_text, "1-31") if days_text[0] == "*" else (weekdays_text, "0-6")
                raise InvalidOption(
                    f'cron("{self.expression}") asks for days that satisfy both day of month and day of week, which '
                    f"EventBridge Scheduler cannot say; with {starred.replace('*', full, 1)!r} in place of {starred!r} "
                    "a day that satisfies either will do"
                )
        elif any_day or any_weekday:
            self._days, self._weekdays = set(range(1, 32)), set(range(7))
        else:
            self._either = True
        if min(self._days) > max(_DAYS[month - 1] for month in self._months):
            if not self._either:
                raise InvalidOption(f'cron("{self.expression}") never fires: these months have no such day')
            self._days, self._either = set(range(1, 32)), False

    def _parse(self, text: str, name: str, lowest: int, highest: int, names: tuple[str, ...]) -> set[int]:
        values: set[int] = set()
        for item in text.split(","):
            base, slash, step_text = item.partition("/")
            first, dash, last = base.partition("-")
            if base == "*":
                start, stop = lowest, highest
            else:
                start = self._number(first, name, lowest, highest, names)
                stop = self._number(last, name, lowest, highest, names) if dash else start
            if stop < start:
                self._refuse(name, f"a range goes from the lower to the higher, not {base!r}")
            step = 1
            if slash:
                if base != "*" and not dash:
                    self._refuse(name, f"a step follows * or a range: write {base}-{highest}/{step_text}, not {item!r}")
                step = _digits(step_text)
                if not 1 <= step <= highest - lowest:
                    self._refuse(name, f"a step is a number from 1 to {highest - lowest}, not {step_text!r}")
            values.update(range(start, stop + 1, step))
        return values

    def _number(self, text: str, name: str, lowest: int, highest: int, names: tuple[str, ...]) -> int:
        if text in names:
            return names.index(text) + lowest
        number = _digits(text)
        if not lowest <= number <= highest:
            words = f" or {names[0]} to {names[-1]}" if names else ""
            self._refuse(name, f"it takes {lowest} to {highest}{words}, not {text!r}")
        return number

    def _refuse(self, name: str, reason: str) -> NoReturn:
        raise InvalidOption(f'cron("{self.expression}"), {name}: {reason}')

    def __repr__(self) -> str:
        return f"Cron({self.expression!r}, tz={self.tz!r})"

    def next_ms(self, after_ms: int) -> int:
        """The first time strictly after that one, both in epoch milliseconds. Raises `InvalidOption` where the time
        zone is unknown, or where no such time comes within 40 years."""
        from datetime import UTC, datetime, timedelta

        zone = self._load_zone()
        epoch, millisecond = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
        try:
            now = (epoch + after_ms * millisecond).astimezone(zone)
            for day in self._dates(now.date()):
                for hour in self._hours:
                    if hour < now.hour and day == now.date():
                        continue
                    for minute in self._minutes:
                        wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
                        at = wall.astimezone(UTC)
                        at_ms = (at - epoch) // millisecond
                        exists = at.astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None)
                        if exists and at_ms > after_ms:
                            return at_ms
        except OverflowError:  # the calendar of `datetime` ends with the year 9999
            pass
        raise InvalidOption(f"{self!r} does not fire within {MAX_YEARS} years after {after_ms} ms")

    def _dates(self, first: date) -> Iterator[date]:
        """The days on which it fires, from the first on."""
        from datetime import date

        for month in range(first.month - 1, first.month - 1 + 12 * MAX_YEARS):
            year, month_index = first.year + month // 12, month % 12
            if year > 9999:
                return
            if month_index + 1 not in self._months:
                continue
            leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
            length = 28 if month_index == 1 and not leap else _DAYS[month_index]
            for number in range(first.day if month == first.month - 1 else 1, length + 1):
                day = date(year, month_index + 1, number)
                by_month, by_week = number in self._days, day.isoweekday() % 7 in self._weekdays
                if (by_month or by_week) if self._either else (by_month and by_week):
                    yield day

    def _load_zone(self) -> tzinfo:
        if self._zone is None:
            if self.tz == "UTC":
                from datetime import UTC

                self._zone = UTC
            else:
                from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

                try:
                    self._zone = ZoneInfo(self.tz)
                except (ZoneInfoNotFoundError, ValueError, OSError):
                    raise InvalidOption(
                        f"there is no time zone {self.tz!r} in the time zone database of this machine; "
                        "if the name is right, `pip install tzdata`"
                    ) from None
        return self._zone

    def scheduler_expression(self) -> str | list[str]:
        """The same in the syntax of EventBridge Scheduler, `cron(minute hour day-of-month month day-of-week year)`,
        where one of the two kinds of days is always `?`.

        Where either kind will do, that is two expressions, so two schedules; on a day that satisfies both, both fire.
        Let the id of what they start follow from the workflow and the scheduled time, so that it starts once.
        Raises `InvalidOption` where the time zone is unknown.
        """
        self._load_zone()
        times = f"{_written(self._minutes, 0, 59)} {_written(self._hours, 0, 23)}"
        months = _written(sorted(self._months), 1, 12)
        by_month = f"cron({times} {_written(sorted(self._days), 1, 31)} {months} ? *)"
        by_week = f"cron({times} ? {months} {_written(sorted(self._weekdays), 0, 6, _WEEKDAYS)} *)"
        if self._either:
            return [by_month, by_week]
        return by_month if len(self._weekdays) == 7 else by_week


def _digits(text: str) -> int:
    """The number, or -1."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else -1


def _is_zone_name(tz: object) -> bool:
    return (
        isinstance(tz, str)
        and len(tz) <= MAX_ZONE_CHARS
        and tz.isascii()
        and all(part and all(char.isalnum() or char in "_+-" for char in part) for part in tz.split("/"))
    )


def _written(values: list[int], lowest: int, highest: int, names: tuple[str, ...] = ()) -> str:
    """Values as a field of EventBridge Scheduler. Days of the week are named, since they count from 1 there."""
    if len(values) == highest - lowest + 1:
        return "*"
    if not names and len(values) > 2:
        step = values[1] - values[0]
        if values == list(range(values[0], highest + 1, step)) and step > 1:
            return f"{values[0]}/{step}"
    items: list[str] = []
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    for run in runs:
        words = [names[value] if names else str(value) for value in run]
        items += [f"{words[0]}-{words[-1]}"] if len(run) > 2 else words
    return ",".join(items)
