"""What a group of changes does to streams: where they stand in, rows to write and outcomes out.

The engine reads where the streams stand, asks a Plan what each change does, and writes what the
plan has gathered, all in one transaction. So every change sees those before it, and the engine
writes whole sets.

Rule: pure; it knows no engine.
Rule: a change that is not Applied or Opened leaves no trace.

Invariant: a stream's tail rows follow each other without a hole, but for its gaps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from plait_collector import lift
from plait_collector.steps import Steps
from plait_collector.store import (
    Append,
    Applied,
    Conflict,
    Declined,
    Finish,
    GapRow,
    Lifted,
    Meta,
    Open,
    Opened,
    Outcome,
    Proof,
    Skip,
    StreamState,
    Why,
)
from plaitwire.records import Kind
from plaitwire.v1 import types_pb2

Change = Open | Append | Skip
"""What a plan takes. Delete concerns a run's streams, and is the engine's own."""


def belongs_to_run(kind: int) -> bool:
    """Whether streams of this kind belong to a run; a node's telemetry belongs to the node."""
    return kind != types_pb2.STREAM_KIND_NODE


@dataclass(slots=True)
class Standing:
    """One stream, and how far it goes once the plan's changes are made."""

    id: int
    """The engine's own."""
    session: str
    next_offset: int = 0
    segment_base: int = 0
    proof: Proof | None = None
    rows: int = 0
    steps: Steps = field(default_factory=Steps)
    last_ns: int = 0
    finish: Finish | None = None
    meta: Meta | None = None
    """Known where the plan was asked to open the stream."""
    schemas: dict[int, int] = field(default_factory=dict)
    """Schema id to number of keys, of the current segment; known as meta is."""


@dataclass(slots=True)
class TailPiece:
    """Adjacent bytes of one segment, to be written as one row."""

    stream: int
    offset: int
    segment_base: int
    end: int
    payloads: list[bytes]

    @property
    def payload(self) -> bytes:
        """The bytes in one piece."""
        return self.payloads[0] if len(self.payloads) == 1 else b"".join(self.payloads)


@dataclass(frozen=True, slots=True)
class NewGap:
    """A gap to be written."""

    stream: int
    row: GapRow
    is_skip: bool
    message: str


