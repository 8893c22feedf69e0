"""Back-off: pure, bounded, and spread."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from plaitwire.backoff import backoff_s


@given(st.integers(0, 10**6), st.integers(0, 2**32))
def test_within_bounds(attempt: int, seed: int) -> None:
    """A wait is never negative, never above its cap, nor above the doubled base."""
    wait_s = backoff_s(attempt, base_s=0.2, cap_s=15.0, rng=random.Random(seed))
    assert 0 <= wait_s <= min(15.0, 0.2 * 2 ** min(attempt, 100))


def test_the_same_chance_waits_the_same() -> None:
    """Attempt and chance decide; nothing else does."""
    waits = [backoff_s(5, base_s=0.2, cap_s=15.0, rng=random.Random(7)) for _ in range(2)]
    assert waits[0] == waits[1]


def test_a_fleet_is_spread() -> None:
    """Two thousand agents come back all over the interval, and not in one instant."""
    rng = random.Random(1)
    waits = sorted(backoff_s(20, base_s=0.2, cap_s=15.0, rng=rng) for _ in range(2000))
    for tenth in range(10):
        inside = sum(1.5 * tenth <= wait < 1.5 * (tenth + 1) for wait in waits)
        assert 140 < inside < 260
