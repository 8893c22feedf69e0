"""Labels as people name them on a command line: `0-3,7`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

RANGE_MAX: Final = 10_000
_RANGE: Final = re.compile("([0-9]{1,9})-([0-9]{1,9})")


class Unreadable(ValueError):
    """What was written names no labels."""


def listed_labels(text: str, known: Sequence[str]) -> list[str]:
    """The labels that a list names, each once.

    A-B stands for the labels A to B that the run has, unless the run has one called just so.

    Args:
        text: labels and ranges, with commas between them.
        known: the run's labels.

    Raises:
        Unreadable: it names none, or a range runs backwards or too far.
    """
    labels: list[str] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        matched = _RANGE.fullmatch(part)
        if matched is None or part in known:
            labels.append(part)
            continue
        first, last = int(matched.group(1)), int(matched.group(2))
        if not 0 <= last - first < RANGE_MAX:
            raise Unreadable(f"the labels {part} are none, or more than {RANGE_MAX}")
        within = [str(number) for number in range(first, last + 1) if str(number) in known]
        if not within:
            raise Unreadable(f"the run has none of the labels {part}")
        labels += within
    if not labels:
        raise Unreadable(f"--labels {text!r} names no label; it takes 0-3,7 or names")
    return list(dict.fromkeys(labels))
