"""Values at rest: what stands in a store, its bucket or its file is ciphertext, and only the right key reads it."""

from __future__ import annotations

import base64
import builtins
import json
import os
from pathlib import Path
from typing import Any

import pytest

from onward import App, Encryption, Event, KeyMissing, MiddlewareFailed, PayloadCorrupt, StepError
from onward.cli.show import as_json, table
from onward.core.errors import InvalidOption, Misconfigured
from onward.core.log import HEAD, log_key, partition_of
from onward.engine.ingest import ingest
from onward.engine.sweep import MAX_STALLS
from onward.entry.local import Local
from onward.local.blobs import FolderBlobs
from onward.local.store import SqliteStore
from onward.ports import Item, Store, Swap
from onward.testing import Rehearsal
from tests.rules.acting import ASYNC, SYNC, Notes, both, failed_with

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
MARKER = "geheim-7f3a-marker"
SHOWN = (MARKER, base64.b64encode(MARKER.encode()).decode())
"""The marker as it is, and in what looks like ciphertext and is none."""


def encrypted(current: str | None = "old", *, keys: Any = None, **options: Any) -> App:
    keys = {"old": OLD, "new": NEW} if keys is None else keys
    return App("secret", middleware=[Encryption(keys, current, **options)])


def secretive(kind: Any) -> App:
    """An app that keeps the marker in every kind of value that there is."""

    async def child(event: Any, step: Any) -> Any:
        inner = await step.run("inner", str.upper, event.data)
        return [event.data, inner]

    async def broken(event: Any, step: Any) -> None:
        await step.run("fine", lambda: MARKER)
        raise RuntimeError("with nothing to hide")

    async def work(event: Any, step: Any) -> Any:
        await step.run("say", lambda said: said, event.data)
        await step.send_event("tell", {"id": MARKER}, event="told")
        found = await step.wait_for_event("early", event="told", match={"data.id": MARKER}, timeout=60)
        await step.wait_for_event("never", match={"data.id": MARKER}, timeout=60)
        came = await step.wait_for_event("late", match={"data.id": MARKER}, timeout=90_000)
        below = await step.invoke("child", MARKER)
        try:
            await step.invoke("broken", MARKER)
        except StepError:
            pass
        large = await step.run("large", lambda: MARKER * 10_000)
        return [found.data, came.data, below, len(large), MARKER]

    app = encrypted()
    kind.app(work, into=app)
    kind.app(child, into=app, on="x", name="child")
    kind.app(broken, into=app, on="y", name="broken", on_failure=lambda event, step: step.run("keep", dict, event.data))
    return app


def tell(stage: Rehearsal) -> dict[str, Any]:
    """A run of `secretive` from its event to its end, with one that fails beside it."""
    [run] = stage.start("go", {"said": MARKER})
    stage.start("y", {"said": [MARKER]})
    for _ in range(400):
        if stage.view(run)["status"] == "waiting" and len(stage.view(run)["steps"]) == 5:
            stage.start("late", {"id": MARKER})
            break
        assert stage.step() or stage.sweep()
    stage.drain()
    return stage.view(run)


def everything(store: Store) -> str:
    """All text in a store."""
    if isinstance(store, SqliteStore):
        return repr(store.rows("SELECT * FROM items", ()))
    page = store.wire.json("dynamodb", "Scan", {"TableName": store.table}, store.table)  # type: ignore[attr-defined]
    assert "LastEvaluatedKey" not in page
    return repr(page)


# -------------------------------------------------------------------------------------------------- nothing is readable
@both
def test_nothing_of_what_users_keep_can_be_read_in_the_store_or_the_bucket(
    kind: Any, store: Store, tmp_path: Path
) -> None:
    with Rehearsal(secretive(kind), store=store, blobs=FolderBlobs(tmp_path), fresh=True) as stage:
        run = tell(stage)
        assert run["result"] == [{"id": MARKER}, {"id": MARKER}, [MARKER, MARKER.upper()], 180_000, MARKER]
    kept = everything(store) + "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert kept.count("~A256GCM.old.") > 15 and run["run_id"] in kept
    for shown in (*SHOWN, MARKER.upper()):
        assert shown not in kept


def test_nothing_of_it_can_be_read_in_a_store_file_and_its_journal(tmp_path: Path) -> None:
    local = Local(secretive(SYNC), tmp_path / "store.db", fill=True)
    ingest(local.engine, Event("x", MARKER, "e1", local.clock.now_ms()))
    ingest(local.engine, Event("y", [MARKER * 9_000], "e2", local.clock.now_ms()))
    while local.work_once():
        pass
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    while_open = [path.read_bytes() for path in files]
    local.close()
    assert len(files) > 2 and any(b"A256GCM" in content for content in while_open)
    for content in while_open + [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]:
        assert not any(shown.encode() in content for shown in SHOWN)


