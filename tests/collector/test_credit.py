"""The pool of credit: windows within limits, never more than the total."""

from __future__ import annotations

from plait_collector.credit import CreditPool
from plaitwire import limits


def test_windows_are_within_their_limits_and_shrink_as_the_pool_does() -> None:
    """The first agents get large windows, later ones smaller, down to the smallest, then none."""
    pool = CreditPool(limits.RELAYED_BYTES_MAX)
    windows = []
    while window := pool.take():
        windows.append(window)
    assert windows == sorted(windows, reverse=True)
    assert windows[0] == limits.CREDIT_BYTES_MAX
    assert windows[-1] == limits.CREDIT_BYTES_MIN
    assert sum(windows) + pool.free == limits.RELAYED_BYTES_MAX
    assert pool.free < limits.CREDIT_BYTES_MIN


def test_what_is_given_back_can_be_taken_again() -> None:
    """A window that came back, in parts, serves the next agent."""
    pool = CreditPool(limits.CREDIT_BYTES_MIN)
    window = pool.take()
    assert pool.take() == 0
    pool.give_back(window - 100)
    assert pool.take() == 0
    pool.give_back(100)
    assert pool.take() == window
