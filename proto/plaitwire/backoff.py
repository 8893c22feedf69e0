"""How long to wait before trying again. Pure: attempt and chance in, seconds out."""

from __future__ import annotations

import random


def backoff_s(attempt: int, *, base_s: float, cap_s: float, rng: random.Random) -> float:
    """Full jitter: anywhere between zero and the doubled delay, so a fleet does not march in step.

    Args:
        attempt: failures so far, from 0.
        base_s: the bound of the first wait, in seconds.
        cap_s: the bound of any wait, in seconds.
        rng: where chance comes from.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return rng.uniform(0.0, min(cap_s, base_s * 2 ** min(attempt, 32)))
