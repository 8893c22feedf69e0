"""Copying to disk what an outage keeps waiting, so that it survives a power loss.

Whoever follows the streams makes a Job (what to copy, as values); `carry_out` does the slow part,
on any thread, and shares nothing with it but files; the Outcome goes back. In this order:

1. meta.json is in cold, synced, before any segment is.
2. A segment that cold does not have: copied under a temporary name, synced, renamed for good.
   One that it has a part of: the rest is appended, then the commit word moves, then it is synced.
   One that the writer itself put in cold is synced where it is.
3. The mark (offset, CRC32C) is written down, synced.
4. Sealed segments leave memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from plait_agent.disk import Disk, make_folder, rename_new, write_file
from plait_agent.safe import Unsafe, open_file, read_file
from plait_agent.state import Mark
from plaitwire.folders import META, segment_name
from plaitwire.limits import META_BYTES_MAX, SEGMENT_HEADER_BYTES
from plaitwire.records import Damaged, pack_segment_header, unpack_segment_header

_COPY_BYTES: Final = 256 * 1024
_TRIES: Final = 3
"""A writer that moves its files to disk itself may do so between two of our calls."""


class _Short(Exception):
    """A segment's file is shorter than its commit word says."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment of a job."""

    base: int
    end: int
    """Stream offset up to which it is committed."""
    in_hot: bool
    sealed: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What of one stream is to reach the disk."""

    session: str
    hot: Path
    cold: Path
    pieces: tuple[Piece, ...]
    """In order, without holes from the first to the last."""
    mark: Mark | None
    """What is there already."""
    cold_bytes_max: int
    """What may still be written to cold."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What of a job was done."""

    session: str
    mark: Mark | None
    freed: tuple[int, ...]
    """The bases of segments that memory does not hold any more."""
    written_bytes: int
    error: str
    """Why the rest was not done; empty where all was."""


def carry_out(job: Job, *, uid: int, disk: Disk, note: Callable[[Mark], None]) -> Outcome:
    """Do a job. What fails is said in the outcome, and stays in memory.

    Args:
        job: what to do.
        uid: who owns the files.
        disk: what syncs.
        note: writes a mark down, synced.
    """
    mark, written, error = job.mark, 0, ""
    done: list[Piece] = []
    try:
        make_folder(job.cold, disk=disk)
        _copy_meta(job, uid=uid, disk=disk)
        for piece in job.pieces:
            start = mark.offset if mark is not None and mark.base == piece.base else piece.base
            if piece.in_hot and written + piece.end - start > job.cold_bytes_max:
                error = "the disk is at the limit of what may be used of it"
                break
            try:
                synced = _sync_piece(job, piece, mark, uid=uid, disk=disk)
            except (Unsafe, _Short) as flaw:  # It will be told as a gap; the others go on.
                error = str(flaw)
                continue
            if mark is None or synced.offset >= mark.offset:
                mark = synced
            written += piece.end - start if piece.in_hot else 0
            done.append(piece)
    except (OSError, Unsafe) as failure:
        error = str(failure) or repr(failure)
    freed: tuple[int, ...] = ()
    try:
        if mark is not None and mark != job.mark:
            note(mark)
        freed = _free(job, done)
    except OSError as failure:
        mark, error = job.mark, error or str(failure)
    return Outcome(job.session, mark, freed, written, error)


def _copy_meta(job: Job, *, uid: int, disk: Disk) -> None:
    if not (job.cold / META).exists():
        data = read_file(job.hot, META, uid=uid, bytes_max=META_BYTES_MAX)
        write_file(job.cold / META, data, disk=disk)


def _sync_piece(job: Job, piece: Piece, mark: Mark | None, *, uid: int, disk: Disk) -> Mark:
    """The mark after the piece's bytes are in cold for good."""
    name = segment_name(piece.base)
    known = (
        mark if mark is not None and mark.base == piece.base else Mark(piece.base, piece.base, 0)
    )
    if known.offset >= piece.end and known is mark and not piece.in_hot:
        return known
    folder = job.hot if piece.in_hot else job.cold
    try:
        with open_file(folder, name, uid=uid) as source:
            return _sync_from(source, job, piece, known, uid=uid, disk=disk)
    except FileNotFoundError:
        if not piece.in_hot:
            raise
    # The writer, or another life of ours, moved it to cold meanwhile.
    with open_file(job.cold, name, uid=uid) as source:
        return _sync_from(source, job, piece, known, uid=uid, disk=disk, copy=False)


