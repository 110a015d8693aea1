"""Every error of Onward, in one tree. A class's docstring is its message.

    OnwardError
    ├── DefinitionError        yours: what was written or asked for cannot work
    │   ├── InvalidName
    │   ├── InvalidOption
    │   ├── NotEncodable
    │   ├── UnknownWorkflow
    │   ├── InvalidEvent
    │   ├── UnknownRun
    │   ├── UnknownCallback
    │   ├── UnknownPayload
    │   ├── NestedStep
    │   ├── LeaveSwallowed
    │   ├── Drift
    │   └── Misconfigured
    │       ├── NoCredentials
    │       ├── NoRegion
    │       ├── TableMissing
    │       ├── AccessRefused
    │       └── LayoutMismatch
    ├── StepFailure            theirs: the user's code failed, or says how it wants to be treated
    │   ├── StepError
    │   ├── NonRetriable
    │   │   └── WriteRefused
    │   ├── RetryAfter
    │   ├── StepTimeout
    │   ├── HeartbeatLost
    │   └── Crashed
    └── Fault                  ours or the world's: nothing that the user wrote
        ├── Unavailable
        ├── MiddlewareFailed
        │   └── KeyMissing
        ├── PayloadCorrupt
        ├── ItemTooLarge
        ├── BlobMissing
        ├── BlobCorrupt
        └── RequestRefused

    Leave (BaseException)      the signal that leaves a workflow early; never caught by user code

`str(error)` says what happened, what to do, and in which run and step.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

    from .values import Key

MAX_MESSAGE_CHARS = 2_000
MAX_TRACEBACK_CHARS = 8_000
MAX_RETRY_AFTER_S = 366 * 24 * 3600


class OnwardError(Exception):
    """Something went wrong in Onward."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


# ---------------------------------------------------------------------------------------------------- yours
class DefinitionError(OnwardError):
    """A workflow, step or request is defined in a way that cannot work."""


class InvalidName(DefinitionError):
    """A name is not a string of 1 to 256 characters."""


class InvalidOption(DefinitionError):
    """An option has a value that makes no sense."""


class NotEncodable(DefinitionError):
    """A value cannot be written to the log as JSON."""


class UnknownWorkflow(DefinitionError):
    """No workflow of this app has that name or is started by that event."""


class InvalidEvent(DefinitionError):
    """An event must have a name and JSON data."""


class UnknownRun(DefinitionError):
    """There is no such run in this store."""


class UnknownCallback(DefinitionError):
    """No callback of this store has that token."""


class UnknownPayload(DefinitionError):
    """The handler was given an event that it does not know."""


class NestedStep(DefinitionError):
    """A step was called inside another step; steps stand beside each other, in the workflow function."""


class LeaveSwallowed(DefinitionError):
    """The workflow caught the signal by which Onward leaves it between two steps."""


class Drift(DefinitionError):
    """The code of a workflow no longer fits the log of a run that it is to continue."""


class Misconfigured(DefinitionError):
    """The environment lacks something that Onward needs."""


class NoCredentials(Misconfigured):
    """No AWS credentials were found."""


class NoRegion(Misconfigured):
    """No AWS region is set. Set AWS_REGION."""


class TableMissing(Misconfigured):
    """The table does not exist."""


class AccessRefused(Misconfigured):
    """AWS refused the request for want of permission."""


class LayoutMismatch(Misconfigured):
    """The store was written by another version of Onward, whose layout this one does not know."""


# --------------------------------------------------------------------------------------------------- theirs
class StepFailure(OnwardError):
    """A step failed."""


class StepError(StepFailure):
    """A step failed for good: it is out of attempts, or it raised `NonRetriable`.

    Raised in the workflow at the call of the step, where it can be caught. `step`: its name; `attempts`: how
    often it was performed; `type`, `message`, `traceback`: of the last error, as text (the traceback may be
    shortened in the middle; "" where there is none).
    """

    def __init__(self, step: str, attempts: int, type: str, message: str, traceback: str = "") -> None:
        self.step = step
        self.attempts = attempts
        self.type = type
        self.message = message
        self.traceback = traceback
        self._key: Key | None = None  # the step's, where the engine raised it
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"step {step!r} failed for good after it was performed {times}: {type}: {message}")


class NonRetriable(StepFailure):
    """Raise it in a step to say that another attempt would not help: the step fails at once, and only the step.
    The workflow can catch the `StepError` that follows. Raised in the workflow itself, it fails the run."""


class WriteRefused(NonRetriable):
    """A write that `step.transact` was given was refused, and so nothing of that step was written."""


class RetryAfter(StepFailure):
    """Raise it in a step to choose the time of the next attempt: seconds from now, or a datetime (naive: UTC).
    It consumes an attempt like any other error."""

    def __init__(self, when: float | datetime, message: str | None = None) -> None:
        if not hasattr(when, "timestamp"):
            try:
                fits = abs(float(when)) <= MAX_RETRY_AFTER_S
            except (TypeError, ValueError, OverflowError):
                fits = False
            if not fits:
                raise InvalidOption(f"RetryAfter takes seconds (up to 366 days) or a datetime, not {when!r:.80}")
        self.when = when
        super().__init__(message or f"asked to be retried after {when}")


class StepTimeout(StepFailure):
    """A step ran longer than its `timeout=` allows, or into the end of its invocation."""


class HeartbeatLost(StepFailure):
    """Whoever was to complete a callback gave no sign of life for longer than its `heartbeat=` allows."""


class Crashed(StepFailure):
    """The process died inside the step (killed, out of memory, or past its deadline)."""


# ----------------------------------------------------------------------------------------------------- ours
class Fault(OnwardError):
    """Something beneath the workflow failed."""


class Unavailable(Fault):
    """A service did not answer in time, or is throttling; what was asked may or may not have happened."""


class MiddlewareFailed(Fault):
    """A middleware of the app could not do its part. What it was about stands as it is, and goes on when that is
    mended: an event is delivered again, an attempt is retried, a run is woken again."""


class KeyMissing(MiddlewareFailed):
    """A value is encrypted with a key that this deployment does not have."""


class PayloadCorrupt(Fault):
    """An encoded value was changed, or does not belong where it stands."""


class ItemTooLarge(Fault):
    """An item is larger than the store allows (409,600 bytes)."""


class BlobMissing(Fault):
    """A spilled value is no longer where the log says it is."""


class BlobCorrupt(Fault):
    """A spilled value does not have the digest that the log says it has."""


class RequestRefused(Fault):
    """A service refused a request of ours as invalid: a bug in Onward. Please report it."""


# ------------------------------------------------------------------------------------------------ the signal
class Leave(BaseException):
    """Leaves a workflow function between two steps. It is no error: do not catch it. `except Exception` does not;
    a bare `except:` and `except BaseException` do, and must raise it again."""
