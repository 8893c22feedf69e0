"""A store in memory with the promises of the real ones, told plainly, and with faults to order.

It shares no code with them, so that the contract suite holds two accounts against each other. The
core is synchronous (commit_now), so that a simulator decides when a commit happens.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from plait_collector.steps import Steps
from plait_collector.store import (
    Append,
    Applied,
    Change,
    Chunk,
    Conflict,
    Declined,
    Delete,
    Finish,
    GapRow,
    Lifted,
    LiftedRow,
    Meta,
    Open,
    Opened,
    Outcome,
    Proof,
    Schema,
    Skip,
    StoreUnavailable,
    StreamRow,
    StreamState,
    Why,
)
from plaitwire.records import Kind
from plaitwire.v1 import types_pb2

REASONS = ("unspecified", "deleted", "damaged", "reboot", "vanished", "quota")


@dataclass
class Stream:
    """One stream, whole."""

    meta: Meta
    next_offset: int = 0
    segment_base: int = 0
    proof: Proof | None = None
    rows: int = 0
    steps: Steps = field(default_factory=Steps)
    last_ns: int = 0
    finish: Finish | None = None
    chunks: list[Chunk] = field(default_factory=list)
    lifted: list[LiftedRow] = field(default_factory=list)
    gaps: list[GapRow] = field(default_factory=list)
    schemas: list[Schema] = field(default_factory=list)

    @property
    def is_run(self) -> bool:
        """Whether the stream belongs to its run, not to a node."""
        return self.meta.kind != types_pb2.STREAM_KIND_NODE

    def state(self) -> StreamState:
        """Where the stream goes on."""
        here = [s for s in self.schemas if s.segment_base == self.segment_base]
        schemas = {schema.id: len(schema.keys) for schema in here}
        return StreamState(self.next_offset, self.segment_base, schemas, self.proof)


@dataclass
class Contents:
    """All a store keeps."""

    streams: dict[str, Stream] = field(default_factory=dict)
    deleted_runs: set[tuple[str, str]] = field(default_factory=set)
    deleted_sessions: set[str] = field(default_factory=set)

    def copied(self) -> Contents:
        """As much again; what is frozen is shared."""
        streams = {
            session: replace(
                stream,
                chunks=list(stream.chunks),
                lifted=list(stream.lifted),
                gaps=list(stream.gaps),
                schemas=list(stream.schemas),
            )
            for session, stream in self.streams.items()
        }
        return Contents(streams, set(self.deleted_runs), set(self.deleted_sessions))


class MemoryStore:
    """Keeps streams in memory, and fails when it is told to.

    Attributes:
        fail_before: how many of the next commits fail with nothing changed.
        fail_after: how many of the commits after those fail although all was changed, as when the
            disk took it and the answer was lost.
        commits: commits that were not made to fail.
    """

    def __init__(self, store_id: str = "memory") -> None:
        """An empty store."""
        self._store_id = store_id
        self._contents = Contents()
        self.fail_before = 0
        self.fail_after = 0
        self.commits = 0

    @property
    def store_id(self) -> str:
        """The store's identity."""
        return self._store_id

    def snapshot(self) -> Contents:
        """A copy of all that is kept, for restore()."""
        return self._contents.copied()

    def restore(self, contents: Contents) -> None:
        """Go back to a copy: a store that was restored from a backup. Its identity stays."""
        self._contents = contents.copied()

    def wipe(self, store_id: str) -> None:
        """Forget everything, and be another store."""
        self._contents = Contents()
        self._store_id = store_id

    async def commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """commit_now, for those who await it."""
        return self.commit_now(changes)

    def commit_now(self, changes: Sequence[Change]) -> list[Outcome]:
        """Carry out changes in order.

        Raises:
            StoreUnavailable: it was told to fail.
        """
        if self.fail_before:
            self.fail_before -= 1
            raise StoreUnavailable("told to fail, before")
        outcomes = [self._make(change) for change in changes]
        if self.fail_after:
            self.fail_after -= 1
            raise StoreUnavailable("told to fail, after")
        self.commits += 1
        return outcomes

    def _make(self, change: Change) -> Outcome:
        match change:
            case Open(meta):
                return self._open(meta)
            case Delete(project, run):
                return self._delete(project, run)
            case Append() | Skip():
                if change.session in self._contents.deleted_sessions:
                    return Declined(Why.DELETED, "the run was deleted")
                stream = self._contents.streams.get(change.session)
                if stream is None:
                    return Conflict(0)
                if stream.next_offset != change.offset:
                    return Conflict(stream.next_offset)
                if isinstance(change, Append):
                    _append(stream, change)
                else:
                    _skip(stream, change)
                return Applied()

    def _open(self, meta: Meta) -> Outcome:
        kept = self._contents
        stream = Stream(meta)
        deleted = stream.is_run and (meta.project, meta.run) in kept.deleted_runs
        if deleted or meta.session in kept.deleted_sessions:
            return Declined(Why.DELETED, "the run was deleted")
        stream = kept.streams.setdefault(meta.session, stream)
        if stream.meta != meta:
            return Declined(Why.DIVERGED, "kept with another meta")
        return Opened(stream.state())

    def _delete(self, project: str, run: str) -> Outcome:
        kept = self._contents
        kept.deleted_runs.add((project, run))
        for stream in self._of_run(project, run):
            kept.deleted_sessions.add(stream.meta.session)
            del kept.streams[stream.meta.session]
        return Applied()

    def _of_run(self, project: str, run: str) -> list[Stream]:
        found = [
            stream
            for stream in self._contents.streams.values()
            if stream.is_run and (stream.meta.project, stream.meta.run) == (project, run)
        ]
        return sorted(found, key=lambda stream: stream.meta.session)

    def _chosen(self, sessions: Sequence[str]) -> list[Stream]:
        streams = self._contents.streams
        return [streams[session] for session in sorted(set(sessions)) if session in streams]

    async def run_names(
        self, *, project: str | None = None, group: str | None = None
    ) -> Sequence[tuple[str, str]]:
        """(project, run) of the runs, newest first by their earliest session's start."""
        starts: dict[tuple[str, str], int] = {}
        wanted: set[tuple[str, str]] = set()
        for stream in self._contents.streams.values():
            meta, name = stream.meta, (stream.meta.project, stream.meta.run)
            if not stream.is_run or project not in (None, meta.project):
                continue
            starts[name] = min(starts.get(name, meta.started_ns), meta.started_ns)
            if group in (None, meta.group):
                wanted.add(name)
        return sorted(wanted, key=lambda name: (-starts[name], name))

    async def streams(self, project: str, run: str) -> Sequence[StreamRow]:
        """The streams of a run, by session id."""
        return [
            StreamRow(s.meta, s.next_offset, s.rows, s.steps, s.last_ns, s.finish)
            for s in self._of_run(project, run)
        ]

    async def gaps(self, sessions: Sequence[str]) -> Sequence[GapRow]:
        """What was lost, by session and offset."""
        return [gap for stream in self._chosen(sessions) for gap in stream.gaps]

    async def lifted(self, sessions: Sequence[str], kinds: Sequence[int]) -> Sequence[LiftedRow]:
        """Records of these kinds, by session and offset."""
        return [
            row
            for stream in self._chosen(sessions)
            for row in stream.lifted
            if row.record.kind in kinds
        ]

    async def schemas(self, sessions: Sequence[str]) -> Sequence[Schema]:
        """The schemas of all segments, by session, segment base and id."""
        return [
            schema
            for stream in self._chosen(sessions)
            for schema in sorted(stream.schemas, key=lambda s: (s.segment_base, s.id))
        ]

    async def chunks(self, session: str) -> AsyncIterator[Chunk]:
        """What is kept of a stream, by offset."""
        stream = self._contents.streams.get(session)
        for chunk in list(stream.chunks) if stream is not None else []:
            yield chunk

    async def close(self) -> None:
        """There is nothing to let go of."""


