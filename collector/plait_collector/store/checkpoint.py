"""Folding the write-ahead log back into the file, beside the commits.

Left to itself SQLite does it within a commit, which then takes as long as many others. Here a
connection of its own does most of it while commits go on; what is left when the log has grown to
its limit is little, and only then can the log begin anew.

Rule: it can fail and nothing is lost: what is in the log is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Final

import aiosqlite

from plait_collector.store.connection import FOLDING, connect
from plaitwire.limits import MIB

log = logging.getLogger(__name__)

EVERY_BYTES: Final = 16 * MIB
"""Payload written between two checkpoints."""


class Checkpoints:
    """Checkpoints of one file, one at a time."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the file; it is opened at the first checkpoint.
        """
        self._path = path
        self._connection: aiosqlite.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._since = 0

    def written(self, size: int) -> None:
        """Bytes more were committed; begins a checkpoint when there are enough. Never waits."""
        self._since += size
        if self._since >= EVERY_BYTES and (self._task is None or self._task.done()):
            self._since = 0
            # A task in no group: close() is what waits for it.
            self._task = asyncio.get_running_loop().create_task(self._fold(), name="checkpoint")

    async def close(self) -> None:
        """Wait for what is under way, and let go of the file. Safe to call twice."""
        if self._task is not None:
            await self._task
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _fold(self) -> None:
        try:
            if self._connection is None:
                self._connection = await connect(self._path, FOLDING)
            await self._connection.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            log.warning("the log is not folded back yet: error=%r", str(error))
