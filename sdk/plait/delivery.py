"""The end of a run: wait for the agent, and where there is none, leave the stream safe on disk.

What an agent that outlives this process has not delivered yet stays where it is. Else it moves from
memory to disk: meta.json first, then each segment, synced and renamed into place, and only then is
it gone from memory. Whoever looks at any moment finds each byte in one place at least.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from plait import control
from plait.values import say
from plait.writer import Writer
from plaitwire.folders import (
    ALIVE,
    META,
    STATUS,
    UnusableFolder,
    make_private,
    segment_base,
)

PROGRESS_AFTER_S: Final = 1.0
"""How long finish() waits before it shows that it does."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a run's end went."""

    is_delivered: bool
    """Whether the collector has all of it on disk."""
    bytes_left: int
    """What it has not."""
    where: Path | None
    """The folder that holds the rest; None where nothing is left, or the agent holds it."""
    refused: str = ""
    """Why the collector will never take the rest; empty: it may."""


def deliver(
    writer: Writer, *, collector: str | None, directory: Path | None, timeout_s: float
) -> Delivery:
    """See a finished stream off: to the collector, by the agent, or to disk.

    Args:
        writer: its finish record is written. It is closed here.
        collector: where it should go, HOST:PORT; None leaves that to the agent.
        directory: where it is put when no agent is there; None: the cold folder.
        timeout_s: how long to wait for the collector, in seconds.

    Raises:
        OSError: it could not be moved to disk; what was not stays in memory.
    """
    session, folders, end = writer.meta.session, writer.folders, writer.end
    started_s = monotonic()
    opened = control.open_stream(
        folders,
        session,
        writer.lock_identity(),
        collector,
        timeout_s=min(control.OPEN_TIMEOUT_S, max(timeout_s, 0.05)),
    )
    acked = 0
    if opened.is_accepted:
        shown = _ProgressLine(f"{writer.meta.project}/{writer.meta.run}")
        left_s = max(0.0, timeout_s - (monotonic() - started_s))
        known = control.wait_acknowledged(
            folders, session, end, timeout_s=left_s, on_progress=shown.show
        )
        shown.end()
        acked = known.acked
        if known.is_done:
            writer.close()
            return Delivery(True, 0, None)
        if opened.outlives or known.refused:
            writer.close()
            return Delivery(False, max(0, end - acked), None, known.refused)
    root = folders.cold if directory is None else directory
    try:
        if directory is not None:
            make_private(directory, os.geteuid(), "dir=")
        where = move_to_disk(writer, root)
    except UnusableFolder as error:  # It was good when the run began.
        say(f"{error}: it goes to {folders.cold}")
        where = move_to_disk(writer, folders.cold)
    finally:
        writer.close()
    return Delivery(False, max(0, end - acked), where)


def move_to_disk(writer: Writer, root: Path) -> Path:
    """Move a stream's files from memory, and its overflow, into a folder on disk.

    Args:
        writer: of the stream. Nothing may be written any more.
        root: its streams folder takes the stream.

    Returns:
        The stream's folder there.

    Raises:
        OSError: a file could not be written or synced. It is still where it was.
    """
    session, folders = writer.meta.session, writer.folders
    target = root / "streams" / session
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    sources = [folders.hot_stream(session)]
    if folders.cold_stream(session) != target:
        sources.insert(0, folders.cold_stream(session))
    _copy(sources[-1] / META, target / META)
    for source in sources:
        for segment in _segments(source):
            _move(segment, target / segment.name)
    with contextlib.suppress(FileNotFoundError):
        _copy(sources[-1] / STATUS, target / STATUS)
    _sync_folder(target)
    _sync_folder(target.parent)
    for source in sources:
        # meta.json last: it tells what the rest is.
        for name in (STATUS, ALIVE, META):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(source / name)
        with contextlib.suppress(OSError):  # Something of the agent's is in it.
            os.rmdir(source)
    return target


def _segments(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if segment_base(path.name) is not None)
    except FileNotFoundError:
        return []


def _move(source: Path, target: Path) -> None:
    """Move a file to another file system. One that the agent has deleted meanwhile is delivered."""
    try:
        _copy(source, target)
    except FileNotFoundError:
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(source)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with open(source, "rb") as reading, open(temporary, "wb") as writing:
            os.fchmod(writing.fileno(), 0o600)
            shutil.copyfileobj(reading, writing, 1024 * 1024)
            writing.flush()
            os.fsync(writing.fileno())
        os.rename(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:  # Some network file systems cannot; what they can, they did.
        return
    finally:
        os.close(descriptor)


class _ProgressLine:
    """One line on a terminal that says how far delivery is, after a while of silence."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._since_s = monotonic()
        self._shown = False

    def show(self, progress: control.Progress) -> None:
        """Show progress, if it is time to and there is a terminal."""
        if progress.is_done or monotonic() - self._since_s < PROGRESS_AFTER_S:
            return
        try:
            if not sys.stderr.isatty():
                return
            state = "delivering" if progress.is_connected else "the collector is away, waiting"
            sys.stderr.write(
                f"\rplait: {self._run}: {state}, {progress.acked} of {progress.end} bytes "
            )
            sys.stderr.flush()
            self._shown = True
        except Exception:
            return

    def end(self) -> None:
        """Leave the line behind."""
        if self._shown:
            say("…")
