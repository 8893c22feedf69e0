"""What the records of a run say about its state. What time adds stands in liveness.py.

    session   as its finish record says, else running
    label     its latest attempt: running while any root session runs, else the worst of them
    run       running while any label runs; then as its primary, or without one as its worst label

Rule: pure. Branches decide nothing; nor does anything that no record says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from plait_collector.attempts import Attempt, LabelOrder, Place


class State(StrEnum):
    """The words for a state."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CRASHED = "crashed"


_BADNESS: Final = {State.FINISHED: 0, State.FAILED: 1, State.CRASHED: 2}


def session_state(place: Place) -> State:
    """The state of a session. A finish record that says no state one knows is a failure."""
    finish = place.row.finish
    if finish is None:
        return State.RUNNING
    return State(finish.state) if finish.state in _ENDED else State.FAILED


_ENDED: Final = frozenset(state.value for state in _BADNESS)


def joint_state(states: Iterable[State]) -> State:
    """running while any is, else the worst."""
    known = list(states)
    if State.RUNNING in known:
        return State.RUNNING
    return max(known, key=_BADNESS.__getitem__)


def attempt_state(attempt: Attempt) -> State:
    """The state of an attempt."""
    return joint_state(map(session_state, attempt.deciding))


def label_state(order: LabelOrder) -> State:
    """The state of a label."""
    return attempt_state(order.deciding)


def label_exit_code(order: LabelOrder) -> int | None:
    """The exit code of the session that decided the label's state; None while it runs."""
    state = label_state(order)
    if state is State.RUNNING:
        return None
    decided = [place for place in order.deciding.deciding if session_state(place) is state]
    finish = decided[-1].row.finish
    return None if finish is None else finish.exit_code


def primary_of(labels: Sequence[LabelOrder]) -> str | None:
    """The label that speaks for the run: the smallest that said so, else "0", else none.

    Args:
        labels: in natural order.
    """
    said = [order.label for order in labels if order.primary]
    if said:
        return said[0]
    return "0" if any(order.label == "0" for order in labels) else None


def run_state(labels: Sequence[LabelOrder], primary: str | None) -> State:
    """The state of a run with at least one label."""
    states = {order.label: label_state(order) for order in labels}
    joint = joint_state(states.values())
    return joint if primary is None or joint is State.RUNNING else states[primary]
