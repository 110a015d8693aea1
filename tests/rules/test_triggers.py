"""Which events start which workflows."""

from __future__ import annotations

import pytest

from onward import App
from onward.app import MAX_TRIGGERS, name_fits
from onward.core.errors import InvalidName, InvalidOption
from onward.testing import Rehearsal


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
