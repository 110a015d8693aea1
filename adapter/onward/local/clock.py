"""The clock of this machine, and its chance."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class SystemClock:
    """Wall-clock time and the operating system's randomness."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def random(self) -> float:
        return int.from_bytes(os.urandom(7), "big") / (1 << 56)

    def token(self) -> str:
        number = int.from_bytes(os.urandom(11), "big")
        digits = []
        for _ in range(16):
            number, digit = divmod(number, 36)
            digits.append(_ALPHABET[digit])
        return "".join(digits)
