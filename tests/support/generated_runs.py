"""Runs made up by Hypothesis, and their delivery in any interleaving."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from tests.support.fold import SECOND, Fold, Piece, Writer, meta, session_id

KEYS = st.sampled_from(["loss", "acc", "step", "ü"])
NUMBERS = st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 1e-300])
STEPS = st.none() | st.integers(-3, 12)
VALUES = st.none() | st.integers(-2, 2) | st.text(max_size=2) | st.just([1, {"a": None}])

Act = Callable[[Writer], Any]
ACTS: st.SearchStrategy[Act] = st.one_of(
    st.tuples(STEPS, st.dictionaries(KEYS, NUMBERS, max_size=3)).map(
        lambda row: lambda writer: writer.row(row[0], **row[1])
    ),
    st.dictionaries(KEYS, VALUES, max_size=2).map(lambda v: lambda writer: writer.config(**v)),
    st.dictionaries(KEYS, VALUES, max_size=2).map(lambda v: lambda writer: writer.summary(**v)),
    st.tuples(KEYS, st.sampled_from(["min", "max", "mean", "first", "last", "none", "odd"])).map(
        lambda v: lambda writer: writer.define(*v)
    ),
    st.integers(0, 3).map(lambda n: lambda writer: writer.gap(n, n)),
    st.sampled_from(["finished", "failed"]).map(lambda s: lambda writer: writer.finish(0, s)),
    st.integers(1, 90).map(lambda s: lambda writer: _wait(writer, s)),
)


def _wait(writer: Writer, seconds: int) -> None:
    writer.now_ns += seconds * SECOND


@st.composite
def runs(draw: st.DrawFn) -> list[Writer]:
    """A few sessions of a few labels: restarts, branches, orphans, on hosts with clocks."""
    writers = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        parent = draw(st.sampled_from([0, 0, 0, 1, 2, number, 9]))
        fields: dict[str, Any] = {
            "label": draw(st.sampled_from(["0", "0", "2", "10"])),
            "parent": session_id(parent) if parent else "",
            "restart_count": draw(st.integers(0, 1)),
            "started_ns": draw(st.integers(1, 60)) * SECOND,
            "host": draw(st.sampled_from(["a", "b"])),
            "primary": draw(st.integers(0, 5)) == 0,
            "group": draw(st.sampled_from(["", "g", "h"])),
        }
        writer = Writer(meta(number, **fields), segment_bytes=draw(st.sampled_from([200, 2000])))
        for act in draw(st.lists(ACTS, max_size=12)):
            act(writer)
        if draw(st.booleans()):
            writer.crash()
        writers.append(writer)
    return writers


def frames(writers: list[Writer], rng: random.Random) -> Iterator[tuple[Writer, list[Piece]]]:
    """The streams' records in some interleaving, cut somewhere between records."""
    left = {at: list(writer.pieces) for at, writer in enumerate(writers)}
    while left := {at: pieces for at, pieces in left.items() if pieces}:
        at = rng.choice(list(left))
        frame = [left[at].pop(0)]
        while left[at] and left[at][0].segment_base == frame[0].segment_base and rng.random() < 0.7:
            frame.append(left[at].pop(0))
        yield writers[at], frame


def deliver(writers: list[Writer], rng: random.Random) -> Fold:
    """All streams, opened and delivered in some interleaving."""
    fold = Fold()
    for writer in rng.sample(writers, len(writers)):
        fold.open(writer.meta)
    for writer, frame in frames(writers, rng):
        fold.append(writer.meta, frame)
    return fold
