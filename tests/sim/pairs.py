"""Pairs: what may come of two things that happen to one run at the same time.

A run stands before its last step, which may be performed twice, for 5 seconds each. In *sequence* a sleep is over and
the step is next. *Beside others* the step and the sleep (and in a wide plan one step more, which is done) are in flight
together. Then something happens to the run, and is held at one of its requests: before that is applied, or when it was
applied and its reply was not heard yet. There the other thing happens, from its beginning to its end; the first goes on
with what it remembers; and then everything arrives that is on its way.

    complete    the step is performed and succeeds; in sequence the same invocation ends the run
    fail        it is performed and fails for good, and with it the run, for which on_failure= is called
    time out    it is performed and takes longer than its timeout=
    die         the notice arrives of an invocation that was killed in the step before all this
    cancel      somebody cancels the run
    timer       the wakes arrive that were sent for the end of the sleep; in a wide plan the timer's look as well
    redeliver   every wake that there ever was arrives once more, in one process that remembers
    sweep       the run is late, is swept, and what the sweep asks for is done
    pause       somebody pauses the workflow, and when all is over, lets it go on
    arrive      an event arrives for which the run is to be cancelled (`cancel_on=`)
    unpause     the workflow was paused before and the wake was held: somebody lets it go on, which does what was held

What comes of it is written down as the records behind those with which the run stood, and how often its last step was
performed, in all:

    d done   b broken for good   r retrying   x died   p planned (what was in flight is observed)
    C completed   F failed   X cancelled

so `xdC2` says: the notice of a death, the step is done, the run completed; it was performed twice, once by the one that
died. Beside others there stands first, in brackets, what its lane has, where `c` is closed: `[xd]pC2`. The same holds
whether the workflow is sync or async, and whether the store is DynamoDB's or SQLite.

A fork has no row: it is of a run that has ended, to which nothing happens any more, and the simulator forks the forks.

The table has a row for each ordered pair: the one that is held, and the one that happens meanwhile. What it allows is
all that may come of it, and each of it does, but for what is marked `?`: there it takes two wakes that come within the
milliseconds that a step takes, which a store that is a little faster or slower decides.
"""

from __future__ import annotations

from typing import NamedTuple

COMPLETE, FAIL, TIME_OUT, DIE = "complete", "fail", "time out", "die"
CANCEL, TIMER, REDELIVER, SWEEPS = "cancel", "timer", "redeliver", "sweep"
PAUSE, UNPAUSE, ARRIVE = "pause", "unpause", "arrive"
ACTS = (COMPLETE, FAIL, TIME_OUT, DIE, CANCEL, TIMER, REDELIVER, SWEEPS, PAUSE, UNPAUSE, ARRIVE)
SEQUENCE, PARALLEL, WIDE = "sequence", "parallel", "wide"
SHAPES = (SEQUENCE, PARALLEL, WIDE)
LETTERS = {
    "begun": "n", "retrying": "r", "done": "d", "broken": "b", "slept": "z", "planned": "p", "died": "x", "closed": "c",
    "run_completed": "C", "run_failed": "F", "run_cancelled": "X",
}  # fmt: skip


class Lawful(NamedTuple):
    """What may come of a pair, in sequence and beside others, and why."""

    sequence: str
    beside: str
    why: str

    def of(self, shape: str) -> set[str]:
        return {outcome.rstrip("?") for outcome in self._told(shape)}

    def surely(self, shape: str) -> set[str]:
        """Those that do not depend on milliseconds."""
        return {outcome for outcome in self._told(shape) if not outcome.endswith("?")}

    def _told(self, shape: str) -> list[str]:
        return (self.sequence if shape == SEQUENCE else self.beside).split()


