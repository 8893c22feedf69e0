"""A run read back from a Fold: the pure half of the query service, with plain Python values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plait_collector.attempts import LabelOrder, order_run
from plait_collector.decode import Decoder
from plait_collector.history import (
    Table,
    Written,
    blocks,
    effective_table,
    raw_table,
    written_rows,
)
from plait_collector.merge import Merged, RunRecords, merge
from plait_collector.run_summary import key_facts
from plaitwire.v1 import query_pb2
from tests.support.fold import Fold


def written(fold: Fold, order: LabelOrder, keys: Sequence[str] | None = None) -> Written:
    """All rows of a label."""
    sessions = []
    for place in order.places:
        decoder = Decoder([s for s in fold.schema_rows if s.session == place.session], keys=keys)
        for chunk in fold.pieces(place.session):
            decoder.feed(chunk)
        sessions.append((place, decoder.decoded()))
    return written_rows(sessions)


def merged(fold: Fold) -> Merged:
    """The run."""
    orders = order_run(fold.rows())
    facts = {order.label: key_facts(written(fold, order)) for order in orders}
    keys = sorted({key for schema in fold.schema_rows for key in schema.keys})
    records = RunRecords(
        project="p",
        run="r",
        streams=fold.rows(),
        gaps=fold.gap_rows,
        lifted=fold.lifted_rows,
        keys=keys,
    )
    return merge(records, facts)


def view(fold: Fold) -> query_pb2.RunView:
    """The run's view."""
    return merged(fold).view


def table(fold: Fold, label: str = "0", mode: str = "effective", **limits: Any) -> Table:
    """A label's history."""
    (order,) = [order for order in order_run(fold.rows()) if order.label == label]
    keys = limits.pop("keys", None)
    rows = written(fold, order, keys)
    if mode == "raw":
        return raw_table(rows, all_rows=keys is None, **limits)
    latest = order.attempts[-1].number if mode == "latest" else None
    return effective_table(rows, latest=latest, **limits)


def cells(fold: Fold, label: str = "0", mode: str = "effective", **limits: Any) -> list[Any]:
    """A label's history as (attempt, step, {key: value}) rows."""
    answer = table(fold, label, mode, **limits)
    rows: list[dict[str, float]] = [{} for _ in answer.steps]
    for key in sorted(answer.cells):
        own = answer.cells[key]
        for row, value in zip(own.rows.tolist(), own.values.tolist(), strict=True):
            assert key not in rows[row]
            rows[row][key] = value
    return list(zip(answer.attempts.tolist(), answer.steps.tolist(), rows, strict=True))


def series(fold: Fold, key: str, label: str = "0", mode: str = "effective") -> dict[int, float]:
    """A key's values by step; a step that comes twice fails."""
    found: dict[int, float] = {}
    for _, step, row in cells(fold, label, mode, keys=[key]):
        assert step not in found
        found[step] = row[key]
    return found


def answer_bytes(fold: Fold) -> bytes:
    """All a run's records say, as the bytes of the answers: the view, and each label's history."""
    parts = [view(fold).SerializeToString(deterministic=True)]
    for order in order_run(fold.rows()):
        for mode in ("effective", "latest", "raw"):
            answer = blocks(order.label, table(fold, order.label, mode))
            parts += [block.SerializeToString(deterministic=True) for block in answer]
    return b"\n".join(parts)


def equal_arrays(a: Any, b: Any) -> bool:
    """Whether two arrays are the same, NaN being itself."""
    return bool(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f"))
