"""Steps: how far a session's rows have come, however its stream is cut."""

from __future__ import annotations

import itertools
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from plait_collector.steps import Steps

_ROWS = st.lists(st.tuples(st.booleans(), st.integers(-5, 100)), max_size=12)


def _of(rows: list[tuple[bool, int]]) -> Steps:
    """By definition: floating are automatic steps before the first given one."""
    first = next((i for i, (automatic, _) in enumerate(rows) if not automatic), len(rows))
    floating = [step for _, step in rows[:first]]
    anchored = [step for _, step in rows[first:]]
    return Steps(max(floating, default=None), max(anchored, default=None))


@given(rows=_ROWS, cuts=st.lists(st.integers(0, 12), max_size=4))
def test_any_cut_gives_the_same_steps(rows: list[tuple[bool, int]], cuts: list[int]) -> None:
    """A stream cut into frames anywhere has the Steps of the whole."""
    places = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [_of(rows[a:b]) for a, b in itertools.pairwise(places)]
    assert reduce(Steps.then, parts, Steps()) == _of(rows)


@given(a=_ROWS, b=_ROWS, c=_ROWS)
def test_then_is_associative(
    a: list[tuple[bool, int]], b: list[tuple[bool, int]], c: list[tuple[bool, int]]
) -> None:
    """It does not matter which neighbours are put together first."""
    x, y, z = _of(a), _of(b), _of(c)
    assert x.then(y).then(z) == x.then(y.then(z))


def test_only_floating_steps_are_shifted() -> None:
    """The last step counts floating ones after what the label had before, anchored as written."""
    assert Steps().last(7) is None
    assert Steps(floating_max=3).last(7) == 10
    assert Steps(floating_max=3, anchored_max=5).last(0) == 5
    assert Steps(floating_max=3, anchored_max=5).last(100) == 103
