"""The SQL of the SQLite store, and how its rows become values and back. schema.sql has the tables.

Lists come in as one JSON array each (json_each), so that a statement is the same for any number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from plait_collector import lift
from plait_collector.steps import Steps
from plait_collector.store import (
    Finish,
    GapRow,
    Lifted,
    LiftedRow,
    Meta,
    Proof,
    Schema,
    StreamRow,
)
from plait_collector.store.plan import NewGap, Standing
from plaitwire.records import Kind
from plaitwire.v1 import types_pb2

Row = Sequence[Any]

_NODE: Final = int(types_pb2.STREAM_KIND_NODE)
_META: Final = (
    "session, kind, project, run, label, parent, restart_count, started_ns, host, boot_id, pid, "
    "is_primary, group_name, extra_json"
)
_META_COLUMNS: Final = len(_META.split(","))
_SESSIONS: Final = "session IN (SELECT value FROM json_each(?))"

# Where streams stand.

STANDINGS: Final = f"""
SELECT id, session, next_offset, segment_base, proof_offset, proof_crc32c, rows, floating_max,
       anchored_max, last_ns, finish_state, finish_exit_code, finish_by
FROM stream WHERE {_SESSIONS}"""
METAS: Final = f"SELECT {_META} FROM stream WHERE {_SESSIONS}"
SCHEMAS_OF_SEGMENT: Final = f"""
SELECT s.session, r.schema_id, r.body
FROM stream s CROSS JOIN record r ON r.stream = s.id AND r.kind = {int(Kind.SCHEMA)}
     AND r.segment_base = s.segment_base AND r."offset" >= s.segment_base
WHERE s.{_SESSIONS}"""
DELETED_SESSIONS: Final = f"SELECT session FROM deleted_session WHERE {_SESSIONS}"
DELETED_RUNS: Final = """
SELECT d.project, d.run FROM json_each(?) asked CROSS JOIN deleted_run d
ON d.project = json_extract(asked.value, '$[0]') AND d.run = json_extract(asked.value, '$[1]')"""
LAST_ID: Final = "SELECT coalesce(max(id), 0) FROM stream"

# What a commit writes.

ROWS_AT_ONCE: Final = 64
"""Rows that one INSERT takes: 64 of the widest are within the 999 parameters of any SQLite."""


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT of some rows into a table."""

    into: str
    width: int
    """Columns."""

    def batches(self, rows: Sequence[Row]) -> Iterator[tuple[str, list[Any]]]:
        """Statements that insert rows, with their parameters.

        Their row counts are powers of two, so that few statements are ever prepared. Each is one
        call: with one for every row, the thread that writes would have to win Python's lock back
        as often, from a loop that is busy.
        """
        at = 0
        while at < len(rows):
            count = min(ROWS_AT_ONCE, 1 << ((len(rows) - at).bit_length() - 1))
            values = ", ".join([f"(?{', ?' * (self.width - 1)})"] * count)
            yield (
                f"INSERT INTO {self.into} VALUES {values}",
                [value for row in rows[at : at + count] for value in row],
            )
            at += count


INSERT_STREAM: Final = Insert(f"stream (id, {_META})", 1 + _META_COLUMNS)
INSERT_PIECE: Final = Insert('tail (stream, "offset", segment_base, payload)', 4)
INSERT_RECORD: Final = Insert("record", 9)
INSERT_GAP: Final = Insert("gap", 11)
MOVE_STREAM: Final = """
UPDATE stream SET next_offset = ?, segment_base = ?, proof_offset = ?, proof_crc32c = ?, rows = ?,
  floating_max = ?, anchored_max = ?, last_ns = ?, finish_state = ?, finish_exit_code = ?,
  finish_by = ?
WHERE id = ?"""

_OF_RUN: Final = f"project = ?1 AND run = ?2 AND kind != {_NODE}"
_IDS: Final = f"stream IN (SELECT id FROM stream WHERE {_OF_RUN})"
DELETE_RUN: Final = (
    f"INSERT OR IGNORE INTO deleted_session SELECT session FROM stream WHERE {_OF_RUN}",
    "INSERT OR IGNORE INTO deleted_run VALUES (?1, ?2)",
    f"DELETE FROM tail WHERE {_IDS}",
    f"DELETE FROM record WHERE {_IDS}",
    f"DELETE FROM gap WHERE {_IDS}",
    f"DELETE FROM stream WHERE {_OF_RUN}",
)

# Reads.

