"""One session's records, in order, into its segments. The writer calls it under its lock.

Here segments roll, schemas are defined, large bodies are continued over several records, and what
finds no room is counted and told by a gap record.

Invariant: every record that is not written is counted on the status page before it is given up.
Invariant: a gap record stands before any record that comes after the drops it tells.
Invariant: wherever KeyboardInterrupt strikes, the log holds whole records, and a body that was cut
short is followed by a gap record.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from time import monotonic, time_ns
from typing import Final, NamedTuple

from plait.quota import Quota
from plait.segments import PAGE_BYTES, REASON_QUOTA, Plan, Segment, StreamFiles
from plait.values import Row, json_body, json_safe
from plaitwire.folders import Folders, UnusableFolder
from plaitwire.limits import (
    CONTINUED_BYTES_MAX,
    RECORD_BYTES_MAX,
    SCHEMAS_PER_SEGMENT_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SEGMENT_HEADER_BYTES,
)
from plaitwire.records import (
    FLAG_AUTOMATIC_STEP,
    FLAG_CONTINUED,
    NO_STEP,
    ROW_HEADER,
    Kind,
    aligned,
    pack_json,
    pack_record,
    pack_schema,
)

BODY_BYTES_MAX: Final = (RECORD_BYTES_MAX - ROW_HEADER.size) & ~7
"""Of one record of a kind with a stamp."""
_SMALLEST_BYTES: Final = SEGMENT_HEADER_BYTES + 256
_NO_ROOM: Final = "no room for the record log, in memory or on disk: records are dropped"
_TOO_LARGE: Final = f"a value has more than {CONTINUED_BYTES_MAX} bytes as JSON: it is dropped"
_REENTRANT: Final = "log() was called within log() too often: those calls are dropped"


class Entry(NamedTuple):
    """What one call writes, as values that need no more of the user's code."""

    rows: list[Row]
    kind: Kind
    """Of the body."""
    body: bytes | None
    """JSON, written after the rows."""
    step: int | None
    """None: counted up. NO_STEP: it has none."""
    time_ns: int


