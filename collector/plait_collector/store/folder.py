"""The folder a collector keeps its data in: one collector at a time, and no network below it.

Invariant: while a Folder is held, this process alone holds the lock on its lock file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from plait_collector.store import StoreUnusable
from plaitwire.folders import NETWORK_FILESYSTEMS, filesystem_type


class Folder:
    """A data folder, held for this process until it is let go."""

    def __init__(self, path: Path) -> None:
        """Make the folder if it is not there, and hold it.

        Raises:
            StoreUnusable: it cannot be written, another collector uses it, or it is on a network
                file system.
        """
        self.path = path
        self._lock: int | None = None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            kind = filesystem_type(path.resolve())
            if kind in NETWORK_FILESYSTEMS:
                raise StoreUnusable(
                    f"{path} is on a network file system ({kind}), which cannot hold the data of a "
                    f"collector; give it a folder on a local disk with --data"
                )
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreUnusable(f"{path} is no folder; give one with --data") from error
        except OSError as error:
            raise StoreUnusable(f"{path} cannot hold the data: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise StoreUnusable(
                f"{path} is in use by another collector (process {holder})"
            ) from None
        with contextlib.suppress(OSError):  # Only for people; the disk may be full.
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def let_go(self) -> None:
        """Let another collector use the folder. Safe to call twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
