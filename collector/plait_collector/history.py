"""A label's rows over its sessions: what was written, and which of it counts.

    written    every row, in the label's order
    effective  a later attempt overrides earlier ones, per key, from the smallest anchored step that
               the key has in it on; within an attempt the last point of (key, step) counts
    latest     the same of the latest attempt alone

Floating points override nothing of earlier attempts: they continue after them. "From the smallest"
and not "from the first written" on: a backfill then never leaves two values at one step.

Rule: pure, and a function of the set of sessions. Nothing here is done row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plait_collector.attempts import Place
from plait_collector.decode import Block, Bools, Decoded, Floats, Ints
from plaitwire.records import STEP_MAX, STEP_MIN
from plaitwire.v1 import query_pb2

BLOCK_BYTES_MAX: Final = 1024 * 1024
"""What a block of an answer is kept under, unless a single row is larger."""
_NO_STEP_YET: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Cells:
    """One key's values in a label, in the label's order."""

    rows: Ints
    """The rows that have the key, ascending."""
    values: Floats

    def __getitem__(self, which: Bools | slice) -> Cells:
        return Cells(self.rows[which], self.values[which])


@dataclass(frozen=True, slots=True)
class Written:
    """All rows of a label in its order, as columns of equal length, and the cells of each key."""

    places: Ints
    """Of a row's session in the label's order."""
    offsets: Ints
    attempts: Ints
    """Ascending."""
    written: Ints
    """Steps as they were written."""
    steps: Ints
    """Steps in the label's counting."""
    times_ns: Ints
    anchored: Bools
    cells: Mapping[str, Cells]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of an answer, as columns of equal length, and each key's cells in them."""

    attempts: Ints
    steps: Ints
    times_ns: Ints
    cells: Mapping[str, Cells]


def written_rows(sessions: Sequence[tuple[Place, Decoded]]) -> Written:
    """The rows of a label, from those of its sessions in the label's order."""
    places, offsets, written, steps, times, anchored = [], [], [], [], [], []
    attempts: list[Ints] = []
    parts: dict[str, list[Cells]] = {}
    base = 0
    for place, decoded in sessions:
        order, ranks = _in_offset_order(decoded.blocks)
        count = len(order)
        own = _column(decoded.blocks, "offsets")[order]
        step = _column(decoded.blocks, "steps")[order]
        fixed = own >= (2**63 - 1 if decoded.anchor is None else decoded.anchor)
        floating = np.clip(step, STEP_MIN, STEP_MAX - place.shift) + place.shift
        places.append(np.full(count, place.index))
        attempts.append(np.full(count, place.attempt))
        offsets.append(own)
        written.append(step)
        steps.append(np.where(fixed, step, floating))
        times.append(_column(decoded.blocks, "times_ns")[order])
        anchored.append(fixed)
        for block, rank in zip(decoded.blocks, ranks, strict=True):
            for at, key in enumerate(block.keys):
                cells = Cells(base + rank, np.ascontiguousarray(block.values[:, at]))
                parts.setdefault(key, []).append(cells)
        base += count
    none = np.empty(0, np.int64)
    return Written(
        np.concatenate([none, *places]),
        np.concatenate([none, *offsets]),
        np.concatenate([none, *attempts]),
        np.concatenate([none, *written]),
        np.concatenate([none, *steps]),
        np.concatenate([none, *times]),
        np.concatenate([none.astype(np.bool_), *anchored]),
        {key: _one(cells) for key, cells in parts.items()},
    )


def _column(blocks: Sequence[Block], name: str) -> Ints:
    columns: list[Ints] = [getattr(block, name) for block in blocks]
    return np.concatenate([np.empty(0, np.int64), *columns])


