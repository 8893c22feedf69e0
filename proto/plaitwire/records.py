"""The record log's format: what a rank writes and all others read. proto/RECORDS.md is its spec.

A stream is a string of record bytes, cut into segment files. A segment is a header of 64 bytes and
then records; the header's commit word counts the record bytes that are whole. Records are 8-byte
aligned and little-endian.

Rule: standard library only. A rank imports this module.
Rule: nothing here does I/O.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from plaitwire.limits import RECORD_BYTES_MAX, SEGMENT_HEADER_BYTES

MAGIC: Final = b"plaitlog"
VERSION: Final = 1
BYTE_ORDER_MARK: Final = 0x01020304

SEGMENT_HEADER: Final = struct.Struct("<8sIIQQ32x")
"""magic, version, byte order mark, base offset, commit word, 32 bytes of zeros."""
COMMIT_AT: Final = 24
"""Where the commit word stands in a segment file: 8-byte aligned, so that it is stored at once."""

RECORD_HEADER: Final = struct.Struct("<IHH")
"""size in bytes (this header included, padding not), kind and flags, schema id."""
STAMP: Final = struct.Struct("<qq")
"""step, wall time in nanoseconds since 1970. The body of every kind but SCHEMA begins with it."""
ROW_HEADER: Final = struct.Struct("<IHHqq")
"""RECORD_HEADER and STAMP, as rows have them."""

KIND_MASK: Final = 0x00FF
FLAG_AUTOMATIC_STEP: Final = 0x0100
"""The step was counted up, not given."""
FLAG_CONTINUED: Final = 0x0200
"""The body goes on in the stream's next record of the same kind."""
FLAGS: Final = FLAG_AUTOMATIC_STEP | FLAG_CONTINUED
NO_STEP: Final = -(2**63)
"""The step of a record that has none."""
STEP_MIN: Final = -(2**62)
STEP_MAX: Final = 2**62

assert SEGMENT_HEADER.size == SEGMENT_HEADER_BYTES
assert COMMIT_AT % 8 == 0
assert ROW_HEADER.size == RECORD_HEADER.size + STAMP.size == 24


class Kind(IntEnum):
    """What a record is. The value is the low byte of its kind word."""

    SCHEMA = 1
    """Keys of rows to come in this segment; body: a JSON array of strings."""
    ROW = 2
    """Scalars; body: stamp, then a float64 for each key of the schema."""
    EVENT = 3
    """Values that are no scalars; a JSON object, key to value."""
    CONSOLE = 4
    """A line of output."""
    CONFIG = 5
    """Changes of the config; a JSON object, key to value."""
    SUMMARY = 6
    """Changes of the summary; a JSON object, key to value."""
    DEFINE_METRIC = 7
    """How a key is summarised: {"key", "summary": min | max | mean | first | last | none}."""
    GAP = 8
    """Records that were dropped before this one: {"reason", "records", "total"}."""
    ALERT = 9
    ARTIFACT = 10
    EDIT = 11
    FINISH = 12
    """The session's end: {"exit_code": int | null, "state": finished | failed | crashed, "by"}."""

    @property
    def word(self) -> str:
        """The kind as people and answers write it: `define_metric`."""
        return self.name.lower()


JSON_KINDS: Final = frozenset(Kind) - {Kind.SCHEMA, Kind.ROW}


class Damaged(ValueError):
    """Bytes that should be records, or a segment's header, are not well formed.

    Attributes:
        offset: where in the bytes given the first bad record begins.
    """

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"{why}, at byte {offset}")
        self.offset = offset
        self.why = why


@dataclass(frozen=True, slots=True)
class Record:
    """One record, as it stands in a segment."""

    offset: int
    """Of its first byte, in the bytes scanned."""
    size: int
    """In bytes, its header included, its padding not."""
    kind: Kind
    flags: int
    schema: int
    step: int
    """NO_STEP for a record without one, and for schemas."""
    time_ns: int
    """Nanoseconds since 1970; 0 for schemas."""
    body: memoryview
    """After the stamp; of a schema, after the header."""

    def json(self) -> Any:
        """The body as JSON. Raises ValueError where it is not; a continued body must be joined."""
        return json.loads(bytes(self.body))


def aligned(size: int) -> int:
    """size, rounded up to the 8 bytes that records are aligned to."""
    return (size + 7) & ~7


def pack_segment_header(base: int, committed: int = 0) -> bytes:
    """The 64 bytes a segment begins with.

    Args:
        base: stream offset of the segment's first record byte.
        committed: the commit word, in bytes.
    """
    return SEGMENT_HEADER.pack(MAGIC, VERSION, BYTE_ORDER_MARK, base, committed)


def unpack_segment_header(header: bytes) -> tuple[int, int]:
    """The base offset and the commit word of a segment.

    Raises:
        Damaged: it is no segment, one of another version, or of another byte order.
    """
    if len(header) < SEGMENT_HEADER.size:
        raise Damaged(0, f"a segment header of {len(header)} bytes")
    magic, version, mark, base, committed = SEGMENT_HEADER.unpack_from(header)
    if magic != MAGIC:
        raise Damaged(0, f"not a segment: it begins with {magic!r}")
    if mark != BYTE_ORDER_MARK:
        raise Damaged(12, f"a segment of another byte order: {mark:#010x}")
    if version != VERSION:
        raise Damaged(8, f"a segment of version {version}; this program reads version {VERSION}")
    if base % 8 or committed % 8:
        raise Damaged(
            16, f"a base of {base} and {committed} committed bytes are not 8-byte aligned"
        )
    return base, committed


