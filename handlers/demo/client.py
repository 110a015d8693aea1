"""How a step talks to the shop, and what the shop's answers mean to the engine:

    200        the reply
    429        `RetryAfter`: the step says when its next attempt makes sense
    other 4xx  `NonRetriable`: the same request would be refused again
    5xx, no answer, half an answer    an ordinary exception, which is retried

Each request carries the step's idempotency key, which is the same over all attempts. So when the shop applied a
request and only its reply was lost, the next attempt is answered and not applied again.
"""

from __future__ import annotations

import json
import os

from onward import NonRetriable, RetryAfter, current_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

TIMEOUT_S = 30


def send(url: str, endpoint: str, body: Any) -> dict[str, Any]:
    """POST `body` as JSON to an endpoint of the shop at `url`, from inside a step, and return its reply."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise NonRetriable(f"the shop's URL must begin with http:// or https://, and is {url!r}")
    connection = (HTTPSConnection if parts.scheme == "https" else HTTPConnection)(parts.netloc, timeout=TIMEOUT_S)
    headers = {"Content-Type": "application/json", "Idempotency-Key": current_step().idempotency_key}
    try:
        connection.request("POST", parts.path.rstrip("/") + endpoint, json.dumps(body), headers)
        answer = connection.getresponse()
        status, retry_after, text = answer.status, answer.headers["Retry-After"], answer.read()
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"no answer from {url}{endpoint}: {error}") from error
    finally:
        connection.close()
    if status == 429:
        raise RetryAfter(seconds(retry_after), f"{endpoint} asks to come back after {retry_after} seconds")
    if status >= 400:
        kind = NonRetriable if status < 500 else RuntimeError
        raise kind(f"{endpoint} answered {status}: {text.decode(errors='replace')}")
    reply: dict[str, Any] = json.loads(text)
    return reply


def seconds(retry_after: str | None) -> float:
    """Retry-After is whole seconds or, rarely, a date. A date is taken for one second, like a missing one."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 1.0


def ensure_shop(data: Mapping[str, Any]) -> str:
    """The URL of the shop: of the event (`"shop"`), else of ONWARD_DEMO_SHOP, else of a shop that is started for
    this process and ends with it. That one keeps its table in ONWARD_DEMO_SHOP_DB, else in `.onward/shop.db`. So a
    run that another process resumes goes on in the same table behind another port, and no step's result holds a URL.
    """
    if url := data.get("shop") or os.environ.get("ONWARD_DEMO_SHOP"):
        return str(url)
    from .shop import own_shop

    try:
        return own_shop(os.environ.get("ONWARD_DEMO_SHOP_DB") or ".onward/shop.db").url
    except (OSError, RuntimeError) as error:
        raise NonRetriable(f"no shop: set ONWARD_DEMO_SHOP to the URL of one ({error})") from error
