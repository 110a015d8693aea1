"""Time and chance from the operating system, the same on Lambda and on a laptop.

Chance comes from the kernel and not from `random`: the copies of one SnapStart snapshot share the state of every
generator that was seeded before it was taken, and would all draw the same jitter and the same tokens.
"""

from __future__ import annotations

import base64
import os
import time


class SystemClock:
    """`ports.Clock` from the operating system."""

    __slots__ = ()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def random(self) -> float:
        return (int.from_bytes(os.urandom(7), "big") >> 3) / (1 << 53)  # 53 bits: exact, and never 1.0

    def token(self) -> str:
        return base64.b32hexencode(os.urandom(10)).decode().lower()
