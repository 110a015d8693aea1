"""Middleware in sandboxes: what each invocation keeps is encrypted, and the next one reads it."""

from __future__ import annotations

import pytest

from onward.core.ids import run_id
from onward.core.log import partition_of
from onward.core.waits import event_digest, event_partition

from .conftest import Deployer
from .deployment import event
from .polite import KINDS
from .test_flow import Group

MARKER = "geheim-5c1d"


@pytest.mark.parametrize("store", ["table", "file"])
def test_what_sandboxes_keep_is_encrypted_and_they_go_on_with_it(deploy: Deployer, store: str) -> None:
    deployment = deploy("sealed_handler", store=store, env={"SEALED_KEY": "07" * 32})
    for kind in KINDS:
        payload = event(f"story/single.{kind}", {"group": kind, "n": MARKER, "stays": True})
        run = run_id(f"single.{kind}", payload["id"])
        deployment.service.invoke_async(payload)
        group = Group(deployment, kind)
        group.until(lambda run=run: group.status(run) == "waiting")  # type: ignore[misc]
        deployment.service.invoke_async(event("story/let_go", {"group": kind, "secret": MARKER}))
        group.until(lambda run=run: group.status(run) == "completed")  # type: ignore[misc]
        assert [line["n"] for line in deployment.notes(run)] == [MARKER] * 2
        kept = deployment.ledger.store
        items = [
            *kept.read(partition_of(run), "", "~"),
            *kept.read(event_partition(event_digest(payload["id"])), "", "~"),
        ]
        values = [item.value for item in items if item.value is not None]
        assert len(values) >= 3 and all(value.startswith("~A256GCM.k1.") for value in values)
        assert not any(MARKER in text for item in items for text in (item.body, item.value or ""))
