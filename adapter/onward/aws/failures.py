"""What AWS says when it does not do what was asked: which of it is worth another attempt, and what is left to say.

Theory. A reply with a status of 300 or more carries a code. First the retry table is asked: it is the one that the
AWS SDKs share («standard» mode). After the last attempt, or at once if the table says no, the code is translated,
once, by the table `FINAL`, into an error of `onward.core.errors` whose message is one line that names the service,
the operation and what to do. Codes that the caller expects and knows how to read (a failed condition) are not
translated: they reach it as `AwsError`.

    throttled    one of THROTTLED, or status 429                     wait rand(0,1) * min(1 s * 2^i, 20 s)
    transient    one of TRANSIENT, or status 500, 502, 503, 504,    wait rand(0,1) * min(50 ms * 2^i, 20 s),
                 or a broken connection, or a wrong checksum        for DynamoDB 25 ms
    final        everything else

`x-amz-retry-after` (milliseconds) lengthens a wait, by 5 s at most.
"""

from __future__ import annotations

import json

from onward.core.errors import (
    AccessRefused,
    ItemTooLarge,
    Misconfigured,
    NoCredentials,
    OnwardError,
    RequestRefused,
    TableMissing,
    Unavailable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from onward.aws.connection import Reply

THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
TRANSIENT = frozenset({"ReplicatedWriteConflictException", "RequestTimeout", "RequestTimeoutException"})
TRANSIENT_STATUSES = frozenset({500, 502, 503, 504})

MAX_WAIT_S = 20.0
MAX_RETRY_AFTER_S = 5.0  # on top of the wait that was drawn
THROTTLED_WAIT_S = 1.0
TRANSIENT_WAIT_S = 0.05
DYNAMODB_TRANSIENT_WAIT_S = 0.025

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
WRONG_SIGNATURE = frozenset({"InvalidSignatureException", "RequestTimeTooSkewed", "SignatureDoesNotMatch"})
UNKNOWN_IDENTITY = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "UnrecognizedClientException",
    }
)
REFUSED_ACCESS = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AllAccessDisabled",
        "InvalidSecurity",
        "KMSAccessDeniedException",
        "KmsAccessDenied",
        "NotAuthorized",
        "UnauthorizedOperation",
    }
)
WRONG_REGION = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"})
MISSING_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
MISSING = frozenset({"ResourceNotFoundException"})

_CHECK = "AWS does not accept the credentials ({told})."

# What is final, in order: service (None: any), codes, class, and the rest of the message.
FINAL: tuple[tuple[str | None, frozenset[str], type[OnwardError], str], ...] = (
    (None, EXPIRED, NoCredentials, f"{_CHECK} They have expired: renew them (aws sso login, or new keys)."),
    (None, WRONG_SIGNATURE, NoCredentials, f"{_CHECK} Check the secret key and the clock of this machine."),
    (
        None,
        UNKNOWN_IDENTITY,
        NoCredentials,
        f"{_CHECK} AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN must belong together.",
    ),
    (None, REFUSED_ACCESS, AccessRefused, "access to {subject!r} was refused ({told}). Allow {action} to this role."),
    (
        "dynamodb",
        MISSING,
        TableMissing,
        "there is no table {subject!r} in this account and region. Create it, or correct its name or AWS_REGION.",
    ),
    ("lambda", MISSING, Misconfigured, "there is no function {subject!r}. Check its name, qualifier and AWS_REGION."),
    (
        "lambda",
        frozenset({"RecursiveInvocationException"}),
        Misconfigured,
        "Lambda took the chain of steps for a loop and stopped it. Set RecursiveLoop: Allow on {subject!r}.",
    ),
    ("events", MISSING, Misconfigured, "there is no event bus {subject!r}. Create it, or correct its name."),
    ("sqs", MISSING_QUEUE, Misconfigured, "there is no queue {subject!r}. Check its URL."),
    (
        "s3",
        frozenset({"NoSuchBucket"}),
        Misconfigured,
        "there is no bucket {subject!r}. Create it, or correct its name.",
    ),
    ("s3", WRONG_REGION, Misconfigured, "the bucket {subject!r} is in another region. Set AWS_REGION to its region."),
)
FINAL_STATUSES = {401: "AccessDenied", 403: "AccessDenied", 301: "PermanentRedirect", 307: "PermanentRedirect"}
UNFORESEEN = "{subject!r} refused the request as invalid ({told}): a bug in Onward, please report it."
NO_TABLE_NAME = "{subject!r} cannot be the name of a table ({told}). Use 3 to 255 of a-z A-Z 0-9 _ . -"
TOO_LARGE = "an item is larger than DynamoDB allows, 409,600 bytes ({told})."

