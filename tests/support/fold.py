"""Streams written by hand, and the plainest reading of them: what a store must answer.

Writer builds one session's records; Fold takes runs of them, in any interleaving of sessions, and
gives the rows a Store would. It reads record by record with plaitwire.records and shares no code
with ingest, so that both can be held against each other.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from plait_collector.steps import Steps
from plait_collector.store import (
    Change,
    Chunk,
    Finish,
    GapRow,
    Lifted,
    LiftedRow,
    Meta,
    Outcome,
    Schema,
    StreamRow,
)
from plaitwire.records import (
    FLAG_AUTOMATIC_STEP,
    FLAG_CONTINUED,
    NO_STEP,
    Kind,
    pack_json,
    pack_record,
    pack_row,
    pack_schema,
    scan,
)
from plaitwire.v1 import types_pb2

SECOND = 1_000_000_000


def session_id(number: int) -> str:
    """A session id that sorts as its number does."""
    return f"{number:032x}"


def meta(number: int, label: str = "0", **fields: Any) -> Meta:
    """The meta of a session of the run p/r, started at second `number` unless told otherwise."""
    given = {"started_ns": number * SECOND, "host": "host", "boot_id": "boot", **fields}
    kind = given.pop("kind", types_pb2.STREAM_KIND_RUN)
    return Meta(session=session_id(number), kind=kind, project="p", run="r", label=label, **given)


@dataclass(slots=True)
class Piece:
    """One record of a stream."""

    offset: int
    segment_base: int
    payload: bytes


class Writer:
    """One session's records, as a rank would write them, a segment at a time."""

    def __init__(self, meta: Meta, *, segment_bytes: int = 2**20) -> None:
        self.meta = meta
        self.pieces: list[Piece] = []
        self.end = 0
        self.now_ns = meta.started_ns
        self._segment_bytes = segment_bytes
        self._base = 0
        self._ids: dict[tuple[str, ...], int] = {}
        self._step = -1

    def row(self, step: int | None = None, /, **values: float) -> Writer:
        """A row: at a given step, or at one counted up."""
        keys = tuple(values)
        self._roll()
        if keys not in self._ids:
            self._ids[keys] = len(self._ids)
            self._put(pack_schema(self._ids[keys], keys))
        self._step = self._step + 1 if step is None else step
        schema = self._ids[keys]
        automatic = step is None
        row = pack_row(schema, self._step, self._tick(), list(values.values()), automatic=automatic)
        return self._put(row)

    def say(self, kind: Kind, value: Any, *, step: int = NO_STEP, flags: int = 0) -> Writer:
        """A record of a kind whose body is JSON."""
        self._roll()
        return self._put(pack_json(kind, value, step=step, time_ns=self._tick(), flags=flags))

    def config(self, **values: Any) -> Writer:
        """A change of the config."""
        return self.say(Kind.CONFIG, values)

    def summary(self, **values: Any) -> Writer:
        """A change of the summary."""
        return self.say(Kind.SUMMARY, values)

    def define(self, key: str, rule: str) -> Writer:
        """How a key is summarised."""
        return self.say(Kind.DEFINE_METRIC, {"key": key, "summary": rule})

    def continued(self, kind: Kind, value: Any, parts: int) -> Writer:
        """A body over several records."""
        body = json.dumps(value).encode()
        size = -(-len(body) // parts)
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        for at, piece in enumerate(pieces):
            flags = FLAG_CONTINUED if at < len(pieces) - 1 else 0
            self._put(pack_record(kind, piece, time_ns=self._tick(), flags=flags))
        return self

    def gap(self, records: int | None, total: int | None, *, by_agent: bool = False) -> Writer:
        """Records that were dropped; told by the writer, or by the agent that closes its stream."""
        body = {"reason": "quota", "records": records, "total": total}
        time_ns = 0 if by_agent else self._tick()
        return self._put(pack_json(Kind.GAP, body, time_ns=time_ns))

    def finish(self, exit_code: int | None = 0, state: str = "finished") -> Writer:
        """The session's end, as the rank says it."""
        return self.say(Kind.FINISH, {"exit_code": exit_code, "state": state, "by": "rank"})

    def crash(self) -> Writer:
        """The session's end, as the agent says it: in a segment of its own, with no time."""
        body = {"exit_code": None, "state": "crashed", "by": "agent"}
        self._base, self._ids = self.end, {}
        return self._put(pack_json(Kind.FINISH, body))

    def raw(self, payload: bytes) -> Writer:
        """Bytes as they are."""
        return self._put(payload)

    def _tick(self) -> int:
        self.now_ns += SECOND // 1000
        return self.now_ns

    def _roll(self) -> None:
        if self.end - self._base >= self._segment_bytes:
            self._base, self._ids = self.end, {}

    def _put(self, record: bytes) -> Writer:
        self.pieces.append(Piece(self.end, self._base, record))
        self.end += len(record)
        return self


@dataclass(slots=True)
class _Stream:
    meta: Meta
    end: int = 0
    rows: int = 0
    steps: Steps = field(default_factory=Steps)
    last_ns: int = 0
    finish: Finish | None = None
    chunks: list[Chunk] = field(default_factory=list)


class Fold:
    """A store in memory that is read alone."""

    def __init__(self) -> None:
        self.streams_by_session: dict[str, _Stream] = {}
        self.gap_rows: list[GapRow] = []
        self.lifted_rows: list[LiftedRow] = []
        self.schema_rows: list[Schema] = []

    def add(self, *writers: Writer) -> Fold:
        """Take streams whole, a chunk for each segment."""
        for writer in writers:
            self.open(writer.meta)
            for base in sorted({piece.segment_base for piece in writer.pieces}):
                self.append(writer.meta, [p for p in writer.pieces if p.segment_base == base])
        return self

    def open(self, meta: Meta) -> None:
        """A stream is there."""
        self.streams_by_session.setdefault(meta.session, _Stream(meta))

    def append(self, meta: Meta, pieces: Sequence[Piece]) -> None:
        """Take records of one segment that follow each other, at the end of their stream."""
        self.open(meta)
        stream = self.streams_by_session[meta.session]
        first = pieces[0]
        assert first.offset == stream.end
        assert {piece.segment_base for piece in pieces} == {first.segment_base}
        payload = b"".join(piece.payload for piece in pieces)
        stream.chunks.append(Chunk(meta.session, stream.end, first.segment_base, payload))
        for record in scan(payload):
            at = first.offset + record.offset
            if record.kind is Kind.SCHEMA:
                keys = tuple(record.json())
                schema = Schema(meta.session, first.segment_base, record.schema, keys)
                self.schema_rows.append(schema)
                continue
            stream.last_ns = record.time_ns or stream.last_ns
            if record.kind in (Kind.ROW, Kind.EVENT) and record.step != NO_STEP:
                automatic = bool(record.flags & FLAG_AUTOMATIC_STEP)
                own = Steps(record.step) if automatic else Steps(None, record.step)
                stream.steps = stream.steps.then(own)
            if record.kind is Kind.ROW:
                stream.rows += 1
                continue
            self._lift(stream, at, record.kind, record.flags, record.step, record)
        stream.end += len(payload)

    def skip(self, meta: Meta, end: int, reason: str, records: int | None) -> None:
        """A gap at a stream's end, in place of bytes."""
        stream = self.streams_by_session[meta.session]
        self._gap(stream, stream.end, end, reason, records, None)
        stream.end = end

    def _lift(
        self, stream: _Stream, at: int, kind: Kind, flags: int, step: int, record: Any
    ) -> None:
        body = bytes(record.body)
        lifted = Lifted(at, kind, flags, record.schema, step, record.time_ns, body)
        self.lifted_rows.append(LiftedRow(stream.meta.session, lifted))
        if kind is Kind.FINISH:
            said = json.loads(body)
            if said["by"] == "rank" or stream.finish is None or stream.finish.by == "agent":
                stream.finish = Finish(said["state"], said["exit_code"], said["by"])
        if kind is Kind.GAP:
            said = json.loads(body)
            self._gap(stream, at, at, said["reason"], said["records"], said["total"])

    def _gap(
        self,
        stream: _Stream,
        offset: int,
        end: int,
        reason: str,
        records: int | None,
        total: int | None,
    ) -> None:
        session = stream.meta.session
        self.gap_rows.append(
            GapRow(session, offset, end, reason, records, total, stream.steps, stream.rows)
        )

    def rows(self) -> list[StreamRow]:
        """The streams."""
        return [
            StreamRow(s.meta, s.end, s.rows, s.steps, s.last_ns, s.finish)
            for _, s in sorted(self.streams_by_session.items())
        ]

    def pieces(self, session: str) -> list[Chunk]:
        """What is kept of a stream."""
        return self.streams_by_session[session].chunks


class FoldStore:
    """A Fold behind the Store protocol."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold
        self.extra_runs: list[tuple[Meta, StreamRow]] = []

    @property
    def store_id(self) -> str:
        """The same for all: nobody asks."""
        return "fold"

    async def commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """This store is read alone."""
        raise NotImplementedError

    async def run_names(
        self, *, project: str | None = None, group: str | None = None
    ) -> Sequence[tuple[str, str]]:
        """The runs, newest first."""
        started: dict[tuple[str, str], int] = {}
        for row in self.fold.rows():
            m = row.meta
            if project in (None, m.project) and group in (None, m.group):
                name = (m.project, m.run)
                started[name] = min(started.get(name, m.started_ns), m.started_ns)
        return sorted(started, key=lambda name: (-started[name], name))

    async def streams(self, project: str, run: str) -> Sequence[StreamRow]:
        """The streams of a run."""
        return [r for r in self.fold.rows() if (r.meta.project, r.meta.run) == (project, run)]

    async def gaps(self, sessions: Sequence[str]) -> Sequence[GapRow]:
        """What was lost."""
        return [gap for gap in self.fold.gap_rows if gap.session in sessions]

    async def lifted(self, sessions: Sequence[str], kinds: Sequence[int]) -> Sequence[LiftedRow]:
        """Records of some kinds."""
        rows = self.fold.lifted_rows
        return [row for row in rows if row.session in sessions and row.record.kind in kinds]

    async def schemas(self, sessions: Sequence[str]) -> Sequence[Schema]:
        """The schemas of all segments."""
        return [schema for schema in self.fold.schema_rows if schema.session in sessions]

    async def chunks(self, session: str) -> AsyncIterator[Chunk]:
        """What is kept of a stream."""
        for chunk in self.fold.pieces(session):
            yield chunk

    async def close(self) -> None:
        """Nothing to let go of."""
