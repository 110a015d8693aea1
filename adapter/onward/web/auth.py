"""Who may come in through the HTTP door.

Theory. The door is closed unless somebody has said whom it believes:

    iam     AWS has checked the caller's signature before the request came here, and says who it is in the request's
            context, where no client can write: function URLs and API Gateway do, a load balancer does not
    key     the request is signed with a key that the door knows (see core/signing.py)
    open    everybody: for a door on loopback only, never for a deployed one

A request that was recorded can be sent again for 300 seconds. It does nothing twice that has an id of its own: an event
with an id, a cancel, a retry, a rerun, an answer to a callback. An event without one is another event each time; so
senders of ours always give one.

A browser that holds nobody's key can still be made to send requests by a page on another site. So whatever says that it
comes from another site is refused, and what changes something must be `application/json`, which a page cannot send to
another site unless that site says yes first; and the door never does.

Pure, but for the clock that it is handed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.errors import Misconfigured
from ..core.signing import parse_keys, trouble_with

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

IAM, KEY, OPEN = "iam", "key", "open"
HOW_TO_OPEN = (
    "the door is closed: nobody has said whom it believes. Set ONWARD_AUTH=iam behind a function URL or an API with "
    "IAM authorization, or ONWARD_AUTH=key and ONWARD_KEYS=<id>:<secret of 32 characters or more>"
)


class Asked(NamedTuple):
    """What is known of a request. `target`: path and query as its client wrote them; `headers`: with names in lower
    case; `context`: `requestContext` of Lambda's payload, {} elsewhere."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    context: Mapping[str, Any]


class Refusal(NamedTuple):
    """`status`: 401 for who may come in when the request is mended, else 403."""

    status: int
    error: str
    message: str


class Guard:
    """Says who may come in. `closed`: why nobody may, or None."""

    def __init__(self, modes: frozenset[str], keys: Mapping[str, str], now_s: Callable[[], float]) -> None:
        self.modes = modes
        self.keys = keys
        self._now_s = now_s
        self.closed: str | None = None if modes else HOW_TO_OPEN

    @classmethod
    def of(cls, environ: Mapping[str, str], now_s: Callable[[], float]) -> Guard:
        """The guard of a deployed door. What is configured wrongly closes it, and says why."""
        modes = frozenset(filter(None, (word.strip() for word in environ.get("ONWARD_AUTH", "").lower().split(","))))
        try:
            unknown = modes - {IAM, KEY}
            if unknown:
                raise Misconfigured(f"ONWARD_AUTH takes iam, key, or both with a comma, not {sorted(unknown)[0]!r:.40}")
            keys = parse_keys(environ.get("ONWARD_KEYS", ""))
            if KEY in modes and not keys:
                raise Misconfigured("ONWARD_AUTH says key, and ONWARD_KEYS has none: write it as id:secret")
        except Misconfigured as error:
            guard = cls(frozenset(), {}, now_s)
            guard.closed = f"the door is closed: {error}"
            return guard
        return cls(modes, keys if KEY in modes else {}, now_s)

    def refuses(self, asked: Asked) -> Refusal | None:
        """Why a request may not come in; None where it may."""
        if self.closed is not None:
            return Refusal(403, "closed", "this door is closed; its log says how to open it")
        foreign = _is_foreign(asked.headers)
        if foreign is not None:
            return Refusal(403, "cross-site", foreign)
        if OPEN in self.modes or (IAM in self.modes and caller(asked.context) is not None):
            return None
        if KEY in self.modes:
            trouble = trouble_with(self.keys, asked.headers, asked.method, asked.target, asked.body, self._now_s())
            return None if trouble is None else Refusal(401, "not-believed", trouble)
        return Refusal(
            403,
            "not-believed",
            "this door takes requests that AWS has authorized by IAM, and this one was not: sign it (SigV4), and let "
            "the function URL or the API in front have AWS_IAM authorization",
        )


def caller(context: Mapping[str, Any]) -> str | None:
    """The ARN of who was authorized by IAM, as a function URL or API Gateway tells it; None where nobody was."""
    authorizer, identity = context.get("authorizer"), context.get("identity")
    iam = authorizer.get("iam") if isinstance(authorizer, dict) else None
    arn = None
    if isinstance(iam, dict):  # function URL, HTTP API
        arn = iam.get("userArn")
    elif isinstance(identity, dict) and identity.get("accessKey") and identity.get("caller"):  # REST API
        arn = identity.get("userArn")
    return arn if isinstance(arn, str) and arn else None


def _is_foreign(headers: Mapping[str, str]) -> str | None:
    """Why a request seems to come from a page of another site; None where it does not."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "a page of another site has sent this, and the door takes nothing from there"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return "its Origin is not this host, and the door takes nothing from other sites"
    return None
