"""Frames to what ingest must know of them: are the records well formed, which are no rows, how far
do the steps go. Rows are not decoded. (See scan() below; NumPy where equal rows follow each other.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plait_collector.steps import Steps
from plait_collector.store import Lifted


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a frame's records are. Offsets are within the frame."""

    size: int
    """Bytes of well-formed records, from the beginning."""
    rows: int
    steps: Steps
    last_ns: int
    """Wall time of the last record that has one and is the rank's own; 0: none."""
    lifted: tuple[Lifted, ...]
    """offset counts from the frame's first byte here."""
    needs: Mapping[int, int]
    """Schema id to number of values, of rows whose schema the frame does not define before them."""
    defines: Mapping[int, int]
    """Schema id to number of keys, of the schemas it defines."""
    flaw: str | None
    """Why the record at size is none; None: there is none at size, the frame ends."""
