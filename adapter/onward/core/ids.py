"""Names that follow from other names, so that the same cause never gets a second one."""

from __future__ import annotations

import hashlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .values import Key

MAX_RUN_CHARS = 64  # of what is accepted as the id of a run; our own have 24

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def _digest(size: int, *parts: str) -> str:
    """`size` characters of base 32 (5 bits each) that follow from the parts, whose borders count."""
    state = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        state.update(b"%d:" % len(content))
        state.update(content)
    number = int.from_bytes(state.digest(), "big")
    return "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in range(size))


def run_id(workflow: str, event_id: str) -> str:
    """The run that an event starts of a workflow: 24 characters. One event, however often it is delivered, has
    one run of each workflow."""
    return _digest(24, "run", workflow, event_id)


def fork_id(parent: str, seq: int, step: Key | None, data: str | None, given: str | None, request: str) -> str:
    """The run that comes of forking another at that record, from that step on, with this data and these arguments, as
    JSON text (None: the parent's). Asked for again it is the same; another `request` makes another."""
    name, ordinal = step or ("", 0)
    return _digest(24, "fork", parent, str(seq), name, str(ordinal), data or "", given or "", request)


def is_run_id(run: object) -> bool:
    """Whether this can be the id of a run: letters, digits and "-_." of ASCII. Nothing else that stands in a wake or is
    typed at a command becomes a key of the table."""
    return (
        isinstance(run, str)
        and 1 <= len(run) <= MAX_RUN_CHARS
        and run.isascii()
        and all(char.isalnum() or char in "-_." for char in run)
    )


def idempotency_key(run: str, key: Key) -> str:
    """What a step hands to the services that it calls: the same over all its attempts, and no other step's."""
    return f"{run}-{_digest(16, 'step', run, key[0], str(key[1]))}"


def callback_token(run: str, salt: str, key: Key) -> str:
    """The token by which somebody outside completes the callback of a step: the same at every replay. Whoever knows
    the run and its steps, and not the salt, cannot guess it."""
    secret = _digest(16, "callback", run, salt, key[0], str(key[1]))
    return f"{run}.{secret}{_seal(run, salt, secret)}"


def callback_event(token: str) -> str:
    """The id of the event that completes the callback with that token, so that there is one."""
    return f"onward/callback/{token}"


def is_callback_token(token: str, run: str, salt: str) -> bool:
    """Whether that run has made this token, for whichever of its steps."""
    secret = token[len(run) + 1 :][:16]
    return token == f"{run}.{secret}{_seal(run, salt, secret)}"


def _seal(run: str, salt: str, secret: str) -> str:
    return _digest(8, "seal", run, salt, secret)


def plan_digest(keys: Iterable[Key]) -> str:
    """Twelve characters by which a replay sees that it planned the same steps in the same order."""
    return _digest(12, "plan", *(part for name, ordinal in keys for part in (name, str(ordinal))))
