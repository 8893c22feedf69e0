"""Opening what a user's process has written: no link is followed, nobody else's file is read.

Promise: what `open_file` gives is a regular file of the expected owner with one name, reached
without following a symbolic link below the stream's parent folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_UNSAFE: Final = {
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: "it is no regular file",
    errno.EISDIR: "it is a folder",
    errno.ENOTDIR: "its folder is a symbolic link or no folder",
    errno.EACCES: "it may not be read",
    errno.EPERM: "it may not be read",
}


class Unsafe(Exception):
    """A file that is not what a writer makes: a link, somebody else's, with a second name."""


@contextmanager
def open_file(folder: Path, name: str, *, uid: int, writable: bool = False) -> Iterator[int]:
    """A descriptor of a stream's file, closed afterwards.

    Args:
        folder: the stream's.
        name: of the file in it.
        uid: who must own file and folder.
        writable: open it for writing, too.

    Raises:
        FileNotFoundError: there is no such file or folder.
        Unsafe: it is not to be read.
        OSError: it cannot be read now.
    """
    descriptor = _open(folder, name, uid, os.O_RDWR if writable else os.O_RDONLY)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unsafe("it is no regular file")
        if found.st_uid != uid:
            raise Unsafe(f"it belongs to user {found.st_uid} and not to user {uid}")
        if found.st_nlink > 1:
            raise Unsafe("it has a second name (a hard link)")
        if found.st_nlink == 0:  # Deleted between open and here.
            raise FileNotFoundError(errno.ENOENT, "deleted", str(folder / name))
        yield descriptor
    finally:
        os.close(descriptor)


def _open(folder: Path, name: str, uid: int, mode: int) -> int:
    try:
        parent = os.open(folder, _FOLDER_FLAGS)
        try:
            owner = os.fstat(parent).st_uid
            if owner != uid:
                raise Unsafe(f"its folder belongs to user {owner} and not to user {uid}")
            return os.open(name, mode | _FILE_FLAGS, dir_fd=parent)
        finally:
            os.close(parent)
    except OSError as error:
        if error.errno in _UNSAFE:
            raise Unsafe(_UNSAFE[error.errno]) from error
        raise


def read_file(folder: Path, name: str, *, uid: int, bytes_max: int) -> bytes:
    """Up to bytes_max + 1 bytes of a file, so that the caller sees one that is too large.

    Raises:
        FileNotFoundError, Unsafe, OSError: as open_file does.
    """
    with open_file(folder, name, uid=uid) as descriptor:
        return os.pread(descriptor, bytes_max + 1, 0)
