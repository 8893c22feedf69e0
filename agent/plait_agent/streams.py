"""The streams of this node: what ranks have written and the collector has not yet acknowledged.

A stream appears when a writer makes its folder and goes when all of it is acknowledged. Events for
the uplink come out of `poll`; what the collector's words mean goes into `apply`; `read` and
`checksum` give the uplink its bytes. What quota made a rank drop is in the stream itself, as a gap.

Invariant: no segment that holds an unacknowledged byte is deleted, but of refused streams.
Rule: no asyncio, and no clock: time is passed in. Only `spill_jobs` are carried out elsewhere.
Rule: what is wrong with one stream is that stream's error, and harms no other.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from plait_agent.disk import DISK, Disk
from plait_agent.effects import (
    Acked,
    Chunk,
    DamagedAt,
    Delivered,
    Effect,
    GoAway,
    Lost,
    Opened,
    Rejected,
)
from plait_agent.ending import Ending
from plait_agent.events import Ended, Found, Gone, Grew, NodeEvent, Progress, StreamsStatistics
from plait_agent.finding import Finder, Limbo
from plait_agent.liveness import lock_held
from plait_agent.refusals import Refusals, remove_folders
from plait_agent.spill import Job, Outcome, carry_out
from plait_agent.state import States, StreamState
from plait_agent.stream import IDLE_POLL_S_MAX, Phase, Stream, StreamStatus, free_bytes
from plait_agent.tail import STORES_REORDER, Tail
from plaitwire.folders import ALIVE, Folders
from plaitwire.limits import COLD_FREE_BYTES_MIN
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import types_pb2

log = logging.getLogger(__name__)

LOCK_WITHIN_S: Final = 2.0
"""A new writer has made and locked its `alive` file within this time."""
TRY_AGAIN_S: Final = 1.0
"""After an error of the file system."""
DELIVERED_REMEMBERED_MAX: Final = 4096
"""Streams whose delivery is still known after they are gone, for who waits for it."""


class Streams:
    """All streams of one user on this node. Implements effects.Log."""

    def __init__(
        self,
        folders: Folders,
        *,
        node: str,
        boot_id: str,
        disk: Disk = DISK,
        is_alive: Callable[[Path], bool] = lock_held,
        uid: int | None = None,
        delayed: bool = STORES_REORDER,
        cold_free_bytes_min: int = COLD_FREE_BYTES_MIN,
    ) -> None:
        """
        Args:
            folders: hot and cold roots; both exist.
            node: the node's name; the host of a stream whose meta names none.
            boot_id: of the kernel that runs now.
            disk: what syncs.
            is_alive: whether the lock of a writer is held, given the path of its `alive`.
            uid: who owns the streams; by default who runs this.
            delayed: believe a commit word one look late, as machines that reorder stores need.
            cold_free_bytes_min: what cold leaves free on its file system.
        """
        self._folders, self._boot_id, self._disk = folders, boot_id, disk
        self._is_alive, self._delayed = is_alive, delayed
        self._uid = os.geteuid() if uid is None else uid
        self._cold_free_bytes_min = cold_free_bytes_min
        self._streams: dict[str, Stream] = {}
        self._events: list[NodeEvent] = []
        self._delivered: OrderedDict[str, int] = OrderedDict()
        self._delivered_count = self._spill_errors = 0
        self._store_id = ""
        self._states = States(folders.cold, disk=disk)
        self._remembered = self._states.load()
        self._refusals = Refusals(folders.cold, uid=self._uid)
        self._finder = Finder(folders, host=node, uid=self._uid)
        self._ending = Ending(
            self._states, boot_id=boot_id, uid=self._uid, disk=disk, tell=self._tell_end
        )

    # What happens on the node.

    def poll(self, now_s: float) -> list[NodeEvent]:
        """Look for new streams, and at those that are due.

        Args:
            now_s: a clock that never goes back, in seconds.

        Returns:
            What is new since the last call, each stream's in order.
        """
        for session in sorted(self._remembered):
            self._begin(self._remembered.pop(session), now_s, is_new=False)
        self._find(now_s)
        for stream in list(self._streams.values()):
            if stream.due_s <= now_s:
                try:
                    self._follow(stream, now_s)
                except OSError as error:
                    self._trouble(stream, error)
                    stream.due_s = now_s + TRY_AGAIN_S
        events, self._events = self._events, []
        return events

    def announce(self, session: str) -> None:
        """Look at this stream at the next poll, even if nobody has heard of it yet."""
        self._finder.look_again()
        stream = self._streams.get(session)
        if stream is not None:
            stream.due_s = 0.0

    def _find(self, now_s: float) -> None:
        for folder in self._finder.abandoned(now_s):
            with suppress(OSError):  # Its lock cannot be looked at: it may live.
                if not self._is_alive(folder / ALIVE):
                    remove_folders((folder,))
        for session in self._finder.new(self._streams.keys()):
            found = self._finder.read_meta(session)
            if isinstance(found, types_pb2.StreamMeta):
                state = StreamState(session, found, found.boot_id or self._boot_id)
                try:
                    self._states.write(state, synced=True)
                except OSError as error:  # Relay it all the same: the collector is the safer place.
                    log.error("a stream is not remembered: session=%s error=%s", session, error)
                self._begin(state, now_s, is_new=True)
            else:
                self._wait_in_limbo(session, found, now_s)

    def _wait_in_limbo(self, session: str, why: Limbo | str, now_s: float) -> None:
        """A folder without a meta.json, or with a bad one, goes when its writer is dead."""
        first_s = self._finder.limbo_since_s(session, now_s)
        try:
            if now_s - first_s < LOCK_WITHIN_S or self._lives(session):
                return
        except OSError as error:
            log.error("a folder is left alone: session=%s error=%s", session, error)
            return self._finder.ignore(session)
        self._finder.forget(session)
        if not self._refusals.turn_away(session, why, self._folders_of(session)):
            self._finder.ignore(session)

    def _begin(self, state: StreamState, now_s: float, *, is_new: bool) -> None:
        session = state.session
        hot, cold = self._folders_of(session)
        tail = Tail(hot, cold, uid=self._uid, delayed=self._delayed)
        tail.deleted_below = state.acked
        mark = self._states.mark(session)
        stream = Stream(state, hot, cold, tail, found_s=now_s, moved_s=now_s, mark=mark)
        self._streams[session] = stream
        self._finder.forget(session)
        if state.refused:
            stream.phase = Phase.REFUSED
            return
        self._events.append(Found(session, state.meta))
        try:
            stream.seen_alive = self._lives(session)
            self._ending.resume(stream, alive=stream.seen_alive, is_new=is_new)
        except OSError as error:
            self._trouble(stream, error)
        self._tell_growth(stream)

    def _follow(self, stream: Stream, now_s: float) -> None:
        if stream.phase is Phase.REFUSED:
            self._follow_refused(stream, now_s)
            return
        if stream.phase is not Phase.FOLLOWED:
            if stream.phase is Phase.ORPHANED and stream.is_opened:
                self._ending.collector_is_at(stream, stream.acked)
            stream.due_s = float("inf")
            return
        # First whether the writer lives, then what it wrote: at its death, all of it counts.
        lives = self._lives(stream.session)
        stream.seen_alive = stream.seen_alive or lives
        is_dead = not lives and (stream.seen_alive or now_s - stream.found_s >= LOCK_WITHIN_S)
        if stream.tail.look(final=is_dead):
            stream.moved_s = now_s
        stream.error = ""
        self._tell_growth(stream)
        if is_dead:
            self._ending.writer_died(stream)
        stream.due_s = now_s + stream.wait_s(now_s)

    def _follow_refused(self, stream: Stream, now_s: float) -> None:
        is_dead = not self._lives(stream.session)
        stream.due_s = now_s + IDLE_POLL_S_MAX
        if stream.spilling:
            return
        if is_dead:
            self._refusals.take_all(stream.session, self._folders_of(stream.session))
            if remove_folders(self._folders_of(stream.session)):
                self._forget(stream)
                self._events.append(Gone(stream.session))
            return
        stream.tail.look()
        for folder in (stream.hot, stream.cold):
            self._refusals.take(stream.session, folder, stream.sealed_names())

    def _lives(self, session: str) -> bool:
        return self._is_alive(self._folders_of(session)[0] / ALIVE)

    def _tell_growth(self, stream: Stream) -> None:
        if stream.tail.end > stream.reported_end:
            stream.reported_end = stream.tail.end
            self._events.append(Grew(stream.session, stream.tail.end))

    def _tell_end(self, stream: Stream, end: int) -> None:
        self._tell_growth(stream)
        self._events.append(Ended(stream.session, end))

    # What the collector's words mean.

    def store(self, store_id: str) -> None:
        """Acknowledgements come from this store from now on."""
        self._store_id = store_id

    def apply(self, effect: Effect) -> None:
        """Carry out what the uplink made of the collector's words."""
        if isinstance(effect, GoAway):
            return
        stream = self._streams.get(effect.session)
        if stream is None or stream.phase is Phase.REFUSED:
            return
        try:
            self._apply(stream, effect)
        except OSError as error:
            self._trouble(stream, error)

    def _apply(
        self, stream: Stream, effect: Opened | Acked | Delivered | Rejected | DamagedAt
    ) -> None:
        match effect:
            case Opened(_, offset) | Acked(_, offset):
                stream.take_ack(offset)
                if stream.phase is Phase.ENDED and offset > stream.tail.end:
                    if stream.state.closing is None:
                        message = f"the collector has it up to {offset}, beyond its end here"
                        return self._refuse(stream, pb.REFUSED_REASON_DIVERGED, message)
                    stream.phase = Phase.ORPHANED  # Closed too early: it came back from a copy.
                if stream.phase is Phase.ORPHANED:
                    stream.due_s = 0.0  # Now it can be closed.
                self._trim(stream)
            case Delivered():
                self._leave(stream)
            case Rejected(_, reason, message):
                self._refuse(stream, reason, message)
            case DamagedAt(_, offset):
                log.error("records are damaged: session=%s offset=%d", stream.session, offset)
                stream.error = f"damaged at offset {offset}"
                stream.tail.damaged_at(offset)

    def _trim(self, stream: Stream) -> None:
        """Delete the segments that are sealed and acknowledged, but for the last."""
        if stream.spilling or not (bases := stream.acknowledged_bases()):
            return
        acked = max(stream.state.acked, stream.acked)
        stream.state = replace(stream.state, acked=acked, store_id=self._store_id)
        self._states.write(stream.state, synced=False)  # What is gone is known as ours.
        stream.delete(bases)

    def _leave(self, stream: Stream) -> None:
        stream.leaving = True
        if stream.spilling:
            return
        self._delivered[stream.session] = stream.tail.end
        while len(self._delivered) > DELIVERED_REMEMBERED_MAX:
            self._delivered.popitem(last=False)
        self._delivered_count += 1
        if remove_folders(self._folders_of(stream.session)):
            self._forget(stream)

    def _refuse(self, stream: Stream, reason: pb.RefusedReason.ValueType, message: str) -> None:
        why = f"{pb.RefusedReason.Name(reason)}: {message}"
        log.error("a stream is refused: session=%s reason=%s", stream.session, why)
        self._refusals.count()
        stream.phase, stream.due_s = Phase.REFUSED, 0.0
        stream.state = replace(stream.state, refused=why)
        self._states.write(stream.state, synced=False)

    def _folders_of(self, session: str) -> tuple[Path, Path]:
        return self._folders.hot_stream(session), self._folders.cold_stream(session)

    def _forget(self, stream: Stream) -> None:
        self._states.remove(stream.session)
        del self._streams[stream.session]

    def _trouble(self, stream: Stream, error: OSError) -> None:
        if stream.error != str(error):
            log.warning("trouble with a stream: session=%s error=%s", stream.session, error)
        stream.error = str(error)

    # The uplink's bytes.

    def read(self, session: str, offset: int) -> Chunk | Lost | None:
        """What stands at offset of a stream; None: nothing (yet)."""
        stream = self._streams.get(session)
        return stream.tail.read(offset) if stream is not None else None

    def checksum(self, session: str, offset: int, end: int) -> int | None:
        """CRC32C of these bytes; None where they are not all here."""
        stream = self._streams.get(session)
        return stream.tail.checksum(offset, end) if stream is not None else None

    def spill(self, now_s: float, *, everything: bool = False) -> None:
        """Carry out all spill_jobs, one after the other."""
        for job in self.spill_jobs(now_s, everything=everything):
            self.spilled(self.carry_out(job))

    def spill_jobs(self, now_s: float, *, everything: bool = False) -> list[Job]:
        """What to copy to disk and sync now, so that its memory can be freed. Each job's outcome
        must come back by `spilled`.

        Args:
            now_s: a clock that never goes back, in seconds.
            everything: whatever is not acknowledged, however short it has been waiting.
        """
        jobs: list[Job] = []
        free = free_bytes(self._folders.cold, leave=self._cold_free_bytes_min)
        for stream in self._streams.values():
            if stream.spilling or stream.phase is Phase.REFUSED:
                continue
            wanted = stream.is_overdue(now_s) or (everything and stream.tail.end > stream.acked)
            if wanted and (job := stream.spill_job(free)) is not None:
                stream.spilling = True
                jobs.append(job)
        return jobs

    def carry_out(self, job: Job) -> Outcome:
        """Do one job: slow, and safe on another thread."""
        noted = partial(self._states.write_mark, job.session)
        return carry_out(job, uid=self._uid, disk=self._disk, note=noted)

    def spilled(self, outcome: Outcome) -> None:
        """Take in what a job did."""
        stream = self._streams[outcome.session]
        stream.spilling = False
        stream.mark = outcome.mark
        if outcome.error:
            self._spill_errors += 1
            self._trouble(stream, OSError(outcome.error))
        with suppress(OSError):  # The next look will tell.
            stream.tail.look()
        if stream.leaving:
            self.apply(Delivered(stream.session))
        elif stream.is_opened:
            self.apply(Acked(stream.session, stream.acked))

    # How it stands.

    def progress(self, session: str) -> Progress | None:
        """How far a stream is; None: nobody has heard of it."""
        stream = self._streams.get(session)
        if stream is not None:
            return Progress(stream.acked, stream.tail.end, stream.state.refused)
        end = self._delivered.get(session)
        return None if end is None else Progress(end, end)

    def status(self) -> list[StreamStatus]:
        """Every stream, for people."""
        return [stream.status() for stream in self._streams.values()]

    def statistics(self) -> StreamsStatistics:
        """The streams together."""
        return StreamsStatistics(
            streams=len(self._streams),
            unfinished=sum(s.phase is not Phase.REFUSED for s in self._streams.values()),
            delivered=self._delivered_count,
            refusals=self._refusals.statistics(),
            spill_errors=self._spill_errors,
        )
