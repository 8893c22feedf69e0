"""The segment an agent appends for a writer that can no longer speak. No I/O.

It has its base at the stream's end and holds what is missing there: a gap record for records that
were dropped and not told, and a finish record that says `crashed`. Its bytes follow from what is
given alone, and once it is a file it stays as it is: sent twice, it is the same.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from plaitwire.folders import DropStatus
from plaitwire.records import Kind, pack_json, pack_segment_header
from plaitwire.v1 import ingest_pb2

BY_AGENT: Final = "agent"


@dataclasses.dataclass(frozen=True, slots=True)
class LastRecord:
    """The end of what a writer wrote."""

    kind: Kind
    by: str
    """Who says so, in a record whose body says it; else empty."""
    time_ns: int
    """Of the last record that has a time; 0 where none has."""

    @property
    def is_closing(self) -> bool:
        """Whether an agent has already closed this stream."""
        return self.by == BY_AGENT

    @property
    def is_finish(self) -> bool:
        return self.kind is Kind.FINISH


def closing_records(last: LastRecord | None, drops: DropStatus | None, *, time_ns: int) -> bytes:
    """What a dead writer's stream still needs; empty where it is complete.

    Args:
        last: the stream's last record; None where no record can be read there.
        drops: its status page.
        time_ns: wall time of the records, nanoseconds since 1970.
    """
    if last is not None and last.is_closing:
        return b""
    packed = b""
    if drops is not None and drops.untold:
        reason = drops.reason or ingest_pb2.GAP_REASON_QUOTA
        gap = {"reason": reason, "records": drops.untold, "total": drops.dropped}
        packed += pack_json(Kind.GAP, {**gap, "by": BY_AGENT}, time_ns=time_ns)
    if last is None or not last.is_finish:
        packed += _crashed(time_ns)
    return packed


def orphan_records(time_ns: int, *, reason: ingest_pb2.GapReason.ValueType) -> bytes:
    """What closes a stream whose last bytes are gone, nobody knows how many.

    Args:
        time_ns: wall time of the records, nanoseconds since 1970.
        reason: where the bytes went.
    """
    gap = {"reason": int(reason), "records": None, "total": None, "by": BY_AGENT}
    return pack_json(Kind.GAP, gap, time_ns=time_ns) + _crashed(time_ns)


def _crashed(time_ns: int) -> bytes:
    finish = {"exit_code": None, "state": "crashed", "by": BY_AGENT}
    return pack_json(Kind.FINISH, finish, time_ns=time_ns)


def closing_segment(base: int, packed: bytes) -> bytes:
    """The file's bytes: a header whose commit word covers all of packed."""
    return pack_segment_header(base, len(packed)) + packed
