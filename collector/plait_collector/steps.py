"""How far a session's rows have come, kept so that it never needs to be decoded to be asked.

Steps that were counted up before a session's first given one say nothing about where the session
stands in its label: they continue after what the label had before. All others are *anchored*.

    Steps of a stream = the first bytes' Steps .then(the next bytes' Steps) .then(…)

Invariant: then() is associative, so any cut of a stream into frames gives the same Steps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Steps:
    """The largest steps among some consecutive rows and events of one session."""

    floating_max: int | None = None
    """Of the automatic steps before the first given one."""
    anchored_max: int | None = None
    """Of the first given step and all after it."""

    @property
    def anchored(self) -> bool:
        """Whether a step was given."""
        return self.anchored_max is not None

    def then(self, later: Steps) -> Steps:
        """Those of these rows and, after them, of later's."""
        if self.anchored_max is None:
            return Steps(larger(self.floating_max, later.floating_max), later.anchored_max)
        anchored = larger(larger(self.anchored_max, later.floating_max), later.anchored_max)
        return Steps(self.floating_max, anchored)

    def last(self, shift: int) -> int | None:
        """The largest step in the label's counting, None without rows.

        Args:
            shift: what is added to a floating step, because of what the label had before.
        """
        floating = None if self.floating_max is None else self.floating_max + shift
        return larger(floating, self.anchored_max)


def larger(a: int | None, b: int | None) -> int | None:
    """The larger of two numbers either of which may be missing."""
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)
