"""The trace header, and the lineage in it by which Lambda counts the hops of a chain of requests.

    Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=0;Lineage=3:a87bd80c:2

`Lineage` says: three requests so far, two of them to the function whose hash is a87bd80c. Lambda writes it into
the header that a sandbox gets; an SDK sends it on with each request; who drops it is not counted. (AWS does not
document the field. The form is the one seen in headers of SQS messages since 2024; before, it was `a87bd80c:2`.)
"""

from __future__ import annotations

import zlib
from random import Random

MAX_COUNT_DIGITS = 4
MAX_HOPS = 16  # «about 16» in AWS's guide: the invocation that would be the 17th of a chain is stopped


def function_hash(arn: str) -> str:
    return f"{zlib.crc32(arn.encode()):08x}"


def fields(header: str | None) -> dict[str, str]:
    """The fields of a trace header, in order; {} where there is none."""
    parts = (part.partition("=") for part in (header or "").split(";"))
    return {name.strip(): value.strip() for name, equals, value in parts if equals}


def hops(header: str | None, arn: str) -> int:
    """How many invocations of the function stand before the one that arrives with this header."""
    counters = fields(header).get("Lineage", "").split(":")
    if len(counters) != 3 or counters[1] != function_hash(arn) or not counters[2].isdecimal():
        return 0
    return int(counters[2][:MAX_COUNT_DIGITS]) + 1


def handed_on(header: str | None, arn: str, now_s: float, random: Random) -> str:
    """The header for the sandbox: the Root that came in or a new one, a new Parent, and the lineage, one hop on.

    An invocation that arrived with no lineage carries count 0."""
    known = fields(header)
    root = known.get("Root") or f"1-{int(now_s):08x}-{random.getrandbits(96):024x}"
    sampled = known.get("Sampled", "0")
    count = hops(header, arn)
    lineage = f"{count}:{function_hash(arn)}:{count}"
    return f"Root={root};Parent={random.getrandbits(64):016x};Sampled={sampled};Lineage={lineage}"
