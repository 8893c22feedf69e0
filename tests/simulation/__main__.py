"""Thousands of seeds: python -m tests.simulation --seeds 1000. A failing one replays by --first."""

from __future__ import annotations

import argparse
import concurrent.futures
import logging
import sys
import traceback

from tests.simulation.world import simulate

STEPS = 400


def attempt(seed: int, steps: int) -> str:
    """What went wrong with a seed; empty: nothing."""
    logging.disable(logging.CRITICAL)
    try:
        simulate(seed, steps)
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of chance in each")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    failed = 0
    with concurrent.futures.ProcessPoolExecutor() as pool:
        answers = pool.map(attempt, seeds, [arguments.steps] * len(seeds), chunksize=8)
        for seed, failure in zip(seeds, answers, strict=True):
            if failure:
                failed += 1
                again = f"python -m tests.simulation --first {seed} --seeds 1"
                sys.stdout.write(f"seed {seed}: {failure.strip()}\nreplay: {again}\n")
                if failed >= 5:
                    break
    sys.stdout.write(f"{len(seeds) - failed} passed, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
