"""An app with every kind of trigger, to be deployed by the tests."""

from __future__ import annotations

from typing import Any

from onward import App, CancelOn, cron, pattern

app = App("kinds")


@app.workflow(on=["order/paid", "order/*"], cancel_on=CancelOn("order/cancelled", match={"data.id": "data.id"}))
def orders(event: Any, step: Any) -> None: ...


@app.workflow(on="order/paid")
def receipts(event: Any, step: Any) -> None: ...


@app.workflow(on=pattern({"source": ["aws.s3"], "detail-type": ["Object Created"]}))
def uploads(event: Any, step: Any) -> None: ...


@app.workflow(on=pattern({"detail": {"kind": ["anything"]}}))
def anywhere(event: Any, step: Any) -> None: ...


@app.workflow(on=[cron("*/5 * * * *", tz="Europe/Paris"), cron("0 6 1 * MON")])
def nightly(event: Any, step: Any) -> None: ...
