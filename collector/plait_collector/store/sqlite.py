"""The store in one SQLite file: WAL, synced at every commit.

    <data>/plait.sqlite3    all of it (schema.sql), with its -wal and -shm beside it
    <data>/lock             held for the life of the store

Three connections, each with a thread of its own: one writes (writing.py), one reads and cannot
write, one folds the write-ahead log back (checkpoint.py); the last two are aiosqlite's.

Rule: a commit that has begun ends, committed or rolled back, before the next one begins and before
      its caller learns of a cancellation.
Rule: reads page by what they have seen; no read stays open between two awaits, so that the
      write-ahead log can always be folded back into the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import aiosqlite

from plait_collector.store import (
    Append,
    Change,
    Chunk,
    GapRow,
    LiftedRow,
    Outcome,
    Schema,
    StoreUnavailable,
    StoreUnusable,
    StreamRow,
)
from plait_collector.store import statements as sql
from plait_collector.store.checkpoint import Checkpoints
from plait_collector.store.connection import READING, connect, to_its_end
from plait_collector.store.folder import Folder
from plait_collector.store.statements import Row
from plait_collector.store.writing import Writing

FILE: Final = "plait.sqlite3"
CHUNK_ROWS_MAX: Final = 1024
CHUNK_BYTES_AIM: Final = 4 * 1024 * 1024
"""What one read of chunks aims at, from the sizes of those before."""

P = ParamSpec("P")
T = TypeVar("T")


class SqliteStore:
    """Keeps streams in one SQLite file. See plait_collector.store.Store for what it promises."""

    def __init__(self, folder: Folder) -> None:
        """Use SqliteStore.open."""
        self._folder = folder
        self._path = folder.path / FILE
        self._store_id = ""
        self._writing = Writing(self._path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store writes")
        self._read: aiosqlite.Connection | None = None
        self._checkpoints = Checkpoints(self._path)
        self._closed = False

    @classmethod
    async def open(cls, data: Path) -> SqliteStore:
        """The store in a folder, made if it is not there.

        Raises:
            StoreUnusable: the folder or its file cannot be used, and the message says why.
        """
        store = cls(Folder(data))
        try:
            store._store_id = await store._on_thread(store._writing.open)
            store._read = await connect(store._path, READING)
        except sqlite3.Error as error:
            await store.close()
            raise StoreUnusable(f"{store._path} cannot be used: {error}") from error
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def store_id(self) -> str:
        """The store's identity: made at random with it."""
        return self._store_id

    async def commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Carry out changes in order, in one transaction; on return they are on disk.

        A caller that is cancelled here waits until the transaction has ended, one way or the other.

        Raises:
            StoreUnavailable: nothing was changed; the same call may succeed later.
        """
        outcomes = await self._on_thread(self._writing.commit, changes)
        self._checkpoints.written(sum(len(c.payload) for c in changes if isinstance(c, Append)))
        return outcomes

    async def _on_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What work gives, done on the writing thread, and done when a cancellation goes on."""
        future = asyncio.get_running_loop().run_in_executor(
            self._thread, functools.partial(work, *args, **kwargs)
        )
        return await to_its_end(future)

    async def run_names(
        self, *, project: str | None = None, group: str | None = None
    ) -> Sequence[tuple[str, str]]:
        """(project, run) of the runs, newest first by their earliest session's start."""
        return [(row[0], row[1]) for row in await self._rows(sql.RUN_NAMES, project, group)]

    async def streams(self, project: str, run: str) -> Sequence[StreamRow]:
        """The streams of a run, by session id. Empty: there is no such run."""
        return [sql.stream_row(row) for row in await self._rows(sql.STREAMS, project, run)]

    async def gaps(self, sessions: Sequence[str]) -> Sequence[GapRow]:
        """What was lost, by session and offset."""
        return [sql.gap_row(row) for row in await self._rows(sql.GAPS, json.dumps(sessions))]

    async def lifted(self, sessions: Sequence[str], kinds: Sequence[int]) -> Sequence[LiftedRow]:
        """Records of these kinds, by session and offset."""
        wanted = json.dumps(sorted({int(kind) for kind in kinds}))
        rows = await self._rows(sql.LIFTED, json.dumps(sessions), wanted)
        return [sql.lifted_row(row) for row in rows]

    async def schemas(self, sessions: Sequence[str]) -> Sequence[Schema]:
        """The schemas of all segments, by session, segment base and id."""
        return [sql.schema(row) for row in await self._rows(sql.SCHEMAS, json.dumps(sessions))]

    async def chunks(self, session: str) -> AsyncIterator[Chunk]:
        """What is kept of a stream, by offset. What is appended meanwhile may or may not come."""
        offset, limit = 0, 16
        while rows := await self._rows(sql.CHUNKS, session, offset, limit):
            for row in rows:
                yield Chunk(session, row[0], row[1], row[2])
            offset = rows[-1][0] + len(rows[-1][2])
            if len(rows) < limit:
                return
            mean = sum(len(row[2]) for row in rows) / len(rows)
            limit = max(1, min(CHUNK_ROWS_MAX, int(CHUNK_BYTES_AIM / mean)))

    async def _rows(self, statement: str, *parameters: object) -> Sequence[Row]:
        if self._read is None:
            raise StoreUnavailable("the store is closed")
        try:
            return list(await self._read.execute_fetchall(statement, parameters))
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error

    async def close(self) -> None:
        """Let go of the files. Safe to call twice."""
        read, self._read = self._read, None
        if read is not None:
            with contextlib.suppress(sqlite3.Error):
                await read.close()
        await self._checkpoints.close()
        if not self._closed:
            # Last, because the last one out folds the log back into the file.
            self._closed = True
            await self._on_thread(self._writing.close)
            self._thread.shutdown()
        self._folder.let_go()