def test_every_value_has_a_nonce_of_its_own() -> None:
    middleware = Encryption({"k": OLD}, "k")
    made = {middleware.encode("1", "step r 1 a") for _ in range(2_000)}
    assert len({base64.urlsafe_b64decode(text.rpartition(".")[2])[:12] for text in made}) == 2_000


# ------------------------------------------------------------------------------------------------------------ rotation
@both
def test_runs_go_on_through_a_rotation_and_what_is_new_has_the_new_key(kind: Any) -> None:
    async def work(event: Any, step: Any) -> Any:
        one = await step.run("one", str, event.data)
        await step.sleep("rest", 60)
        return [one, await step.run("two", str, 2)]

    apps = [kind.app(work, into=encrypted(current)) for current in ("old", "new", None)]
    stage = Rehearsal(apps[0], fresh=True)
    runs = [stage.start("go", n)[0] for n in range(2)]
    for _ in range(4):
        stage.step()
    stage.app = apps[1]
    stage.drain()
    for n, run in enumerate(runs):
        assert stage.view(run)["result"] == [str(n), "2"]
        values = [item.value for item in stage.store.read(partition_of(run), "L#", "L~") if item.value]
        assert [value.split(".")[1] for value in values] == ["old", "old", "new", "new"]
    stage.app = apps[2]  # and out of it: what is new is plain, what is old is read
    stage.engine = stage.new_engine()
    run = stage.send("go", 3)
    assert run["result"] == ["3", "2"] and stage.view(runs[0])["result"] == ["0", "2"]
    assert stage.store.get([(partition_of(run["run_id"]), log_key(0))])[0].value == "3"
    stage.close()


@both
@pytest.mark.parametrize("keys", [{"new": NEW}, {"new": NEW, "old": bytes(32)}], ids=["missing", "another"])
def test_a_run_whose_key_is_not_here_stands_and_says_so_until_the_key_is_back(kind: Any, keys: Any) -> None:
    async def work(event: Any, step: Any) -> Any:
        one = await step.run("one", str, event.data)
        return [one, await step.run("two", str, 2)]

    notes = Notes()
    stage = Rehearsal(kind.app(work, into=encrypted("old")), fresh=True, note=notes)
    [run] = stage.start("go", MARKER)
    stage.step()
    whole, stage.app = stage.app, kind.app(work, into=encrypted("new", keys=keys))
    for _ in range(2 * MAX_STALLS):
        while stage.queue.next_ms() is not None:
            try:
                stage.step()
            except KeyMissing as error:
                assert f"the value of 'event {stage.view(run)['event']['id']}'" in str(error) and "'old'" in str(error)
        assert stage.sweep()
    assert stage.view(run)["status"] == "running"
    told = notes.of("run stands, a middleware failed")
    assert told and told[-1]["run_id"] == run and told[-1]["error"] == "KeyMissing"
    assert not any(MARKER in repr(line) for line in notes.lines)
    stage.app = whole
    stage.drain()
    assert stage.view(run)["result"] == [MARKER, "2"]
    stage.close()


@both
def test_values_from_before_the_encryption_are_read_only_where_that_is_said(kind: Any) -> None:
    async def work(event: Any, step: Any) -> Any:
        await step.sleep("rest", 60)
        return event.data

    stage = Rehearsal(kind.app(work), fresh=True)
    [run] = stage.start("go", "plain")
    stage.app = kind.app(work, into=encrypted())
    with pytest.raises(MiddlewareFailed, match=r"is not encrypted\. If the app kept it before"):
        stage.step()
    stage.app = kind.app(work, into=encrypted(reads_plain=True))
    stage.drain()
    assert stage.view(run)["result"] == "plain"
    stage.close()


# ----------------------------------------------------------------------------------------------------------- tampering
def flipped(text: str, place: int) -> str:
    """The text with another character of base64url in that place."""
    return text[:place] + ("B" if text[place] == "A" else "A") + text[place + 1 :]


