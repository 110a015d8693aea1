"""Which events start which workflows."""

from __future__ import annotations

from datetime import datetime

import pytest

from onward import App, cron, pattern
from onward.app import MAX_TRIGGERS, name_fits
from onward.aws.envelopes import recognise
from onward.core.errors import InvalidEvent, InvalidName, InvalidOption, UnknownPayload
from onward.engine.ingest import ingest
from onward.entry.local import Local
from onward.step import epoch_ms
from onward.testing import Rehearsal
from onward.testing.rehearsal import FakeClock


def started(app: App, name: str, data: object = None) -> list[str]:
    with Rehearsal(app) as stage:
        return [stage.view(run)["workflow"] for run in stage.start(name, data)]


def app_of(**triggers: object) -> App:
    app = App("triggers")
    for name, options in triggers.items():
        app.workflow(name=name, **(options if isinstance(options, dict) else {"on": options}))(lambda event, step: None)
    return app


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("order/paid", ["order/paid"], ["order/paid2", "order", "ORDER/PAID", ""]),
        ("order/*", ["order/paid", "order/", "order/a/b"], ["order", "orders/paid"]),
        ("*", ["a", "", "*"], []),
        ("*/paid", ["order/paid", "/paid"], ["order/paid/late"]),
        ("a*b*c", ["abc", "axxbyyc", "abbc", "abcbc"], ["ac", "ab", "acb"]),
        ("a*a", ["aa", "aba"], ["a"]),
        ("**", ["", "x"], []),
        ("a.*[x]", ["a.[x]", "a.q[x]"], ["abx", "a.x"]),
    ],
)
def test_a_star_is_any_characters_and_nothing_else_is_special(pattern, fits, others):
    assert [name for name in fits + others if name_fits(pattern, name)] == fits


def test_many_stars_take_no_time():
    assert not name_fits("*a" * 128, "a" * 127 + "b" * 129)


def test_an_event_starts_each_workflow_once_whichever_of_its_names_fit():
    app = app_of(one=["order/paid", "order/*"], two="order/*", three=["a", "b"], four="*")
    assert started(app, "order/paid") == ["one", "two", "four"]
    assert started(app, "b") == ["three", "four"]


def test_where_decides_with_the_event():
    app = app_of(large={"on": "order/paid", "where": lambda event: event.data["amount"] > 100}, all="order/*")
    assert started(app, "order/paid", {"amount": 101}) == ["large", "all"]
    assert started(app, "order/paid", {"amount": 100}) == ["all"]


