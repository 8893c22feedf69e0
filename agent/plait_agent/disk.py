"""The one door to what survives a power loss: every sync of the agent goes through a Disk.

Promise: what `sync_file` has returned for is on the disk; so is a name, once its folder is.
A simulator gives a Disk of its own and so knows what a power loss would leave.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_RENAMEAT2: Final = ctypes.CDLL(None, use_errno=True).renameat2
_AT_FDCWD: Final = -100
_NOREPLACE: Final = 1


class Disk:
    """The real disk."""

    def sync_file(self, descriptor: int, path: Path) -> None:
        """Return once the file's bytes are on the disk.

        Args:
            descriptor: the open file.
            path: its name, for who watches.
        """
        os.fsync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Return once the names in folder are on the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename_synced(self, source: Path, target: Path) -> None:
        """Give source the name target, for good. The file itself must have been synced before."""
        os.rename(source, target)
        self.sync_folder(target.parent)


DISK: Final = Disk()


def write_file(path: Path, data: bytes, *, disk: Disk | None) -> None:
    """Put data under path: all of it or, should anything fail, what was there before.

    Args:
        path: of the file; its folder exists.
        data: the content.
        disk: syncs file and name; None where surviving the death of this process is enough.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if disk is not None:
            disk.sync_file(descriptor, temporary)
    finally:
        os.close(descriptor)
    if disk is None:
        os.rename(temporary, path)
    else:
        disk.rename_synced(temporary, path)


def rename_new(source: Path, target: Path) -> bool:
    """Give source the name target, unless that is taken.

    Returns:
        Whether it was free.
    """
    code = _RENAMEAT2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _NOREPLACE)
    if code == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number not in (errno.EINVAL, errno.ENOSYS):  # An old file system may not know the flag.
        raise OSError(number, os.strerror(number), str(target))
    if target.exists():
        return False
    os.rename(source, target)
    return True


def make_folder(path: Path, *, disk: Disk) -> None:
    """Make path, and its parents, 0700 each, so that they survive a power loss."""
    if path.is_dir():
        return
    make_folder(path.parent, disk=disk)
    path.mkdir(mode=0o700, exist_ok=True)
    disk.sync_folder(path.parent)