def _sync_from(
    source: int, job: Job, piece: Piece, known: Mark, *, uid: int, disk: Disk, copy: bool = True
) -> Mark:
    target = job.cold / segment_name(piece.base)
    if not (copy and piece.in_hot):
        return _sync_in_place(source, target, piece, known, disk=disk)
    for _ in range(_TRIES):
        try:
            with open_file(job.cold, target.name, uid=uid, writable=True) as descriptor:
                return _append(source, descriptor, target, piece, known, disk=disk)
        except FileNotFoundError:
            mark = _copy_new(source, target, piece, disk=disk)
            if mark is not None:
                return mark
    raise OSError(f"{target} comes and goes")


def _sync_in_place(source: int, target: Path, piece: Piece, known: Mark, *, disk: Disk) -> Mark:
    crc = known.crc32c
    for data in _bytes_of(source, piece.base, known.offset, piece.end):
        crc = google_crc32c.extend(crc, data)
    disk.sync_file(source, target)
    disk.sync_folder(target.parent)
    return Mark(piece.base, piece.end, crc)


def _append(
    source: int, descriptor: int, target: Path, piece: Piece, known: Mark, *, disk: Disk
) -> Mark:
    held = _held(descriptor, piece.base)
    if held >= piece.end:  # All there, or more: its writer has moved it. Never cut it back.
        if known.offset >= piece.end:
            return known
        return _sync_in_place(descriptor, target, piece, known, disk=disk)
    if held < known.offset:
        known = Mark(piece.base, piece.base, 0)
    # What it holds beyond the mark was not synced, or by another life of ours: written again.
    crc, at = known.crc32c, known.offset
    for data in _bytes_of(source, piece.base, known.offset, piece.end):
        crc = google_crc32c.extend(crc, data)
        _write_at(descriptor, data, SEGMENT_HEADER_BYTES + at - piece.base)
        at += len(data)
    _write_at(descriptor, pack_segment_header(piece.base, piece.end - piece.base), 0)
    disk.sync_file(descriptor, target)
    return Mark(piece.base, piece.end, crc)


def _copy_new(source: int, target: Path, piece: Piece, *, disk: Disk) -> Mark | None:
    """Copy what cold does not have; None: its writer was there first."""
    temporary = target.with_name(f".{target.name}.spill")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        _write_at(descriptor, pack_segment_header(piece.base, piece.end - piece.base), 0)
        crc, at = 0, SEGMENT_HEADER_BYTES
        for data in _bytes_of(source, piece.base, piece.base, piece.end):
            crc = google_crc32c.extend(crc, data)
            _write_at(descriptor, data, at)
            at += len(data)
        disk.sync_file(descriptor, temporary)
    finally:
        os.close(descriptor)
    if not rename_new(temporary, target):
        os.unlink(temporary)
        return None
    disk.sync_folder(target.parent)
    return Mark(piece.base, piece.end, crc)


def _held(descriptor: int, base: int) -> int:
    """Stream offset up to which a copy has the segment; its base where it is no good."""
    try:
        named, committed = unpack_segment_header(os.pread(descriptor, SEGMENT_HEADER_BYTES, 0))
    except Damaged:
        return base
    return base + committed if named == base else base


def _bytes_of(descriptor: int, base: int, offset: int, end: int) -> list[bytes]:
    pieces = []
    while offset < end:
        size = min(_COPY_BYTES, end - offset)
        data = os.pread(descriptor, size, SEGMENT_HEADER_BYTES + offset - base)
        if len(data) < size:
            raise _Short(f"the segment of base {base} ends before its offset {end}")
        pieces.append(data)
        offset += size
    return pieces


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, at)
        view, at = view[count:], at + count


def _free(job: Job, done: list[Piece]) -> tuple[int, ...]:
    freed = []
    for piece in done:
        if piece.in_hot and piece.sealed:
            with suppress(FileNotFoundError):
                os.unlink(job.hot / segment_name(piece.base))
            freed.append(piece.base)
    return tuple(freed)


def trusted_end(cold: Path, mark: Mark | None, *, uid: int) -> int:
    """Up to where the cold bytes of a stream of another boot are believed.

    Where the last segment is not what the mark says, the segments before it still are: each was
    synced whole before a later one was begun.

    Args:
        cold: the stream's folder on disk.
        mark: what was written down.
        uid: who owns the files.
    """
    if mark is None:
        return 0
    crc = 0
    try:
        with open_file(cold, segment_name(mark.base), uid=uid) as descriptor:
            for data in _bytes_of(descriptor, mark.base, mark.base, mark.offset):
                crc = google_crc32c.extend(crc, data)
    except (OSError, Unsafe, _Short):
        return mark.base
    return mark.offset if crc == mark.crc32c else mark.base
