"""Every store against the contract, and against each other."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait_collector.store import (
    Change,
    Declined,
    Delete,
    Open,
    Outcome,
    Skip,
    Store,
    StoreUnavailable,
)
from plait_collector.store.sqlite import SqliteStore
from plaitwire import records as r
from plaitwire.v1 import ingest_pb2 as pb
from tests.contract.store_contract import HEAD, StoreContract, bytes_of
from tests.support.changes import append_of, finish_record, gap_record, meta_of, row_at, session_id
from tests.support.memory_store import MemoryStore


class TestMemoryStore(StoreContract):
    """The store of the simulator."""

    @pytest.fixture
    def store(self) -> Store:
        """An empty one."""
        return MemoryStore()

    async def test_it_fails_when_told_to(self) -> None:
        """Before: nothing happened. After: all happened, and nobody was told."""
        store = MemoryStore()
        store.fail_before, store.fail_after = 1, 1
        with pytest.raises(StoreUnavailable):
            store.commit_now([Open(meta_of())])
        assert await store.run_names() == []
        with pytest.raises(StoreUnavailable):
            store.commit_now([Open(meta_of()), append_of(session_id(1), 0, HEAD)])
        assert await bytes_of(store, session_id(1)) == HEAD

    async def test_it_goes_back_to_a_copy(self) -> None:
        """What came after the copy is gone, and coming again changes the copy not."""
        store = MemoryStore()
        store.commit_now([Open(meta_of())])
        copy = store.snapshot()
        for _ in range(2):
            store.commit_now([append_of(session_id(1), 0, HEAD), Delete("digits", "one")])
            store.restore(copy)
            assert await store.run_names() == [("digits", "one")]
            assert await bytes_of(store, session_id(1)) == b""


class TestSqliteStore(StoreContract):
    """The default store."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """An empty one, in a folder of its own."""
        store = await SqliteStore.open(tmp_path / "data")
        yield store
        await store.close()


PAYLOADS = st.lists(
    st.sampled_from(
        [
            HEAD,
            row_at(1),
            row_at(5, automatic=True),
            gap_record(2, 4) + row_at(7),
            r.pack_json(r.Kind.CONFIG, {"lr": 0.1}),
            finish_record(1, "failed"),
            finish_record(None, "crashed", "agent"),
        ]
    ),
    min_size=1,
    max_size=3,
).map(b"".join)


WHATS = ["open"] * 3 + ["append"] * 9 + ["skip"] * 2 + ["other", "delete"]


class Changes:
    """Draws changes that mostly fit where the streams stand, and sometimes do not."""

    def __init__(self, data: st.DataObject) -> None:
        """No stream has anything yet."""
        self._data = data
        self._ends: dict[int, int] = {}
        self._bases: dict[int, int] = {}

    def draw(self) -> Change:
        """One change more, as if those before were applied."""
        draw = self._data.draw
        number = draw(st.integers(1, 4))
        session, run = session_id(number), "one" if number % 2 else "two"
        what = draw(st.sampled_from(WHATS))
        off = draw(st.sampled_from([0, 0, 0, 0, 8, -8]))
        offset = max(0, self._ends.get(number, 0) + off)
        if what == "open":
            return Open(meta_of(number, run=run))
        if what == "other":
            return Open(meta_of(number, run=run, host="another"))
        if what == "delete":
            return Delete("digits", run)
        if what == "skip":
            end = offset + 8 * draw(st.integers(1, 9))
            if not off:
                self._ends[number] = self._bases[number] = end
            reason = draw(st.sampled_from([pb.GAP_REASON_REBOOT, pb.GAP_REASON_DAMAGED]))
            return Skip(session, offset, end, reason, draw(st.sampled_from([None, 3])), "m")
        payload, base = draw(PAYLOADS), self._bases.get(number, 0)
        if HEAD in payload:  # It defines a schema: a segment of its own.
            payload, base = HEAD + payload.replace(HEAD, b""), offset
        if not off:
            self._ends[number] = offset + len(payload)
            self._bases[number] = base
        return append_of(session, offset, payload, base=base)


async def everything(store: Store) -> Sequence[object]:
    """All that a store answers, in an order that does not depend on it."""
    sessions = [session_id(number) for number in range(1, 5)]
    bodies = await store.lifted(sessions, list(r.Kind))
    return [
        await store.run_names(),
        [await store.streams("digits", run) for run in ("one", "two")],
        await store.gaps(sessions),
        bodies,
        await store.schemas(sessions),
        [await bytes_of(store, session) for session in sessions],
    ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_stores_agree(data: st.DataObject) -> None:
    """Any changes, grouped in any way: the same outcomes and the same answers in all stores."""
    changes = Changes(data)
    groups = [
        [changes.draw() for _ in range(data.draw(st.integers(1, 8)))]
        for _ in range(data.draw(st.integers(1, 5)))
    ]
    asyncio.run(must_agree(groups))


def wordless(outcome: Outcome) -> Outcome:
    """An outcome without its words for people, which may differ."""
    return Declined(outcome.why, "") if isinstance(outcome, Declined) else outcome


async def must_agree(groups: Sequence[Sequence[Change]]) -> None:
    """Drive both stores with the same commits."""
    memory = MemoryStore()
    with tempfile.TemporaryDirectory() as folder:
        sqlite = await SqliteStore.open(Path(folder))
        try:
            for group in groups:
                theirs = await sqlite.commit(group)
                assert list(map(wordless, theirs)) == list(map(wordless, memory.commit_now(group)))
            assert await everything(memory) == await everything(sqlite)
        finally:
            await sqlite.close()
