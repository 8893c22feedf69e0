"""Convergence: any interleaving of frames, cut anywhere between records, gives the same answers."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait_collector.attempts import order_run
from plait_collector.history import blocks, effective_table
from plait_collector.run_reader import RunReader
from plait_collector.store import Open
from tests.support.changes import append_of
from tests.support.fold import Fold, Writer
from tests.support.generated_runs import deliver, frames, runs
from tests.support.memory_store import MemoryStore
from tests.support.reading import answer_bytes, table, view


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs(), st.integers(0, 2**32))
def test_any_interleaving_gives_the_same_answers(writers: list[Writer], seed: int) -> None:
    """The view and every history of a run are the same bytes however its frames arrived."""
    rng = random.Random(seed)
    first = answer_bytes(Fold().add(*writers))
    assert answer_bytes(deliver(writers, rng)) == first
    assert answer_bytes(deliver(writers, rng)) == first


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs(), st.integers(0, 2**32))
async def test_what_ingest_kept_gives_the_same_answers(writers: list[Writer], seed: int) -> None:
    """Through the real scan and a store, frame by frame, the answers are the plain reading's."""
    store = MemoryStore()
    store.commit_now([Open(writer.meta) for writer in writers])
    for writer, frame in frames(writers, random.Random(seed)):
        payload = b"".join(piece.payload for piece in frame)
        base = frame[0].segment_base
        change = append_of(writer.meta.session, frame[0].offset, payload, base=base)
        store.commit_now([change])
    fold = Fold().add(*writers)
    assert await store.streams("p", "r") == fold.rows()
    reader = RunReader(store)
    labels = await reader.labels("p", "r")
    assert labels == order_run(fold.rows())
    assert await reader.view("p", "r", labels) == view(fold)
    for order in labels:
        answer = blocks(order.label, effective_table(await reader.written(order, None)))
        assert list(answer) == list(blocks(order.label, table(fold, order.label)))
