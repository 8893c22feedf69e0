"""Frames to what ingest must know of them: are the records well formed, which are no rows, how far
do the steps go. Rows are not decoded.

    frame ─► unpack: size, checksum, encoding ─► scan: by record, NumPy where equal rows follow

What a frame alone cannot tell (is a schema defined earlier in the segment?) is left as `needs`.

Rule: pure. Whoever must not be held up runs the sliced forms, which give way every few thousand
      steps: a frame of the smallest records takes tens of milliseconds in all.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Final

import google_crc32c
import numpy as np
import zstandard

from plait_collector import lift
from plait_collector.steps import Steps, larger
from plait_collector.store import Lifted
from plaitwire.limits import FRAME_BYTES_MAX, SCHEMAS_PER_SEGMENT_MAX
from plaitwire.records import (
    FLAG_AUTOMATIC_STEP,
    FLAG_CONTINUED,
    NO_STEP,
    RECORD_HEADER,
    ROW_HEADER,
    STAMP,
    STEP_MAX,
    STEP_MIN,
    Damaged,
    Kind,
    aligned,
    check_header,
)
from plaitwire.v1 import ingest_pb2 as pb

SLICE_STEPS: Final = 2000
"""Steps between two places where a scan gives way; a step is a record, about 1 µs of work."""
_RUN_AFTER: Final = 16
"""Equal rows in a row after which NumPy looks for the end of the run; at the cost of as many."""
_PROBE_RECORDS: Final = 64
"""How far NumPy looks first; four times as far each time after."""
_ZSTD_WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024
_ROW_START: Final = struct.Struct("<Qqq")
"""A row's header as one word, and its stamp."""


class BadFrame(ValueError):
    """A frame's payload is not what the frame says it is. The message is for people."""


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


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A frame's records, and what they are."""

    payload: bytes
    crc32c: int
    scanned: Scanned


def unpack(frame: pb.Frame) -> Unpacked:
    """A frame's records, in one go.

    Raises:
        BadFrame: the payload is not of the size, checksum or encoding that the frame names.
    """
    payload = _payload(frame)
    return Unpacked(payload, frame.crc32c, rescan(payload))


def unpack_slices(frame: pb.Frame) -> Generator[None, None, Unpacked]:
    """Like unpack, giving way between slices of a few milliseconds."""
    payload = _payload(frame)
    if frame.encoding == pb.ENCODING_ZSTD:  # A millisecond; raw bytes are checked in no time.
        yield
    scanned = yield from scan_slices(payload)
    return Unpacked(payload, frame.crc32c, scanned)


def rescan(payload: bytes) -> Scanned:
    """What the records of payload are, in one go."""
    scanned = _one_row(payload)
    if scanned is not None:
        return scanned
    slices = scan_slices(payload)
    while True:
        try:
            next(slices)
        except StopIteration as end:
            value: Scanned = end.value
            return value


def scan_slices(payload: bytes) -> Generator[None, None, Scanned]:
    """Like rescan, giving way between slices."""
    scan = _Scan(payload)
    try:
        yield from scan.run()
    except Damaged as damage:
        return scan.result(damage.offset, damage.why)
    return scan.result(len(payload), None)


_INFLATE: Final = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES_MAX)


def _payload(frame: pb.Frame) -> bytes:
    """The frame's bytes before compression, checked against its size and checksum."""
    size, payload = frame.size, frame.payload
    if not 0 < size <= FRAME_BYTES_MAX:
        raise BadFrame(f"a frame of {size} bytes; 1 to {FRAME_BYTES_MAX} are allowed")
    if frame.encoding == pb.ENCODING_ZSTD:
        payload = _inflated(payload, size)
    elif frame.encoding != pb.ENCODING_RAW:
        raise BadFrame(f"a frame of an unknown encoding, {frame.encoding}")
    if len(payload) != size:
        raise BadFrame(f"a frame said to be of {size} bytes holds {len(payload)}")
    crc32c = google_crc32c.value(payload)
    if crc32c != frame.crc32c:
        raise BadFrame(f"a frame with checksum {crc32c:#010x}, not {frame.crc32c:#010x}")
    return payload


