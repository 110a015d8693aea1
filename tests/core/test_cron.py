"""Cron expressions: what they mean, when they fire as clocks change, and how EventBridge Scheduler is told."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onward.core.cron import MAX_EXPRESSION_CHARS, Cron
from onward.core.errors import InvalidOption
from tests.lines import within

PARIS = ZoneInfo("Europe/Paris")
MINUTE_MS = 60_000
SOURCES = {"PYTHONPATH": str(Path(__file__).parents[2] / "adapter")}


def ms(text, tz=UTC):
    return round(datetime.fromisoformat(text).replace(tzinfo=tz).timestamp() * 1000)


def text_of(at_ms, tz=UTC):
    return datetime.fromtimestamp(at_ms / 1000, tz).strftime("%Y-%m-%d %H:%M %a")


def times(expression, after, count, tz="UTC"):
    """The next times as the clock on the wall shows them."""
    cron, zone = Cron(expression, tz=tz), ZoneInfo(tz)
    at_ms, found = ms(after, zone), []
    for _ in range(count):
        at_ms = cron.next_ms(at_ms)
        found.append(text_of(at_ms, zone))
    return found


# ---------------------------------------------------------------------------------------------------- what it means
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 * * * *", ["2025-01-01 00:20 Wed", "2025-01-01 00:40 Wed", "2025-01-01 01:00 Wed"]),
        ("5-15/5 3 * * *", ["2025-01-01 03:05 Wed", "2025-01-01 03:10 Wed", "2025-01-01 03:15 Wed"]),
        ("0 9,17 * * *", ["2025-01-01 09:00 Wed", "2025-01-01 17:00 Wed", "2025-01-02 09:00 Thu"]),
        ("30 8 * * MON-FRI", ["2025-01-01 08:30 Wed", "2025-01-02 08:30 Thu", "2025-01-03 08:30 Fri"]),
        ("30 8 * * sat,Sun", ["2025-01-04 08:30 Sat", "2025-01-05 08:30 Sun", "2025-01-11 08:30 Sat"]),
        ("0 0 * * 0", ["2025-01-05 00:00 Sun", "2025-01-12 00:00 Sun", "2025-01-19 00:00 Sun"]),
        ("0 0 * * 7", ["2025-01-05 00:00 Sun", "2025-01-12 00:00 Sun", "2025-01-19 00:00 Sun"]),
        ("0 0 * * 5-7", ["2025-01-03 00:00 Fri", "2025-01-04 00:00 Sat", "2025-01-05 00:00 Sun"]),
        ("0 0 1 JAN-DEC/3 *", ["2025-04-01 00:00 Tue", "2025-07-01 00:00 Tue", "2025-10-01 00:00 Wed"]),
        ("0 0 31 * *", ["2025-01-31 00:00 Fri", "2025-03-31 00:00 Mon", "2025-05-31 00:00 Sat"]),
        ("0 0 29 2 *", ["2028-02-29 00:00 Tue", "2032-02-29 00:00 Sun", "2036-02-29 00:00 Fri"]),
        ("0 0 */10 * *", ["2025-01-11 00:00 Sat", "2025-01-21 00:00 Tue", "2025-01-31 00:00 Fri"]),
        ("0 0 13 * FRI", ["2025-01-03 00:00 Fri", "2025-01-10 00:00 Fri", "2025-01-13 00:00 Mon"]),
        ("0 0 1-31 * FRI", ["2025-01-02 00:00 Thu", "2025-01-03 00:00 Fri", "2025-01-04 00:00 Sat"]),
        ("0 0 30 2 MON", ["2025-02-03 00:00 Mon", "2025-02-10 00:00 Mon", "2025-02-17 00:00 Mon"]),
        ("  05   07\t* * *  ", ["2025-01-01 07:05 Wed", "2025-01-02 07:05 Thu", "2025-01-03 07:05 Fri"]),
    ],
)
def test_an_expression_means_these_times(expression, expected):
    assert times(expression, "2025-01-01T00:00", 3) == expected


def test_the_next_time_is_strictly_after():
    cron = Cron("* * * * *")
    at_ms = ms("2025-01-01T00:00")
    assert cron.next_ms(at_ms - 1) == at_ms
    assert cron.next_ms(at_ms) == cron.next_ms(at_ms + 1) == at_ms + MINUTE_MS
    assert cron.next_ms(-1) == 0, "times before 1970 too"


def test_a_29_february_is_found_over_the_century_that_has_none():
    assert times("0 0 29 2 *", "2096-03-01T00:00", 1) == ["2104-02-29 00:00 Fri"]


def test_the_calendar_ends_with_an_error():
    with pytest.raises(InvalidOption, match="does not fire within 40 years"):
        Cron("0 0 1 1 *").next_ms(ms("9999-06-01T00:00"))
    with pytest.raises(InvalidOption, match="does not fire within 40 years"):
        Cron("0 0 1 1 *").next_ms(10**20)


# -------------------------------------------------------------------------------------------------- when clocks change
def test_a_time_that_does_not_exist_is_skipped():
    """As EventBridge Scheduler does: on 2025-03-30, Paris goes from 02:00 to 03:00."""
    assert times("30 2 * * *", "2025-03-29T00:00", 3, "Europe/Paris") == [
        "2025-03-29 02:30 Sat",
        "2025-03-31 02:30 Mon",
        "2025-04-01 02:30 Tue",
    ]
    assert times("*/30 1-3 * * *", "2025-03-30T01:00", 3, "Europe/Paris") == [
        "2025-03-30 01:30 Sun",
        "2025-03-30 03:00 Sun",
        "2025-03-30 03:30 Sun",
    ]


def test_a_time_that_exists_twice_fires_once_and_the_first_time():
    """On 2025-10-26, Paris goes from 03:00 back to 02:00."""
    cron = Cron("30 2 * * *", tz="Europe/Paris")
    first_ms = cron.next_ms(ms("2025-10-26T00:00", PARIS))
    assert text_of(first_ms) == "2025-10-26 00:30 Sun", "02:30 of summer, in UTC"
    assert text_of(cron.next_ms(first_ms)) == "2025-10-27 01:30 Mon"
    often = Cron("*/30 * * * *", tz="Europe/Paris")
    second_hour_ms = ms("2025-10-26T01:10")  # 02:10 of winter, in UTC
    assert text_of(often.next_ms(second_hour_ms)) == "2025-10-26 02:00 Sun", "03:00 of winter"


@pytest.mark.parametrize(
    ("tz", "around"),
    [
        ("Europe/Paris", "2025-03-30"),
        ("Europe/Paris", "2025-10-26"),
        ("America/New_York", "2025-11-02"),
        ("Australia/Lord_Howe", "2025-04-06"),  # half an hour back
        ("Australia/Lord_Howe", "2025-10-05"),
        ("America/Sao_Paulo", "2018-11-04"),  # midnight does not exist
        ("America/Sao_Paulo", "2018-02-18"),  # the last hour of a Saturday exists twice
        ("Asia/Kathmandu", "2025-01-01"),
        ("Pacific/Apia", "2011-12-30"),  # a day that does not exist
        ("Africa/Casablanca", "2025-02-23"),  # winter time in Ramadan
        ("Antarctica/Troll", "2025-03-30"),  # two hours
    ],
)
@pytest.mark.parametrize("expression", ["*/7 * * * *", "15,45 */2 * * *", "0 0-3,23 * * *", "30 2 * * SUN,MON"])
def test_it_fires_where_the_clock_shows_that_time_for_the_first_time(tz, around, expression):
    """The definition, minute by minute over forty hours."""
    zone, cron = ZoneInfo(tz), Cron(expression, tz=tz)
    begin_ms = ms(around) - 12 * 60 * MINUTE_MS
    end_ms = begin_ms + 40 * 60 * MINUTE_MS
    expected = []
    for at_ms in range(begin_ms + MINUTE_MS, end_ms, MINUTE_MS):
        wall = datetime.fromtimestamp(at_ms / 1000, zone)
        if wall.fold == 0 and fits(expression, wall):
            expected.append(at_ms)
    found, at_ms = [], begin_ms
    while (at_ms := cron.next_ms(at_ms)) < end_ms:
        found.append(at_ms)
    assert found == expected


def fits(expression, wall):
    before = wall.replace(tzinfo=None) - timedelta(minutes=1)
    return next(CronSim(expression, before)) == wall.replace(tzinfo=None)


# ------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("* * * *", 'cron("* * * *") has 4 fields; it takes five: minute, hour, day of month, month, day of week'),
        ("0 * * * * *", "has 6 fields; it takes five"),
        ("@daily", "has 1 fields; it takes five"),
        ("", "has 0 fields; it takes five"),
        ("60 * * * *", "cron(\"60 * * * *\"), minute: it takes 0 to 59, not '60'"),
        ("* 24 * * *", "hour: it takes 0 to 23, not '24'"),
        ("* * 0 * *", "day of month: it takes 1 to 31, not '0'"),
        ("* * * 13 *", "month: it takes 1 to 12 or JAN to DEC, not '13'"),
        ("* * * FEBRUARY *", "month: it takes 1 to 12 or JAN to DEC, not 'FEBRUARY'"),
        ("* * * * 8", "day of week: it takes 0 to 7 or SUN to SAT, not '8'"),
        ("* * * * JAN", "day of week: it takes 0 to 7 or SUN to SAT, not 'JAN'"),
        ("MON * * * *", "minute: it takes 0 to 59, not 'MON'"),
        ("-1 * * * *", "minute: it takes 0 to 59, not ''"),
        ("1, * * * *", "minute: it takes 0 to 59, not ''"),
        ("1.5 * * * *", "minute: it takes 0 to 59, not '1.5'"),
        ("٣ * * * *", "minute: it takes 0 to 59, not '٣'"),
        ("1-2-3 * * * *", "minute: it takes 0 to 59, not '2-3'"),
        ("30-10 * * * *", "minute: a range goes from the lower to the higher, not '30-10'"),
        ("* * * * FRI-SUN", "day of week: a range goes from the lower to the higher, not 'FRI-SUN'"),
        ("*/0 * * * *", "minute: a step is a number from 1 to 59, not '0'"),
        ("*/90 * * * *", "minute: a step is a number from 1 to 59, not '90'"),
        ("*/ * * * *", "minute: a step is a number from 1 to 59, not ''"),
        ("*/2/2 * * * *", "minute: a step is a number from 1 to 59, not '2/2'"),
        ("5/15 * * * *", "minute: a step follows * or a range: write 5-59/15, not '5/15'"),
        ("? * * * *", "minute: it takes 0 to 59, not '?'"),
        ("* * L * *", "day of month: it takes 1 to 31, not 'L'"),
        ("* * * * MON#1", "day of week: it takes 0 to 7 or SUN to SAT, not 'MON#1'"),
        ("0 0 30 2 *", 'cron("0 0 30 2 *") never fires: these months have no such day'),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 */2 * MON", "asks for days that satisfy both day of month and day of week"),
        ("0 0 1 * */2", "with '0-6/2' in place of '*/2' a day that satisfies either will do"),
        ("9" * 300 + " * * * *", f"five fields in a string of up to {MAX_EXPRESSION_CHARS} characters"),
        (None, "five fields in a string"),
        (5, "five fields in a string"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_expression_that_makes_no_sense_is_refused_with_the_field(expression, message):
    with pytest.raises(InvalidOption) as caught:
        Cron(expression)
    assert message in str(caught.value)


@pytest.mark.parametrize("tz", ["", None, 5, "../etc/passwd", "/etc/localtime", "Europe//Paris", "a" * 51, "Zürich"])
def test_what_cannot_name_a_time_zone_is_refused_at_once(tz):
    with pytest.raises(InvalidOption, match=r'tz= takes the name of a time zone such as "Europe/Paris", not '):
        Cron("* * * * *", tz=tz)


@pytest.mark.parametrize("tz", ["Europe/Pariss", "Europe", "CESTT"])
@pytest.mark.parametrize("use", [lambda cron: cron.next_ms(0), Cron.scheduler_expression], ids=["next", "scheduler"])
def test_an_unknown_time_zone_is_refused_where_it_is_needed(tz, use):
    with pytest.raises(InvalidOption, match=f"there is no time zone '{tz}' in the time zone database of this machine"):
        use(Cron("* * * * *", tz=tz))


def test_a_schedule_that_is_only_named_costs_no_import():
    code = (
        "import sys; from onward.core.cron import Cron; Cron('0 9 * * MON', tz='Europe/Paris'); "
        "print([name for name in ('zoneinfo', 'datetime') if name in sys.modules]); "
        "Cron('0 9 * * MON').next_ms(0); print('zoneinfo' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=SOURCES)
    assert told.stdout.split("\n")[:2] == ["[]", "False"]


# ------------------------------------------------------------------------------------------------ second opinions
def field(lowest, highest, names=()):
    numbers = st.integers(lowest, highest).map(str)
    ranges = st.sets(st.integers(lowest, highest), min_size=2, max_size=2).map(
        lambda ends: f"{min(ends)}-{max(ends)}"  # cronsim takes 5-5/2 for 5-59/2, and Vixie cron for 5
    )
    steps = st.builds(
        lambda base, step: f"{base}/{step}", ranges | st.just("*"), st.integers(1, min(7, highest - lowest))
    )
    items = numbers | ranges | steps | (st.sampled_from(names) if names else numbers)
    return st.just("*") | st.lists(items, min_size=1, max_size=3).map(",".join)


MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
EXPRESSIONS = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12, MONTHS), field(0, 7, WEEKDAYS)).map(
    " ".join
)
INSTANTS = st.integers(ms("1990-01-01T00:00"), ms("2090-01-01T00:00"))


def made(expression, tz="UTC"):
    try:
        return Cron(expression, tz=tz)
    except InvalidOption as error:
        assert "never fires" in str(error) or "satisfy both" in str(error)
        assume(False)


@given(EXPRESSIONS, INSTANTS)
def test_cronsim_names_the_same_times(expression, after_ms):
    cron = made(expression)
    theirs = CronSim(expression, datetime.fromtimestamp(after_ms / 1000, UTC))
    for _ in range(3):
        after_ms = cron.next_ms(after_ms)
        assert text_of(after_ms) == next(theirs).strftime("%Y-%m-%d %H:%M %a")


@given(EXPRESSIONS, INSTANTS, st.sampled_from(["Asia/Tokyo", "America/Caracas", "Asia/Kolkata"]))
def test_cronsim_names_the_same_times_in_other_zones(expression, after_ms, tz):
    assume(after_ms > ms("2017-01-01T00:00"))  # since then, no clocks changed there
    after_ms = made(expression, tz).next_ms(after_ms)
    before = datetime.fromtimestamp(after_ms / 1000, ZoneInfo(tz)).replace(tzinfo=None) - timedelta(minutes=1)
    assert next(CronSim(expression, before)) == before + timedelta(minutes=1)


def scheduler_days(scheduler, year, month):
    """The days of a month on which an expression of EventBridge Scheduler fires, read as its user guide says."""
    _, _, days, months, weekdays, years = scheduler.removeprefix("cron(").removesuffix(")").split(" ")
    assert years == "*"
    assert (days == "?") != (weekdays == "?"), "exactly one of the two kinds of days is ?"
    if month not in scheduler_values(months, 1, 12):
        return set()
    day, found = datetime(year, month, 1), set()
    while day.month == month:
        of_week = WEEKDAYS[day.isoweekday() % 7]
        if day.day in scheduler_values(days, 1, 31) if weekdays == "?" else of_week in scheduler_names(weekdays):
            found.add(day.day)
        day += timedelta(days=1)
    return found


def scheduler_values(text, lowest, highest):
    values = set()
    for item in text.split(","):
        base, _, step = item.partition("/")
        first, _, last = base.partition("-")
        if base == "*":
            values.update(range(lowest, highest + 1))
        else:
            values.update(range(int(first), (highest if step else int(last or first)) + 1, int(step or 1)))
    return values


def scheduler_names(text):
    if text == "*":
        return set(WEEKDAYS)
    ends = [item.split("-") for item in text.split(",")]
    return {WEEKDAYS[day] for end in ends for day in range(WEEKDAYS.index(end[0]), WEEKDAYS.index(end[-1]) + 1)}


@settings(max_examples=60)
@given(EXPRESSIONS)
def test_the_scheduler_is_told_the_same_times(expression):
    cron = made(expression)
    told = cron.scheduler_expression()
    told = [told] if isinstance(told, str) else told
    assert all(len(one) <= 256 for one in told)
    parts = [one.removeprefix("cron(").split(" ") for one in told]
    assert len({tuple(part[:2]) for part in parts}) == 1
    minutes, hours = scheduler_values(parts[0][0], 0, 59), scheduler_values(parts[0][1], 0, 23)
    first = next(CronSim(expression, datetime(2023, 12, 31, 23, 59)))
    assert first.minute == min(minutes)
    assert first.hour == min(hours)
    at_ms = ms("2024-01-01T00:00") - 1
    for month in (1, 2, 3, 4):
        days = set().union(*(scheduler_days(one, 2024, month) for one in told))
        for day in sorted(days):
            begin_ms = ms(f"2024-{month:02}-{day:02}T00:00")
            at_ms = cron.next_ms(at_ms)
            assert at_ms == begin_ms + (min(hours) * 60 + min(minutes)) * MINUTE_MS, "and on no day between"
            at_ms = begin_ms + 24 * 60 * MINUTE_MS - 1
            assert cron.next_ms(begin_ms + (max(hours) * 60 + max(minutes)) * MINUTE_MS) > at_ms


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("*/5 * * * *", "cron(0/5 * * * ? *)"),
        ("0 10 * * *", "cron(0 10 * * ? *)"),
        ("0 18 * * MON-FRI", "cron(0 18 ? * MON-FRI *)"),
        ("0 18 * * 1-5", "cron(0 18 ? * MON-FRI *)"),
        ("0 18 * * 0", "cron(0 18 ? * SUN *)"),
        ("0 18 * * 7,6", "cron(0 18 ? * SUN,SAT *)"),
        ("0 8 1 * *", "cron(0 8 1 * ? *)"),
        ("0-30/10 8-17 * JAN,MAR *", "cron(0,10,20,30 8-17 * 1,3 ? *)"),
        ("0 0 13 * FRI", ["cron(0 0 13 * ? *)", "cron(0 0 ? * FRI *)"]),
        ("0 0 30 2 MON", "cron(0 0 ? 2 MON *)"),
        ("0 0 1-31 * FRI", "cron(0 0 * * ? *)"),
        ("0 0 */2 * *", "cron(0 0 1/2 * ? *)"),
    ],
)
def test_the_scheduler_is_told_in_its_own_words(expression, told):
    assert Cron(expression, tz="Europe/Paris").scheduler_expression() == told


def test_a_time_is_found_without_looking_at_every_minute():
    leap = Cron("59 23 29 2 *", tz="Europe/Paris")
    found = within(5_000, lambda: leap.next_ms(ms("2096-03-01T00:00")))
    assert text_of(found, ZoneInfo("Europe/Paris")) == "2104-02-29 23:59 Fri"  # 2100 has no such day
    for expression in ("* * * * *", "59 23 31 12 *"):
        for after_ms in range(0, ms("2060-01-01T00:00"), 10**11):
            within(5_000, lambda e=expression, a=after_ms: Cron(e, tz="America/New_York").next_ms(a))


def test_it_says_what_it_is():
    assert repr(Cron("0  9 * * mon", tz="Europe/Paris")) == "Cron('0 9 * * MON', tz='Europe/Paris')"
