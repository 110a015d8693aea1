"""What AWS asks, in US dollars, in us-east-1, as its price list stood in November 2026, without free tiers.

Prices change: look at https://aws.amazon.com/pricing before you lean on a sum. `ASSUMED` is what no price list says.
"""

from __future__ import annotations

from typing import NamedTuple

MILLION = 1_000_000
LAMBDA_REQUEST = 0.20 / MILLION
LAMBDA_GB_S_ARM = 0.0000133334
WRITE_UNIT = 0.625 / MILLION  # DynamoDB on demand
READ_UNIT = 0.125 / MILLION
SQS_REQUEST = 0.40 / MILLION
SCHEDULER_INVOCATION = 1.00 / MILLION  # 14 million a month are free
CUSTOM_EVENT = 1.00 / MILLION  # EventBridge, for 64 KB
DURABLE_OPERATION = 8.00 / MILLION  # AWS Lambda durable functions; their storage and Lambda come on top
STATE_TRANSITION = 25.00 / MILLION  # Step Functions, standard; Lambda comes on top
MONTH_MINUTES = 60 * 730


class Assumed(NamedTuple):
    """`invocation_ms`: the engine's own part of a warm invocation that performs one step, at `memory_mb`; the step's
    own time comes on top. `idle_polls`: by which Lambda's event source mapping looks after an empty queue, a month."""

    invocation_ms: float = 50.0
    memory_mb: int = 512
    idle_polls: int = 650_000


ASSUMED = Assumed()
