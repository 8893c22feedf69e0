"""Connections to the file of a SQLite store: how they are set up, and whose file it is.

Invariant: application_id says that the file is ours, user_version in which shape.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

from plait_collector.store import StoreUnusable
from plait_collector.store.statements import Row
from plaitwire.limits import KIB, MIB

APPLICATION_ID: Final = 0x706C6169
"""b"plai": what the file is, for this program and for `file`."""
SHAPE: Final = 1
"""user_version: the shape of schema.sql that this program reads and writes."""
BUSY_TIMEOUT_S: Final = 5.0
PAGE_BYTES: Final = 32 * KIB
"""Frames are large: at 8 KiB a page, the same bytes took about twice as long."""
LOG_BYTES_MAX: Final = 512 * MIB
"""The write-ahead log, past which a commit folds it back into the file itself. Also what a start
after a crash has to read."""
LOG_BYTES_KEPT: Final = 64 * MIB
"""What its file keeps once it was folded back."""

T = TypeVar("T")

WRITING: Final = (
    f"PRAGMA page_size = {PAGE_BYTES}",  # These two count only where the file is new.
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = OFF",  # There are none: streams come and go whole.
    f"PRAGMA wal_autocheckpoint = {LOG_BYTES_MAX // PAGE_BYTES}",
    f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}",
)
READING: Final = ("PRAGMA query_only = ON",)
FOLDING: Final = ("PRAGMA synchronous = FULL",)


async def connect(path: Path, pragmas: Iterable[str]) -> aiosqlite.Connection:
    """A connection with a thread of its own, set up by pragmas; statements commit themselves."""
    connection = await aiosqlite.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        for pragma in pragmas:
            await connection.execute_fetchall(pragma)
    except BaseException:
        await connection.close()
        raise
    return connection


def is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has yet to be made. It is looked at, and not changed.

    Raises:
        StoreUnusable: it is there and not ours, or newer than this program.
    """
    (application,) = one(connection, "PRAGMA application_id")
    (shape,) = one(connection, "PRAGMA user_version")
    (tables,) = one(connection, "SELECT count(*) FROM sqlite_master")
    if tables and application != APPLICATION_ID:
        raise StoreUnusable(f"{path} holds a database that is not a collector's")
    if shape > SHAPE:
        raise StoreUnusable(
            f"{path} was written by a newer version of plait (shape {shape}; this version reads "
            f"up to {SHAPE}); install that version, or give this one another folder with --data"
        )
    return not tables


def creation() -> str:
    """The script that makes a store, in one transaction."""
    schema = resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")
    return (
        f"BEGIN IMMEDIATE;\n{schema}\nINSERT INTO identity VALUES ('{uuid.uuid4().hex}');\n"
        f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {SHAPE};\nCOMMIT;"
    )


def one(connection: sqlite3.Connection, statement: str) -> Row:
    """The only row that a statement gives."""
    (row,) = connection.execute(statement)
    return tuple(row)


async def to_its_end(work: asyncio.Future[T]) -> T:
    """What work gives; a cancellation waits until it has ended."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:
            break  # Told below.
    if cancelled is not None:
        work.exception()  # It is known now, and nobody is left to be told.
        raise cancelled
    return work.result()