def test_where_that_raises_starts_nothing_and_says_why():
    told = []
    app = app_of(large={"on": "order/paid", "where": lambda event: event.data["amount"] > 100}, all="order/*")
    with Rehearsal(app, note=lambda level, message, **fields: told.append((message, fields.get("reason")))) as stage:
        assert len(stage.start("order/paid", {})) == 1
    assert ("where= raised, taken for no", "KeyError: 'amount'") in told


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on": []}, InvalidOption, "on= takes one trigger, or a list of 1 to 10, not of 0"),
        ({"on": ["x"] * (MAX_TRIGGERS + 1)}, InvalidOption, "not of 11"),
        ({"on": ["x", ""]}, InvalidName, "on= is a string of 1 to 256 characters"),
        ({"on": None}, InvalidOption, "on= takes names of events, pattern.* not None"),
        ({"on": "x", "where": "y"}, InvalidOption, "where= takes a function of the event, not str"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        app_of(one=options)


CREATED = {
    "version": "0", "id": "17793124", "detail-type": "Object Created", "source": "aws.s3", "account": "111122223333",
    "time": "2021-11-12T00:00:00Z", "region": "eu-west-1", "resources": ["arn:aws:s3:::shop-uploads"],
    "detail": {"bucket": {"name": "shop-uploads"}, "object": {"key": "prices/2021.csv", "size": 5}},
}  # fmt: skip


def test_a_pattern_sees_the_whole_envelope():
    app = app_of(
        prices=pattern({"source": ["aws.s3"], "detail": {"object": {"key": [{"prefix": "prices/"}]}}}),
        other=pattern({"source": ["aws.s3"], "account": ["999999999999"]}),
        name="Object *",
    )
    with Rehearsal(app) as stage:
        [event] = recognise(CREATED).events
        runs = ingest(stage.engine, event)
        assert [stage.view(run)["workflow"] for run in runs] == ["prices", "name"]
        stage.drain()
        assert ingest(stage.engine, event) == runs


def test_an_event_that_came_from_no_bus_has_a_source_of_its_own():
    app = app_of(ours=pattern({"source": ["onward"], "detail": {"n": [{"numeric": [">", 3]}]}}), theirs=pattern(S3))
    assert started(app, "x", {"n": 4}) == ["ours"]
    assert started(app, "x", {"n": 3}) == []


S3 = {"source": ["aws.s3"]}


def test_an_event_that_cannot_be_matched_starts_the_others_and_says_why(monkeypatch):
    monkeypatch.setattr("onward.core.pattern.MAX_PAIRS", 10)
    told = []
    wanted = {"c": [{"exists": True}], "d": [{"exists": True}], "e": ["none"]}
    app = app_of(hard=pattern({"detail": {"a": {"b": wanted}}}), all="*")
    half = [{"c": n, "d": n, "e": n} for n in range(200)]
    with Rehearsal(app, note=lambda level, message, **fields: told.append(message)) as stage:
        assert len(stage.start("go", {"a": [{"b": one} for one in half], "a.b": half})) == 1
    assert "the event cannot be matched" in told


def test_nobody_sends_or_hears_what_looks_like_an_event_of_our_own():
    with pytest.raises(InvalidOption, match="Onward's own"):
        app_of(ours="onward/*")
    with Rehearsal(app_of(all="*")) as stage:
        for name, id in (("onward/run.failed", None), ("go", "onward/callback/token")):
            with pytest.raises(InvalidEvent, match="Onward's own"):
                stage.start(name, id=id)


def scheduled(*schedules, since="2026-03-27T00:00", hours=72):
    """When runs were started, with what they were told."""
    began = []
    app = App("times")

    @app.workflow(on=list(schedules))
    def work(event, step):
        began.append((event.data["scheduled"], event.name))

    with Rehearsal(app, clock=FakeClock(epoch_ms(datetime.fromisoformat(since)))) as stage:
        stage.pass_time(hours * 3600)
    return began


def test_a_schedule_starts_one_run_at_each_of_its_times():
    began = scheduled(cron("30 7 * * *", tz="Europe/Paris"), cron("30 8-9 * * *", tz="Europe/Paris"))
    assert [at for at, _ in began] == [
        f"2026-03-{day}T{hour:02}:30:00Z"
        for day, hours in ((27, (6, 7, 8)), (28, (6, 7, 8)), (29, (5, 6, 7)))
        for hour in hours
    ]  # summer time begins on the 29th
    assert {name for _, name in began} == {"onward/scheduled"}


def test_two_schedules_of_one_workflow_that_meet_start_one_run():
    assert len(scheduled(cron("0 * * * *"), cron("0 12 * * *"), hours=24)) == 24


def test_jitter_puts_each_start_off_by_a_part_that_follows_from_its_time():
    began = []
    app = App("times")

    @app.workflow(on=cron("0 * * * *", jitter=600))
    def work(event, step):
        began.append(stage.clock.now_ms() % 3600_000)

    for _ in range(2):
        with Rehearsal(app, clock=FakeClock(epoch_ms(datetime(2026, 1, 1)))) as stage:
            stage.pass_time(12 * 3600)
            stage.drain()
    assert began[:12] == began[12:] and len(set(began)) > 6 and max(began) <= 610_000


def test_the_word_of_eventbridge_scheduler_starts_the_same_run_as_our_own():
    app = App("times")
    app.workflow(on=cron("0 12 * * *"), name="work")(lambda event, step: None)
    with Rehearsal(app, clock=FakeClock(epoch_ms(datetime(2026, 1, 1)))) as stage:
        stage.pass_time(13 * 3600)
        before = stage.store.rows("SELECT count(*) FROM items", ())
        stage.deliver({"do": "cron", "workflow": "work", "at": "2026-01-01T12:00:00Z"})
        assert stage.store.rows("SELECT count(*) FROM items", ()) == before
        stage.deliver({"do": "cron", "workflow": "work", "at": "2026-01-02T12:00:00Z"})
        assert stage.store.rows("SELECT count(*) FROM items", ()) > before
        stage.deliver({"do": "cron", "workflow": "gone", "at": "2026-01-02T12:00:00Z"})
        for bad in ({"workflow": "work"}, {"workflow": "work", "at": "noon"}, {"workflow": "work", "at": "2026-01-01"}):
            with pytest.raises(UnknownPayload):
                stage.deliver({"do": "cron", **bad})


def test_on_a_laptop_schedules_are_kept_while_something_runs(tmp_path):
    began = []
    app = App("times")
    app.workflow(on=cron("* * * * *"), name="work")(lambda event, step: began.append(event.data["scheduled"]))
    clock = FakeClock(epoch_ms(datetime(2026, 1, 1, 12, 0, 30)))
    local = Local(app, str(tmp_path / "s.db"), clock=clock, schedules=True)
    try:
        for _ in range(4):
            while local.work_once():
                pass
            clock.turn(clock.now_ms() + 60_000)
    finally:
        local.close()
    assert began == ["2026-01-01T12:01:00Z", "2026-01-01T12:02:00Z", "2026-01-01T12:03:00Z"]
