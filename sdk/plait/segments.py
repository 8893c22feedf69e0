"""The files of one stream while its writer lives: its folder, its segments, its status page.

A stream becomes visible at once: meta.json, the status page and the lock on `alive` are made in a
folder with another name, which is then renamed. A segment, too, is renamed into place with its
header written and all of its bytes allocated, so a full file system is an error here and never a
SIGBUS later.

Invariant: a segment's base is the former segment's base plus what that one has committed.
Invariant: nothing else in this process opens `alive`: closing any descriptor of it drops the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plait.quota import Quota
from plaitwire.folders import (
    ALIVE,
    META,
    STATUS,
    STATUS_BYTES,
    STATUS_DROPPED_AT,
    STATUS_FIRST_AT,
    STATUS_REASON_AT,
    STATUS_REPORTED_AT,
    DropStatus,
    Folders,
    UnusableFolder,
    pack_status,
    segment_name,
)
from plaitwire.limits import SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES
from plaitwire.records import COMMIT_AT, ROW_HEADER, pack_segment_header

PAGE_BYTES: Final = 4096
REASON_QUOTA: Final = 5
"""GAP_REASON_QUOTA of proto/plaitwire/v1/ingest.proto, which a rank cannot import."""
_COMMIT_WORD: Final = COMMIT_AT // 8
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Plan:
    """How rows with certain keys are packed into a certain segment."""

    __slots__ = ("keys", "pack", "schema", "size")

    def __init__(self, keys: tuple[str, ...], schema: int) -> None:
        self.keys = keys
        self.schema = schema
        self.pack: Callable[..., bytes] = ROW_HEADER.pack
        """Size, kind, schema, step, time to a row's header; its values follow."""
        self.size = ROW_HEADER.size + 8 * len(keys)


class _NoPlan(Plan):
    """Stands where no row was written yet: its keys equal no keys."""

    def __init__(self) -> None:
        super().__init__((), 0)
        self.keys = (object(),)  # type: ignore[assignment]


NO_PLAN: Final = _NoPlan()


class Segment:
    """A mapped segment file, written by one process under its writer's lock.

    Invariant: committed + SEGMENT_HEADER_BYTES <= position <= limit. What stands between is whole
    records whose commit was interrupted; the next commit covers them.
    """

    __slots__ = (
        "_map", "base", "limit", "path", "plan", "plans", "position", "schemas", "size", "view",
        "words",
    )  # fmt: skip

    def __init__(self, path: Path, base: int, mapped: mmap.mmap) -> None:
        self._map = mapped
        self.path = path
        self.base = base
        self.size = len(mapped)
        self.limit = self.size
        """Where records must end. The writer lowers it when nothing more may go in here."""
        self.view = memoryview(mapped)
        self.words = self.view.cast("Q")
        self.position = SEGMENT_HEADER_BYTES
        """Where the next record begins, in bytes from the file's start. It never moves back."""
        self.plan: Plan = NO_PLAN
        """The last one used."""
        self.plans: dict[tuple[str, ...], Plan] = {}
        self.schemas = 0
        """Schema ids used up."""

    @classmethod
    def create(cls, folder: Path, base: int, size: int, *, populate: bool) -> Segment:
        """Make a segment, allocated and with its header, and map it.

        Args:
            folder: the stream's.
            base: stream offset of its first record byte.
            size: of the file, in bytes.
            populate: touch its pages now, so that log() does not; for memory, not for disks.

        Raises:
            OSError: there is no room, or the folder cannot be written.
        """
        path = folder / segment_name(base)
        _allocate(path, size, pack_segment_header(base))
        return cls.map(path, base, populate=populate)

    @classmethod
    def map(cls, path: Path, base: int, *, populate: bool) -> Segment:
        """Map a segment that nothing was written into yet.

        Raises:
            OSError: it cannot be opened or mapped.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0)
            return cls(path, base, mmap.mmap(descriptor, os.fstat(descriptor).st_size, flags))
        finally:
            os.close(descriptor)

    @property
    def end(self) -> int:
        """Stream offset behind the last whole record."""
        return self.base + self.position - SEGMENT_HEADER_BYTES

    def append(self, record: bytes) -> None:
        """Write whole records and commit them. The caller has made sure that they fit."""
        position = self.position
        end = position + len(record)
        assert end <= self.limit
        self.view[position:end] = record
        # The position first: interrupted here, the next commit covers these records too. Were the
        # commit word first, the next record would be written over committed bytes.
        self.position = end
        self.words[_COMMIT_WORD] = end - SEGMENT_HEADER_BYTES

    def commit(self) -> None:
        """Cover every whole record."""
        self.words[_COMMIT_WORD] = self.position - SEGMENT_HEADER_BYTES

    def release(self) -> None:
        """Let go of the memory. Whoever still holds the views cannot write through them."""
        self.limit = 0
        self.words.release()
        self.view.release()
        self._map.close()

    def close(self) -> None:
        """Give back the pages that no record took, and let go of the memory."""
        used = self.position
        self.release()
        if self.size - used >= PAGE_BYTES:
            with contextlib.suppress(OSError):  # Acknowledged and deleted already.
                os.truncate(self.path, used)


def _allocate(path: Path, size: int, beginning: bytes) -> None:
    """Make a file of a size, all of it allocated, and rename it into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, _CREATE, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        os.pwrite(descriptor, beginning, 0)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


