"""Tables and blocks of a label's history."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plait_collector import history
from plait_collector.attempts import order_run
from plaitwire.v1 import query_pb2
from tests.support.fold import Fold, Writer, meta
from tests.support.reading import cells, table, written

POINTS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 8),
        st.dictionaries(st.sampled_from("ab"), st.integers(0, 99).map(float), max_size=2),
    ),
    max_size=10,
)


def plain_history(fold: Fold) -> list[Any]:
    """The effective history of label 0 by its words, point by point and slowly."""
    (order,) = order_run(fold.rows())
    label = written(fold, order)
    points: defaultdict[str, list[tuple[int, int, int, float, bool]]] = defaultdict(list)
    for key, own in label.cells.items():
        for row, value in zip(own.rows.tolist(), own.values.tolist(), strict=True):
            attempt, step = int(label.attempts[row]), int(label.steps[row])
            points[key].append((attempt, step, row, value, bool(label.anchored[row])))
    found: dict[tuple[int, int], dict[str, tuple[int, float]]] = {}
    for key, own_points in points.items():
        effective: dict[tuple[int, int], tuple[int, float]] = {}
        for number in sorted({point[0] for point in own_points}):
            mine = [point for point in own_points if point[0] == number]
            anchored = [step for _, step, _, _, fixed in mine if fixed]
            if anchored:
                kept = {at: v for at, v in effective.items() if at[1] < min(anchored)}
                effective = kept
            for attempt, step, row, value, _ in mine:
                effective[attempt, step] = (row, value)
        for at, cell in effective.items():
            found.setdefault(at, {})[key] = cell
    rows = sorted(found.items(), key=lambda item: max(row for row, _ in item[1].values()))
    return [(a, s, {key: value for key, (_, value) in row.items()}) for (a, s), row in rows]


@settings(deadline=None)
@given(st.lists(POINTS, min_size=1, max_size=4))
def test_effective_history_is_what_its_words_say(attempts: list[Any]) -> None:
    """The vectorised history equals the definition carried out point by point."""
    writers = []
    for number, points in enumerate(attempts):
        writer = Writer(meta(number + 1, restart_count=number))
        for step, values in points:
            writer.row(step, **values)
        writers.append(writer)
    fold = Fold().add(*writers)
    assert cells(fold) == plain_history(fold)


def test_absent_is_not_nan() -> None:
    """A key that a row lacks is absent in it; a NaN that was logged is a NaN."""
    fold = Fold().add(Writer(meta(1)).row(0, a=float("nan")).row(1, b=1.0))
    (first, second) = cells(fold)
    assert math.isnan(first[2]["a"])
    assert second[2] == {"b": 1.0}


def test_steps_bound_what_is_answered_and_not_what_counts() -> None:
    """Bounds are inclusive and on the label's steps; what they hide still overrides."""
    fold = Fold().add(
        Writer(meta(1)).row(0, x=0.0).row(1, x=1.0).row(2, x=2.0), Writer(meta(9)).row(1, x=10.0)
    )
    assert cells(fold, min_step=2) == []
    assert cells(fold, min_step=0, max_step=1) == [(1, 0, {"x": 0.0}), (2, 1, {"x": 10.0})]
    assert len(cells(fold, mode="raw", min_step=1, max_step=1)) == 2


def test_rows_without_the_keys_asked_for_are_left_out() -> None:
    """A table holds the steps at which one of its keys was logged."""
    fold = Fold().add(Writer(meta(1)).row(0, a=1.0).row(1, b=1.0).row(2, a=2.0, b=2.0))
    assert cells(fold, keys=["a"]) == [(1, 0, {"a": 1.0}), (1, 2, {"a": 2.0})]
    assert cells(fold, keys=["a"], mode="raw") == [(1, 0, {"a": 1.0}), (1, 2, {"a": 2.0})]
    assert cells(fold, keys=["nobody"]) == []


def test_raw_of_all_keys_holds_rows_without_any() -> None:
    """Raw is one row for each that was written, also one that has no value."""
    fold = Fold().add(Writer(meta(1)).row(0).row(1, a=1.0))
    assert cells(fold, mode="raw") == [(1, 0, {}), (1, 1, {"a": 1.0})]
    assert cells(fold) == [(1, 1, {"a": 1.0})]


def test_latest_is_the_latest_attempt_alone() -> None:
    """Also where it has written nothing yet."""
    fold = Fold().add(Writer(meta(1)).row(0, a=1.0), Writer(meta(9)))
    assert cells(fold, mode="latest") == []


def read(block: query_pb2.HistoryBlock) -> list[dict[str, Any]]:
    """A block as rows."""
    steps = np.frombuffer(block.steps, "<i8").tolist()
    attempts = np.frombuffer(block.attempts, "<i4").tolist()
    rows = [{"step": s, "attempt": a} for s, a in zip(steps, attempts, strict=True)]
    assert len(rows) == block.rows
    assert len(np.frombuffer(block.times_ns, "<i8")) == block.rows
    for column in block.columns:
        values = np.frombuffer(column.values, "<f8").tolist()
        present = column.present or bytes([1]) * len(values)
        assert len(values) == len(present) == block.rows
        for row, value, there in zip(rows, values, present, strict=True):
            if there:
                row["cell:" + column.key] = value
    return rows


def test_blocks_hold_the_table_and_stay_small() -> None:
    """A large table comes in several blocks under the bound, each row once and in order."""
    writer = Writer(meta(1))
    for step in range(60_000):
        writer.row(step, a=float(step), **({"b": 1.0} if step == 50_000 else {}))
    answer = list(history.blocks("0", table(Fold().add(writer))))
    assert len(answer) > 1
    assert all(block.ByteSize() <= history.BLOCK_BYTES_MAX for block in answer)
    rows = [row for block in answer for row in read(block)]
    assert [row["step"] for row in rows] == list(range(60_000))
    assert [row["cell:a"] for row in rows] == [float(step) for step in range(60_000)]
    assert [row["step"] for row in rows if "cell:b" in row] == [50_000]
    assert [len(block.columns) for block in answer].count(2) == 1
    assert not answer[0].columns[0].present
