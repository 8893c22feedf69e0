"""Whether a stream's writer lives, and what it could not write: its lock and its status page.

A writer holds a POSIX record lock on `alive` for its life; the kernel lets go at its death.
Rule: never open a lock file that this very process holds. Closing any descriptor of it would drop
the lock, so streams of our own are known by name and not tested.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from plaitwire.folders import STATUS_PAGE, DropStatus, unpack_status

_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""


def lock_held(path: Path) -> bool:
    """Whether another process holds the lock on the file at path. No file: nobody does.

    Args:
        path: a stream's `alive`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
    finally:
        os.close(descriptor)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def read_drops(path: Path) -> DropStatus | None:
    """The status page at path. None: there is none, or it is not well formed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return unpack_status(os.pread(descriptor, STATUS_PAGE.size, 0))
    except OSError:
        return None
    finally:
        os.close(descriptor)
