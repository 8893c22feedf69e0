"""One stream of this node: what the agent knows about it, and what of it is to be spilled.

A stream's life:

    followed ──its writer dies──► ended ──all acknowledged──► (removed)
       │                            ▲
       └─ its last bytes are gone ─► orphaned ──the collector says where it is──┘
       (any of them) ──refused for good──► refused ──its writer dies──► (removed)

Invariant: acked <= end of the tail, but for an orphan, whose collector may know more than we do.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from plait_agent.spill import Job, Piece
from plait_agent.state import Mark, StreamState
from plait_agent.tail import Tail
from plaitwire.folders import segment_name
from plaitwire.limits import COLD_BYTES_MAX, SPILL_AFTER_S
from plaitwire.v1 import types_pb2

PIECES_MAX: Final = 64
"""Segments of one stream that are spilled in one go."""


IDLE_AFTER_S: Final = 5.0
"""With nothing new for this long, a stream is looked at less often,"""
IDLE_POLL_S_MAX: Final = 2.0
"""but at least this often."""


class Phase(Enum):
    """Where a stream is in its life."""

    FOLLOWED = "open"
    """Its writer may write."""
    ORPHANED = "orphaned"
    """Its writer and its last bytes are gone: where it ends, the collector's offset decides."""
    ENDED = "ended"
    """Its end is final."""
    REFUSED = "refused"
    """The collector does not want it."""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream, for people."""

    session: str
    project: str
    run: str
    label: str
    kind: str
    state: str
    """open, ended (orphaned ones too), refused."""
    committed: int
    """Stream offset; so are the next two."""
    acked: int
    spilled: int
    hot_bytes: int
    """Its segments in memory, as the file system counts them."""
    cold_bytes: int
    error: str


@dataclass(slots=True)
class Stream:
    """One stream."""

    state: StreamState
    hot: Path
    cold: Path
    tail: Tail
    found_s: float
    phase: Phase = Phase.FOLLOWED
    acked: int = 0
    """Where the collector is, as far as it told this agent."""
    is_opened: bool = False
    """The collector has told where it is."""
    mark: Mark | None = None
    seen_alive: bool = False
    reported_end: int = 0
    """The end that was last told to the uplink."""
    moved_s: float = 0.0
    """When something new was last seen."""
    due_s: float = 0.0
    """When to look next."""
    waiting_since_s: float | None = None
    """Since when everything up to waiting_end has been committed and not acknowledged."""
    waiting_end: int = 0
    spilling: bool = False
    """A job is under way; nothing is removed meanwhile."""
    leaving: bool = False
    """Delivered while a job was under way."""
    error: str = ""

    @property
    def session(self) -> str:
        return self.state.session

    def take_ack(self, offset: int) -> None:
        """The collector has everything below offset, which may also be less than before."""
        self.acked, self.is_opened = offset, True
        self.tail.deleted_below = max(self.tail.deleted_below, offset)
        if offset >= self.waiting_end:
            self.waiting_since_s = None

    def is_overdue(self, now_s: float) -> bool:
        """Whether something committed has been waiting for its acknowledgement for too long."""
        if self.tail.end <= self.acked:
            return False
        if self.waiting_since_s is None:
            self.waiting_since_s, self.waiting_end = now_s, self.tail.end
        return now_s - self.waiting_since_s >= SPILL_AFTER_S

    def wait_s(self, now_s: float) -> float:
        """How long to wait before the next look."""
        idle_s = now_s - self.moved_s
        return 0.0 if idle_s < IDLE_AFTER_S else min(IDLE_POLL_S_MAX, idle_s / 10)

    def acknowledged_bases(self) -> list[int]:
        """The segments, but for the last, that are sealed and acknowledged whole."""
        ends = ((base, self.tail.sealed_until(base)) for base in self.tail.bases[:-1])
        return [base for base, end in ends if end is not None and end <= self.acked]

    def delete(self, bases: list[int]) -> None:
        """Delete these segments, wherever they are."""
        for folder in (self.hot, self.cold):
            for base in bases:
                with suppress(FileNotFoundError):
                    os.unlink(folder / segment_name(base))
        self.tail.look()

    def sealed_names(self) -> list[str]:
        """The files of segments that grow no more."""
        bases = [base for base in self.tail.bases if self.tail.sealed_until(base) is not None]
        return [segment_name(base) for base in bases]

    def spill_job(self, free_bytes: int) -> Job | None:
        """What of the stream is not on disk yet; None: all of it is, or is acknowledged.

        Args:
            free_bytes: what the disk still has for us.
        """
        pieces = [piece for base in self.tail.bases if (piece := self._piece(base)) is not None]
        if not pieces:
            return None
        room = min(free_bytes, COLD_BYTES_MAX - used_bytes(self.cold))
        return Job(self.session, self.hot, self.cold, tuple(pieces[:PIECES_MAX]), self.mark, room)

    def _piece(self, base: int) -> Piece | None:
        end = self.tail.committed_until(base)
        sealed = self.tail.sealed_until(base) is not None
        if end is None or end <= max(base, self.acked):
            return None
        in_hot = self.tail.folder_of(base) == self.hot
        is_synced = self.mark is not None and base <= self.mark.base and end <= self.mark.offset
        if is_synced and not (in_hot and sealed):
            return None
        return Piece(base, end, in_hot, sealed)

    def status(self) -> StreamStatus:
        """The stream, for people."""
        meta = self.state.meta
        phase = Phase.ENDED if self.phase is Phase.ORPHANED else self.phase
        return StreamStatus(
            session=self.session,
            project=meta.project,
            run=meta.run,
            label=meta.label,
            kind="node" if meta.kind == types_pb2.STREAM_KIND_NODE else "run",
            state=phase.value,
            committed=self.tail.end,
            acked=self.acked,
            spilled=self.mark.offset if self.mark is not None else 0,
            hot_bytes=used_bytes(self.hot),
            cold_bytes=used_bytes(self.cold),
            error=self.error or self.state.refused,
        )


def free_bytes(folder: Path, *, leave: int) -> int:
    """What the file system of folder has free, beyond what is to be left."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return max(0, found.f_bavail * found.f_frsize - leave)


def used_bytes(folder: Path) -> int:
    """What the files of a stream's folder take, in bytes; 0 where there is none."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:  # It goes while we look.
        return total
    return total
