"""The only task that writes: what waits is committed together, then everybody hears what became of
theirs.

A change that was submitted stays until the store has answered for it. While the store is
unavailable the writer keeps the batch and tries it again, later and later; nobody is acknowledged
meanwhile, so that agents run out of credit: that is the backpressure.

Rule: submit() never waits. What bounds the queue is the credit and the counts of those who submit.
Rule: an owner hears of its changes in the order it submitted them, each once; or never, if the
      writer was stopped first.

Invariant: submitted == answered + queued, what is being committed being queued.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from plait_collector.store import (
    Append,
    Change,
    Delete,
    Open,
    Outcome,
    Store,
    StoreUnavailable,
)
from plaitwire.backoff import backoff_s
from plaitwire.limits import MIB

log = logging.getLogger(__name__)

BATCH_BYTES_MAX: Final = 8 * MIB
"""What one transaction takes: it has a dozen statements however many changes it has."""
CHANGE_BYTES: Final = 512
"""What a change weighs beside its payload."""
RETRY_BASE_S: Final = 0.1
RETRY_CAP_S: Final = 5.0


class Owner(Protocol):
    """Whoever submits changes."""

    def committed(self, results: Sequence[tuple[Change, Outcome]]) -> None:
        """Hear what became of changes, in their order. Must not raise."""


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """What a writer has done and has to do."""

    submitted: int
    answered: int
    queued: int
    """Changes that wait, or are being committed."""
    queued_bytes: int
    commits: int
    failures: int
    """Commits that the store could not do at the time."""
    failing: bool
    """Whether the last commit failed."""
    last_error: str
    """Why, the last time one did; empty: none did yet."""
    largest_batch: int
    """Changes in one commit."""


class Writer:
    """The single writer of a store."""

    def __init__(
        self,
        store: Store,
        *,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        rng: random.Random | None = None,
    ) -> None:
        """
        Args:
            store: nobody else commits to it.
            batch_bytes_max: what one transaction takes, in bytes.
            rng: where the chance in the waits comes from.
        """
        self._store = store
        self._batch_bytes_max = batch_bytes_max
        self._rng = rng or random.Random()
        self._queue: deque[tuple[Change, Owner]] = deque()
        self._wake = asyncio.Event()
        self._draining = asyncio.Event()
        self._stopped = False
        self._submitted = self._answered = self._queued_bytes = 0
        self._commits = self._failures = self._largest_batch = 0
        self._failing = False
        self._last_error = ""

    def submit(self, change: Change, owner: Owner) -> None:
        """Have change committed; owner.committed() tells the outcome. Never waits."""
        self._queue.append((change, owner))
        self._submitted += 1
        self._queued_bytes += weight(change)
        self._wake.set()

    async def delete(self, project: str, run: str) -> None:
        """Remove a run for good. What was submitted before is carried out before.

        Raises:
            StoreUnavailable: the writer was stopped first; whether it was done is not known.
        """
        if self._stopped:
            raise StoreUnavailable("the writer has stopped")
        waiting = _Waiting()
        self.submit(Delete(project, run), waiting)
        await waiting.answer

    async def run(self) -> None:
        """Write until drained or cancelled. What is not answered then is never acknowledged."""
        try:
            while await self._is_wanted():
                while self._queue:
                    batch = self._next_batch()
                    outcomes = await self._committed([change for change, _ in batch])
                    if outcomes is None:
                        return
                    self._answer(batch, outcomes)
        finally:
            self._stopped = True
            if self._queue:
                log.warning("the writer stopped early: unacknowledged=%d", len(self._queue))
            for _, owner in self._queue:
                if isinstance(owner, _Waiting):
                    owner.give_up()

    def drain(self) -> None:
        """Have run() end once the queue is empty, or the store fails once more."""
        self._draining.set()
        self._wake.set()

    def statistics(self) -> WriterStatistics:
        """What was done and is to be done."""
        queued = len(self._queue)
        assert self._submitted == self._answered + queued
        return WriterStatistics(
            submitted=self._submitted,
            answered=self._answered,
            queued=queued,
            queued_bytes=self._queued_bytes,
            commits=self._commits,
            failures=self._failures,
            failing=self._failing,
            last_error=self._last_error,
            largest_batch=self._largest_batch,
        )

    async def _is_wanted(self) -> bool:
        """Wait until there is something to write. False: there is nothing, and will be nothing."""
        while not self._queue:
            if self._draining.is_set():
                return False
            self._wake.clear()
            await self._wake.wait()
        return True

    def _next_batch(self) -> list[tuple[Change, Owner]]:
        """The changes to commit next, at least one. They stay in the queue until answered."""
        batch: list[tuple[Change, Owner]] = []
        size = 0
        for entry in self._queue:
            size += weight(entry[0])
            if batch and size > self._batch_bytes_max:
                break
            batch.append(entry)
        return batch

    async def _committed(self, changes: Sequence[Change]) -> Sequence[Outcome] | None:
        """Commit, again and again until it is done. None: given up, because of a drain."""
        attempt = 0
        while True:
            try:
                outcomes = await self._store.commit(changes)
            except StoreUnavailable as error:
                self._failures += 1
                self._last_error = str(error)
                if not self._failing:
                    log.error("cannot write, trying again: error=%r", str(error))
                self._failing = True
                if self._draining.is_set():
                    return None
                await self._pause(attempt)
                attempt += 1
                continue
            assert len(outcomes) == len(changes)
            if self._failing:
                log.info("writing again: failures=%d", self._failures)
            self._failing = False
            self._commits += 1
            self._largest_batch = max(self._largest_batch, len(changes))
            return outcomes

    async def _pause(self, attempt: int) -> None:
        """Wait before trying again; a drain cuts the wait short."""
        delay = backoff_s(attempt, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._rng)
        try:
            async with asyncio.timeout(delay):
                await self._draining.wait()
        except TimeoutError:
            pass

    def _answer(self, batch: Sequence[tuple[Change, Owner]], outcomes: Sequence[Outcome]) -> None:
        """Tell every owner what became of its changes."""
        results: dict[int, tuple[Owner, list[tuple[Change, Outcome]]]] = {}
        for (change, owner), outcome in zip(batch, outcomes, strict=True):
            results.setdefault(id(owner), (owner, []))[1].append((change, outcome))
            self._queue.popleft()
            self._queued_bytes -= weight(change)
        self._answered += len(batch)
        for owner, answers in results.values():
            owner.committed(answers)


class _Waiting:
    """An owner that awaits its one change."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def committed(self, results: Sequence[tuple[Change, Outcome]]) -> None:
        """The change is made."""
        if not self.answer.done():  # Else its caller has left.
            self.answer.set_result(None)

    def give_up(self) -> None:
        """The writer has stopped."""
        if not self.answer.done():
            self.answer.set_exception(StoreUnavailable("the writer has stopped"))


def weight(change: Change) -> int:
    """About what a change takes in memory, in bytes."""
    match change:
        case Append():
            return CHANGE_BYTES * (1 + len(change.lifted)) + len(change.payload)
        case Open(meta):
            return CHANGE_BYTES + len(meta.extra_json)
        case _:
            return CHANGE_BYTES