class Plan:
    """Changes of any streams, in order, and what they come to."""

    def __init__(
        self,
        standings: Mapping[str, Standing],
        *,
        deleted_sessions: Collection[str],
        deleted_runs: Collection[tuple[str, str]],
        next_id: int,
    ) -> None:
        """
        Args:
            standings: by session: every stream there is that a change names.
            deleted_sessions: those the changes name, of those deleted.
            deleted_runs: (project, run), those that opens name, of those deleted.
            next_id: what the first new stream is called.
        """
        self._standings = dict(standings)
        self._deleted_sessions = deleted_sessions
        self._deleted_runs = deleted_runs
        self._next_id = next_id
        self._open_pieces: dict[int, TailPiece] = {}
        self.new: dict[int, Standing] = {}
        """Streams to be made, by id."""
        self.moved: dict[int, Standing] = {}
        """Streams whose standing is to be written, new ones included, by id."""
        self.pieces: list[TailPiece] = []
        self.records: list[tuple[int, int, Lifted]] = []
        """Stream, segment base, record."""
        self.gaps: list[NewGap] = []

    def make(self, change: Change) -> Outcome:
        """What one change does, after all before it."""
        match change:
            case Open(meta):
                return self._open(meta)
            case Append():
                return self._stand_at(change) or self._append(change)
            case Skip():
                return self._stand_at(change) or self._skip(change)

    def _open(self, meta: Meta) -> Outcome:
        in_deleted_run = (meta.project, meta.run) in self._deleted_runs
        if meta.session in self._deleted_sessions or (in_deleted_run and belongs_to_run(meta.kind)):
            return Declined(Why.DELETED, f"the run {meta.project}/{meta.run} was deleted")
        stream = self._standings.get(meta.session)
        if stream is None:
            stream = Standing(self._next_id, meta.session, meta=meta)
            self._next_id += 1
            self._standings[meta.session] = stream
            self.new[stream.id] = self.moved[stream.id] = stream
        if stream.meta != meta:
            assert stream.meta is not None
            return Declined(Why.DIVERGED, _difference(stream.meta, meta))
        schemas = dict(stream.schemas)
        return Opened(StreamState(stream.next_offset, stream.segment_base, schemas, stream.proof))

    def _stand_at(self, change: Append | Skip) -> Outcome | None:
        """Why a change cannot be made; None if its stream stands where the change begins."""
        if change.session in self._deleted_sessions:
            return Declined(Why.DELETED, "the run was deleted")
        stream = self._standings.get(change.session)
        if stream is None:
            return Conflict(0)
        return None if stream.next_offset == change.offset else Conflict(stream.next_offset)

    def _append(self, change: Append) -> Outcome:
        stream = self._standings[change.session]
        if stream.segment_base != change.segment_base:
            stream.segment_base = change.segment_base
            stream.schemas.clear()
        self._add_to_tail(stream.id, change)
        for record in change.lifted:
            self._lift(stream, record)
        stream.rows += change.rows
        stream.steps = stream.steps.then(change.steps)
        stream.last_ns = change.last_ns or stream.last_ns
        stream.next_offset = change.end
        stream.proof = Proof(change.offset, change.crc32c)
        self.moved[stream.id] = stream
        return Applied()

    def _add_to_tail(self, stream: int, change: Append) -> None:
        piece = self._open_pieces.get(stream)
        adjacent = piece is not None and piece.end == change.offset
        if piece is None or not adjacent or piece.segment_base != change.segment_base:
            piece = TailPiece(stream, change.offset, change.segment_base, change.offset, [])
            self._open_pieces[stream] = piece
            self.pieces.append(piece)
        piece.payloads.append(change.payload)
        piece.end = change.end

    def _lift(self, stream: Standing, record: Lifted) -> None:
        self.records.append((stream.id, stream.segment_base, record))
        if record.kind == Kind.SCHEMA:
            stream.schemas[record.schema] = len(lift.schema_keys(record.body))
        elif record.kind == Kind.FINISH:
            said = lift.finish_of(record.body)
            # An agent that lost sight of a stream's end takes its writer for crashed; the writer
            # knew better.
            if stream.finish is None or stream.finish.by != "rank" or said.by == "rank":
                stream.finish = said
        elif record.kind == Kind.GAP:
            reason, records, total = lift.gap_of(record.body)
            row = GapRow(
                session=stream.session,
                offset=record.offset,
                end=record.offset,
                reason=reason,
                records=records,
                total=total,
                steps=stream.steps.then(record.steps),
                rows=stream.rows + record.rows,
            )
            self.gaps.append(NewGap(stream.id, row, False, ""))

    def _skip(self, change: Skip) -> Outcome:
        assert change.offset < change.end
        stream = self._standings[change.session]
        row = GapRow(
            session=stream.session,
            offset=change.offset,
            end=change.end,
            reason=lift.GAP_WORDS.get(change.reason, lift.GAP_WORDS[0]),
            records=None if change.records is None else min(change.records, lift.COUNT_MAX),
            total=None,
            steps=stream.steps,
            rows=stream.rows,
        )
        self.gaps.append(NewGap(stream.id, row, True, change.message))
        # What follows begins a segment: no schema of before holds in it.
        stream.next_offset = stream.segment_base = change.end
        stream.proof = None
        stream.schemas.clear()
        self.moved[stream.id] = stream
        return Applied()


def _difference(kept: Meta, offered: Meta) -> str:
    """In what two metas of one session differ, for people."""
    names = [
        name for name in Meta.__dataclass_fields__ if getattr(kept, name) != getattr(offered, name)
    ]
    return f"the session {kept.session} is kept with another {', '.join(names)}"


def sessions_of(changes: Sequence[Change]) -> list[str]:
    """The sessions that changes name, each once."""
    named = (
        change.meta.session if isinstance(change, Open) else change.session for change in changes
    )
    return list(dict.fromkeys(named))