_NAMES = {"dynamodb": "DynamoDB", "lambda": "Lambda", "sqs": "SQS", "s3": "S3", "events": "EventBridge"}
_ACTIONS = {
    "TransactWriteItems": "PutItem",
    "BatchGetItem": "BatchGetItem and dynamodb:GetItem",
    "Invoke": "InvokeFunction",
}
_MAX_TOLD_CHARS = 400  # of AWS's own message
_MAX_CODE_CHARS = 100
_MIN_SECRET_CHARS = 16  # of AWS's own; a test's «x» would be found in every word
_MAX_DIGITS = 9  # of a number of milliseconds


class AwsError(Exception):
    """A reply that says no. For the wing's own use: it never leaves `onward.aws`.

    `code`: the name of the error, or the status as text where there is none; `body`: the parsed JSON, or {}.
    """

    def __init__(self, code: str, status: int, message: str, body: dict[str, Any]) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = status
        self.message = message
        self.body = body


def parse_error(reply: Reply, secrets: Iterable[str] = ()) -> AwsError:
    """The error in a reply, in any of the dialects of the five services. `secrets` are taken out of its message: AWS
    answers a wrong signature with the request as it has read it, the session token included."""
    body: dict[str, Any] = {}
    code = ""
    message = ""
    content = reply.body
    if content.lstrip()[:1] == b"{":
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = {}
        code = _text(body.get("__type")) or _text(body.get("code")) or _text(body.get("Code"))
        message = _text(body.get("message")) or _text(body.get("Message"))
    elif b"<Code>" in content:
        code = _element(content, b"Code")
        message = _element(content, b"Message")
    code = reply.headers.get("x-amzn-errortype") or code
    code = code.split(":", 1)[0].rsplit("#", 1)[-1]
    former, semicolon, _ = reply.headers.get("x-amzn-query-error", "").partition(";")
    if former and semicolon:
        code = former
    for secret in secrets:
        if len(secret) >= _MIN_SECRET_CHARS:
            code, message = code.replace(secret, "***"), message.replace(secret, "***")
    return AwsError(code[:_MAX_CODE_CHARS] or str(reply.status), reply.status, message, body)


def is_throttled(code: str, status: int) -> bool:
    return code in THROTTLED or status == 429


def is_worth_a_retry(error: AwsError) -> bool:
    return is_throttled(error.code, error.status) or error.code in TRANSIENT or error.status in TRANSIENT_STATUSES


def wait_s(service: str, attempt: int, throttled: bool, chance: float, retry_after: str | None = None) -> float:
    """How long to wait after the attempt with this number (from 0). `chance`: in [0, 1)."""
    if throttled:
        scale_s = THROTTLED_WAIT_S
    else:
        scale_s = DYNAMODB_TRANSIENT_WAIT_S if service == "dynamodb" else TRANSIENT_WAIT_S
    drawn_s: float = chance * min(scale_s * 2**attempt, MAX_WAIT_S)
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit() and len(retry_after) <= _MAX_DIGITS):
        return drawn_s
    return max(drawn_s, min(int(retry_after) / 1000, drawn_s + MAX_RETRY_AFTER_S))


def unavailable(service: str, operation: str, trouble: str, attempts: int) -> Unavailable:
    times = "once" if attempts == 1 else f"{attempts} times"
    return Unavailable(f"{_title(service, operation)}: {trouble} (tried {times}). Try again later.")


def translate(error: AwsError, service: str, operation: str, subject: str, attempts: int) -> OnwardError:
    """The error of ours for an error of AWS. `subject`: the table, function, queue or bucket that was asked for."""
    told = _told(error)
    if is_worth_a_retry(error):
        return unavailable(service, operation, told, attempts)
    kind, text = _final(error, service)
    action = f"{service}:{_ACTIONS.get(operation, operation)}"
    return kind(f"{_title(service, operation)}: {text.format(told=told, subject=subject, action=action)}")


def _final(error: AwsError, service: str) -> tuple[type[OnwardError], str]:
    for code in (error.code, FINAL_STATUSES.get(error.status)):
        for only, codes, kind, text in FINAL:
            if code in codes and only in (None, service):
                return kind, text
    if error.code == "ValidationException" and "item size" in error.message.lower():
        return ItemTooLarge, TOO_LARGE
    if error.code == "ValidationException" and "tablename" in error.message.lower():
        return Misconfigured, NO_TABLE_NAME
    return RequestRefused, UNFORESEEN


def _title(service: str, operation: str) -> str:
    return f"{_NAMES[service]} {operation}"


def _told(error: AwsError) -> str:
    said = " ".join(error.message.split())
    if len(said) > _MAX_TOLD_CHARS:
        said = said[:_MAX_TOLD_CHARS] + "…"
    name = f"HTTP status {error.code}" if error.code == str(error.status) else error.code
    return f"{name}: {said}" if said else name


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _element(content: bytes, name: bytes) -> str:
    """The text of the first element of that name. S3's errors are flat, so no XML parser is needed."""
    _, _, rest = content.partition(b"<" + name + b">")
    text, end, _ = rest.partition(b"</" + name + b">")
    if not end:
        return ""
    plain = text.decode("utf-8", "replace")
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        plain = plain.replace(entity, character)
    return plain