class StatusPage:
    """The mapped page that says what was dropped. It is bumped before a record is dropped."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(descriptor, STATUS_BYTES, mmap.MAP_SHARED)
        finally:
            os.close(descriptor)
        self._view = memoryview(self._map)
        self._words = self._view.cast("Q")
        self._halves = self._view.cast("I")
        self.dropped = 0
        self.reported = 0

    def drop(self, offset: int, reason: int = REASON_QUOTA) -> None:
        """Count a record that is dropped now, where the stream's offset is such."""
        if self.dropped == self.reported:
            self._words[STATUS_FIRST_AT // 8] = offset
        self._halves[STATUS_REASON_AT // 4] = reason
        self.dropped += 1
        self._words[STATUS_DROPPED_AT // 8] = self.dropped

    def told(self, total: int) -> None:
        """A committed gap record tells the first total drops."""
        self.reported = total
        self._words[STATUS_REPORTED_AT // 8] = total

    @property
    def untold(self) -> int:
        """Drops that no gap record tells yet."""
        return self.dropped - self.reported

    def release(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._halves.release()
        self._view.release()
        self._map.close()


class StreamFiles:
    """The folder of one session in hot, its overflow in cold, and the lock of its writer."""

    def __init__(self, folders: Folders, session: str, meta: bytes, quota: Quota) -> None:
        """Make the stream visible, with its lock held.

        Raises:
            UnusableFolder: it cannot be made, for want of room or of permission.
        """
        self.hot = folders.hot_stream(session)
        self.cold = folders.cold_stream(session)
        self._meta = meta
        self._quota = quota
        self._folders = folders
        making = self.hot.with_name(f".{session}.tmp")
        try:
            making.mkdir(mode=0o700, parents=True)
            write_whole(making / META, meta)
            _allocate(making / STATUS, STATUS_BYTES, pack_status(DropStatus(0, 0, 0, 0)))
            self.status = StatusPage(making / STATUS)
            self._alive = os.open(making / ALIVE, _CREATE, 0o600)
            fcntl.lockf(self._alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(making, self.hot)
        except OSError as error:
            raise UnusableFolder(
                f"{folders.hot} cannot take a record log: {error.strerror or error}; make room "
                "there or set PLAIT_HOT_DIR"
            ) from error

    def lock_identity(self) -> tuple[int, int]:
        """Device and inode of `alive`, by which an agent proves that it sees the same file."""
        found = os.fstat(self._alive)
        return found.st_dev, found.st_ino

    def create(self, base: int, size: int, needed: int, *, urgent: bool) -> Segment | None:
        """The stream's next segment: in hot, else in cold; None where neither has room.

        Args:
            base: stream offset of its first record byte.
            size: of the file at best, in bytes.
            needed: the least it must have, in bytes.
            urgent: take a small one past the quotas: the stream's last word.
        """
        if (interrupted := self._interrupted(base, needed)) is not None:
            return interrupted
        for hot in (True, False):
            with contextlib.suppress(OSError):
                left = self._left(hot=hot)
                size_here = min(size, left - left % PAGE_BYTES)
                if size_here >= max(needed, min(size, SEGMENT_BYTES_MIN)):
                    return self._create(base, size_here, hot=hot)
        if urgent:
            for hot in (True, False):
                with contextlib.suppress(OSError):
                    return self._create(base, -(-needed // PAGE_BYTES) * PAGE_BYTES, hot=hot)
        return None

    def _interrupted(self, base: int, needed: int) -> Segment | None:
        """The segment that an interrupted call made and did not come to use.

        Were another made beside it, in the other folder, readers would take the empty one.
        """
        for folder in (self.hot, self.cold):
            path = folder / segment_name(base)
            with contextlib.suppress(OSError):
                if os.stat(path).st_size >= needed:
                    return Segment.map(path, base, populate=folder is self.hot)
                os.unlink(path)
        return None

    def _left(self, *, hot: bool) -> int:
        if hot:
            return self._quota.hot_bytes_left(self._folders.hot)
        return self._quota.cold_bytes_left(self._folders.cold, self.cold)

    def _create(self, base: int, size: int, *, hot: bool) -> Segment:
        if hot:
            return Segment.create(self.hot, base, size, populate=True)
        self.cold.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.cold / META).exists():  # It tells what the segments beside it are.
            write_whole(self.cold / META, self._meta)
        return Segment.create(self.cold, base, size, populate=False)

    def release(self) -> None:
        """Let go of the status page and of the lock: the writer is gone, its files stay."""
        self.status.release()
        os.close(self._alive)


def write_whole(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write a file that is there whole or not at all.

    Args:
        path: where; what is there is replaced.
        data: all of it.
        sync: have it on the disk before it is there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, _CREATE, 0o600)
    try:
        left = memoryview(data)
        while left:
            written = os.write(descriptor, left)
            if written == 0:
                raise OSError(errno.ENOSPC, "no room left")
            left = left[written:]
        if sync:
            os.fsync(descriptor)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