def _in_offset_order(blocks: Sequence[Block]) -> tuple[Ints, list[Ints]]:
    """How to sort the blocks' rows by offset, and where each row of each block comes then."""
    order = np.argsort(_column(blocks, "offsets"), kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    ends = np.cumsum([len(block.offsets) for block in blocks])
    return order, np.split(ranks, ends[:-1]) if len(blocks) else []


def _one(parts: Sequence[Cells]) -> Cells:
    """A key's cells of several blocks as one, in the label's order."""
    if len(parts) == 1:
        return parts[0]  # One block is in the order of its offsets.
    rows = np.concatenate([part.rows for part in parts])
    return _sorted(rows, np.concatenate([part.values for part in parts]))


def effective(label: Written, key: str) -> Cells:
    """The points of a key that count, in the label's order."""
    cells = label.cells[key]
    attempts, steps = label.attempts[cells.rows], label.steps[cells.rows]
    last = _last_of_each(attempts, steps)
    if not len(attempts) or attempts[0] == attempts[-1]:
        return cells[last]
    first = np.full(attempts[-1] + 2, _NO_STEP_YET)
    anchored = label.anchored[cells.rows]
    np.minimum.at(first, attempts[anchored], steps[anchored])
    # Of any attempt after this one: a later override holds for all that came before.
    after = np.minimum.accumulate(first[::-1])[::-1][attempts + 1]
    return cells[last & ((steps < after) | (after == _NO_STEP_YET))]


def _last_of_each(attempts: Ints, steps: Ints) -> Bools:
    """Which points are the last of their (attempt, step)."""
    if _grow(attempts, steps):
        return np.ones(len(steps), np.bool_)
    order = np.lexsort((steps, attempts))  # Stable: within a step, the label's order stays.
    attempts, steps = attempts[order], steps[order]
    last = np.ones(len(order), np.bool_)
    last[order[:-1]] = (attempts[1:] != attempts[:-1]) | (steps[1:] != steps[:-1])
    return last


def _grow(attempts: Ints, steps: Ints) -> bool:
    """Whether steps grow from row to row within each attempt; attempts are ascending."""
    return bool(np.all((steps[1:] > steps[:-1]) | (attempts[1:] > attempts[:-1])))


def effective_table(
    label: Written,
    *,
    latest: int | None = None,
    min_step: int | None = None,
    max_step: int | None = None,
) -> Table:
    """One row for each (attempt, step) that has a point which counts, of the keys decoded.

    A row stands where its last point was written, and has that record's wall time.

    Args:
        label: its rows.
        latest: the number of the only attempt to look at; None: all, later over earlier.
        min_step: the smallest step, in the label's counting.
        max_step: the largest one.
    """
    groups = _groups(label.attempts, label.steps)
    last_row = np.full(len(label.steps), -1)
    counting: dict[str, Cells] = {}
    for key in label.cells:
        cells = effective(label, key) if latest is None else _of_attempt(label, key, latest)
        cells = cells[_within(label.steps[cells.rows], min_step, max_step)]
        if not len(cells.rows):
            continue
        counting[key] = cells
        group = groups[cells.rows]
        last_row[group] = np.maximum(last_row[group], cells.rows)
    present = np.flatnonzero(last_row >= 0)
    rows = np.sort(last_row[present])
    at = np.full(len(last_row), -1)
    at[present] = np.searchsorted(rows, last_row[present])
    cells_at = {key: _sorted(at[groups[c.rows]], c.values) for key, c in counting.items()}
    return Table(label.attempts[rows], label.steps[rows], label.times_ns[rows], cells_at)


def _groups(attempts: Ints, steps: Ints) -> Ints:
    """A number for each row, the same for rows of the same attempt and step."""
    if _grow(attempts, steps):
        return np.arange(len(steps))
    order = np.lexsort((steps, attempts))
    starts = np.ones(len(order), np.int64)
    a, s = attempts[order], steps[order]
    starts[1:] = (a[1:] != a[:-1]) | (s[1:] != s[:-1])
    groups = np.empty(len(order), np.int64)
    groups[order] = np.cumsum(starts) - 1
    return groups


def _of_attempt(label: Written, key: str, attempt: int) -> Cells:
    cells = label.cells[key]
    cells = cells[label.attempts[cells.rows] == attempt]
    return cells[_last_of_each(label.attempts[cells.rows], label.steps[cells.rows])]


def _within(steps: Ints, min_step: int | None, max_step: int | None) -> Bools:
    within = np.ones(len(steps), np.bool_)
    if min_step is not None:
        within &= steps >= min_step
    if max_step is not None:
        within &= steps <= max_step
    return within


def _sorted(rows: Ints, values: Floats) -> Cells:
    if bool(np.all(rows[1:] > rows[:-1])):
        return Cells(rows, values)
    order = np.argsort(rows, kind="stable")
    return Cells(rows[order], values[order])


def raw_table(
    label: Written,
    *,
    all_rows: bool,
    min_step: int | None = None,
    max_step: int | None = None,
) -> Table:
    """One row for each row that was written, in the label's order, steps as written.

    Args:
        label: its rows.
        all_rows: also those that have no key at all.
        min_step: the smallest step, as written.
        max_step: the largest one.
    """
    chosen = np.full(len(label.written), all_rows)
    for cells in label.cells.values():
        chosen[cells.rows] = True
    chosen &= _within(label.written, min_step, max_step)
    rows = np.flatnonzero(chosen)
    at = np.cumsum(chosen) - 1
    cells_at = {}
    for key, cells in label.cells.items():
        kept = cells[chosen[cells.rows]]
        if len(kept.rows):
            cells_at[key] = Cells(at[kept.rows], kept.values)
    return Table(label.attempts[rows], label.written[rows], label.times_ns[rows], cells_at)


def blocks(label: str, table: Table) -> Iterator[query_pb2.HistoryBlock]:
    """A table as blocks of an answer, each under BLOCK_BYTES_MAX where more than one row fits."""
    keys = sorted(table.cells)
    names = sum(len(key.encode()) + 16 for key in keys)
    row_bytes = 20 + 9 * len(keys)
    size = max(1, (BLOCK_BYTES_MAX - names) // row_bytes)
    for start in range(0, len(table.steps), size):
        rows = slice(start, start + size)
        count = len(table.steps[rows])
        yield query_pb2.HistoryBlock(
            label=label,
            rows=count,
            attempts=table.attempts[rows].astype("<i4").tobytes(),
            steps=table.steps[rows].astype("<i8").tobytes(),
            times_ns=table.times_ns[rows].astype("<i8").tobytes(),
            columns=[
                column
                for key in keys
                if (column := _answer_column(key, table.cells[key], start, count)) is not None
            ],
        )


def _answer_column(key: str, cells: Cells, start: int, count: int) -> query_pb2.Column | None:
    """A key's values in rows start to start + count; None where none has it."""
    first, end = np.searchsorted(cells.rows, (start, start + count))
    if first == end:
        return None
    if end - first == count:
        return query_pb2.Column(key=key, values=_bytes(cells.values[first:end]))
    values, present = np.zeros(count), np.zeros(count, np.uint8)
    at = cells.rows[first:end] - start
    values[at] = cells.values[first:end]
    present[at] = 1
    return query_pb2.Column(key=key, values=_bytes(values), present=present.tobytes())


def _bytes(values: npt.NDArray[np.float64]) -> bytes:
    return values.astype("<f8", copy=False).tobytes()
