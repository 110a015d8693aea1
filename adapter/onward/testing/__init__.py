"""What your own tests import: rehearse an app with a clock that you turn, a store in memory, and no AWS.

from onward.testing import Rehearsal

def test_a_failed_batch_is_tried_again():
    with Rehearsal(app) as rehearsal:
        run = rehearsal.send("pricing/sync.requested", {"feed": "feed.jsonl"})
    assert run["status"] == "completed" and run["retries"] == 1
"""

from .rehearsal import FakeClock, QueuedWakes, Rehearsal

__all__ = ["FakeClock", "QueuedWakes", "Rehearsal"]
