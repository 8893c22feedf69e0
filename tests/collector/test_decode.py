"""Frames to columns: every value where it was written, whatever shapes the rows take turns in."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_collector.decode import Decoded, Decoder, coalesced
from plait_collector.store import Chunk, Schema
from plaitwire.records import Kind, pack_record, pack_row, pack_schema
from tests.support.fold import Fold, Writer, meta, session_id


def decode(*writers: Writer, **options: Any) -> Decoded:
    """All of some writers' chunks; they share a session."""
    fold = Fold().add(*writers)
    decoder = Decoder(fold.schema_rows, **options)
    for chunk in fold.pieces(writers[0].meta.session):
        decoder.feed(chunk)
    return decoder.decoded()


def rows_of(decoded: Decoded) -> list[tuple[int, int, bool, dict[str, float]]]:
    """Rows as (offset, step, automatic, values), in the order of their offsets."""
    rows = []
    for block in decoded.blocks:
        columns = zip(block.offsets, block.steps, block.automatic, block.values, strict=True)
        for offset, step, automatic, values in columns:
            cells = dict(zip(block.keys, values.tolist(), strict=True))
            rows.append((int(offset), int(step), bool(automatic), cells))
    return sorted(rows, key=lambda row: row[0])


def test_equal_rows_are_one_block() -> None:
    """Equal rows are read at once: values, steps and offsets as they were packed."""
    count = 10_000
    one = [pack_row(0, step, step * 7, [float(step), -1.0]) for step in range(count)]
    payload = pack_schema(0, ["a", "b"]) + b"".join(one)
    decoder = Decoder([Schema(session_id(1), 0, 0, ("a", "b"))])
    decoder.feed(Chunk(session_id(1), 0, 0, payload))
    (block,) = decoder.decoded().blocks
    assert np.array_equal(block.steps, np.arange(count))
    assert np.array_equal(block.times_ns, np.arange(count) * 7)
    assert np.array_equal(block.values[:, 0], np.arange(count))
    assert np.array_equal(np.diff(block.offsets), np.full(count - 1, 40))


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-5, 5),
            st.lists(st.sampled_from("abcd"), unique=True, max_size=4),
            st.integers(1, 40),
        ),
        max_size=20,
    ),
    st.sampled_from([100, 700, 2**20]),
)
def test_rows_of_any_shapes_come_back(
    runs: list[tuple[int | None, list[str], int]], segment_bytes: int
) -> None:
    """Rows of any shapes, taking turns, over any segments, are read as they were written."""
    writer = Writer(meta(1), segment_bytes=segment_bytes)
    expected: list[tuple[int, bool, dict[str, float]]] = []
    value, last = 0.0, -1
    for step, keys, count in runs:
        for _ in range(count):
            cells = {key: (value := value + 1.0) for key in keys}
            last = last + 1 if step is None else step
            writer.row(step, **cells)
            expected.append((last, step is None, cells))
        writer.say(Kind.CONSOLE, {"text": "x" * count})
    decoded = decode(writer)
    assert [row[1:] for row in rows_of(decoded)] == expected
    assert decoded.bad == 0


def test_only_the_keys_asked_for_are_read() -> None:
    """Other columns are left out, and rows that have none of the keys."""
    writer = Writer(meta(1)).row(0, a=1.0, b=2.0).row(1, c=3.0).row(2, b=4.0)
    decoded = decode(writer, keys=["b", "nobody"])
    assert [row[3] for row in rows_of(decoded)] == [{"b": 2.0}, {"b": 4.0}]


def test_anchor_is_the_first_given_step() -> None:
    """Rows and events anchor a session, by a given step; console lines and configs never do."""
    writer = Writer(meta(1)).row(x=1.0).config(a=1).say(Kind.CONSOLE, {"text": ""}, step=3)
    assert decode(writer).anchor is None
    writer.say(Kind.EVENT, {"a": "b"})
    assert decode(writer).anchor is None
    anchor = writer.end
    writer.say(Kind.EVENT, {"a": "b"}, step=3).row(9, x=1.0)
    assert decode(writer, keys=["nothing"]).anchor == anchor


def test_row_whose_schema_does_not_fit_costs_itself() -> None:
    """A row of an unknown schema, or with too many values, is left out and counted."""
    writer = Writer(meta(1)).row(0, a=1.0)
    writer.raw(pack_row(7, 1, 0, [1.0])).raw(pack_row(0, 2, 0, [1.0, 2.0])).row(3, a=4.0)
    decoded = decode(writer)
    assert [row[1] for row in rows_of(decoded)] == [0, 3]
    assert decoded.bad == 2


@pytest.mark.parametrize("junk", [b"\0" * 8, struct.pack("<IHH", 4096, 2, 0), b"abc"])
def test_damage_costs_the_rest_of_its_chunk(junk: bytes) -> None:
    """Where nobody can tell where the next record begins, what stood before it is kept."""
    row = pack_row(0, 1, 0, [5.0])
    decoder = Decoder([Schema(session_id(1), 0, 0, ("a",))])
    decoder.feed(Chunk(session_id(1), 0, 0, row + junk))
    decoder.feed(Chunk(session_id(1), 1000, 0, row))
    decoded = decoder.decoded()
    assert [row[3] for row in rows_of(decoded)] == [{"a": 5.0}, {"a": 5.0}]
    assert decoded.bad == 1


def test_what_came_after_the_question_is_left_out() -> None:
    """An answer that is about a stream up to an offset holds nothing beyond it."""
    writer = Writer(meta(1), segment_bytes=1).row(0, a=1.0)
    end = writer.end
    assert len(rows_of(decode(writer.row(1, a=2.0), end=end))) == 1


def test_flawed_keys_are_left_out() -> None:
    """A key that no text can hold costs its own values alone."""
    decoder = Decoder([Schema(session_id(1), 0, 0, ("\ud800", "a"))])
    decoder.feed(Chunk(session_id(1), 0, 0, pack_row(0, 1, 0, [5.0, 6.0])))
    assert [row[3] for row in rows_of(decoder.decoded())] == [{"a": 6.0}]


def test_row_without_values_is_a_row() -> None:
    """A row of no keys has a step and a time all the same."""
    decoder = Decoder([Schema(session_id(1), 0, 0, ())])
    payload = pack_record(Kind.ROW, b"", step=3, time_ns=4) * 3
    decoder.feed(Chunk(session_id(1), 0, 0, payload))
    assert [row[1] for row in rows_of(decoder.decoded())] == [3, 3, 3]


def test_chunks_that_follow_each_other_are_read_as_one() -> None:
    """Small frames of a segment are joined; a gap or another segment ends the joining."""
    s = session_id(1)
    chunks = [Chunk(s, 0, 0, b"a" * 8), Chunk(s, 8, 0, b"b" * 8), Chunk(s, 24, 0, b"c" * 8)]
    chunks.append(Chunk(s, 32, 32, b"d" * 8))
    joined = [(chunk.offset, chunk.payload[:1], len(chunk.payload)) for chunk in coalesced(chunks)]
    assert joined == [(0, b"a", 16), (24, b"c", 8), (32, b"d", 8)]