def _append(stream: Stream, change: Append) -> None:
    session = change.session
    for record in change.lifted:
        plain = Lifted(
            record.offset,
            record.kind,
            record.flags,
            record.schema,
            record.step,
            record.time_ns,
            record.body,
        )
        stream.lifted.append(LiftedRow(session, plain))
        if record.kind == Kind.SCHEMA:
            keys = tuple(json.loads(record.body))
            stream.schemas.append(Schema(session, change.segment_base, record.schema, keys))
        if record.kind == Kind.FINISH:
            said = json.loads(record.body)
            if said["by"] == "rank" or stream.finish is None or stream.finish.by == "agent":
                stream.finish = Finish(said["state"], said["exit_code"], said["by"])
        if record.kind == Kind.GAP:
            said = json.loads(record.body)
            steps = stream.steps.then(record.steps)
            rows = stream.rows + record.rows
            lost = said["reason"], said["records"], said["total"]
            gap = GapRow(session, record.offset, record.offset, *lost, steps, rows)
            stream.gaps.append(gap)
    stream.chunks.append(Chunk(session, change.offset, change.segment_base, change.payload))
    stream.rows += change.rows
    stream.steps = stream.steps.then(change.steps)
    stream.last_ns = change.last_ns or stream.last_ns
    stream.proof = Proof(change.offset, change.crc32c)
    stream.next_offset, stream.segment_base = change.end, change.segment_base


def _skip(stream: Stream, change: Skip) -> None:
    reason = REASONS[change.reason]
    lost = reason, change.records, None
    gap = GapRow(change.session, change.offset, change.end, *lost, stream.steps, stream.rows)
    stream.gaps.append(gap)
    stream.proof = None
    stream.next_offset = stream.segment_base = change.end
