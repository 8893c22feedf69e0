"""A rank whose pace a test sets: python -m tests.system.paced_rank PACE LABEL ROWS.

PACE is a file of 8-byte words, two a label: how many calls are allowed, how many have returned.
"""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path

import plait

KEYS = [f"metric/{number}" for number in range(10)]


def value(label: int, step: int, key: int) -> float:
    """What a label logs: told apart by label, step and key, and exact in a float64."""
    return label * 2.0**32 + step * 16 + key


def main() -> None:
    pace, label, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with pace.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        words = memoryview(mapping).cast("Q")
        run = plait.init(project="system", id="paced", label=str(label), config={"rows": rows})
        for step in range(rows):
            while words[2 * label] <= step:
                time.sleep(0.001)
            run.log({key: value(label, step, i) for i, key in enumerate(KEYS)})
            words[2 * label + 1] = step + 1
        run.finish()
        words.release()


if __name__ == "__main__":
    main()