def pack_record(
    kind: Kind,
    body: bytes,
    *,
    step: int = NO_STEP,
    time_ns: int = 0,
    flags: int = 0,
    schema: int = 0,
) -> bytes:
    """A record with its padding.

    Args:
        kind: any kind; for ROW, body holds the packed float64s.
        body: what follows the stamp; of a schema, what follows the header.
        step: of the record; ignored for a schema.
        time_ns: wall time, nanoseconds since 1970; ignored for a schema.
        flags: FLAG_AUTOMATIC_STEP, FLAG_CONTINUED.
        schema: the id of the schema that a SCHEMA defines or a ROW follows.

    Raises:
        ValueError: the record would be larger than RECORD_BYTES_MAX.
    """
    stamp = b"" if kind is Kind.SCHEMA else STAMP.pack(step, time_ns)
    size = RECORD_HEADER.size + len(stamp) + len(body)
    if size > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {size} bytes; at most {RECORD_BYTES_MAX} are allowed")
    padding = bytes(aligned(size) - size)
    return RECORD_HEADER.pack(size, kind | flags, schema) + stamp + body + padding


def pack_schema(schema: int, keys: Sequence[str]) -> bytes:
    """A record that gives keys, in order, the id schema for the rest of its segment."""
    body = json.dumps(list(keys), ensure_ascii=False, separators=(",", ":")).encode()
    return pack_record(Kind.SCHEMA, body, schema=schema)


def pack_row(
    schema: int, step: int, time_ns: int, values: Sequence[float], *, automatic: bool = False
) -> bytes:
    """A row of scalars, a float64 for each key of its schema."""
    body = struct.pack(f"<{len(values)}d", *values)
    flags = FLAG_AUTOMATIC_STEP if automatic else 0
    return pack_record(Kind.ROW, body, step=step, time_ns=time_ns, flags=flags, schema=schema)


def pack_json(
    kind: Kind, value: Any, *, step: int = NO_STEP, time_ns: int = 0, flags: int = 0
) -> bytes:
    """A record of one of the kinds whose body is JSON, with its padding."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return pack_record(kind, body, step=step, time_ns=time_ns, flags=flags)


def scan(data: bytes | memoryview) -> Iterator[Record]:
    """The records of data, which begins and ends between two records.

    Schemas are not looked at: whether a row has as many values as its schema has keys, its reader
    finds out.

    Raises:
        Damaged: what stands at an offset is no record. Those before it have been given.
    """
    view = memoryview(data)
    end, at = len(view), 0
    while at < end:
        size, kind, flags, schema = check_header(view, at)
        if kind is Kind.SCHEMA:
            body = view[at + RECORD_HEADER.size : at + size]
            yield Record(at, size, kind, flags, schema, NO_STEP, 0, body)
        else:
            step, time_ns = STAMP.unpack_from(view, at + RECORD_HEADER.size)
            body = view[at + ROW_HEADER.size : at + size]
            yield Record(at, size, kind, flags, schema, step, time_ns, body)
        at += aligned(size)


_KINDS: Final = {int(kind): kind for kind in Kind}


def check_header(view: memoryview, at: int) -> tuple[int, Kind, int, int]:
    """Size, kind, flags and schema id of the record at a place.

    Raises:
        Damaged: the size is 0, too small for its kind, too large, or beyond the end; the kind or a
            flag is unknown; a row's values are no whole number of float64s.
    """
    left = len(view) - at
    if left < RECORD_HEADER.size:
        raise Damaged(at, f"{left} bytes left over")
    size, word, schema = RECORD_HEADER.unpack_from(view, at)
    kind = _KINDS.get(word & KIND_MASK)
    if kind is None:
        raise Damaged(at, f"an unknown kind of record, {word & KIND_MASK}")
    flags = word & ~KIND_MASK
    if flags & ~FLAGS:
        raise Damaged(at, f"unknown flags, {flags:#06x}")
    smallest = RECORD_HEADER.size + 2 if kind is Kind.SCHEMA else ROW_HEADER.size
    if size < smallest:
        raise Damaged(at, f"a {kind.word} record of {size} bytes")
    if size > RECORD_BYTES_MAX:
        raise Damaged(at, f"a record of {size} bytes; at most {RECORD_BYTES_MAX} are allowed")
    if aligned(size) > left:
        raise Damaged(at, f"a record of {size} bytes with {left} left")
    if kind is Kind.ROW and size % 8:
        raise Damaged(at, f"a row of {size} bytes, which is no whole number of values")
    return size, kind, flags, schema


def can_write_here() -> bool:
    """Whether this machine stores 8 bytes in the log's byte order: the commit word needs it."""
    return sys.byteorder == "little"
