"""The life of a run, as a table.

A run is the fold of its log, and the log is append-only, so the run's status can be read off the kinds of its
records alone. It is queued when it was started and nothing has happened yet. Performing a step makes it running; it
stays so between steps and while failed attempts wait for the next. A sleep in sequence makes it sleeping until any
other record follows; a wait for events makes it waiting in the same way. While several steps are in flight it is
running, whatever each of them does in its own lane: lanes do not speak here, only what the log plans and observes.
It ends once: completed, failed or cancelled, and after such a record there is no other. That is the fence: whoever
comes late with a result finds no legal place to put it.
"""

from __future__ import annotations

from .errors import Fault

QUEUED, RUNNING, SLEEPING, WAITING = "queued", "running", "sleeping", "waiting"
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"

# Kinds of records. A word of two parts speaks of the run, a word of one part of a step.
STARTED = "started"  #        the run exists; carries its event
BEGUN = "begun"  #            a step that may run only once is about to be performed
RETRYING = "retrying"  #      an attempt failed, another will follow
DONE = "done"  #              a step succeeded; carries its result
BROKEN = "broken"  #          a step failed for good; carries its last error
SLEPT = "slept"  #            a sleep in sequence began; carries its end
PLANNED = "planned"  #        results were observed, in this order; then these steps went in flight
STANDING = "standing"  #      the same, where nothing is in flight but waits
AWAITING = "awaiting"  #      in the lane of a wait: it is written down, for events to find it
DIED = "died"  #              an invocation died where the log stood
CLOSED = "closed"  #          in the lane of a step in flight: its run was cancelled, no result is kept any more
RUN_COMPLETED = "run_completed"
RUN_FAILED = "run_failed"
RUN_CANCELLED = "run_cancelled"

_WORK = {
    BEGUN: RUNNING,
    RETRYING: RUNNING,
    DONE: RUNNING,
    BROKEN: RUNNING,
    SLEPT: SLEEPING,
    PLANNED: RUNNING,
    STANDING: WAITING,
    DIED: RUNNING,
    RUN_COMPLETED: COMPLETED,
    RUN_FAILED: FAILED,
    RUN_CANCELLED: CANCELLED,
}

TRANSITIONS: dict[str | None, dict[str, str]] = {
    None: {STARTED: QUEUED},
    QUEUED: _WORK,
    RUNNING: _WORK,
    SLEEPING: {**_WORK, DIED: SLEEPING},
    WAITING: {**_WORK, DIED: WAITING},
    COMPLETED: {},
    FAILED: {},
    CANCELLED: {},
}

ENDED = frozenset((COMPLETED, FAILED, CANCELLED))


class IllegalRecord(Fault):
    """A log holds a record that cannot stand there: it was edited, or Onward has a bug."""


def after(status: str | None, kind: str) -> str:
    """The status of a run in that status after a record of that kind; raises `IllegalRecord`."""
    following = TRANSITIONS[status].get(kind)
    if following is None:
        raise IllegalRecord(f"a run that is {status or 'not started'} cannot have a record {kind!r:.60}")
    return following
