"""What ONWARD_CHAOS may say. A text that is none is refused at the start, in one line, and never ignored."""

import subprocess
import sys

import pytest

from onward import App
from onward.chaos import DEFAULT, Mixture, parse
from onward.cli import main
from onward.core.errors import InvalidOption
from onward.entry.aws import Door
from onward.entry.local import Local
from onward.local.chaos import Chaos

BAD = {
    "bogus": "does not know 'bogus'",
    "dropp=0.1": "does not know 'dropp=0.1'",
    "drop": "does not know 'drop'",
    "2": "does not know '2'",
    "drop=0.1 on": "does not know 'on'",
    "off drop=0.1": "does not know 'off'",
    "drop=much": "takes a number, not 'much'",
    "drop=": "takes a number, not ''",
    "drop=1.01": "takes a probability from 0 to 1, not 1.01",
    "drop=-0.1": "takes a probability from 0 to 1, not -0.1",
    "kill=nan": "takes a probability from 0 to 1, not nan",
    "lose=inf": "takes a probability from 0 to 1, not inf",
    "horizon=0": "takes seconds from 1 to 2400, not 0.0",
    "delay_s=601": "takes seconds from 0 to 600, not 601.0",
    "seed=1.5": "takes a whole number of at most 18 digits, not '1.5'",
    "seed=²": "takes a whole number",
    "seed=1234567890123456789": "takes a whole number of at most 18 digits",
    "drop=0.1 drop=0.2": "names drop= twice",
    "drop=0.1 " + " " * 1_000: "takes at most 1,000 characters",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_text_is_refused_and_the_error_says_what_is_wrong(text):
    with pytest.raises(InvalidOption, match=r"chaos|CHAOS") as caught:
        parse(text)
    assert BAD[text] in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", "0", "off", "OFF"])
def test_off_is_off(text):
    assert parse(text) is None


@pytest.mark.parametrize("text", ["1", "on", "ON", DEFAULT])
def test_on_is_the_default_mixture(text):
    mixture = parse(text)
    assert mixture == parse("on")
    assert all((mixture.duplicate, mixture.delay, mixture.drop, mixture.kill, mixture.lose, mixture.throttle))


def test_what_is_named_stands_alone_and_after_on_it_is_put_over_the_default():
    assert parse("drop=0.5, seed=7") == Mixture(drop=0.5, seed=7)
    assert parse("on drop=0.5 kill=0") == Mixture(**{**vars(parse("on")), "drop": 0.5, "kill": 0.0})


@pytest.mark.parametrize("text", ["on", "drop=0.25 seed=0", "kill=1 kill_s=0.5 horizon=30 seed=123456789012345678"])
def test_a_mixture_shows_itself_as_a_text_that_asks_for_it(text):
    assert parse(str(parse(text))) == parse(text)


def test_the_local_lambda_checks_its_probabilities_by_the_same_rule():
    with pytest.raises(InvalidOption, match="drop= takes a probability"):
        Chaos(drop=2)


def test_the_command_refuses_a_bad_text_in_one_line_before_anything_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ONWARD_CHAOS", "kill=2")
    store = tmp_path / "store.db"
    code = main(["run", "handlers.demo:app", "pricing/sync.requested", "--data", "{}", "--store", str(store)])
    assert code == 2
    assert capsys.readouterr().err == "onward: chaos: kill= takes a probability from 0 to 1, not 2.0\n"
    with pytest.raises(InvalidOption):
        Local(App("x"), store)


def test_a_handler_refuses_a_bad_text_at_init(tmp_path):
    with pytest.raises(InvalidOption, match=r"does not know 'kil=0\.1'"):
        Door(App("x"), {"ONWARD_STORE": str(tmp_path / "store.db"), "AWS_REGION": "r", "ONWARD_CHAOS": "kil=0.1"})


def test_a_handler_with_chaos_says_so_at_init_and_one_without_imports_nothing_of_it(tmp_path):
    code = (
        "import sys; from onward import App; App('x').handler(); "
        "assert ('onward.chaos' in sys.modules) == (sys.argv[1] == 'yes')"
    )
    told = {}
    for chaos in ("", "on seed=3"):
        known = {"ONWARD_STORE": str(tmp_path / "store.db"), "AWS_REGION": "r", "ONWARD_CHAOS": chaos}
        known["PYTHONPATH"] = ":".join(filter(None, sys.path))
        # The store of a local Lambda is part of the wing that knows chaos; its table is not.
        if not chaos:
            known |= {"ONWARD_TABLE": "t"}
            del known["ONWARD_STORE"]
        done = subprocess.run(
            [sys.executable, "-c", code, "yes" if chaos else "no"], env=known, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        told[chaos] = done.stdout
    assert told[""] == ""
    assert '"level": "WARNING", "message": "chaos is on"' in told["on seed=3"] and "seed=3" in told["on seed=3"]
