"""One open stream, as the collector takes it in: which bytes it accepts next, and which never.

    accepted    the offset up to which bytes were handed to the writer
    schemas     what the rows of the current segment must look like

Rule: bytes are accepted at `accepted` and nowhere else; what is held already is cut off, what comes
      from beyond is refused.
Rule: what is accepted is well formed, row for row, so that nobody after this need doubt it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import google_crc32c

from plait_collector.fit import first_misfit
from plait_collector.scan import BadFrame, Scanned, Unpacked, rescan
from plait_collector.store import Append, Lifted, Skip, StreamState
from plaitwire.v1 import ingest_pb2 as pb

OFFSET_MAX: Final = 2**62
"""Where a stream ends at the latest: what a store's integers hold, with room to add to it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a stream's handle ends."""

    reason: pb.RefusedReason.ValueType
    message: str
    retry: bool = False
    offset: int = 0


@dataclass(slots=True)
class Incoming:
    """One stream under one handle of one relay."""

    handle: int
    session: str
    is_open: bool = False
    """The store has said where it goes on."""
    accepted: int = 0
    segment_base: int = 0
    schemas: dict[int, int] = field(default_factory=dict)
    """Schema id to number of values, of the segment at segment_base."""
    proof: tuple[int, int] | None = None
    """Offset and CRC32C of the last frame accepted, which ends at accepted."""

    def opened(self, state: StreamState) -> pb.StreamOpened:
        """The store has said where the stream goes on."""
        self.is_open = True
        self.accepted = state.next_offset
        self.segment_base = state.segment_base
        self.schemas = dict(state.schemas)
        answer = pb.StreamOpened(handle=self.handle, next_offset=state.next_offset)
        if state.proof is not None:
            self.proof = (state.proof.offset, state.proof.crc32c)
            answer.proof.offset, answer.proof.crc32c = self.proof
        return answer

    def frame(
        self, frame: pb.Frame, opened: Unpacked | BadFrame
    ) -> tuple[Append | None, Refusal | None]:
        """What of a frame is accepted, and whether the stream ends over the rest.

        Neither: all of it was held already.
        """
        if not self.is_open:
            return None, self._out_of_order(frame.offset)
        if isinstance(opened, BadFrame):
            return None, Refusal(pb.REFUSED_REASON_CHECKSUM, str(opened), retry=True)
        if frame.offset > self.accepted:
            return None, self._out_of_order(frame.offset)
        if frame.offset + frame.size > OFFSET_MAX:
            return None, Refusal(pb.REFUSED_REASON_INVALID, f"a frame beyond {OFFSET_MAX}")
        if frame.offset + frame.size <= self.accepted:
            return None, self._divergence(frame, opened)
        starts_segment = frame.segment_base == frame.offset == self.accepted
        if not starts_segment and frame.segment_base != self.segment_base:
            message = f"a frame at {frame.offset} that claims a segment at {frame.segment_base}"
            return None, Refusal(pb.REFUSED_REASON_INVALID, message)
        cut = self.accepted - frame.offset
        payload = opened.payload[cut:]
        scanned = rescan(payload) if cut else opened.scanned
        crc32c = google_crc32c.value(payload) if cut else opened.crc32c
        known = {} if starts_segment else self.schemas
        return self._records(frame.segment_base, payload, crc32c, scanned, known)

    def _records(
        self,
        segment_base: int,
        payload: bytes,
        crc32c: int,
        scanned: Scanned,
        known: dict[int, int],
    ) -> tuple[Append | None, Refusal | None]:
        """Accept what is well formed, and refuse what begins where it ends."""
        flaw = scanned.flaw
        if (misfit := first_misfit(payload, scanned, known)) is not None:
            at, flaw = misfit
            scanned = rescan(payload[:at])
        if scanned.size < len(payload):
            payload = payload[: scanned.size]
            crc32c = google_crc32c.value(payload)
        change = None
        if payload:
            change = Append(
                session=self.session,
                offset=self.accepted,
                segment_base=segment_base,
                payload=payload,
                crc32c=crc32c,
                rows=scanned.rows,
                steps=scanned.steps,
                last_ns=scanned.last_ns,
                lifted=_in_stream(scanned.lifted, self.accepted),
            )
            self.segment_base = segment_base
            self.schemas = {**known, **scanned.defines} if scanned.defines else known
            self.proof = (self.accepted, crc32c)
            self.accepted = change.end
        if flaw is None:
            return change, None
        message = f"no record at offset {self.accepted}: {flaw}"
        refusal = Refusal(pb.REFUSED_REASON_DAMAGED, message, retry=True, offset=self.accepted)
        return change, refusal

    def gap(self, gap: pb.Gap) -> tuple[Skip | None, Refusal | None]:
        """What of a gap is accepted, and whether the stream ends over it."""
        bounds_are_wrong = not gap.offset < gap.end <= OFFSET_MAX or gap.end % 8
        if bounds_are_wrong or gap.reason not in pb.GapReason.values():
            message = f"a gap from {gap.offset} to {gap.end} for reason {gap.reason}"
            return None, Refusal(pb.REFUSED_REASON_INVALID, message)
        if not self.is_open or gap.offset > self.accepted:
            return None, self._out_of_order(gap.offset)
        if gap.end <= self.accepted:
            return None, None
        skip = Skip(
            session=self.session,
            offset=self.accepted,
            end=gap.end,
            reason=gap.reason,
            records=gap.records if gap.HasField("records") else None,
            message=gap.message[:1000],
        )
        # What follows begins a segment: no schema of before holds in it.
        self.accepted = self.segment_base = gap.end
        self.schemas, self.proof = {}, None
        return skip, None

    def _divergence(self, frame: pb.Frame, opened: Unpacked) -> Refusal | None:
        """A refusal, if a frame that is held already was another one."""
        end = frame.offset + frame.size
        if end != self.accepted or self.proof is None or self.proof[0] != frame.offset:
            return None
        if self.proof[1] == opened.crc32c:
            return None
        message = f"other bytes than those held before offset {self.accepted}"
        return Refusal(pb.REFUSED_REASON_DIVERGED, message)

    def _out_of_order(self, offset: int) -> Refusal:
        message = f"bytes at {offset}; the stream goes on at {self.accepted}"
        return Refusal(pb.REFUSED_REASON_OUT_OF_ORDER, message, retry=True)


def _in_stream(lifted: tuple[Lifted, ...], offset: int) -> tuple[Lifted, ...]:
    """A frame's lifted records, with offsets of the stream."""
    if not offset:
        return lifted
    return tuple(replace(record, offset=record.offset + offset) for record in lifted)
