"""Records: what is packed is read back, and what is damaged is found."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaitwire.limits import RECORD_BYTES_MAX
from plaitwire.records import (
    BYTE_ORDER_MARK,
    FLAG_AUTOMATIC_STEP,
    JSON_KINDS,
    MAGIC,
    NO_STEP,
    ROW_HEADER,
    SEGMENT_HEADER,
    STEP_MAX,
    STEP_MIN,
    VERSION,
    Damaged,
    Kind,
    aligned,
    can_write_here,
    pack_json,
    pack_record,
    pack_row,
    pack_schema,
    pack_segment_header,
    scan,
    unpack_segment_header,
)

STEPS = st.integers(STEP_MIN, STEP_MAX)
TIMES = st.integers(0, 2**62)
SCHEMAS = st.integers(0, 2**16 - 1)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
JSON = st.dictionaries(
    KEYS,
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | KEYS
    | st.lists(st.integers(0, 9)),
    max_size=5,
)
ROWS = st.tuples(
    st.just(Kind.ROW), SCHEMAS, STEPS, TIMES, st.booleans(), st.lists(st.floats(), max_size=20)
)
DEFINED = st.tuples(st.just(Kind.SCHEMA), SCHEMAS, st.lists(KEYS, max_size=8))
OTHERS = st.tuples(
    st.sampled_from(sorted(JSON_KINDS)), STEPS | st.just(NO_STEP), TIMES, st.booleans(), JSON
)


def pack(given: tuple[Any, ...]) -> bytes:
    """A record of what was drawn."""
    if given[0] is Kind.ROW:
        _, schema, step, time_ns, automatic, values = given
        return pack_row(schema, step, time_ns, values, automatic=automatic)
    if given[0] is Kind.SCHEMA:
        return pack_schema(given[1], given[2])
    kind, step, time_ns, automatic, value = given
    flags = FLAG_AUTOMATIC_STEP if automatic else 0
    return pack_json(kind, value, step=step, time_ns=time_ns, flags=flags)


@settings(deadline=None)
@given(st.lists(ROWS | DEFINED | OTHERS, max_size=20))
def test_records_round_trip(drawn: list[tuple[Any, ...]]) -> None:
    """Any records, one after the other, are read back as they were packed."""
    data = b"".join(map(pack, drawn))
    found = list(scan(data))
    assert sum(aligned(record.size) for record in found) == len(data)
    assert len(found) == len(drawn)
    for record, told in zip(found, drawn, strict=True):
        assert record.kind is told[0]
        if record.kind is Kind.ROW:
            assert (record.schema, record.step, record.time_ns) == told[1:4]
            assert bool(record.flags) is told[4]
            assert bytes(record.body) == struct.pack(f"<{len(told[5])}d", *told[5])
        elif record.kind is Kind.SCHEMA:
            assert (record.schema, record.json()) == told[1:3]
        else:
            assert (record.step, record.time_ns, bool(record.flags)) == told[1:4]
            assert record.json() == told[4]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_damaged(data: bytes) -> None:
    """Whatever the bytes, scanning ends, and what it gives lies within them, in order."""
    end, damaged_at = 0, -1
    try:
        for record in scan(data):
            assert record.offset == end
            end += aligned(record.size)
    except Damaged as error:
        damaged_at = error.offset
    assert end <= len(data)
    assert damaged_at == end or (damaged_at == -1 and end == len(data))


@given(ROWS, st.data())
def test_a_cut_record_is_damaged(drawn: tuple[Any, ...], data: st.DataObject) -> None:
    """A record whose end is missing is never read."""
    packed = pack(drawn)
    cut = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(Damaged):
        list(scan(packed[:cut]))


def test_the_largest_record() -> None:
    """A record may have RECORD_BYTES_MAX bytes, and not one more."""
    body = bytes(RECORD_BYTES_MAX - ROW_HEADER.size)
    (record,) = scan(pack_record(Kind.CONSOLE, body))
    assert record.size == RECORD_BYTES_MAX
    with pytest.raises(ValueError, match="at most"):
        pack_record(Kind.CONSOLE, body + b"x")


@given(st.integers(0, 2**40), st.integers(0, 2**17))
def test_segment_headers_round_trip(base: int, committed: int) -> None:
    """A header is read as it was packed."""
    header = pack_segment_header(base * 8, committed * 8)
    assert unpack_segment_header(header) == (base * 8, committed * 8)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"", "0 bytes"),
        (bytes(64), "not a segment"),
        (SEGMENT_HEADER.pack(MAGIC, VERSION + 1, BYTE_ORDER_MARK, 0, 0), "version 2"),
        (SEGMENT_HEADER.pack(MAGIC, VERSION, 0x04030201, 0, 0), "byte order"),
        (SEGMENT_HEADER.pack(MAGIC, VERSION, BYTE_ORDER_MARK, 4, 0), "aligned"),
        (SEGMENT_HEADER.pack(MAGIC, VERSION, BYTE_ORDER_MARK, 0, 4), "aligned"),
    ],
)
def test_bad_segment_headers(header: bytes, why: str) -> None:
    """A header that is none, of another version or of another machine says which."""
    with pytest.raises(Damaged, match=why):
        unpack_segment_header(header)


def test_every_kind_has_a_word() -> None:
    """A kind's word is its name as people write it, and this machine can write the log."""
    assert Kind.DEFINE_METRIC.word == "define_metric"
    assert can_write_here()
