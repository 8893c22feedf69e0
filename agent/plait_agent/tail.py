"""One stream's segments, over hot and cold, as one string of bytes.

Promise: what `read` gives stands between records, is committed, and is of one segment. What cannot
be had any more is said to be lost, from where to where and why; what may still come is None.

Rules:
- Segments are listed first and their commit words read afterwards: a segment with a later one
  beside it has all it will ever have.
- Where hot and cold hold the same base, hot wins.
- Nothing beyond `end` is given, and `end` moves only in `look`: on machines that reorder stores it
  trails by one look, so that the bytes are there when the commit word is believed.
- No descriptor is kept, no asyncio, no clock.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from plait_agent.closing import BY_AGENT, LastRecord
from plait_agent.effects import Chunk, Lost
from plait_agent.safe import Unsafe, open_file
from plaitwire.folders import segment_base, segment_name
from plaitwire.limits import FRAME_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES
from plaitwire.records import Damaged, Kind, Record, aligned, scan, unpack_segment_header
from plaitwire.v1 import ingest_pb2 as pb

log = logging.getLogger(__name__)

STORES_REORDER: Final = platform.machine() not in ("x86_64", "AMD64", "i386", "i686")
"""Whether another processor may see the commit word before the bytes that it covers."""
_TRIES: Final = 3
"""How often a segment that moved from hot to cold under our hands is looked for again."""


@dataclass(frozen=True, slots=True)
class _Segment:
    committed: int
    """Record bytes that are whole, from its base on."""
    capacity: int
    """Record bytes the file has room for."""
    data: bytes


@dataclass(frozen=True, slots=True)
class _Flaw:
    """A segment that cannot be read, for good."""

    why: str


class Tail:
    """Reads one stream; moves and deletes nothing.

    Invariant: `end` never goes back, but for `trust`.
    """

    def __init__(self, hot: Path, cold: Path, *, uid: int, delayed: bool = STORES_REORDER) -> None:
        """
        Args:
            hot: the stream's folder in memory; need not exist.
            cold: the stream's folder on disk; need not exist.
            uid: who must own what is read.
            delayed: believe a commit word one look late.
        """
        self.end = 0
        """Stream offset up to which bytes are given."""
        self.final = False
        """Nothing is written any more: what is missing below `end` stays missing."""
        self.deleted_below = 0
        """What is missing below this offset we deleted ourselves, acknowledged."""
        self._hot, self._cold, self._uid, self._delayed = hot, cold, uid, delayed
        self._fresh = 0
        self._bases: list[int] = []
        self._places: dict[int, Path] = {}
        self._ceiling: int | None = None
        self._closing: int | None = None
        self._damaged: dict[int, int] = {}  # Base to the offset where its records end.

    @property
    def bases(self) -> tuple[int, ...]:
        """The segments present at the last look, in order."""
        return tuple(self._bases)

    def sealed_until(self, base: int) -> int | None:
        """Where the segment of this base ends for good; None while it may grow."""
        at = bisect_right(self._bases, base)
        if at < len(self._bases):
            return self._bases[at]
        return self.end if self.final else None

    def committed_until(self, base: int) -> int | None:
        """Where the committed bytes of this segment end; None where it is unreadable."""
        try:
            segment = self._load(base, base, base)
        except OSError:
            return None
        if isinstance(segment, _Flaw):
            return None
        end = min(base + segment.committed, self.end)
        if self._ceiling is not None and base != self._closing:
            end = min(end, self._ceiling)
        sealed = self.sealed_until(base)
        return end if sealed is None else min(end, sealed)

    def folder_of(self, base: int) -> Path | None:
        """Where the segment of this base is read: the hot or the cold folder."""
        return self._places.get(base)

    def look(self, *, final: bool = False) -> bool:
        """List the segments and read the last commit word.

        Args:
            final: the writer is dead: take all of it, and expect nothing more.

        Returns:
            Whether the end moved.
        """
        self._list()
        self.final = self.final or final
        fresh = self._measure()
        seen = fresh if self.final or not self._delayed else self._fresh
        self._fresh = fresh
        before, self.end = self.end, max(self.end, seen)
        return self.end > before

    def trust(self, ceiling: int) -> None:
        """Believe the bytes below this offset alone, whatever the files say.

        Args:
            ceiling: stream offset; between records.
        """
        self._ceiling = ceiling
        self.end = 0
        self.look(final=True)

    def close_at(self, base: int, end: int) -> None:
        """The stream's closing segment has this base, and the stream ends at this offset."""
        self._closing = base
        self.end = end
        self.look(final=True)

    def damaged_at(self, offset: int) -> None:
        """What follows this offset in its segment is no record."""
        at = bisect_right(self._bases, offset) - 1
        if at >= 0:
            base = self._bases[at]
            self._damaged[base] = min(offset, self._damaged.get(base, offset))

    def read(self, offset: int) -> Chunk | Lost | None:
        """What stands at offset: all that is committed of its segment, or what is lost.

        None: nothing is committed there (yet), or it cannot be read at this moment.
        """
        if offset >= self.end:
            return None
        for _ in range(_TRIES):
            try:
                return self._read(offset)
            except FileNotFoundError:
                self._list()  # It moved to cold, or it is gone: the list knows.
            except OSError as error:
                log.warning("a segment cannot be read now: folder=%s error=%s", self._hot, error)
                return None
        return None

    def checksum(self, offset: int, end: int) -> int | None:
        """CRC32C of the bytes from offset to end; None where they are not all here."""
        crc = 0
        while offset < end:
            found = self.read(offset)
            if not isinstance(found, Chunk):
                return None
            payload = found.payload[: end - offset]
            crc = google_crc32c.extend(crc, payload)
            offset += len(payload)
        return crc

    def last_record(self) -> LastRecord | None:
        """The stream's last record; None where none can be read."""
        for base in reversed(self._bases):
            segment = self._load(base, base, self.sealed_until(base) or self.end)
            if isinstance(segment, _Flaw):
                return None
            if not segment.data:
                continue
            last: Record | None = None
            time_ns = 0
            try:
                for last in scan(segment.data):
                    time_ns = last.time_ns or time_ns
            except Damaged:
                return None
            assert last is not None
            return LastRecord(last.kind, _said_by(last), time_ns)
        return None

    def _list(self) -> None:
        places: dict[int, Path] = {}
        for folder in (self._cold, self._hot):  # Hot last: it wins.
            try:
                names = os.listdir(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                base = segment_base(name)
                if base is not None and self._is_believed(base):
                    places[base] = folder
        self._places, self._bases = places, sorted(places)

    def _is_believed(self, base: int) -> bool:
        return self._ceiling is None or base < self._ceiling or base == self._closing

    def _measure(self) -> int:
        """Where the last segment's committed bytes end, now."""
        if not self._bases:
            return self.end
        base = self._bases[-1]
        try:
            segment = self._load(base, base, base)
        except FileNotFoundError:
            return self.end
        if isinstance(segment, _Flaw):
            # How much it held nobody knows; the closing segment needs a place behind it.
            return base + self._room(base) if self.final else max(base, self.end)
        if self._ceiling is not None and base != self._closing:
            return min(self._ceiling, base + segment.committed)
        return base + segment.committed

    def _room(self, base: int) -> int:
        try:
            size = os.lstat(self._places[base] / segment_name(base)).st_size
        except OSError:
            size = 0
        return max(8, (size - SEGMENT_HEADER_BYTES) & ~7)

    def _read(self, offset: int) -> Chunk | Lost | None:
        at = bisect_right(self._bases, offset) - 1
        beyond = self._bases[at + 1] if at + 1 < len(self._bases) else None
        lost_until = beyond if beyond is not None else self.end if self.final else None
        if at < 0:
            return self._missing(offset, lost_until)
        base = self._bases[at]
        limit = self.end if beyond is None else min(beyond, self.end)
        cut = self._damaged.get(base)
        if cut is not None and offset >= cut:
            return _lost(offset, lost_until, pb.GAP_REASON_DAMAGED, "no record stands there")
        limit = limit if cut is None else min(limit, cut)
        if self._ceiling is not None and base != self._closing:
            if offset >= self._ceiling:
                message = "written, but not yet on the disk when the node went down"
                return _lost(offset, lost_until, pb.GAP_REASON_REBOOT, message)
            limit = min(limit, self._ceiling)
        segment = self._load(base, offset, limit)
        if isinstance(segment, _Flaw):
            return _lost(offset, lost_until, pb.GAP_REASON_DAMAGED, segment.why)
        if not segment.data:
            return self._missing(offset, lost_until)
        return Chunk(offset, base, _within_a_frame(segment.data))

    def _missing(self, offset: int, until: int | None) -> Lost | None:
        if offset < self.deleted_below:
            message = "acknowledged before, and deleted"
            return _lost(offset, until, pb.GAP_REASON_DELETED, message)
        return _lost(offset, until, pb.GAP_REASON_VANISHED, "the segment's file is gone")

    def _load(self, base: int, offset: int, limit: int) -> _Segment | _Flaw:
        """The segment, with its bytes from offset to limit as far as they are committed."""
        name = segment_name(base)
        try:
            with open_file(self._places[base], name, uid=self._uid) as descriptor:
                return self._load_open(descriptor, base, offset, limit)
        except Unsafe as error:
            return _Flaw(f"{name}: {error}")
        except OSError as error:
            if error.errno == errno.EIO:
                return _Flaw(f"{name}: {error.strerror}")
            raise

    def _load_open(self, descriptor: int, base: int, offset: int, limit: int) -> _Segment | _Flaw:
        header = os.pread(descriptor, SEGMENT_HEADER_BYTES, 0)
        capacity = os.fstat(descriptor).st_size - SEGMENT_HEADER_BYTES
        if not any(header):  # Being made: the writer has not come to its header.
            if self._bases and base == self._bases[-1]:
                return _Segment(0, max(0, capacity), b"")
            return _Flaw("it has no header")
        try:
            named, committed = unpack_segment_header(header)
        except Damaged as error:
            return _Flaw(str(error))
        if named != base:
            return _Flaw(f"its header names the base {named}")
        if capacity > SEGMENT_BYTES_MAX:  # Nobody reads it into memory to find out.
            return _Flaw(f"it has {capacity} bytes; at most {SEGMENT_BYTES_MAX} are allowed")
        if committed > capacity:
            return _Flaw(f"its header claims {committed} bytes in a file with {capacity}")
        end = min(limit, base + committed)
        size = max(0, end - offset)
        data = os.pread(descriptor, size, SEGMENT_HEADER_BYTES + offset - base) if size else b""
        if len(data) < size:
            return _Flaw(f"it ends after {len(data)} of {size} bytes")
        return _Segment(committed, capacity, data)


def _lost(
    offset: int, end: int | None, reason: pb.GapReason.ValueType, message: str
) -> Lost | None:
    if end is None or end <= offset:
        return None
    return Lost(offset, end, reason, None, message)


def _within_a_frame(data: bytes) -> bytes:
    """data, or its first whole records where it is more than a frame takes."""
    if len(data) <= FRAME_BYTES_MAX:
        return data
    end = 0
    try:
        for record in scan(data):
            if record.offset + aligned(record.size) > FRAME_BYTES_MAX:
                break
            end = record.offset + aligned(record.size)
    except Damaged:
        pass  # The collector finds it, and says where.
    return data[: end or FRAME_BYTES_MAX]


def _said_by(record: Record) -> str:
    if record.kind not in (Kind.FINISH, Kind.GAP):
        return ""
    try:
        body = record.json()
    except ValueError:
        return ""
    return BY_AGENT if isinstance(body, dict) and body.get("by") == BY_AGENT else ""
