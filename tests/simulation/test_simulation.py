"""The simulator's first seeds; thousands more run with python -m tests.simulation."""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import STEPS
from tests.simulation.world import simulate

_SEEDS_PER_TEST = 10


@pytest.mark.parametrize("first", range(0, 100, _SEEDS_PER_TEST))
def test_nothing_is_lost_or_doubled_whatever_fails(first: int) -> None:
    """After any schedule of faults, each stream is whole and in order, or its gaps have a cause."""
    for seed in range(first, first + _SEEDS_PER_TEST):
        try:
            simulate(seed, STEPS)
        except AssertionError as error:
            replay = f"python -m tests.simulation --first {seed} --seeds 1"
            raise AssertionError(f"seed {seed}: {error}; replay: {replay}") from error
