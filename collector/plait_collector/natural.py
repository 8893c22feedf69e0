"""Natural order of names: digits compare as numbers, so that rank 2 stands before rank 10."""

from __future__ import annotations

import re
from typing import Final

_DIGITS: Final = re.compile("([0-9]+)")

NaturalKey = tuple[tuple[str | int, ...], str]


def natural_key(name: str) -> NaturalKey:
    """What to sort a name by. Names that differ have different keys ("1" stands before "01")."""
    parts = _DIGITS.split(name)  # Text and digits take turns, text first: like meets like.
    return tuple(int(part) if at % 2 else part for at, part in enumerate(parts)), _tie(name)


def _tie(name: str) -> str:
    return f"{len(name):03d}{name}"
