"""An app behind a door."""

from __future__ import annotations

from typing import Any

from onward import App, NonRetriable

app = App("shop")
tokens: list[str] = []


@app.workflow(on="order/paid")
def ship(event: Any, step: Any) -> Any:
    return step.run("pack", pack, event.data)


def pack(data: Any) -> Any:
    if isinstance(data, dict) and data.get("broken"):
        raise NonRetriable("it broke")
    return data


@app.workflow(on="order/approved", where=lambda event: event.data["amount"] < 100)
def approve(event: Any, step: Any) -> Any:
    return step.callback("ask", tokens.append, timeout=3600, heartbeat=600)