class RecordLog:
    """The record log of one session, from its folder's making to its last record."""

    __slots__ = (
        "_next_size", "_quota", "_retry_at_s", "_target", "files", "is_finished", "next_step",
        "segment", "unsaid",
    )  # fmt: skip

    def __init__(self, folders: Folders, session: str, meta: bytes, quota: Quota) -> None:
        """Make the session's folder, with its lock held, and its first segment.

        Raises:
            UnusableFolder: there is no room, or no permission.
        """
        self.files = StreamFiles(folders, session, meta, quota)
        first = self.files.create(0, SEGMENT_BYTES_MIN, _SMALLEST_BYTES, urgent=True)
        if first is None:
            self.files.release()
            raise UnusableFolder(f"neither {folders.hot} nor {folders.cold} has room for a record")
        self.segment: Segment = first
        self.next_step = 0
        """The next automatic step."""
        self.is_finished = False
        """Whether the finish record is written: nothing comes after it."""
        self.unsaid: dict[str, str] = {}
        """Why records were dropped, for someone to say once no lock is held."""
        self._quota = quota
        self._next_size = 2 * SEGMENT_BYTES_MIN
        self._retry_at_s = 0.0
        self._target = 0

    @property
    def end(self) -> int:
        """Stream offset behind the last record, in bytes."""
        return self.segment.end

    def begin(self) -> None:
        """Forget the last entry: was_placed() is about the next one."""
        self._target = 0

    def place(self, entry: Entry) -> bool:
        """Write an entry's records. False: one of them was dropped, and counted."""
        step, flags = entry.step, 0
        if step is None:
            step, flags = self.next_step, FLAG_AUTOMATIC_STEP
        if step != NO_STEP:
            self.next_step = step + 1
        kept = True
        last = len(entry.rows) - 1 if entry.body is None else -1
        for at, (keys, values) in enumerate(entry.rows):
            kept &= self._place_row(keys, values, step, entry.time_ns, flags, last=at == last)
        if entry.body is not None:
            kept &= self._place_body(entry.kind, entry.body, step, entry.time_ns, flags, last=True)
        return kept

    def was_placed(self) -> bool:
        """After an interrupted place(): whether the entry's last record was written even so."""
        return 0 < self._target <= self.end

    def finish(self, entry: Entry) -> bool:
        """Write the session's last entry, past the quotas if need be. Nothing is written after."""
        body = entry.body or b"{}"
        kept = self._place_body(entry.kind, body, NO_STEP, entry.time_ns, 0, urgent=True, last=True)
        self.is_finished = True
        self.segment.limit = self.segment.position
        return kept

    def drop(self, why: str, sentence: str) -> None:
        """Count a record that is not written, and tell it here where there is room for that."""
        self.files.status.drop(self.end)
        self.unsaid.setdefault(why, sentence)
        gap, total = self._gap()
        if self.segment.position + len(gap) <= self.segment.limit:
            self._tell(gap, total)
        else:  # Rows of log() must not get in before the gap that stands for this.
            self.segment.limit = self.segment.position

    def drop_reentrant(self) -> None:
        """Count a call within a call that had no place left to wait."""
        self.drop("reentrant", _REENTRANT)

    def close(self) -> None:
        """Let go of the mapping and of the lock. The files stay."""
        self.segment.commit()
        self.segment.close()
        self.files.release()

    def abandon(self) -> None:
        """In a child of fork: let go of what is the parent's. Nothing is written, nothing unlocked:
        POSIX record locks are the parent's alone."""
        self.segment.limit = 0
        for release in (self.segment.release, self.files.release):
            try:
                release()
            except (BufferError, ValueError, OSError):  # A thread that is not here had it in hand.
                continue

    # One record after the other.

    def _place_row(
        self,
        keys: tuple[str, ...],
        values: Sequence[float],
        step: int,
        time_ns: int,
        flags: int,
        *,
        last: bool,
    ) -> bool:
        segment = self.segment
        plan = segment.plans.get(keys)
        if plan is None and segment.schemas >= SCHEMAS_PER_SEGMENT_MAX:
            body = json_body(json_safe(dict(zip(keys, values, strict=True))))
            return self._place_body(Kind.EVENT, body, step, time_ns, flags, last=last)
        size = ROW_HEADER.size + 8 * len(keys)
        schema = b"" if plan is not None else pack_schema(segment.schemas, keys)
        if not self._has_room(size + len(schema)):
            # The next segment knows no schema yet.
            schema = pack_schema(0, keys)
            if not self._make_room(size + len(schema)):
                self.drop("room", _NO_ROOM)
                return False
        segment = self.segment
        plan = segment.plans.get(keys) or self._define(segment, keys)
        row = plan.pack(plan.size, Kind.ROW | flags, plan.schema, step, time_ns)
        row += array("d", values).tobytes()
        if last:
            self._target = segment.end + len(row)
        segment.append(row)
        segment.plan = plan
        return True

    def _define(self, segment: Segment, keys: tuple[str, ...]) -> Plan:
        plan = Plan(keys, segment.schemas)
        segment.schemas += 1  # First: an id is never given twice.
        segment.append(pack_schema(plan.schema, keys))
        segment.plans[keys] = plan
        return plan

    def _place_body(
        self,
        kind: Kind,
        body: bytes,
        step: int,
        time_ns: int,
        flags: int,
        *,
        urgent: bool = False,
        last: bool,
    ) -> bool:
        if len(body) > CONTINUED_BYTES_MAX:
            self.drop("size", _TOO_LARGE)
            return False
        starts = range(0, max(1, len(body)), BODY_BYTES_MAX)
        begun, target = False, -1
        try:
            for start in starts:
                piece = body[start : start + BODY_BYTES_MAX]
                more = FLAG_CONTINUED if start + BODY_BYTES_MAX < len(body) else 0
                record = pack_record(kind, piece, step=step, time_ns=time_ns, flags=flags | more)
                if not self._make_room(len(record), urgent=urgent):
                    self.drop("room", _NO_ROOM)
                    return False
                begun = begun or bool(more)
                if not more:
                    target = self.end + len(record)
                    self._target = target if last else 0
                self.segment.append(record)
        except BaseException:
            if begun and self.end != target:
                self.drop("interrupted", "a large value was interrupted: it is dropped")
            raise
        return True

    # Room.

    def _has_room(self, size: int) -> bool:
        """Whether records of size bytes in all go into this segment, and no gap is to be told."""
        return self.segment.position + size <= self.segment.limit and not self.files.status.untold

    def _make_room(self, size: int, *, urgent: bool = False) -> bool:
        """See that records of size bytes in all can be written in one segment, roll if they cannot.

        Drops that are not told yet are told first. False: there is no room.
        """
        if self._has_room(size):
            return True
        gap, total = self._gap() if self.files.status.untold else (b"", 0)
        needed = size + len(gap)
        fits = self.segment.position + needed <= self.segment.limit
        if not fits and not self._roll(needed, urgent=urgent):
            return False
        if gap:
            self._tell(gap, total)
        return True

    def _roll(self, needed: int, *, urgent: bool) -> bool:
        if not urgent and monotonic() < self._retry_at_s:
            return False
        old = self.segment
        old.commit()
        if old.end == old.base:
            # Too small for a record of this size. A schema without keys, so that no two segments
            # have one base.
            old.limit = old.size
            old.append(pack_schema(0, ()))
            old.limit = old.position
        # From here on nothing more goes in: were this interrupted once the new file is there, its
        # base would not be the end of this one.
        limit, old.limit = old.limit, old.position
        needed += SEGMENT_HEADER_BYTES
        size = max(self._next_size, aligned_to_page(needed))
        new = self.files.create(old.end, size, needed, urgent=urgent)
        if new is None:
            old.limit = limit
            self._retry_at_s = monotonic() + self._quota.retry_interval_s
            return False
        # All that belongs to a segment hangs on it, so that this one store is the roll.
        self.segment = new
        self._next_size = min(max(2 * new.size, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX)
        old.close()
        return True

    def _gap(self) -> tuple[bytes, int]:
        status = self.files.status
        total = status.dropped
        told = {"reason": REASON_QUOTA, "records": total - status.reported, "total": total}
        return pack_json(Kind.GAP, told, time_ns=time_ns()), total

    def _tell(self, gap: bytes, total: int) -> None:
        self.segment.append(gap)
        self.files.status.told(total)


def aligned_to_page(size: int) -> int:
    """size in bytes, rounded up to whole pages."""
    return aligned(-(-size // PAGE_BYTES) * PAGE_BYTES)
