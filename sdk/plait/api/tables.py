"""Blocks of a history to an Arrow table. The bytes of an answer become columns as they are."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pyarrow as pa

from plaitwire.v1 import query_pb2

PREFIX: Final = "key:"
_TIME: Final = pa.timestamp("ns", "UTC")
_OWN: Final = {
    "label": pa.string(),
    "attempt": pa.int32(),
    "step": pa.int64(),
    "time": _TIME,
}
"""Columns of every table that are no keys."""
_ARRAY_CODES: Final = {4: "i", 8: "q"}


def column_name(key: str) -> str:
    """What a key's column is called: as the key, unless a column of every table is called so.

    A key that would then look like such a renamed one gets the prefix once more.
    """
    rest = key
    while rest.startswith(PREFIX):
        rest = rest[len(PREFIX) :]
    return PREFIX + key if rest in _OWN else key


def to_table(
    blocks: Iterable[query_pb2.HistoryBlock], keys: Sequence[str] | None = None
) -> pa.Table:
    """One table of all blocks.

    Args:
        blocks: of an answer.
        keys: the columns wanted, in order, also where no row has them; None: all that come, sorted.
    """
    received = list(blocks)
    if keys is None:
        keys = sorted({column.key for block in received for column in block.columns})
    fields = [pa.field(name, kind) for name, kind in _OWN.items()]
    fields += [pa.field(column_name(key), pa.float64()) for key in keys]
    schema = pa.schema(fields)
    batches = [_batch(block, keys, schema) for block in received]
    return pa.Table.from_batches(batches, schema)


def _batch(block: query_pb2.HistoryBlock, keys: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    columns = {column.key: column for column in block.columns}
    arrays = [
        pa.repeat(pa.scalar(block.label, pa.string()), block.rows),
        _numbers(pa.int32(), block.rows, block.attempts, 4),
        _numbers(pa.int64(), block.rows, block.steps, 8),
        _numbers(_TIME, block.rows, block.times_ns, 8),
    ]
    for key in keys:
        column = columns.get(key)
        if column is None:
            arrays.append(pa.nulls(block.rows, pa.float64()))
        else:
            valid = _validity(column.present, block.rows)
            arrays.append(_numbers(pa.float64(), block.rows, column.values, 8, valid))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _numbers(kind: Any, rows: int, values: bytes, size: int, validity: Any = None) -> Any:
    if len(values) != rows * size:
        raise ValueError(f"a column of {len(values)} bytes for {rows} rows")
    if sys.byteorder == "big":
        swapped = array.array(_ARRAY_CODES[size], values)
        swapped.byteswap()
        values = swapped.tobytes()
    return pa.Array.from_buffers(kind, rows, [validity, pa.py_buffer(values)])


def _validity(present: bytes, rows: int) -> Any:
    """Arrow's bitmap from a byte for each row; None where every row has a value."""
    if not present:
        return None
    if len(present) != rows:
        raise ValueError(f"{len(present)} bytes say which of {rows} rows have a value")
    flags = pa.Array.from_buffers(pa.uint8(), rows, [None, pa.py_buffer(present)])
    return flags.cast(pa.bool_()).buffers()[1]
