from __future__ import annotations

import time

from onward.clock import SystemClock


def test_a_token_has_sixteen_characters_and_never_repeats() -> None:
    tokens = [SystemClock().token() for _ in range(2000)]
    assert len(set(tokens)) == 2000
    assert all(len(token) == 16 and set(token) <= set("0123456789abcdefghijklmnopqrstuvwxyz") for token in tokens)


def test_chance_is_spread_over_the_unit_interval() -> None:
    drawn = [SystemClock().random() for _ in range(2000)]
    assert all(0 <= number < 1 for number in drawn)
    assert 0.4 < sum(drawn) / len(drawn) < 0.6


def test_the_clock_tells_milliseconds() -> None:
    assert abs(SystemClock().now_ms() - time.time() * 1000) < 1000


def test_chance_does_not_come_from_the_state_that_a_snapshot_copies() -> None:
    import random

    random.seed(1)
    first = SystemClock().random()
    random.seed(1)
    assert SystemClock().random() != first
