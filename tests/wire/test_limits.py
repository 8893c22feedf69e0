"""Limits: what must fit into what does, and a row may have as many keys as its record holds."""

from __future__ import annotations

import importlib

from plaitwire import limits
from plaitwire.records import RECORD_HEADER, pack_row, pack_schema


def test_the_limits_hold_together() -> None:
    """The module's own assertions hold; a test run without assertions would not see them."""
    assert __debug__
    importlib.reload(limits)


def test_a_schema_and_its_widest_row_share_a_segment() -> None:
    """The largest row and the largest schema fit into one segment with its header."""
    keys = limits.RECORD_BYTES_MAX // 8 - 3
    row = len(pack_row(0, 0, 0, [0.0] * keys))
    assert row == limits.RECORD_BYTES_MAX
    schema = len(pack_schema(0, ["k" * (limits.RECORD_BYTES_MAX - RECORD_HEADER.size - 4)]))
    assert schema == limits.RECORD_BYTES_MAX
    assert limits.SEGMENT_HEADER_BYTES + schema + row <= limits.SEGMENT_BYTES_MAX


def test_every_limit_is_a_positive_number() -> None:
    """Each limit is above zero, and says its unit or what it counts in its name."""
    for name, value in vars(limits).items():
        if name.isupper():
            assert isinstance(value, int | float), name
            assert value > 0, name