TABLE = {
    (COMPLETE, COMPLETE): Lawful("dC1 dC2", "[d]pC1 [d]pC2",
        "two deliveries of one wake: both may perform, one result is kept"),
    (COMPLETE, FAIL): Lawful("bF1 dC1 bF2", "[b]pF1 [d]pC1 [b]pF2",
        "two deliveries of one wake: whichever outcome is written first is the step's"),
    (COMPLETE, TIME_OUT): Lawful("dC1 rdC2 rdC3", "[d]pC1 [rd]pC2",
        "a result ends the step, also behind an attempt that timed out; in sequence the first record decides"),
    (COMPLETE, DIE): Lawful("dC2 xdC2 xdC3", "[xd]pC2",
        "in sequence the first record decides; a lane keeps the death and the result, and the result counts"),
    (COMPLETE, CANCEL): Lawful("X0 X1 dC1 dX1", "[c]X0 [c]X1 [d]X1",
        "what was written before the cancel stands, what comes after finds no place; what had completed stays so"),
    (COMPLETE, TIMER): Lawful("dC1 dC2", "[d]pC1",
        "in sequence they are one wake; beside others each has its lane, and the last observes both"),
    (COMPLETE, REDELIVER): Lawful("dC1 dC2", "[d]pC1 [d]pC2",
        "as two deliveries of one wake; those that came before are stale"),
    (COMPLETE, SWEEPS): Lawful("dC1", "[d]pC1",
        "the run was only late: the sweep's wakes are stale when they arrive"),
    (COMPLETE, PAUSE): Lawful("dC1", "[d]pC1",
        "what is being performed ends and is kept, and the run goes on with the workflow; or its wake was held"),
    (COMPLETE, UNPAUSE): Lawful("dC1", "[d]pC1",
        "the wake was held, and so is this one; what lets the workflow go on wakes the run"),
    (FAIL, COMPLETE): Lawful("bF1 dC1 dC2", "[b]pF1 [d]pC1 [d]pC2",
        "two deliveries of one wake: whichever outcome is written first is the step's"),
    (FAIL, FAIL): Lawful("bF1 bF2", "[b]pF1 [b]pF2",
        "both may perform, one failure is kept, and on_failure is called once"),
    (FAIL, TIME_OUT): Lawful("bF1 rdC2 rdC3", "[b]pF1 [rb]pF2 [rd]pC2",
        "a failure for good ends the step, also behind an attempt that timed out; or the first record decides"),
    (FAIL, DIE): Lawful("bF2 xdC2 xdC3", "[xb]pF2 [xd]pC2",
        "the notice came first, and the next attempt succeeds; or the failure for good stands"),
    (FAIL, CANCEL): Lawful("X0 X1 bF1 bX1", "[c]X0 [b]X1 [c]X1",
        "what was written before the cancel stands; a cancelled run calls no on_failure, a failed one stays so"),
    (FAIL, TIMER): Lawful("bF1 dC1 dC2", "[b]pF1",
        "in sequence they are one wake; beside others the run fails when the sleep is over"),
    (FAIL, REDELIVER): Lawful("bF1 dC1 dC2", "[b]pF1 [d]pC1 [d]pC2",
        "two deliveries of one wake: whichever outcome is written first is the step's"),
    (FAIL, SWEEPS): Lawful("bF1", "[b]pF1",
        "the run was only late: the sweep's wakes are stale when they arrive"),
    (FAIL, PAUSE): Lawful("bF1 dC1", "[b]pF1 [d]pC1",
        "what is being performed fails and that is kept; or its wake was held, and a later one succeeds"),
    (FAIL, UNPAUSE): Lawful("bF1 dC1", "[b]pF1 [d]pC1",
        "the wake is held, and a later one succeeds; or the workflow goes on before it is looked at"),
    (TIME_OUT, COMPLETE): Lawful("dC1 dC2 rdC2", "[d]pC1 [rd]pC2",
        "a result that comes first ends the step; behind an attempt that timed out there is the next one"),
    (TIME_OUT, FAIL): Lawful("bF1 bF2 rdC2", "[b]pF1 [rb]pF2 [rd]pC2",
        "in sequence the first record decides; in a lane a failure for good counts, also behind a timeout"),
    (TIME_OUT, TIME_OUT): Lawful("rdC2 rdC3", "[rd]pC2 [rd]pC3",
        "two deliveries of one attempt time out: one attempt is used, and the next succeeds"),
    (TIME_OUT, DIE): Lawful("xdC2 rdC3 xdC3", "[xd]pC2 [rd]pC3 [xd]pC3",
        "two deliveries began one attempt: either its timeout is noted or its death, never both"),
    (TIME_OUT, CANCEL): Lawful("X0 X1 rX1", "[c]X0 [rc]X1",
        "that an attempt failed may be noted (in its lane also behind the cancel), and no other attempt follows"),
    (TIME_OUT, TIMER): Lawful("dC1 dC2 rdC2", "[rd]pC2",
        "in sequence the timer may be faster with a result; beside others the end of the sleep waits for the step"),
    (TIME_OUT, REDELIVER): Lawful("dC1 dC2 rdC2", "[d]pC1 [rd]pC2",
        "a result that comes first ends the step; else the next attempt does"),
    (TIME_OUT, SWEEPS): Lawful("rdC2", "[rd]pC2",
        "the attempt timed out, and the sweep's wake, being older, does not bring another"),
    (TIME_OUT, PAUSE): Lawful("rdC2 dC1", "[rd]pC2 [d]pC1",
        "what is being performed times out and that is kept; or its wake was held, and a later one succeeds"),
    (TIME_OUT, UNPAUSE): Lawful("rdC2 dC1", "[rd]pC2 [d]pC1",
        "the wake is held, and a later one succeeds; or the workflow goes on before it is looked at"),
    (DIE, COMPLETE): Lawful("dC2 xdC2", "[xd]pC2",
        "a result that came before the notice stands; or the attempt is used up, and the next one succeeds"),
    (DIE, FAIL): Lawful("bF2 xdC2", "[xb]pF2 [xd]pC2",
        "a failure that came before the notice stands; or the attempt is used up, and the next one succeeds"),
    (DIE, TIME_OUT): Lawful("xdC2 rdC3", "[xd]pC2 [rd]pC3",
        "two deliveries began one attempt: either its timeout is noted or its death, never both"),
    (DIE, DIE): Lawful("xdC2", "[xd]pC2",
        "the notice comes twice: one attempt is used"),
    (DIE, CANCEL): Lawful("X1 xX1", "[xc]X1",
        "that the attempt died may be noted (in its lane also behind the cancel), and no other attempt follows"),
    (DIE, TIMER): Lawful("dC2 xdC2", "[xd]pC2",
        "in sequence the timer may be faster with a result; beside others the end of the sleep waits for the step"),
    (DIE, REDELIVER): Lawful("dC2 xdC2", "[xd]pC2",
        "a result that came before the notice stands; or the attempt is used up, and the next one succeeds"),
    (DIE, SWEEPS): Lawful("xdC2", "[xd]pC2",
        "the attempt is used up, and the sweep adds none"),
    (DIE, PAUSE): Lawful("xdC2", "[xd]pC2",
        "a death is noted also while the workflow is paused: the attempt is used up, and the next one waits"),
    (DIE, UNPAUSE): Lawful("xdC2", "[xd]pC2",
        "a death is noted also while the workflow is paused, and the next attempt comes when it goes on"),
    (CANCEL, COMPLETE): Lawful("X0 dC1", "[c]X0 [d]X1",
        "the cancel reads again what grew meanwhile, and ends the run behind it; a run that had completed stays so"),
    (CANCEL, FAIL): Lawful("X0 bF1", "[c]X0 [b]X1",
        "the cancel reads again what grew meanwhile, and ends the run behind it; a run that had failed stays so"),
    (CANCEL, TIME_OUT): Lawful("X0 rX1", "[c]X0 [rc]X1",
        "that an attempt failed may be noted (in its lane also behind the cancel), and no other attempt follows"),
    (CANCEL, DIE): Lawful("X1 xX1", "[xc]X1",
        "that the attempt died may be noted (in its lane also behind the cancel), and no other attempt follows"),
    (CANCEL, CANCEL): Lawful("X0", "[c]X0",
        "one of them ends the run, the other is told that it had ended"),
    (CANCEL, TIMER): Lawful("X0 dX1", "[c]X0",
        "in sequence the timer may perform the step before; beside others it only ends its sleep"),
    (CANCEL, REDELIVER): Lawful("X0 dX1", "[c]X0 [d]pC1",
        "one wake after the other may bring the run on, or to its end, before the cancel"),
    (CANCEL, SWEEPS): Lawful("X0", "[c]X0",
        "a run that was swept is cancelled as any other"),
    (CANCEL, PAUSE): Lawful("X0", "[c]X0",
        "a run of a paused workflow is cancelled as any other"),
    (CANCEL, UNPAUSE): Lawful("X0", "[c]X0",
        "a run of a paused workflow is cancelled as any other, and not woken"),
    (TIMER, COMPLETE): Lawful("dC1 dC2", "[d]pC1",
        "in sequence they are one wake; beside others each has its lane, and the last observes both"),
    (TIMER, FAIL): Lawful("bF1 dC1 bF2", "[b]pF1",
        "in sequence they are one wake; beside others the run fails when the sleep is over"),
    (TIMER, TIME_OUT): Lawful("dC1 rdC2 rdC3", "[rd]pC2",
        "in sequence the first record decides; beside others the end of the sleep waits for the step"),
    (TIMER, DIE): Lawful("dC2 xdC2 xdC3", "[xd]pC2",
        "in sequence the first record decides; beside others the end of the sleep waits for the step"),
    (TIMER, CANCEL): Lawful("X0 X1 dX1", "[c]X0",
        "what was written before the cancel stands; the end of a sleep comes to nothing after it"),
    (TIMER, TIMER): Lawful("dC1 dC2", "[d]pC1",
        "the end of a sleep is noticed twice: one of them goes on"),
    (TIMER, REDELIVER): Lawful("dC1 dC2", "[d]pC1",
        "as two deliveries of one wake"),
    (TIMER, SWEEPS): Lawful("dC1", "[d]pC1",
        "the timer was only late: the sweep's wakes are stale when they arrive"),
    (TIMER, PAUSE): Lawful("dC1", "[d]pC1",
        "the end of the sleep is held, and noticed when the workflow goes on"),
    (TIMER, UNPAUSE): Lawful("dC1", "[d]pC1",
        "the end of the sleep is held, and noticed when the workflow goes on"),
    (REDELIVER, COMPLETE): Lawful("dC1 dC2", "[d]pC1 [d]pC2",
        "as two deliveries of one wake; those that came before are stale"),
    (REDELIVER, FAIL): Lawful("bF1 dC1 bF2", "[b]pF1 [d]pC1 [b]pF2",
        "two deliveries of one wake: whichever outcome is written first is the step's"),
    (REDELIVER, TIME_OUT): Lawful("dC1 rdC2 rdC3", "[d]pC1 [rd]pC2",
        "a result ends the step, also behind an attempt that timed out; in sequence the first record decides"),
    (REDELIVER, DIE): Lawful("dC2 xdC2 xdC3", "[xd]pC2",
        "in sequence the first record decides; a lane keeps the death and the result, and the result counts"),
    (REDELIVER, CANCEL): Lawful("X0 X1 dX1", "[c]X0 [c]X1 [d]X1 [d]pC1",
        "as a completion, step by step: where all wakes were faster the run stays completed"),
    (REDELIVER, TIMER): Lawful("dC1 dC2", "[d]pC1",
        "two deliveries of one wake, beside others each in its lane"),
    (REDELIVER, REDELIVER): Lawful("dC1 dC2", "[d]pC1 [d]pC2",
        "both may perform, one result is kept"),
    (REDELIVER, SWEEPS): Lawful("dC1", "[d]pC1",
        "the sweep's wakes are stale when they arrive"),
    (REDELIVER, PAUSE): Lawful("dC1", "[d]pC1",
        "the wakes are held, all of them, and one is sent when the workflow goes on"),
    (REDELIVER, UNPAUSE): Lawful("dC1", "[d]pC1 [d]pC2?",
        "the wakes are held, and sent when the workflow goes on: beside others one of them and one that comes again"),
    (SWEEPS, COMPLETE): Lawful("dC1", "[d]pC1",
        "the sweep finds a run that goes on, or has ended: its wakes are stale, and what has ended is not due again"),
    (SWEEPS, FAIL): Lawful("bF1", "[b]pF1",
        "the sweep recovers a run that has failed: it is not due again"),
    (SWEEPS, TIME_OUT): Lawful("rdC2", "[rd]pC2 [rd]pC3?",
        "the next attempt has its own wake and the sweep's: beside others both may perform it, and one result is kept"),
    (SWEEPS, DIE): Lawful("xdC2", "[xd]pC2",
        "the next attempt has its own wake and the sweep's: one of them comes first"),
    (SWEEPS, CANCEL): Lawful("X0", "[c]X0",
        "the sweep finds a run that was cancelled: it is not due again, and its lanes stay closed"),
    (SWEEPS, TIMER): Lawful("dC1", "[d]pC1",
        "the timer was only late: the sweep's wakes are stale when they arrive"),
    (SWEEPS, REDELIVER): Lawful("dC1", "[d]pC1",
        "the sweep's wakes are stale when they arrive"),
    (SWEEPS, SWEEPS): Lawful("dC1", "[d]pC1 [d]pC2?",
        "of two sweeps one moves the due of the run; beside others its wake and the late one may both perform"),
    (SWEEPS, PAUSE): Lawful("dC1", "[d]pC1",
        "the run is not taken for stalled, and goes on with its workflow"),
    (SWEEPS, UNPAUSE): Lawful("dC1", "[d]pC1",
        "what the sweep asks for is held; what lets the workflow go on wakes the run"),
    (PAUSE, COMPLETE): Lawful("dC1", "[d]pC1",
        "the pause holds the wake, or came too late for it"),
    (PAUSE, FAIL): Lawful("bF1 dC1", "[b]pF1 [d]pC1",
        "the pause holds the wake, which comes to nothing, or came too late for it"),
    (PAUSE, TIME_OUT): Lawful("rdC2 dC1", "[rd]pC2 [d]pC1",
        "the pause holds the wake, which comes to nothing, or came too late for it"),
    (PAUSE, DIE): Lawful("xdC2", "[xd]pC2",
        "a death is noted also while the workflow is paused: the attempt is used up, and the next one waits"),
    (PAUSE, CANCEL): Lawful("X0", "[c]X0",
        "a run of a paused workflow is cancelled as any other"),
    (PAUSE, TIMER): Lawful("dC1", "[d]pC1",
        "the end of the sleep is held, and noticed when the workflow goes on"),
    (PAUSE, REDELIVER): Lawful("dC1", "[d]pC1",
        "the wakes are held, all of them, and one is sent when the workflow goes on"),
    (PAUSE, SWEEPS): Lawful("dC1", "[d]pC1",
        "the run is not taken for stalled, and goes on with its workflow"),
    (PAUSE, PAUSE): Lawful("dC1", "[d]pC1",
        "the second finds the first, and changes nothing"),
    (PAUSE, UNPAUSE): Lawful("dC1", "[d]pC1",
        "whichever is written last holds; where that is the pause, it ends as any other"),
    (UNPAUSE, COMPLETE): Lawful("dC1", "[d]pC1",
        "whatever wakes the run first performs the step; the wake of the other is stale"),
    (UNPAUSE, FAIL): Lawful("bF1 dC1", "[b]pF1 [d]pC1",
        "the wake is held as long as the workflow is paused, and performed behind that"),
    (UNPAUSE, TIME_OUT): Lawful("rdC2 dC1", "[rd]pC2 [d]pC1",
        "the wake is held as long as the workflow is paused, and performed behind that"),
    (UNPAUSE, DIE): Lawful("xdC2", "[xd]pC2",
        "a death is noted also while the workflow is paused, and the next attempt comes when it goes on"),
    (UNPAUSE, CANCEL): Lawful("X0", "[c]X0",
        "a run that was cancelled meanwhile is not woken"),
    (UNPAUSE, TIMER): Lawful("dC1", "[d]pC1",
        "the end of the sleep is noticed when the workflow goes on"),
    (UNPAUSE, REDELIVER): Lawful("dC1", "[d]pC1 [d]pC2?",
        "the wakes are held, or perform the step; beside others both may perform it"),
    (UNPAUSE, SWEEPS): Lawful("dC1", "[d]pC1",
        "two wakes that ask for whatever is needed: the second finds nothing to do"),
    (UNPAUSE, PAUSE): Lawful("dC1", "[d]pC1",
        "paused again, the run is held again, and goes on with its workflow"),
    (UNPAUSE, UNPAUSE): Lawful("dC1", "[d]pC1",
        "who comes second finds the workflow going, and no run that was held"),
}  # fmt: skip
TABLE = {
    (first, second): TABLE[CANCEL if first == ARRIVE else first, CANCEL if second == ARRIVE else second]
    for first in ACTS
    for second in ACTS
}
"""An event that cancels comes to what somebody who cancels comes to, whenever it arrives."""


def markdown() -> str:
    """The table, for a page."""
    lines = ["| held | meanwhile | in sequence | beside others | why |", "|---|---|---|---|---|"]
    for (held, meanwhile), row in TABLE.items():
        cells = [" ".join(f"`{outcome}`" for outcome in cell.split()) for cell in (row.sequence, row.beside)]
        lines.append(f"| {held} | {meanwhile} | {cells[0]} | {cells[1]} | {row.why} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
