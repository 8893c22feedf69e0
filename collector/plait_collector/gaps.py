"""What a label lost, and up to where it lost nothing.

A writer's own gap records carry how much it had dropped in all by then, so that a record that is
told twice, by the writer and again by the agent that closes its stream, counts once.

Rule: pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from plait_collector.attempts import LabelOrder, Place
from plait_collector.store import GapRow


@dataclass(frozen=True, slots=True)
class Loss:
    """A gap, where it stands in its label."""

    gap: GapRow
    place: Place
    records: int | None
    """None: nobody knows how many."""
    after_step: int | None
    """The largest step of its session before it; without one, of the sessions before; None: it
    stands before all rows. A restart from a checkpoint goes back: what came before says nothing."""


def losses(order: LabelOrder, gaps: Iterable[GapRow]) -> list[Loss]:
    """A label's gaps, in its order.

    Args:
        order: the label.
        gaps: of the run, in any order.
    """
    by_session: dict[str, list[GapRow]] = {}
    for gap in gaps:
        by_session.setdefault(gap.session, []).append(gap)
    found = []
    for place in order.places:
        told = 0
        for gap in sorted(by_session.get(place.session, ()), key=lambda g: (g.offset, g.end)):
            records = None if gap.records is None else max(gap.records, 0)
            if gap.total is not None:
                if gap.total <= told:
                    continue
                records, told = gap.total - told, gap.total
            here = place.last(gap.steps)
            after = place.before if here is None else here
            found.append(Loss(gap, place, records, after))
    return found


def complete_through(order: LabelOrder, lost: list[Loss]) -> int | None:
    """The last step with no gap before it; None: nothing is known.

    The lowest of its gaps counts, not the first: an attempt that went back to a checkpoint may have
    lost lower steps than one before it.

    Args:
        order: the label.
        lost: its gaps, in its order.
    """
    if not lost:
        return order.last_step
    steps = [loss.after_step for loss in lost]
    known = [step for step in steps if step is not None]
    return min(known) if len(known) == len(steps) else None