def test_no_character_of_a_value_can_be_changed_and_no_context() -> None:
    """The scheme, the id of the key, the check, the nonce, the ciphertext, the tag, and the bits that base64 leaves."""
    for length in range(3):  # for each rest that base64 knows
        middleware, plain = Encryption({"k1": OLD, "k2": OLD}, "k1"), "7" * (10 + length)
        text = middleware.encode(plain, "step r 1 a")
        assert middleware.decode(text, "step r 1 a") == plain
        for place in range(len(text)):
            for other in (
                flipped(text, place),
                text[:place],
                text[:place] + text[place + 1 :],
                text[:place] + "." + text[place:],
            ):
                with pytest.raises((PayloadCorrupt, MiddlewareFailed)):
                    middleware.decode(other, "step r 1 a")
        for suffix in ("=", "A", "AAAA", "\n", " ", "."):
            with pytest.raises(PayloadCorrupt):
                middleware.decode(text + suffix, "step r 1 a")
        with pytest.raises(PayloadCorrupt, match="does not decrypt with key 'k2'"):
            middleware.decode(text.replace(".k1.", ".k2."), "step r 1 a")
        for context in ("step r 1 b", "step r 2 a", "run r", "", "step r 1 a\0"):
            with pytest.raises(PayloadCorrupt, match="stands in another place"):
                middleware.decode(text, context)


@both
@pytest.mark.parametrize("what", ["another step", "another run", "its end"])
def test_a_value_that_somebody_moved_or_changed_fails_its_run_and_names_key_and_step(
    kind: Any, store: Store, what: str
) -> None:
    async def work(event: Any, step: Any) -> Any:
        found = [await step.run(name, str, event.data) for name in ("one", "two")]
        await step.sleep("rest", 60)
        return found

    with Rehearsal(kind.app(work, into=encrypted()), store=store, fresh=True) as stage:
        [run] = stage.start("go", 1)
        [other] = stage.start("go", 2)
        for _ in range(6):
            stage.step()
        target = store.get([(partition_of(run), log_key(1))])[0]
        source = {"another step": (run, 2), "another run": (other, 1), "its end": (run, 1)}[what]
        moved = store.get([(partition_of(source[0]), log_key(source[1]))])[0]
        assert target is not None and target.value and moved is not None and moved.value
        value = flipped(moved.value, -2 % len(moved.value)) if what == "its end" else moved.value
        edited = Item(target.partition, target.sort, "somebody", target.body, value)
        assert store.write([Swap(edited, target.token)]) is None
        stage.drain()
        with failed_with(stage.view(run), "PayloadCorrupt") as message:
            assert f"step {run} 1 one" in message and "with key 'old'" in message
        assert stage.view(other)["result"] == ["2", "2"]


# --------------------------------------------------------------------------------------------------------------- views
def test_who_has_no_key_is_told_in_words_that_a_result_is_encrypted() -> None:
    async def work(event: Any, step: Any) -> Any:
        return MARKER

    with Rehearsal(ASYNC.app(work, into=encrypted()), fresh=True) as stage:
        run = stage.send("go")["run_id"]
        for app, said in (
            (App("peek"), "was encoded by middleware"),
            (encrypted("new", keys={"new": NEW}), "key 'old'"),
        ):
            stage.app = app
            stage.engine = stage.new_engine()
            view = stage.view(run)
            assert said in view["unreadable"] and view["output"] is None
            assert f"output: (cannot be read: {view['unreadable']})" in table(view)
            assert json.loads(as_json(view))["unreadable"] == view["unreadable"]
            head = stage.store.get([(partition_of(run), HEAD)])[0]
            assert head is not None and json.loads(head.body)["status"] == "completed"


# --------------------------------------------------------------------------------------------------------- definitions
@pytest.mark.parametrize(
    ("keys", "current", "said"),
    [
        ({"k": b"short"}, "k", "key 'k' must be 32 random bytes"),
        ({"k": "x" * 32}, "k", "key 'k' must be 32 random bytes"),
        ({"k": OLD}, "other", "current='other' is none of the keys: 'k'"),
        ({}, "k", "current='k' is none of the keys: none"),
        ({"a.b": OLD}, "a.b", "the id of a key is 1 to 64 letters"),
        ({"": OLD}, "", "the id of a key is 1 to 64 letters"),
        ({"k" * 65: OLD}, "k" * 65, "the id of a key is 1 to 64 letters"),
    ],
)
def test_keys_that_cannot_work_are_refused_where_they_are_written(keys: Any, current: str, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        Encryption(keys, current)


def test_keys_do_not_show_in_errors_and_representations() -> None:
    secret = os.urandom(32)
    middleware = Encryption({"k": secret}, "k")
    with pytest.raises(InvalidOption) as refusal:
        Encryption({"k": secret + b"x"}, "k")
    for text in (repr(middleware), repr(vars(middleware)), str(refusal.value)):
        assert repr(secret)[2:-1] not in text and secret.hex() not in text


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Misconfigured, match=r'pip install "onward\[encryption\]"'):
        Encryption({"k": OLD}, "k")