def _inflated(payload: bytes, size: int) -> bytes:
    """Decompressed bytes, at most size: what a payload claims for itself is no bound."""
    try:
        claimed = zstandard.frame_content_size(payload)
        if claimed not in (-1, size):
            raise BadFrame(f"a frame of {size} bytes that would decompress to {claimed}")
        # An unknown size is decompressed into a buffer of `size` bytes; more does not fit.
        return _INFLATE.decompress(payload, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadFrame(f"a frame that does not decompress: {error}") from None


_NONE: Final[Mapping[int, int]] = {}


def _one_row(payload: bytes) -> Scanned | None:
    """What a lone row is; None: it is not one, or not a good one."""
    if len(payload) < ROW_HEADER.size:
        return None
    size, kind, schema, step, time_ns = ROW_HEADER.unpack_from(payload)
    if size != len(payload) or size % 8 or not STEP_MIN <= step <= STEP_MAX:
        return None
    if kind == Kind.ROW:
        steps = Steps(None, step)
    elif kind == Kind.ROW | FLAG_AUTOMATIC_STEP:
        steps = Steps(step, None)
    else:
        return None
    try:
        check_header(memoryview(payload), 0)
    except Damaged:
        return None
    needs = {schema: (size - ROW_HEADER.size) >> 3}
    return Scanned(size, 1, steps, max(time_ns, 0), (), needs, _NONE, None)


class _Scan:
    """A payload, scanned up to some record.

    Invariant: all that is counted stands before the record being looked at.
    """

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._view = memoryview(payload)
        self._words = np.frombuffer(payload, "<u8", len(payload) >> 3)
        self._numbers = self._words.view("<i8")
        self._rows = 0
        self._floating: int | None = None
        self._anchored: int | None = None
        self._last_ns = 0
        self._lifted: list[Lifted] = []
        self._needs: dict[int, int] = {}
        self._defines: dict[int, int] = {}
        # Header words of rows that were checked: to bytes with padding, and whether automatic.
        # What was right once stays right: no schema is defined twice.
        self._known: dict[int, tuple[int, bool]] = {}

    def result(self, size: int, flaw: str | None) -> Scanned:
        """What was found, up to size."""
        return Scanned(
            size=size,
            rows=self._rows,
            steps=Steps(self._floating, self._anchored),
            last_ns=self._last_ns,
            lifted=tuple(self._lifted),
            needs=self._needs,
            defines=self._defines,
            flaw=flaw,
        )

    def run(self) -> Generator[None, None, None]:
        """Scan to the end, giving way between slices. Raises Damaged at the first bad record."""
        payload, end, known = self._payload, len(self._payload), self._known
        at, left, previous, equal = 0, SLICE_STEPS, -1, 0
        while at < end:
            if left <= 0:
                yield
                left = SLICE_STEPS
            left -= 1
            row = None
            if end - at >= ROW_HEADER.size:
                word, step, time_ns = _ROW_START.unpack_from(payload, at)
                row = known.get(word)
            if row is None:
                taken, cost = self._record(at)
                at += taken
                left -= cost
                continue
            size, automatic = row
            if at + size > end:
                check_header(self._view, at)  # Which raises, with the words for it.
            equal = equal + 1 if word == previous else 0
            previous = word
            if equal >= _RUN_AFTER:
                at, equal = self._run(at, word, size, automatic), 0
                left -= _RUN_AFTER
                continue
            if not STEP_MIN <= step <= STEP_MAX:
                raise Damaged(at, f"a row at step {step}")
            self._rows += 1
            self._count_step(step, automatic)
            if time_ns > 0:
                self._last_ns = time_ns
            at += size

    def _count_step(self, step: int, automatic: bool) -> None:
        """One step more; of several at once, their largest."""
        if automatic and self._anchored is None:
            self._floating = larger(self._floating, step)
        else:
            self._anchored = larger(self._anchored, step)

    def _run(self, at: int, word: int, size: int, automatic: bool) -> int:
        """Count the rows from at that share a header word; where they end."""
        first, width = at >> 3, size >> 3
        available = (len(self._payload) - at) // size
        count, probe = 0, _PROBE_RECORDS
        while count < available:
            length = min(probe, available - count)
            begin = first + count * width
            same = self._words[begin : begin + length * width : width] == word
            if not same.all():
                count += int(same.argmin())
                break
            count += length
            probe *= 4
        last = first + count * width
        steps = self._numbers[first + 1 : last : width]
        good, largest = count, int(steps.max())
        if largest > STEP_MAX or int(steps.min()) < STEP_MIN:
            good = int(((steps >= STEP_MIN) & (steps <= STEP_MAX)).argmin())
            largest = int(steps[:good].max()) if good else 0
        if good:
            self._rows += good
            self._count_step(largest, automatic)
            times = self._numbers[first + 2 : last : width][:good]
            stamped = [good - 1] if times[-1] > 0 else np.flatnonzero(times > 0)
            if len(stamped):
                self._last_ns = int(times[stamped[-1]])
        if good < count:
            raise Damaged(at + good * size, f"a row at step {int(steps[good])}")
        return at + count * size

    def _record(self, at: int) -> tuple[int, int]:
        """Take a record in that is no row like one before; the bytes it takes, and its cost.

        A row takes none the first time: once it is known, it is counted like all others.
        """
        size, kind, flags, schema = check_header(self._view, at)
        if kind is Kind.ROW:
            self._know_row(at, size, flags, schema)
            return 0, 1
        body_at = at + (RECORD_HEADER.size if kind is Kind.SCHEMA else ROW_HEADER.size)
        body = self._payload[body_at : at + size]
        try:
            if kind is Kind.SCHEMA:
                self._define(at, schema, body)
                record = Lifted(at, int(kind), flags, schema, NO_STEP, 0, body)
            else:
                record = self._stamped(at, kind, flags, schema, body)
        except lift.BadBody as bad:
            raise Damaged(at, f"a {kind.word} record with {bad}") from None
        self._lifted.append(record)
        return aligned(size), 3 + (size >> 7)

    def _know_row(self, at: int, size: int, flags: int, schema: int) -> None:
        step, _ = STAMP.unpack_from(self._payload, at + RECORD_HEADER.size)
        if not STEP_MIN <= step <= STEP_MAX:  # Before anything is known of it: it is no record.
            raise Damaged(at, f"a row at step {step}")
        values = (size - ROW_HEADER.size) >> 3
        keys = self._defines.get(schema)
        if keys is None:
            keys = self._needs.setdefault(schema, values)
        if keys != values:
            raise Damaged(at, f"a row of {values} values, of a schema with {keys} keys")
        word = int(self._words[at >> 3])
        self._known[word] = (size, bool(flags & FLAG_AUTOMATIC_STEP))

    def _define(self, at: int, schema: int, body: bytes) -> None:
        if schema in self._defines or schema in self._needs:
            raise Damaged(at, f"schema {schema} is defined twice in a segment")
        if len(self._defines) == SCHEMAS_PER_SEGMENT_MAX:
            raise Damaged(at, f"more than {SCHEMAS_PER_SEGMENT_MAX} schemas in a segment")
        self._defines[schema] = len(lift.schema_keys(body))

    def _stamped(self, at: int, kind: Kind, flags: int, schema: int, body: bytes) -> Lifted:
        step, time_ns = STAMP.unpack_from(self._payload, at + RECORD_HEADER.size)
        if step != NO_STEP and not STEP_MIN <= step <= STEP_MAX:
            raise Damaged(at, f"a {kind.word} record at step {step}")
        own = True
        if lift.must_be_whole(kind):
            if flags & FLAG_CONTINUED:
                raise Damaged(at, f"a {kind.word} record that is continued")
            if kind is Kind.FINISH:
                own = lift.finish_of(body).by != "agent"
            else:
                lift.small_object(body)
        before, rows = Steps(), 0
        if kind is Kind.GAP:
            before, rows = Steps(self._floating, self._anchored), self._rows
        elif kind is Kind.EVENT and step != NO_STEP:
            self._count_step(step, bool(flags & FLAG_AUTOMATIC_STEP))
        if own and time_ns > 0:
            self._last_ns = time_ns
        return Lifted(at, int(kind), flags, schema, step, time_ns, body, before, rows)
