"""The life of a run: every kind of record from every status."""

import pytest

from onward.core import status
from onward.core.status import TRANSITIONS, IllegalRecord, after

KINDS = [
    status.STARTED,
    status.BEGUN,
    status.RETRYING,
    status.DONE,
    status.BROKEN,
    status.SLEPT,
    status.PLANNED,
    status.STANDING,
    status.DIED,
    status.RUN_COMPLETED,
    status.RUN_FAILED,
    status.RUN_CANCELLED,
]
ALIVE = [status.QUEUED, status.RUNNING, status.SLEEPING, status.WAITING]
ENDS = {
    status.RUN_COMPLETED: status.COMPLETED,
    status.RUN_FAILED: status.FAILED,
    status.RUN_CANCELLED: status.CANCELLED,
}


def expected(standing, kind):
    """The table once more, in words."""
    if standing is None or kind == status.STARTED:
        return status.QUEUED if (standing, kind) == (None, status.STARTED) else None
    if standing in status.ENDED:
        return None
    if kind in ENDS:
        return ENDS[kind]
    if kind == status.DIED and standing in (status.SLEEPING, status.WAITING):
        return standing
    if kind in (status.SLEPT, status.STANDING):
        return status.SLEEPING if kind == status.SLEPT else status.WAITING
    return status.RUNNING


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("standing", [None, *ALIVE, *sorted(status.ENDED)])
def test_every_record_from_every_status(standing, kind):
    following = expected(standing, kind)
    if following is None:
        with pytest.raises(IllegalRecord, match=f"cannot have a record '{kind}'"):
            after(standing, kind)
    else:
        assert after(standing, kind) == following


def test_a_run_that_has_ended_takes_nothing():
    assert all(TRANSITIONS[ended] == {} for ended in status.ENDED)
    assert set(TRANSITIONS) == {None, *ALIVE, *status.ENDED}


def test_a_run_begins_by_being_started_and_in_no_other_way():
    assert TRANSITIONS[None] == {status.STARTED: status.QUEUED}
    assert all(status.STARTED not in TRANSITIONS[standing] for standing in (*ALIVE, *status.ENDED))


def test_an_unknown_kind_is_an_error():
    with pytest.raises(IllegalRecord, match="a run that is not started cannot have a record 'odd'"):
        after(None, "odd")
