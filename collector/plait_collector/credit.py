"""How much the relays of a collector may have under way, together and each.

Invariant: the windows out never add up to more than the total.
"""

from __future__ import annotations

from typing import Final

from plaitwire import limits

_SHARE: Final = 8
"""A new relay gets one part in this many of what is free, within the limits of a window."""


class CreditPool:
    """The bytes that a collector is ready to hold for its agents."""

    def __init__(self, total: int) -> None:
        """
        Args:
            total: bytes, for all relays together.
        """
        assert total >= limits.CREDIT_BYTES_MIN
        self.total = total
        self.free = total

    def take(self) -> int:
        """A window for a new relay, in bytes; 0: there is not even room for the smallest."""
        share = self.free // _SHARE
        window = min(limits.CREDIT_BYTES_MAX, max(limits.CREDIT_BYTES_MIN, share))
        if window > self.free:
            return 0
        self.free -= window
        return window

    def give_back(self, size: int) -> None:
        """These bytes of a window are free again."""
        assert 0 <= size <= self.total - self.free
        self.free += size
