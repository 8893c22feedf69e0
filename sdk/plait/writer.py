"""The hot path: rows into mapped segments.

log() makes bytes of its values first, which may run the user's code; then, under the lock, it
copies them into the mapping and commits them. A call with the same keys as an earlier one costs one
tuple compare, one conversion and one copy.

Invariant: while the lock is held no code of the user's runs but what interrupts a thread anywhere:
a signal handler, a finalizer. What that logs waits in a short queue that the outer call writes.
Invariant: KeyboardInterrupt may arrive at any instruction. Each call that returned is in the log,
whole and once; the lock is free; the interrupted call is in the log whole, or not at all.
Rule: no thread, no socket, no waiting for I/O but where a segment rolls onto a disk.
"""

from __future__ import annotations

import os
import threading
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Any, Final, cast

from plait.identity import Meta
from plait.quota import Quota
from plait.recordlog import Entry, RecordLog
from plait.values import Flaws, Row, checked_step, json_body, separated
from plaitwire.folders import Folders, UnusableFolder
from plaitwire.limits import REENTRANT_CALLS_MAX
from plaitwire.records import (
    FLAG_AUTOMATIC_STEP,
    NO_STEP,
    STEP_MAX,
    STEP_MIN,
    Kind,
    can_write_here,
)

_ROW: Final = int(Kind.ROW)
_ROW_AUTOMATIC: Final = _ROW | FLAG_AUTOMATIC_STEP


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a writer has done so far."""

    end: int
    """Stream offset behind the last record, in bytes."""
    dropped: int
    """Records that were not written, for want of room or for their size; gap records tell them."""
    flaws: dict[str, int]
    """What was wrong with what was given, by kind; the rest of each call was kept."""


class Writer:
    """One session's record log, written by the threads of one process.

    A child of fork that logs opens a session of its own, whose parent is this one.
    """

    def __init__(
        self,
        folders: Folders,
        meta: Meta,
        *,
        quota: Quota | None = None,
        flaws: Flaws | None = None,
        on_branch: Callable[[], None] | None = None,
    ) -> None:
        """Open a session: its folder, its lock, its first segment.

        Args:
            folders: where, as plaitwire.folders.resolve gives them.
            meta: what the stream is.
            quota: what it may take; the limits by default.
            flaws: where what is wrong with given values is counted and said.
            on_branch: called in a forked child that has opened a session of its own.

        Raises:
            UnusableFolder: the folder cannot take it, or this machine cannot write record logs.
        """
        if not can_write_here():
            raise UnusableFolder("record logs are little-endian, and this machine is not")
        self.flaws = flaws or Flaws()
        self.folders = folders
        self.meta = meta
        self._quota = quota or Quota()
        self._on_branch = on_branch
        self._is_forked = False
        self._is_closed = False
        self._deferred: deque[Entry] = deque()
        self._deferrals_dropped = 0
        self._deferrals_counted = 0
        self._new_lock()
        self._log = RecordLog(folders, meta.session, meta.to_json(), self._quota)
        _WRITERS.add(self)

    def _new_lock(self) -> None:
        self._lock = threading.RLock()
        # Whether the calling thread holds it; threading.Condition asks the same way.
        self._is_owned = cast(Callable[[], bool], self._lock._is_owned)  # type: ignore[attr-defined]

    def log(self, data: Mapping[str, Any], step: int | None = None) -> None:
        """Write a row of data's numbers, and an event for its values that are none.

        Never raises for a bad value: keeps what it can, counts, and says each kind of flaw once.

        Args:
            data: key to value; nested dicts are flattened with "/".
            step: None counts up from the session's last step, from 0.
        """
        values: array[float] | None = None
        row = b""
        try:
            log = self._log
            segment = log.segment
            keys = tuple(data)
            plan = segment.plan
            if keys != plan.keys:
                plan = segment.plans[keys]
            # Not struct: its errors hide a KeyboardInterrupt that strikes in a __float__.
            values = array("d", [*data.values()])
            if step is None:
                at = log.next_step
                row = plan.pack(plan.size, _ROW_AUTOMATIC, plan.schema, at, time_ns())
            elif step.__class__ is int and STEP_MIN <= step <= STEP_MAX:
                at = step
                row = plan.pack(plan.size, _ROW, plan.schema, at, time_ns())
            row += values.tobytes()
        except Exception:
            row = b""  # New keys, a value that is no number, no dict at all: in full below.
        done = False
        if row and not self._is_owned():
            try:
                with self._lock:
                    position = segment.position
                    end = position + plan.size
                    # Since then another thread may have rolled the segment, counted this step, or
                    # changed the dict between its keys and its values; earlier calls may wait.
                    if (
                        end <= segment.limit
                        and segment is log.segment
                        and (step is not None or at == log.next_step)
                        and len(row) == plan.size
                        and not self._deferred
                    ):
                        # As Segment.append does, and in this order for the same reasons.
                        segment.view[position:end] = row
                        log.next_step = at + 1
                        segment.position = end
                        segment.words[3] = end - 64
                        segment.plan = plan
                        done = True
            except BaseException as error:
                self._unwind()
                # A signal handler that forked within these lines: the child has no mapping.
                if not (self._is_forked and isinstance(error, ValueError)):
                    raise
        if not done:
            self._log_in_full(data, step, values)
        if self._deferred:
            self._drain()

    def _log_in_full(self, data: object, step: object, values: Sequence[float] | None) -> None:
        """What log() does for a call that is not like an earlier one.

        Args:
            data: as it was given.
            step: as it was given.
            values: of data, where they are converted already: doing it again would run the user's
                code twice.
        """
        try:
            number = checked_step(step, self.flaws)
            others: Mapping[str, Any] = {}
            if values is not None and len(keys := tuple(cast(dict[str, Any], data))) == len(values):
                rows: list[Row] = [(keys, values)]
            else:
                rows, others = separated(data, self.flaws)
            if rows or others:
                body = json_body(others) if others else None
                self._write(Entry(rows, Kind.EVENT, body, number, time_ns()))
        except Exception as error:
            self.flaws.note("internal", f"a call of log() failed and is not recorded: {error!r}")

    def record(self, kind: Kind, value: Any) -> bool:
        """Write a JSON record that has no step.

        Args:
            kind: CONFIG, SUMMARY, DEFINE_METRIC and such.
            value: what went through values.json_safe.

        Returns:
            Whether it was written; else it was dropped for want of room or for its size.
        """
        return self._write(Entry([], kind, json_body(value), NO_STEP, time_ns()))

    def finish(self, exit_code: int | None, state: str) -> None:
        """Write the session's last record. What is logged after it is refused and counted.

        Args:
            exit_code: the process's; None where nobody knows.
            state: finished, failed or crashed.
        """
        body = json_body({"exit_code": exit_code, "state": state, "by": "rank"})
        self._write(Entry([], Kind.FINISH, body, NO_STEP, time_ns()))

    def close(self) -> None:
        """Let go of the mapping and of the lock; the files stay. Safe twice, and after a fork."""
        with self._lock:
            if not (self._is_forked or self._is_closed):
                self._is_closed = True
                self._log.close()
        _WRITERS.discard(self)

    @property
    def end(self) -> int:
        """Stream offset behind the last record, in bytes."""
        return self._log.end

    @property
    def last_step(self) -> int | None:
        """The last step written; None where there was none."""
        return self._log.next_step - 1 if self._log.next_step else None

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the writer's process that has logged nothing yet."""
        return self._is_forked

    def lock_identity(self) -> tuple[int, int]:
        """Device and inode of the session's `alive`, for the agent's proof."""
        return self._log.files.lock_identity()

    def statistics(self) -> Statistics:
        """What was done so far."""
        return Statistics(self.end, self._log.files.status.dropped, self.flaws.counts)

    # Entries: what the fast path cannot do, and what comes from within it.

    def _write(self, entry: Entry) -> bool:
        if self._is_owned():
            return self._defer(entry)
        kept = False
        try:
            with self._lock:
                self._drain_held()
                kept = self._place(entry)
        except BaseException:
            self._unwind()
            raise
        self._say_drops()
        if self._deferred:
            self._drain()
        return kept

    def _place(self, entry: Entry) -> bool:
        """Under the lock: write one entry."""
        if self._log.is_finished:
            self._log.unsaid["finished"] = "the run is finished: what is logged now is not recorded"
            return False
        if self._is_forked and not self._branch():
            return False
        while self._deferrals_counted < self._deferrals_dropped:
            self._deferrals_counted += 1
            self._log.drop_reentrant()
        if entry.kind is Kind.FINISH:
            return self._log.finish(entry)
        return self._log.place(entry)

    def _defer(self, entry: Entry) -> bool:
        """A call from within a call of this very thread: the outer one writes it."""
        if len(self._deferred) >= REENTRANT_CALLS_MAX:
            self._deferrals_dropped += 1
            return False
        self._deferred.append(entry)
        return True

    def _drain(self) -> None:
        if self._is_owned():
            return  # The outer call will.
        try:
            with self._lock:
                self._drain_held()
        except BaseException:
            self._unwind()
            raise
        self._say_drops()

    def _drain_held(self) -> None:
        """Under the lock: write what waits, in its order, each once even if interrupted."""
        while self._deferred:
            self._log.begin()
            try:
                self._place(self._deferred[0])
            except BaseException:
                if self._log.was_placed():
                    self._deferred.popleft()
                raise
            self._deferred.popleft()

    def _unwind(self) -> None:
        """After an interruption of a call that was not within another: no lock is left held."""
        if self._is_owned():  # The interruption struck between two steps of `with`.
            self._lock.release()
        if self._deferred:
            self._drain()

    def _say_drops(self) -> None:
        """Say why records were dropped, now that no lock is held."""
        while self._log.unsaid:
            why, sentence = self._log.unsaid.popitem()
            self.flaws.note(why, sentence)

    # Fork.

    def _branch(self) -> bool:
        """In a child that logs, under the lock: a session of its own. False: there is no room."""
        meta = self.meta.branch()
        try:
            self._log = RecordLog(self.folders, meta.session, meta.to_json(), self._quota)
        except UnusableFolder as error:
            self._log.unsaid["branch"] = f"what this child logs is not recorded: {error}"
            return False
        self.meta = meta
        self._is_forked = False
        if self._on_branch is not None:
            self._on_branch()
        return True

    def _after_fork_in_child(self) -> None:
        self._new_lock()  # The old one may be held by a thread that is not here.
        self._deferred.clear()
        self._deferrals_dropped = self._deferrals_counted = 0
        if not self._is_closed:
            self._is_forked = True
            self._log.abandon()


_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_WRITERS):
        writer._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
