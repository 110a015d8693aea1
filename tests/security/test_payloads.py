"""Payload bombs and hostile names: each works from end to end, or is refused in one line before anything is written."""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Any

import pytest

from onward.aws.envelopes import parse_body
from onward.cli.show import Progress, as_json, plain, table
from onward.core import codec
from onward.core.codec import MAX_TOLD_CHARS, decode, encode
from onward.core.errors import InvalidEvent, NotEncodable, OnwardError, UnknownPayload
from onward.core.values import Event
from onward.engine.ingest import ingest
from onward.engine.notes import MAX_FIELD_CHARS, to_stdout
from onward.engine.views import unfinished
from onward.entry.aws import Door
from onward.ports import Store
from onward.testing import Rehearsal
from tests.lines import within
from tests.rules.acting import SYNC
from tests.security import HOSTILE_TEXTS

NAMES = [text for text in HOSTILE_TEXTS if 1 <= len(text) <= 256] + [
    "\U0001f469\u200d\U0001f680" * 85,
    "a\nb",
    "\x9b31m",
    "\u2028",
]


def deep(levels: int) -> list[Any]:
    tree: list[Any] = []
    for _ in range(levels):
        tree = [tree]
    return tree


# ----------------------------------------------------------------------------------------------------- hostile names
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_hostile_name_works_from_end_to_end_and_steers_no_terminal_and_no_log(
    store: Store, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def work(event: Any, step: Any) -> Any:
        one = step.run(name, lambda: {name: name})
        step.sleep(name, 1)
        two = step.parallel(lambda: step.run(name, lambda: name), lambda: step.run(name + "", lambda: 2))
        return [one, two, event.data, event.name, event.id]

    app = SYNC.app(work, on=name, name=name)
    with Rehearsal(app, store=store, fresh=True, note=to_stdout("rules")) as stage:
        run = stage.send(name, {name: [name]}, id=name)
        assert run["status"] == "completed", run["error"]
        assert run["result"] == [{name: name}, [name, 2], {name: [name]}, name, name]
        assert stage.start(name, {name: [name]}, id=name) == [run["run_id"]], "the same event has the same run"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 4 and all(json.loads(line)["service"] == "rules" for line in lines)
    shown = table(run) + Progress(sys.stderr).line([run], 1.0)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert as_json(run).isascii() and as_json(run).isprintable()


@pytest.mark.parametrize("text", [*NAMES, "\r\nonward: forged"], ids=lambda text: ascii(text)[:30])
def test_what_a_stranger_says_in_an_error_steers_no_terminal_and_no_log(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    def fail() -> None:
        raise ValueError(text)

    def work(event: Any, step: Any) -> None:
        step.run("call", fail, retries=0)

    with Rehearsal(SYNC.app(work), note=to_stdout("rules")) as stage:
        run = stage.send("go")
    assert run["status"] == "failed"
    assert all(json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert all(char.isprintable() or char == "\n" for char in table(run))


def test_names_that_look_alike_are_different_steps_and_different_runs(store: Store) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert unicodedata.normalize("NFC", decomposed) == composed

    def work(event: Any, step: Any) -> Any:
        return [step.run(composed, lambda: 1), step.run(decomposed, lambda: 2), step.run(composed, lambda: 3)]

    with Rehearsal(SYNC.app(work), store=store, fresh=True) as stage:
        first, second = stage.send("go", id=composed), stage.send("go", id=decomposed)
    assert first["result"] == second["result"] == [1, 2, 3]
    assert first["run_id"] != second["run_id"]


@pytest.mark.parametrize("name", ["", "x" * 257, "\U0001f469" * 257, 5, None, ["x"]], ids=lambda name: repr(name)[:20])
def test_a_name_that_is_too_long_or_no_text_is_refused_before_anything_is_written(store: Store, name: Any) -> None:
    with Rehearsal(SYNC.app(lambda event, step: None), store=store) as stage:
        for event in (Event("go", {}, name, 1), Event(name, {}, "id", 1)):
            with pytest.raises(InvalidEvent) as refusal:
                from onward.engine.ingest import start

                start(stage.engine, "work", event)
            assert len(str(refusal.value)) < 300
        assert unfinished(stage.engine.ledger, 10) == []


# ------------------------------------------------------------------------------------------------------------- bombs
BOMBS = {
    "deep": lambda: deep(5_000),
    "a little too deep": lambda: deep(101),
    "many digits": lambda: 10**5_000,
    "not a number in a tree": lambda: {"x": object()},
}


@pytest.mark.parametrize("bomb", BOMBS, ids=str)
def test_a_bomb_as_the_data_of_an_event_is_refused_before_anything_is_written(store: Store, bomb: str) -> None:
    with Rehearsal(SYNC.app(lambda event, step: None), store=store) as stage:
        with pytest.raises(NotEncodable) as refusal:
            ingest(stage.engine, Event("go", BOMBS[bomb](), "id", 1))
        assert len(str(refusal.value)) < 1_000
        assert unfinished(stage.engine.ledger, 10) == []


@pytest.mark.parametrize("bomb", BOMBS, ids=str)
def test_a_bomb_as_the_result_of_a_step_or_a_workflow_fails_it_with_a_clear_line(bomb: str) -> None:
    with Rehearsal(SYNC.app(lambda event, step: step.run("bomb", BOMBS[bomb]))) as stage:
        run = stage.send("go")
    assert run["status"] == "failed" and run["error"]["message"].startswith("step 'bomb' failed for good")
    with Rehearsal(SYNC.app(lambda event, step: BOMBS[bomb]())) as stage:
        run = stage.send("go")
    assert (run["status"], run["error"]["type"]) == ("failed", "NotEncodable")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 1_000_000])
def test_a_bomb_in_a_message_of_the_queue_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(UnknownPayload) as refusal:
        parse_body(text)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("levels", [100, 33])
def test_data_as_deep_as_it_may_be_comes_back_with_tags_in_it_at_every_level(store: Store, levels: int) -> None:
    tree: Any = "end"
    for _ in range(levels):
        tree = {"$": "dataclass", "t": "os:stat_result", "v": tree}
    with Rehearsal(
        SYNC.app(lambda event, step: step.run("same", lambda: event.data)), store=store, fresh=True
    ) as stage:
        assert stage.send("go", tree)["result"] == tree


def test_the_path_of_a_value_is_spelled_out_for_errors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long key over many values once cost their product, because the path of each value was spelled out."""
    spelled: list[codec.Path] = []
    monkeypatch.setattr(codec, "_shown", lambda path: spelled.append(path) or "there")
    tree: dict[str, Any] = {"k" * 2_000_000: [[] for _ in range(10_000)]}
    within(500_000, lambda: encode(tree, "it"))
    assert not spelled
    tree["last"] = object()
    with pytest.raises(NotEncodable, match="at there"):
        encode(tree, "it")
    assert len(spelled) == 1


def test_a_million_keys_come_back() -> None:
    tree = dict.fromkeys(map(str, range(1_000_000)), 0)
    assert decode(encode(tree, "it")) == tree


def test_the_path_in_an_error_is_cut() -> None:
    with pytest.raises(NotEncodable) as refusal:
        tree: Any = object()
        for letter in "abcdefghijklmnopqrstuvwxyz":
            tree = {letter * 50_000: [tree]}
        encode(tree, "it")
    assert len(str(refusal.value)) < MAX_TOLD_CHARS + 300


# ------------------------------------------------------------------------------------------- tags from a stranger
TAGS = [
    {"$": "dataclass", "t": "onward.local.chaos:Chaos", "v": {"drop": 1.0}},
    {"$": "enum", "t": "signal:Signals", "v": 9},
    {"$": "bytes", "v": "AAAA"},
    {"$": "nonsense"},
    {"deep": [{"$": "tuple", "v": [{"$": "dict", "v": [["$", 1]]}]}]},
]
ENVELOPES = {
    "event": lambda event: event,
    "list": lambda event: [event],
    "queue": lambda event: {"Records": [{"eventSource": "aws:sqs", "messageId": "m", "body": json.dumps(event)}]},
    "failure": lambda event: {"requestContext": {"condition": "EventAgeExceeded"}, "requestPayload": event},
}


@pytest.mark.parametrize("envelope", ENVELOPES)
@pytest.mark.parametrize("tag", TAGS, ids=lambda tag: str(tag)[:30])
def test_a_tag_in_a_strangers_event_is_never_revived_through_any_door(tag: Any, envelope: str) -> None:
    import onward.local.chaos  # noqa: F401  (loaded: it could be revived)

    got: list[Any] = []
    door = Door(
        SYNC.app(lambda event, step: got.append(step.run("same", lambda: event.data))),
        {"ONWARD_STORE": ":memory:", "AWS_REGION": "us-east-1"},
        fill=True,
        note=lambda *_, **__: None,
    )
    sent: list[Any] = []

    class Kept:
        reach_ms = 0

        def send(self, wake: Any, at_ms: int | None = None) -> None:
            sent.append(wake)

    door.engine.wakes = Kept()
    event = {"id": "e", "detail-type": "go", "source": "s", "detail": tag, "time": "2026-01-01T00:00:00Z"}
    door.handle(ENVELOPES[envelope](event), None)
    door.handle(sent[0], None)
    door.engine.store.close()  # type: ignore[attr-defined]
    assert got and got[-1] == tag and type(got[-1]) is dict


def test_a_tag_in_the_data_of_a_failed_run_is_not_revived_for_its_on_failure() -> None:
    got: list[Any] = []
    app = SYNC.app(lambda event, step: 1 / 0, on_failure=lambda event, step: got.append(event.data["event"]["data"]))
    with Rehearsal(app, fresh=True) as stage:
        stage.send("go", TAGS[0])
    assert got[-1] == TAGS[0]


# --------------------------------------------------------------------------------------------- one bad among others
def test_an_event_that_cannot_be_taken_in_keeps_none_of_its_batch_out() -> None:
    notes: list[Any] = []
    door = Door(
        SYNC.app(lambda event, step: None),
        {"ONWARD_STORE": ":memory:", "AWS_REGION": "us-east-1"},
        note=lambda level, message, **fields: notes.append((message, fields)),
    )
    door.engine.wakes = type("Kept", (), {"reach_ms": 0, "send": lambda *_: None})()
    good = {"id": "e", "detail-type": "go", "source": "s", "detail": {}, "time": "2026-01-01T00:00:00Z"}
    batch = [{**good, "id": "x" * 300}, {**good, "id": "one"}, {**good, "time": "never"}, {**good, "id": "two"}]
    with pytest.raises(OnwardError):
        door.handle(batch, None)
    assert len(unfinished(door.engine.ledger, 10)) == 2
    assert [message for message, _ in notes].count("event refused") == 1
    door.engine.store.close()  # type: ignore[attr-defined]


def test_records_of_failures_inside_each_other_end() -> None:
    door = Door(
        SYNC.app(lambda event, step: None),
        {"ONWARD_STORE": ":memory:", "AWS_REGION": "us-east-1"},
        note=lambda *_, **__: None,
    )
    record: Any = {"onward": 1, "do": "recover", "run": "r"}
    for _ in range(900):
        record = {"requestContext": {"condition": "RetriesExhausted"}, "requestPayload": record}
    with pytest.raises(UnknownPayload, match="over 8 on-failure records"):
        door.handle(record, None)
    door.engine.store.close()  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------- lines and screens
def test_a_log_line_is_one_line_of_bounded_length_whatever_it_tells(capsys: pytest.CaptureFixture[str]) -> None:
    note = to_stdout("svc")
    note(
        "ERROR", "it failed", reason="x\n" * 5_000_000, run_id='"}\n{"level":"INFO', steps=["\x1b[2J\ud800"], none=None
    )
    [line] = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert line.isascii() and len(line) < 2 * MAX_FIELD_CHARS + 1_000
    assert told["run_id"] == '"}\n{"level":"INFO' and told["level"] == "ERROR" and "none" not in told


def test_plain_text_is_shown_as_it_is_and_the_rest_escaped() -> None:
    assert plain("caf\u00e9 \u6f22 \U0001f680") == "caf\u00e9 \u6f22 \U0001f680"
    assert plain("a\x1b[31m\u202e\ud800\x9b") == "a\\x1b[31m\\u202e\\ud800\\x9b"
