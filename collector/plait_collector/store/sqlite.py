"""The store in one SQLite file: WAL, synced at every commit.

    <data>/plait.sqlite3    all of it (schema.sql), with its -wal and -shm beside it
    <data>/lock             held for the life of the store

Two connections, each with a thread of its own (aiosqlite): one writes and is used by commit()
alone, one reads and cannot write. A commit reads where its streams stand, has a Plan say what each
change does, and writes whole sets.

Rule: a commit that has begun ends, committed or rolled back, before the next one begins and before
      its caller learns of a cancellation: what a cancelled aiosqlite call was doing goes on, and
      would otherwise become part of the next commit.
Rule: reads page by what they have seen; no read stays open between two awaits, so that the
      write-ahead log can always be folded back into the file.

Invariant: application_id says that the file is ours, user_version in which shape.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

from plait_collector.store import (
    Applied,
    Change,
    Chunk,
    Delete,
    GapRow,
    LiftedRow,
    Open,
    Outcome,
    Schema,
    StoreUnavailable,
    StoreUnusable,
    StreamRow,
)
from plait_collector.store import statements as sql
from plait_collector.store.folder import Folder
from plait_collector.store.plan import Change as StreamChange
from plait_collector.store.plan import Plan, Standing, sessions_of
from plait_collector.store.statements import Row

log = logging.getLogger(__name__)

FILE: Final = "plait.sqlite3"
APPLICATION_ID: Final = 0x706C6169
"""b"plai": what the file is, for this program and for `file`."""
SHAPE: Final = 1
"""user_version: the shape of schema.sql that this program reads and writes."""
BUSY_TIMEOUT_S: Final = 5.0
PAGE_BYTES: Final = 8192
CHECKPOINT_PAGES: Final = 8192
"""Pages of write-ahead log after which a commit folds it back into the file: 64 MiB."""
VACUUM_PAGES: Final = 2048
"""Pages given back to the file system in one step, after a run was deleted."""
CHUNK_ROWS_MAX: Final = 1024
CHUNK_BYTES_AIM: Final = 4 * 1024 * 1024
"""What one read of chunks aims at, from the sizes of those before."""

T = TypeVar("T")


class SqliteStore:
    """Keeps streams in one SQLite file. See plait_collector.store.Store for what it promises."""

    def __init__(self, folder: Folder, store_id: str) -> None:
        """Use SqliteStore.open."""
        self._folder = folder
        self._path = folder.path / FILE
        self._store_id = store_id
        self._writing = asyncio.Lock()
        self._write: aiosqlite.Connection | None = None
        self._read: aiosqlite.Connection | None = None
        self._to_vacuum = False

    @classmethod
    async def open(cls, data: Path) -> SqliteStore:
        """The store in a folder, made if it is not there.

        Raises:
            StoreUnusable: the folder or its file cannot be used, and the message says why.
        """
        folder = Folder(data)
        store = cls(folder, "")
        try:
            store._write = await _connect(store._path, ())
            is_new = await _is_new(store._write, store._path)
            await _configure(store._write, _WRITING)
            if is_new:
                await store._write.executescript(_creation())
            (store._store_id,) = await _one(store._write, "SELECT store_id FROM identity")
            store._read = await _connect(store._path, _READING)
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
        async with self._writing:
            return await _to_its_end(self._commit(changes))

    async def _commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        try:
            if self._write is None:
                self._write = await _connect(self._path, _WRITING)
            await self._write.execute("BEGIN IMMEDIATE")
            for group in _between_deletes(changes):
                outcomes += await _make(self._write, group)
            await self._write.execute("COMMIT")
        except sqlite3.Error as error:
            await self._roll_back()
            raise StoreUnavailable(str(error)) from error
        except BaseException:
            await self._roll_back()
            raise
        self._to_vacuum |= any(isinstance(change, Delete) for change in changes)
        if self._to_vacuum:
            await self._vacuum()
        return outcomes

    async def _roll_back(self) -> None:
        """End the transaction. A connection that cannot even do that is not used again."""
        if self._write is None:
            return
        try:
            if self._write.in_transaction:
                await self._write.rollback()
        except sqlite3.Error:
            broken, self._write = self._write, None
            with contextlib.suppress(sqlite3.Error):
                await broken.close()

    async def _vacuum(self) -> None:
        """Give pages that a deleted run has left back to the file system, if that can be done."""
        assert self._write is not None
        try:
            for _ in range(16):  # The rest follows with the next commits.
                (left,) = await _one(self._write, "PRAGMA freelist_count")
                self._to_vacuum = bool(left)
                if not left:
                    return
                # As a script: only that takes all the steps this statement has, a page each.
                await self._write.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        except sqlite3.Error as error:
            log.warning("space is not given back yet: error=%r", str(error))

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
        async with self._writing:
            await _to_its_end(self._close())

    async def _close(self) -> None:
        # The one that writes goes last: the last one out folds the log back into the file.
        read, self._read = self._read, None
        write, self._write = self._write, None
        for connection in (read, write):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    await connection.close()
        self._folder.let_go()


_WRITING: Final = (
    f"PRAGMA page_size = {PAGE_BYTES}",  # These two count only where the file is new.
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = OFF",  # There are none: streams come and go whole.
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    f"PRAGMA journal_size_limit = {CHECKPOINT_PAGES * PAGE_BYTES}",
)
_READING: Final = ("PRAGMA query_only = ON",)


async def _connect(path: Path, pragmas: Iterable[str]) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        await _configure(connection, pragmas)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _configure(connection: aiosqlite.Connection, pragmas: Iterable[str]) -> None:
    for pragma in pragmas:
        await connection.execute_fetchall(pragma)


async def _is_new(connection: aiosqlite.Connection, path: Path) -> bool:
    """Whether the file has yet to be made. It is looked at, and not changed.

    Raises:
        StoreUnusable: it is there and not ours, or newer than this program.
    """
    (application,) = await _one(connection, "PRAGMA application_id")
    (shape,) = await _one(connection, "PRAGMA user_version")
    (tables,) = await _one(connection, "SELECT count(*) FROM sqlite_master")
    if tables and application != APPLICATION_ID:
        raise StoreUnusable(f"{path} holds a database that is not a collector's")
    if shape > SHAPE:
        raise StoreUnusable(
            f"{path} was written by a newer version of plait (shape {shape}; this version reads "
            f"up to {SHAPE}); install that version, or give this one another folder with --data"
        )
    return not tables


def _creation() -> str:
    """The script that makes a store, in one transaction."""
    schema = resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")
    return (
        f"BEGIN IMMEDIATE;\n{schema}\nINSERT INTO identity VALUES ('{uuid.uuid4().hex}');\n"
        f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {SHAPE};\nCOMMIT;"
    )


async def _one(connection: aiosqlite.Connection, statement: str, *parameters: object) -> Row:
    """The only row that a statement gives."""
    (row,) = await connection.execute_fetchall(statement, parameters)
    return tuple(row)


async def _to_its_end(work: Awaitable[T]) -> T:
    """What work gives; a cancellation waits until it has ended."""
    # A task in no group: the loop below is what waits for it.
    task = asyncio.get_running_loop().create_task(_as_coroutine(work))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:
            break  # Told below.
    if cancelled is not None:
        task.exception()  # It is known now, and nobody is left to be told.
        raise cancelled
    return task.result()


async def _as_coroutine(work: Awaitable[T]) -> T:
    return await work


def _between_deletes(changes: Sequence[Change]) -> Iterable[Delete | list[StreamChange]]:
    """Changes in their order: each Delete alone, what stands between together."""
    group: list[StreamChange] = []
    for change in changes:
        if not isinstance(change, Delete):
            group.append(change)
            continue
        if group:
            yield group
        yield change
        group = []
    if group:
        yield group


async def _make(
    connection: aiosqlite.Connection, group: Delete | list[StreamChange]
) -> Sequence[Outcome]:
    """Carry out a group of changes within the transaction that is open."""
    if isinstance(group, Delete):
        for statement in sql.DELETE_RUN:
            await connection.execute(statement, (group.project, group.run))
        return [Applied()]
    plan = await _plan(connection, group)
    outcomes = [plan.make(change) for change in group]
    write: Callable[[str, Iterable[Row]], Awaitable[aiosqlite.Cursor]] = connection.executemany
    new = [sql.new_stream(id_, s.meta) for id_, s in plan.new.items() if s.meta is not None]
    for statement, rows in (
        (sql.INSERT_STREAM, new),
        (sql.MOVE_STREAM, [sql.moved(stream) for stream in plan.moved.values()]),
        (
            sql.INSERT_PIECE,
            [(p.stream, p.offset, p.segment_base, p.payload) for p in plan.pieces],
        ),
        (sql.INSERT_RECORD, [sql.new_record(*record) for record in plan.records]),
        (sql.INSERT_GAP, [sql.new_gap(gap) for gap in plan.gaps]),
    ):
        if rows:
            cursor = await write(statement, rows)
            assert cursor.rowcount == len(rows)
    return outcomes


async def _plan(connection: aiosqlite.Connection, changes: Sequence[StreamChange]) -> Plan:
    """A plan that knows where the streams of these changes stand."""
    named = sessions_of(changes)
    sessions = json.dumps(named)
    standings: dict[str, Standing] = {}
    for row in await connection.execute_fetchall(sql.STANDINGS, (sessions,)):
        found = sql.standing(tuple(row))
        standings[found.session] = found
    deleted_sessions: set[str] = set()
    deleted_runs: set[tuple[str, str]] = set()
    next_id = 1
    opens = [change.meta for change in changes if isinstance(change, Open)]
    if len(standings) < len(named):  # Some are not there: new, or deleted.
        rows = await connection.execute_fetchall(sql.DELETED_SESSIONS, (sessions,))
        deleted_sessions = {row[0] for row in rows}
    if opens:
        opened = json.dumps([meta.session for meta in opens])
        runs = json.dumps(list({(meta.project, meta.run) for meta in opens}))
        for row in await connection.execute_fetchall(sql.METAS, (opened,)):
            standings[row[0]].meta = sql.meta(tuple(row))
        for row in await connection.execute_fetchall(sql.SCHEMAS_OF_SEGMENT, (opened,)):
            standings[row[0]].schemas[row[1]] = sql.key_count(row[2])
        rows = await connection.execute_fetchall(sql.DELETED_RUNS, (runs,))
        deleted_runs = {(row[0], row[1]) for row in rows}
        (last,) = await _one(connection, sql.LAST_ID)
        next_id = last + 1
    return Plan(
        standings, deleted_sessions=deleted_sessions, deleted_runs=deleted_runs, next_id=next_id
    )
