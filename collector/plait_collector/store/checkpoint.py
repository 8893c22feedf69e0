"""Folding the write-ahead log back into the file, when there is time for it.

Left to itself SQLite does it within a commit, which then takes as long as many others; and it
writes everything a second time just when everything is being written. So a connection of its own
does it: at once when nobody writes for a moment, and beside the commits when the log has grown
large all the same. A backlog that comes in after an outage is then written once while it comes, and
folded back after it.

Rule: it can fail and nothing is lost: what is in the log is on disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Final

import aiosqlite

from plait_collector.store.connection import FOLDING, LOG_BYTES_MAX, connect

log = logging.getLogger(__name__)

QUIET_S: Final = 0.25
"""Without a commit for this long, there is time."""
LARGE_BYTES: Final = LOG_BYTES_MAX // 2
"""Payload in the log that is folded back even while commits go on."""


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
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_at_s = 0.0
        self._since = 0
        self._closed = False

    def written(self, size: int) -> None:
        """A commit was made, of so many bytes. Never waits."""
        loop = asyncio.get_running_loop()
        self._since += size
        self._quiet_at_s = loop.time() + QUIET_S
        if self._since >= LARGE_BYTES:
            self._begin(loop)
        elif self._timer is None and not self._closed:
            self._timer = loop.call_at(self._quiet_at_s, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a checkpoint if it is quiet now; else look again when it may be."""
        self._timer = None
        if loop.time() < self._quiet_at_s:
            self._timer = loop.call_at(self._quiet_at_s, self._look, loop)
        else:
            self._begin(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed or (self._task is not None and not self._task.done()):
            return
        self._since = 0
        # A task in no group: close() is what waits for it.
        self._task = loop.create_task(self._fold(), name="checkpoint")

    async def close(self) -> None:
        """Wait for what is under way, and let go of the file. Safe to call twice."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
