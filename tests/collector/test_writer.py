"""The writer: what waits is committed together, and everybody hears of theirs, in order, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from plait_collector.store import (
    Append,
    Applied,
    Change,
    Conflict,
    Open,
    Outcome,
    StoreUnavailable,
)
from plait_collector.writer import Writer
from tests.contract.store_contract import bytes_of
from tests.support.changes import append_of, meta_of, row_at, session_id
from tests.support.memory_store import MemoryStore

DEADLINE_S = 20.0


class Recorder:
    """An owner that remembers what it heard."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.heard: list[tuple[Change, Outcome]] = []
        self.calls = 0

    def committed(self, results: Sequence[tuple[Change, Outcome]]) -> None:
        """Remember."""
        self.heard += results
        self.calls += 1

    @property
    def changes(self) -> list[Change]:
        """What it heard of, in order."""
        return [change for change, _ in self.heard]


class GatedStore(MemoryStore):
    """A store whose commits wait until they are let."""

    def __init__(self) -> None:
        """Closed."""
        super().__init__()
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.batches: list[int] = []

    async def commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Wait for the gate, then commit."""
        self.batches.append(len(changes))
        self.waiting.set()
        await self.gate.wait()
        return self.commit_now(changes)


@asynccontextmanager
async def running(writer: Writer) -> AsyncIterator[asyncio.Task[None]]:
    """A writer at work, drained at the end."""
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(writer.run())
        yield task
        writer.drain()


async def until(condition: Callable[[], object]) -> None:
    """Let others run until condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


def appends(number: int, count: int) -> list[Append]:
    """Rows of a stream, one by one."""
    made, offset = [], 0
    for step in range(count):
        made.append(append_of(session_id(number), offset, row_at(step)))
        offset = made[-1].end
    return made


async def test_what_waits_is_committed_together() -> None:
    """While one commit is under way the next one gathers, of all owners."""
    store = GatedStore()
    writer = Writer(store)
    one, two = Recorder(), Recorder()
    async with running(writer):
        writer.submit(Open(meta_of(1)), one)
        await store.waiting.wait()
        for change in appends(1, 5):
            writer.submit(change, one)
        writer.submit(Open(meta_of(2)), two)
        assert writer.statistics().queued == 7
        store.gate.set()
        await until(lambda: writer.statistics().answered == 7)
    assert store.batches == [1, 6]
    assert one.changes == [Open(meta_of(1)), *appends(1, 5)]
    assert two.changes == [Open(meta_of(2))]
    assert (one.calls, two.calls) == (2, 1)
    assert {type(outcome) for _, outcome in one.heard[1:]} == {Applied}
    assert writer.statistics().largest_batch == 6


async def test_a_batch_is_bounded_in_bytes() -> None:
    """A commit takes what fits, and at least one change however large."""
    store = GatedStore()
    store.gate.set()
    writer = Writer(store, batch_bytes_max=2000)
    owner = Recorder()
    writer.submit(Open(meta_of(1)), owner)
    for change in appends(1, 6):
        writer.submit(change, owner)
    assert writer.statistics().queued_bytes > 2000
    async with running(writer):
        await until(lambda: writer.statistics().answered == 7)
    assert sum(store.batches) == 7
    assert max(store.batches) <= 4
    assert writer.statistics().queued_bytes == 0


async def test_nobody_is_told_of_a_failed_commit() -> None:
    """The same changes are tried again until they are done, and owners hear once."""
    store = MemoryStore()
    store.fail_before = 3
    writer, owner = Writer(store, rng=NoWait()), Recorder()
    async with running(writer):
        writer.submit(Open(meta_of(1)), owner)
        await until(lambda: writer.statistics().failures == 3)
        assert owner.heard == []
        await until(lambda: writer.statistics().answered == 1)
    assert owner.changes == [Open(meta_of(1))]
    statistics = writer.statistics()
    assert (statistics.commits, statistics.failing) == (1, False)
    assert statistics.last_error == "told to fail, before"


class NoWait(random.Random):
    """Chance that never waits."""

    def uniform(self, a: float, b: float) -> float:
        """No time at all."""
        return 0.0


async def test_a_commit_that_took_and_failed_is_told_as_it_is() -> None:
    """Tried again, an append that is there already is a conflict at its own end; no second row."""
    store = MemoryStore()
    store.commit_now([Open(meta_of(1))])
    store.fail_after = 1
    writer, owner = Writer(store, rng=NoWait()), Recorder()
    (append,) = appends(1, 1)
    async with running(writer):
        writer.submit(append, owner)
        await until(lambda: owner.heard)
    assert owner.heard == [(append, Conflict(append.end))]
    assert await bytes_of(store, session_id(1)) == append.payload


async def test_a_drain_writes_what_is_queued() -> None:
    """What was submitted before the drain is on disk and told when run() ends."""
    store = MemoryStore()
    writer, owner = Writer(store), Recorder()
    writer.submit(Open(meta_of(1)), owner)
    for change in appends(1, 50):
        writer.submit(change, owner)
    async with running(writer):
        pass
    assert len(owner.heard) == 51


async def test_a_drain_does_not_wait_for_a_dead_store() -> None:
    """It is tried once more; then nobody was acknowledged, and the count says how many."""
    store = MemoryStore()
    store.fail_before = 10_000
    writer, owner = Writer(store), Recorder()
    async with running(writer):
        writer.submit(Open(meta_of(1)), owner)
        await until(lambda: writer.statistics().failing)
    assert owner.heard == []
    assert writer.statistics().queued == 1


async def test_delete_waits_for_its_commit() -> None:
    """It comes after what was submitted before, and returns when it is on disk."""
    store = MemoryStore()
    writer, owner = Writer(store), Recorder()
    async with running(writer):
        writer.submit(Open(meta_of(1)), owner)
        await writer.delete("digits", "one")
        assert await store.run_names() == []
        assert len(owner.heard) == 1


async def test_delete_learns_that_the_writer_stopped() -> None:
    """Nobody waits for a commit that will never come: neither a queued delete nor a later one."""
    store = GatedStore()
    writer = Writer(store)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(writer.run())
        deleting = asyncio.gather(writer.delete("digits", "one"), return_exceptions=True)
        await store.waiting.wait()
        task.cancel()
        (told,) = await deleting
    assert isinstance(told, StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await writer.delete("digits", "one")


@pytest.mark.parametrize("seed", range(40))
async def test_everybody_hears_once_and_in_order(seed: int) -> None:
    """Whatever fails, before or after it was done: each owner hears of each change once."""
    rng = random.Random(seed)
    store = MemoryStore()
    writer = Writer(store, batch_bytes_max=rng.choice([1, 2000, 20_000]), rng=NoWait())
    owners = {number: Recorder() for number in range(1, 5)}
    waiting: dict[int, list[Change]] = {
        n: [Open(meta_of(n)), *appends(n, rng.randint(0, 9))] for n in owners
    }
    expected = {number: list(changes) for number, changes in waiting.items()}
    async with running(writer):
        while any(waiting.values()):
            number = rng.choice([n for n, changes in waiting.items() if changes])
            writer.submit(waiting[number].pop(0), owners[number])
            if rng.random() < 0.2:
                store.fail_before += 1
            if rng.random() < 0.1:
                store.fail_after += 1
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        await until(lambda: writer.statistics().queued == 0)
    for number, owner in owners.items():
        assert owner.changes == expected[number]
        rows = b"".join(c.payload for c in expected[number] if isinstance(c, Append))
        assert await bytes_of(store, session_id(number)) == rows
