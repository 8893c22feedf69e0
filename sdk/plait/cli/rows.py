"""Rows of a history, and runs, as plain values for printing."""

from __future__ import annotations

import array
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait.api import Run
    from plaitwire.v1 import query_pb2


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a history."""

    label: str
    attempt: int
    step: int
    time_ns: int
    values: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """The row as an object of JSON's kinds."""
        return {
            "label": self.label,
            "attempt": self.attempt,
            "step": self.step,
            "time_ns": self.time_ns,
            "values": strict(self.values),
        }


def tail(blocks: Iterable[query_pb2.HistoryBlock], limit: int) -> Iterator[Row]:
    """The last rows of each label, as they come.

    Args:
        blocks: of an answer: a label's follow each other.
        limit: how many of each label; 0: all.
    """
    kept: deque[Row] = deque(maxlen=limit or None)
    for block in blocks:
        if not limit:
            yield from _rows(block)
            continue
        if kept and kept[-1].label != block.label:
            yield from kept
            kept.clear()
        kept.extend(_rows(block))
    yield from kept


def _rows(block: query_pb2.HistoryBlock) -> Iterator[Row]:
    columns = [(c.key, _numbers("d", c.values), c.present) for c in block.columns]
    attempts, steps = _numbers("i", block.attempts), _numbers("q", block.steps)
    for at, (attempt, step, time) in enumerate(
        zip(attempts, steps, _numbers("q", block.times_ns), strict=True)
    ):
        values = {
            key: numbers[at] for key, numbers, present in columns if not present or present[at]
        }
        yield Row(block.label, attempt, step, time, values)


def _numbers(code: str, data: bytes) -> array.array[Any]:
    numbers = array.array(code, data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def run_line(run: Run) -> dict[str, Any]:
    """What a list tells of a run."""
    return {
        "project": run.project,
        "run": run.id,
        "group": run.group,
        "state": run.state,
        "liveness": run.liveness,
        "started_ns": run.started_ns,
        "rows": run.rows,
        "last_step": run.last_step,
    }


def strict(value: Any) -> Any:
    """The value as JSON can say it: words for NaN and the infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {key: strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(entry) for entry in value]
    return value
