"""What a store is: it keeps streams, and nothing above it knows how.

A store takes *changes* and gives *rows*. Changes come from one caller, the collector's writer, many
at a time; a commit carries out all it can of them in one transaction, and when it returns they are
on disk. Reads see what is committed, from any number of callers, beside the writing.

Rule: a change names the offset it expects its stream at, and is applied there and nowhere else.
Rule: no change touches two streams (but Delete), so that streams may live apart later.
Rule: what a store cannot take it answers for that change alone; what it cannot do now, it raises,
      and then nothing of the whole commit has happened.

StoreError
├─ StoreUnavailable   the same commit may succeed later: disk full, locked
└─ StoreUnusable      this store cannot be opened: of a newer version, in use, damaged
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from plait_collector.steps import Steps


class StoreError(Exception):
    """Something a store could not do. Never raised as itself."""


class StoreUnavailable(StoreError):
    """The same commit may succeed later; nothing of it has happened."""


class StoreUnusable(StoreError):
    """This store cannot be opened."""


class Why(StrEnum):
    """Why a store does not take a change, ever."""

    DELETED = "deleted"
    """Its run was deleted."""
    DIVERGED = "diverged"
    """The stream is kept with another meta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What a stream is (plaitwire.v1.StreamMeta, as a value)."""

    session: str
    kind: int
    """plaitwire.v1.StreamKind."""
    project: str
    run: str
    label: str
    parent: str = ""
    """The session it branched off; empty: a root session."""
    restart_count: int = 0
    started_ns: int = 0
    """Wall time, nanoseconds since 1970, by the writer's clock."""
    host: str = ""
    boot_id: str = ""
    pid: int = 0
    primary: bool = False
    group: str = ""
    extra_json: str = "{}"


@dataclass(frozen=True, slots=True)
class Proof:
    """The last bytes a store holds of a stream: from offset to its next offset."""

    offset: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a stream goes on."""

    next_offset: int = 0
    segment_base: int = 0
    """Of the segment that the last bytes came from."""
    schemas: Mapping[int, int] = field(default_factory=dict)
    """Schema id to number of keys, of that segment so far."""
    proof: Proof | None = None


# Changes.


@dataclass(frozen=True, slots=True)
class Open:
    """Make the stream if it is not there; answered by Opened or Declined."""

    meta: Meta


@dataclass(frozen=True, slots=True)
class Lifted:
    """A record that is no row, taken out of its frame so that it can be found."""

    offset: int
    """In its stream, of its first byte."""
    kind: int
    """plaitwire.records.Kind."""
    flags: int
    schema: int
    step: int
    """plaitwire.records.NO_STEP where it has none."""
    time_ns: int
    body: bytes
    """After the stamp; of a schema, after the header."""
    steps: Steps = field(default_factory=Steps)
    """Of the rows before it in its frame; kept of gaps only."""
    rows: int = 0
    """Rows before it in its frame; kept of gaps only."""


@dataclass(frozen=True, slots=True)
class Append:
    """Bytes at a stream's end; answered by Applied, Conflict or Declined."""

    session: str
    offset: int
    segment_base: int
    payload: bytes
    """Whole records of one segment."""
    crc32c: int
    rows: int
    steps: Steps
    last_ns: int
    """Wall time of the session's own last record in it; 0: none has one."""
    lifted: tuple[Lifted, ...]

    @property
    def end(self) -> int:
        """Stream offset after the last byte."""
        return self.offset + len(self.payload)


@dataclass(frozen=True, slots=True)
class Skip:
    """A gap at a stream's end, in place of bytes; answered like Append."""

    session: str
    offset: int
    end: int
    reason: int
    """plaitwire.v1.GapReason."""
    records: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a run for good, and leave a tombstone; answered by Applied."""

    project: str
    run: str


Change = Open | Append | Skip | Delete


# Outcomes, one for each change.


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream is there, and goes on at state."""

    state: StreamState


@dataclass(frozen=True, slots=True)
class Applied:
    """The change is made."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The stream's next offset is another one; nothing was changed."""

    next_offset: int


@dataclass(frozen=True, slots=True)
class Declined:
    """The change will never be taken; nothing was changed."""

    why: Why
    message: str


Outcome = Opened | Applied | Conflict | Declined


# Rows.


@dataclass(frozen=True, slots=True)
class Finish:
    """What a session's last finish record says; an agent's counts only where the rank has none."""

    state: str
    """finished, failed, crashed."""
    exit_code: int | None
    by: str
    """rank, or agent."""


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One stream, and how far it is known, without looking into its frames."""

    meta: Meta
    next_offset: int
    rows: int
    steps: Steps
    last_ns: int
    """Wall time of the session's own last record; 0: it has none."""
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class GapRow:
    """Something that was lost in a stream: bytes (end > offset), or records that got no bytes."""

    session: str
    offset: int
    end: int
    reason: str
    """A GapReason's word: deleted, damaged, reboot, vanished, quota."""
    records: int | None
    """None: nobody knows how many."""
    total: int | None
    """Of a writer's own gap records: all it had dropped by then."""
    steps: Steps
    """Of the session's rows before it."""
    rows: int
    """Of the session before it."""


@dataclass(frozen=True, slots=True)
class LiftedRow:
    """A lifted record of a stream."""

    session: str
    record: Lifted


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole records of one segment, as they were written."""

    session: str
    offset: int
    segment_base: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Schema:
    """The keys that an id stands for in a segment."""

    session: str
    segment_base: int
    id: int
    keys: tuple[str, ...]


class Store(Protocol):
    """Keeps streams. tests/contract/ holds every implementation to this."""

    @property
    def store_id(self) -> str:
        """The store's identity: made at random with it."""

    async def commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Carry out changes in order, in one transaction; on return they are on disk.

        Returns:
            An outcome for each change, in their order.

        Raises:
            StoreUnavailable: nothing was changed; the same call may succeed later.
        """

    async def run_names(
        self, *, project: str | None = None, group: str | None = None
    ) -> Sequence[tuple[str, str]]:
        """(project, run) of the runs, newest first by their earliest session's start."""

    async def streams(self, project: str, run: str) -> Sequence[StreamRow]:
        """The streams of a run, by session id. Empty: there is no such run."""

    async def gaps(self, sessions: Sequence[str]) -> Sequence[GapRow]:
        """What was lost, by session and offset."""

    async def lifted(self, sessions: Sequence[str], kinds: Sequence[int]) -> Sequence[LiftedRow]:
        """Records of these kinds, by session and offset."""

    async def schemas(self, sessions: Sequence[str]) -> Sequence[Schema]:
        """The schemas of all segments, by session, segment base and id."""

    def chunks(self, session: str) -> AsyncIterator[Chunk]:
        """What is kept of a stream, by offset. What is appended meanwhile may or may not come."""

    async def close(self) -> None:
        """Let go of the files. Safe to call twice."""