RUN_NAMES: Final = f"""
SELECT project, run FROM stream WHERE kind != {_NODE} AND (?1 IS NULL OR project = ?1)
GROUP BY project, run HAVING ?2 IS NULL OR max(group_name = ?2)
ORDER BY min(started_ns) DESC, project, run"""
STREAMS: Final = f"""
SELECT {_META}, next_offset, rows, floating_max, anchored_max, last_ns, finish_state,
       finish_exit_code, finish_by
FROM stream WHERE project = ?1 AND run = ?2 AND kind != {_NODE} ORDER BY session"""
GAPS: Final = f"""
SELECT s.session, g."offset", g."end", g.reason, g.records, g.total, g.floating_max,
       g.anchored_max, g.rows
FROM stream s CROSS JOIN gap g ON g.stream = s.id
WHERE s.{_SESSIONS} ORDER BY s.session, g."offset", g."end", g.is_skip"""
LIFTED: Final = """
SELECT s.session, r."offset", r.kind, r.flags, r.schema_id, r.step, r.time_ns, r.body
FROM stream s CROSS JOIN json_each(?2) wanted
     CROSS JOIN record r ON r.stream = s.id AND r.kind = wanted.value
WHERE s.session IN (SELECT value FROM json_each(?1)) ORDER BY s.session, r."offset" """
SCHEMAS: Final = f"""
SELECT s.session, r.segment_base, r.schema_id, r.body
FROM stream s CROSS JOIN record r ON r.stream = s.id AND r.kind = {int(Kind.SCHEMA)}
WHERE s.{_SESSIONS} ORDER BY s.session, r.segment_base, r.schema_id"""
CHUNKS: Final = """
SELECT t."offset", t.segment_base, t.payload FROM tail t
WHERE t.stream = (SELECT id FROM stream WHERE session = ?1) AND t."offset" >= ?2
ORDER BY t."offset" LIMIT ?3"""


def standing(row: Row) -> Standing:
    """A row of STANDINGS."""
    proof = None if row[4] is None else Proof(row[4], row[5])
    return Standing(
        id=row[0],
        session=row[1],
        next_offset=row[2],
        segment_base=row[3],
        proof=proof,
        rows=row[6],
        steps=Steps(row[7], row[8]),
        last_ns=row[9],
        finish=finish(row[10:13]),
    )


def finish(row: Row) -> Finish | None:
    """finish_state, finish_exit_code, finish_by."""
    return None if row[0] is None else Finish(*row)


def moved(stream: Standing) -> Row:
    """The parameters of MOVE_STREAM."""
    proof, end = stream.proof, stream.finish
    return (
        stream.next_offset,
        stream.segment_base,
        proof and proof.offset,
        proof and proof.crc32c,
        stream.rows,
        stream.steps.floating_max,
        stream.steps.anchored_max,
        stream.last_ns,
        end and end.state,
        end and end.exit_code,
        end and end.by,
        stream.id,
    )


def new_stream(stream_id: int, meta: Meta) -> Row:
    """The parameters of INSERT_STREAM."""
    return (
        stream_id,
        meta.session,
        meta.kind,
        meta.project,
        meta.run,
        meta.label,
        meta.parent,
        meta.restart_count,
        meta.started_ns,
        meta.host,
        meta.boot_id,
        meta.pid,
        int(meta.primary),
        meta.group,
        meta.extra_json,
    )


def meta(row: Row) -> Meta:
    """A row of METAS, or the beginning of one of STREAMS."""
    return Meta(
        session=row[0],
        kind=row[1],
        project=row[2],
        run=row[3],
        label=row[4],
        parent=row[5],
        restart_count=row[6],
        started_ns=row[7],
        host=row[8],
        boot_id=row[9],
        pid=row[10],
        primary=bool(row[11]),
        group=row[12],
        extra_json=row[13],
    )


def new_record(stream: int, segment_base: int, record: Lifted) -> Row:
    """The parameters of INSERT_RECORD."""
    return (
        stream,
        record.kind,
        record.offset,
        segment_base,
        record.flags,
        record.schema,
        record.step,
        record.time_ns,
        record.body,
    )


def new_gap(gap: NewGap) -> Row:
    """The parameters of INSERT_GAP."""
    row = gap.row
    return (
        gap.stream,
        row.offset,
        row.end,
        int(gap.is_skip),
        row.reason,
        row.records,
        row.total,
        gap.message,
        row.steps.floating_max,
        row.steps.anchored_max,
        row.rows,
    )


def stream_row(row: Row) -> StreamRow:
    """A row of STREAMS."""
    rest = row[_META_COLUMNS:]
    return StreamRow(
        meta=meta(row),
        next_offset=rest[0],
        rows=rest[1],
        steps=Steps(rest[2], rest[3]),
        last_ns=rest[4],
        finish=finish(rest[5:8]),
    )


def gap_row(row: Row) -> GapRow:
    """A row of GAPS."""
    session, offset, end, reason, records, total, floating, anchored, rows = row
    return GapRow(session, offset, end, reason, records, total, Steps(floating, anchored), rows)


def lifted_row(row: Row) -> LiftedRow:
    """A row of LIFTED."""
    return LiftedRow(row[0], Lifted(*row[1:]))


def key_count(body: bytes) -> int:
    """How many keys a kept schema has."""
    return len(lift.schema_keys(body))


def schema(row: Row) -> Schema:
    """A row of SCHEMAS."""
    return Schema(row[0], row[1], row[2], lift.schema_keys(row[3]))
