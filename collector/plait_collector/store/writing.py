"""The writing half of a SQLite store: one connection, used on one thread, a transaction a call.

It is plain sqlite3: a commit is a dozen statements, and handing each to another thread and back
took a fifth of its time. As one function on one thread it also cannot be cut in half by a caller
that is cancelled.

Rule: every call ends its transaction, committed or rolled back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from plait_collector.store import Applied, Change, Delete, Open, Outcome, StoreUnavailable
from plait_collector.store import statements as sql
from plait_collector.store.connection import (
    BUSY_TIMEOUT_S,
    WRITING,
    creation,
    is_new,
    one,
)
from plait_collector.store.plan import Change as StreamChange
from plait_collector.store.plan import Plan, Standing, sessions_of

log = logging.getLogger(__name__)

VACUUM_PAGES: Final = 512
"""Pages given back to the file system in one step, after a run was deleted."""
VACUUM_STEPS_MAX: Final = 16
"""Steps after one commit; the rest follows with the next ones."""


class Writing:
    """The connection that writes."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the file; opened by open().
        """
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._to_vacuum = False

    def open(self) -> str:
        """Open the file, making it if it is not there; the store's identity.

        Raises:
            StoreUnusable: the file is not ours. sqlite3.Error: it cannot be used.
        """
        connection = self._connect()
        try:
            new = is_new(connection, self._path)
            self._configure(connection)
            if new:
                connection.executescript(creation())
            (store_id,) = one(connection, "SELECT store_id FROM identity")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return str(store_id)

    def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """Carry out changes in one transaction.

        Raises:
            StoreUnavailable: nothing was changed.
        """
        outcomes: list[Outcome] = []
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._configure(self._connection)
            self._connection.execute("BEGIN IMMEDIATE")
            for group in _between_deletes(changes):
                outcomes += _make(self._connection, group)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise StoreUnavailable(str(error)) from error
        except BaseException:
            self._roll_back()
            raise
        self._to_vacuum |= any(isinstance(change, Delete) for change in changes)
        if self._to_vacuum:
            self._vacuum()
        return outcomes

    def pragma(self, what: str) -> object:
        """What a pragma answers on this connection."""
        assert self._connection is not None
        (value,) = one(self._connection, f"PRAGMA {what}")
        return value

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)

    @staticmethod
    def _configure(connection: sqlite3.Connection) -> None:
        for pragma in WRITING:
            connection.execute(pragma).fetchall()

    def _roll_back(self) -> None:
        """End the transaction. A connection that cannot even do that is not used again."""
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
        except sqlite3.Error:
            self.close()

    def _vacuum(self) -> None:
        """Give pages that a deleted run has left back to the file system, if that can be done."""
        assert self._connection is not None
        try:
            for _ in range(VACUUM_STEPS_MAX):
                (left,) = one(self._connection, "PRAGMA freelist_count")
                self._to_vacuum = bool(left)
                if not left:
                    return
                # As a script: only that takes all the steps this statement has, a page each.
                self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
        except sqlite3.Error as error:
            log.warning("space is not given back yet: error=%r", str(error))


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


def _make(connection: sqlite3.Connection, group: Delete | list[StreamChange]) -> Sequence[Outcome]:
    """Carry out a group of changes within the transaction that is open."""
    if isinstance(group, Delete):
        for statement in sql.DELETE_RUN:
            connection.execute(statement, (group.project, group.run))
        return [Applied()]
    plan = _plan(connection, group)
    outcomes = [plan.make(change) for change in group]
    new = [sql.new_stream(id_, s.meta) for id_, s in plan.new.items() if s.meta is not None]
    pieces = [(p.stream, p.offset, p.segment_base, p.payload) for p in plan.pieces]
    for insert, rows in (
        (sql.INSERT_STREAM, new),
        (sql.INSERT_PIECE, pieces),
        (sql.INSERT_RECORD, [sql.new_record(*record) for record in plan.records]),
        (sql.INSERT_GAP, [sql.new_gap(gap) for gap in plan.gaps]),
    ):
        for statement, parameters in insert.batches(rows):
            connection.execute(statement, parameters)
    moved = [sql.moved(stream) for stream in plan.moved.values()]
    if moved:
        cursor = connection.executemany(sql.MOVE_STREAM, moved)
        assert cursor.rowcount == len(moved)
    return outcomes


def _plan(connection: sqlite3.Connection, changes: Sequence[StreamChange]) -> Plan:
    """A plan that knows where the streams of these changes stand."""
    named = sessions_of(changes)
    sessions = json.dumps(named)
    standings: dict[str, Standing] = {}
    for row in connection.execute(sql.STANDINGS, (sessions,)):
        found = sql.standing(row)
        standings[found.session] = found
    deleted_sessions: set[str] = set()
    deleted_runs: set[tuple[str, str]] = set()
    next_id = 1
    opens = [change.meta for change in changes if isinstance(change, Open)]
    if len(standings) < len(named):  # Some are not there: new, or deleted.
        rows = connection.execute(sql.DELETED_SESSIONS, (sessions,))
        deleted_sessions = {row[0] for row in rows}
    if opens:
        opened = json.dumps([meta.session for meta in opens])
        runs = json.dumps(list({(meta.project, meta.run) for meta in opens}))
        for row in connection.execute(sql.METAS, (opened,)):
            standings[row[0]].meta = sql.meta(row)
        for row in connection.execute(sql.SCHEMAS_OF_SEGMENT, (opened,)):
            standings[row[0]].schemas[row[1]] = sql.key_count(row[2])
        rows = connection.execute(sql.DELETED_RUNS, (runs,))
        deleted_runs = {(row[0], row[1]) for row in rows}
        (last,) = one(connection, sql.LAST_ID)
        next_id = last + 1
    return Plan(
        standings, deleted_sessions=deleted_sessions, deleted_runs=deleted_runs, next_id=next_id
    )
