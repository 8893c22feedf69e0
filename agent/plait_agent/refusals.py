"""What a collector refuses for good, set aside in cold/refused/: capped, so that it fills no disk.

Invariant: the files there take at most `bytes_max`; what came beyond it is deleted and counted.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plait_agent.finding import Limbo
from plait_agent.safe import Unsafe, open_file

log = logging.getLogger(__name__)

REFUSED_BYTES_MAX: Final = 64 * 1024 * 1024
_FILE_BYTES_MAX: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RefusalStatistics:
    """What was set aside."""

    streams: int
    """Refused by this agent, in its life."""
    kept_bytes: int
    """In refused/ now."""
    discarded_bytes: int
    """Deleted by this agent because the place was full."""


class Refusals:
    """The refused/ folder."""

    def __init__(self, cold: Path, *, uid: int, bytes_max: int = REFUSED_BYTES_MAX) -> None:
        """
        Args:
            cold: the root on disk.
            uid: who must own what is moved.
            bytes_max: what may be kept.
        """
        self._folder = cold / "refused"
        self._uid = uid
        self._bytes_max = bytes_max
        self._kept = sum(path.stat().st_size for path in self._folder.glob("*/*"))
        self._streams = 0
        self._discarded = 0

    def count(self) -> None:
        """One more stream is refused."""
        self._streams += 1

    def take(self, session: str, folder: Path, names: list[str]) -> None:
        """Move these files of a stream here, or delete them where there is no room.

        Args:
            session: of the stream.
            folder: where they are.
            names: of files in it.
        """
        for name in names:
            with suppress(FileNotFoundError):
                self._take_one(self._folder / session, folder, name)

    def take_all(self, session: str, folders: tuple[Path, ...]) -> None:
        """Move all files of a stream here, or delete them where there is no room."""
        for folder in folders:
            with suppress(OSError):
                self.take(session, folder, sorted(os.listdir(folder)))

    def turn_away(self, session: str, why: Limbo | str, folders: tuple[Path, ...]) -> bool:
        """Remove folders that are no stream; those that claim to be one are taken here.

        Args:
            session: what they are called.
            why: Limbo where they make no claim; a text: what is wrong with it.
            folders: the hot and the cold one.

        Returns:
            Whether all are gone.
        """
        if isinstance(why, Limbo):
            log.warning("a folder that never became a stream is removed: session=%s", session)
        else:
            log.error("a stream is refused: session=%s reason=%s", session, why)
            self.count()
            self.take_all(session, folders)
        return remove_folders(folders)

    def _take_one(self, target: Path, folder: Path, name: str) -> None:
        try:
            with open_file(folder, name, uid=self._uid) as descriptor:
                size = os.fstat(descriptor).st_size
                if size <= _FILE_BYTES_MAX and self._kept + size <= self._bytes_max:
                    target.mkdir(parents=True, exist_ok=True, mode=0o700)
                    (target / name).write_bytes(os.pread(descriptor, size, 0))
                    self._kept += size
                else:
                    self._discarded += size
        except (Unsafe, IsADirectoryError):
            return  # Whoever removes the folder removes it.
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            log.warning("a refused file is not kept: path=%s error=%s", folder / name, error)
        os.unlink(folder / name)

    def statistics(self) -> RefusalStatistics:
        """What was set aside."""
        return RefusalStatistics(self._streams, self._kept, self._discarded)


def remove_folders(folders: tuple[Path, ...]) -> bool:
    """Remove a stream's folders and what is in them; a symbolic link is left alone.

    Returns:
        Whether all are gone.
    """
    gone = True
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.error("a folder cannot be removed: path=%s error=%s", folder, error)
            gone = False
    return gone
