"""The demo application: three jobs over a shop that misbehaves. Copy the folder and make it yours.

    jobs.py      the workflows
    reading.py   the feeds they read
    client.py    how their steps talk to the shop
    handler.py   what is deployed
    http.py      its HTTP door, a function of its own

Beside them stand two programs that only the demo needs: the shop (`python -m handlers.demo.shop`) and a maker of
feeds (`python -m handlers.demo.feed`). Neither is imported by a step on Lambda.
"""

from __future__ import annotations

from .jobs import app

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["app", "sample_data"]


def sample_data(event_name: str) -> dict[str, Any]:
    """The data of an event that is sent by hand without any: `onward run handlers.demo:app pricing/sync.requested`."""
    from .feed import demo_event

    return demo_event(event_name)
