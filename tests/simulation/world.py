"""Who does what next, from a seed, and what must hold at the end (DESIGN's invariants, by name)."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from plaitwire import records
from plaitwire.records import Kind
from plaitwire.v1 import ingest_pb2 as pb
from tests.simulation.collector import Collector
from tests.simulation.network import Link
from tests.simulation.node import Node
from tests.simulation.ranks import Rank
from tests.support.memory_store import Contents

PROJECT = "simulated"
RUNS = ("one", "two")
_DRAIN_STEPS_MAX = 20_000


class World:
    """Nodes, a collector, and chance."""

    def __init__(self, seed: int, root: Path) -> None:
        self.rng = random.Random(seed)
        self.collector = Collector(self.rng)
        self.nodes = [
            Node(f"node-{i}", root / f"node-{i}", self.rng) for i in range(self.rng.randint(1, 3))
        ]
        self.copies: list[Contents] = []
        # Each seed has its own mix of faults: some have none, some one kind, some all.
        faults: list[tuple[Callable[[], object], int]] = [
            (self._cut, 6),
            (self._crash_agent, 3),
            (self._crash_collector, 2),
            (self._commit_and_die, 2),
            (self._fail_commit, 3),
            (self._reboot, 1),
            (self._wipe, 1),
            (self._copy, 2),
            (self._restore, 1),
            (self._delete, 1),
            (self._damage, 1),
        ]
        chosen = [f for f in faults if self.rng.random() < self.rng.choice([0.0, 0.4, 1.0])]
        work: list[tuple[Callable[[], object], int]] = [
            (self._start_rank, 4),
            (self._log, 40),
            (self._end_rank, 3),
            (self._poll, 30),
            (self._send, 60),
            (self._receive, 60),
            (self._deliver, 60),
            (self._commit, 30),
            (self._connect, 20),
            (self._spill, 8),
            (self._pass_time, 10),
        ]
        self.steps = [*work, *chosen]

    def run(self, steps: int) -> None:
        """Let chance reign, then let all faults stop, and check."""
        actions, weights = zip(*self.steps, strict=True)
        for action in self.rng.choices(actions, weights, k=steps):
            action()
        self._drain()
        self._check()

    # Work.

    def _node(self) -> Node:
        return self.rng.choice(self.nodes)

    def _rank(self) -> Rank | None:
        alive = [rank for node in self.nodes for rank in node.ranks if rank.alive]
        return self.rng.choice(alive) if alive else None

    def _start_rank(self) -> None:
        node = self._node()
        if len(node.everyone()) < 6:
            rank = Rank(
                node.folders.hot,
                project=PROJECT,
                run=self.rng.choice(RUNS),
                label=str(self.rng.randrange(4)),
                boot_id=node.boot_id,
                rng=self.rng,
            )
            node.ranks.append(rank)

    def _log(self) -> None:
        if (rank := self._rank()) is not None:
            rank.write(self.rng.randint(1, 30))

    def _end_rank(self) -> None:
        if (rank := self._rank()) is not None:
            if self.rng.random() < 0.6:
                rank.finish(self.rng.choice([0, 0, 1]))
            rank.alive = False

    def _poll(self) -> None:
        self._node().poll()

    def _send(self) -> bool:
        return self._node().send()

    def _receive(self) -> bool:
        return self._node().receive()

    def _deliver(self) -> None:
        waiting = [r for r in self.collector.relays if r.link.to_collector]
        if waiting:
            self.collector.deliver(self.rng.choice(waiting))
        self.collector.drop_gone()

    def _commit(self) -> None:
        if self.collector.queue:
            self.collector.commit()

    def _connect(self) -> None:
        node = self._node()
        if node.link is not None and node.link.collector_gone and not node.link.to_agent:
            node.lose_link(linger=False)
        if node.link is None:
            link = Link(self.collector.epoch)
            self.collector.accept(link)
            node.connect(link)

    def _spill(self) -> None:
        self._node().spill()

    def _pass_time(self) -> None:
        passed_s = self.rng.choice([0.1, 0.5, 2.0, 20.0])
        self.collector.now_ns += int(passed_s * 1e9)
        for node in self.nodes:
            node.now_s += passed_s

    # Faults.

    def _cut(self) -> None:
        self._node().lose_link(linger=self.rng.random() < 0.5)

    def _crash_agent(self) -> None:
        self._node().crash_agent()

    def _crash_collector(self) -> None:
        self.collector.crash()

    def _commit_and_die(self) -> None:
        self.collector.commit_and_die()

    def _fail_commit(self) -> None:
        """The next commits fail: nothing of them happens, or all of it, and nobody can tell."""
        store = self.collector.store
        store.fail_before, store.fail_after = self.rng.choice([(1, 0), (3, 0), (0, 1), (1, 1)])

    def _reboot(self) -> None:
        self._node().reboot()

    def _wipe(self) -> None:
        self.collector.wipe()

    def _copy(self) -> None:
        self.copies.append(self.collector.store.snapshot())

    def _restore(self) -> None:
        if self.copies:
            self.collector.restore(self.rng.choice(self.copies))

    def _delete(self) -> None:
        self.collector.delete(PROJECT, self.rng.choice(RUNS))

    def _damage(self) -> None:
        if (rank := self._rank()) is not None:
            rank.damage()

    # The end.

    def _drain(self) -> None:
        """Faults have stopped and all ranks end: everything must arrive."""
        for node in self.nodes:
            for rank in node.ranks:
                rank.alive = False
        for _ in range(_DRAIN_STEPS_MAX):
            self._pass_time()
            moved = False
            for node in self.nodes:
                node.poll()
                self._connect()
                while node.send():
                    moved = True
                while node.receive():
                    moved = True
            for relay in list(self.collector.relays):
                while relay.link.to_collector:
                    self.collector.deliver(relay)
                    moved = True
            self.collector.drop_gone()
            while self.collector.queue:
                self.collector.commit()
                moved = True
            if not moved and all(self._is_drained(node) for node in self.nodes):
                return
        raise AssertionError("it does not drain once faults have stopped")

    def _is_drained(self, node: Node) -> bool:
        waiting = [rank.session for rank in node.ranks if rank.session not in node.delivered]
        return node.link is not None and all(session in node.rejected for session in waiting)

    def _check(self) -> None:
        for node in self.nodes:
            for rank in node.everyone():
                if rank.session in node.rejected:
                    reason = node.rejected[rank.session]
                    assert reason == pb.REFUSED_REASON_DELETED, f"refused for {reason}"
                    continue
                self._check_stream(node, rank)

    def _check_stream(self, node: Node, rank: Rank) -> None:
        """Exactly once, in order, and what is not there is a gap with a reason."""
        store, session = self.collector.store, rank.session
        faithful = node.delivered.get(session) == self.collector.epoch
        if session not in store.sessions():
            assert store.is_deleted(session) or not faithful, "a delivered stream is gone"
            assert session in node.delivered or rank in node.past, "a stream never arrived"
            return
        truth, at, rows = bytes(rank.truth), 0, 0
        rebooted = rank in node.past
        for offset, stop, payload in store.pieces(session):
            assert offset == at, "pieces overlap or leave a hole"
            at = stop
            if payload is None:
                assert self._may_gap(rank, rebooted), "a gap that no fault explains"
                kept = offset >= rank.synced or self.collector.epoch or rank.damaged is not None
                assert kept, "what was synced is lost"
                continue
            rows += sum(record.kind is Kind.ROW for record in records.scan(payload))
            if payload != truth[offset:stop]:
                assert offset >= len(truth) or rebooted, "other bytes than were written"
                assert _is_closing(payload), "bytes that nobody wrote"
        assert at == store.next_offset(session)
        assert rows == store.rows(session), "rows are counted wrong"
        if faithful:
            promised = len(truth)
            if rebooted:  # What another store had acknowledged may be gone from the disk.
                promised = 0 if self.collector.epoch else rank.synced
            assert at >= promised, "delivered, and not whole"
        if faithful:
            assert store.is_finished(session), "delivered, and its end is not known"

    def _may_gap(self, rank: Rank, rebooted: bool) -> bool:
        return rebooted or self.collector.epoch > 0 or rank.damaged is not None


def _is_closing(payload: bytes) -> bool:
    """Whether these are the records an agent closes a stream with."""
    return all(
        record.kind is Kind.GAP or (record.kind is Kind.FINISH and record.json()["by"] == "agent")
        for record in records.scan(payload)
    )


def simulate(seed: int, steps: int) -> None:
    """One world from its first to its last step. Raises what does not hold."""
    root = Path(tempfile.mkdtemp(prefix=f"plait-simulation-{seed}-", dir="/dev/shm"))
    try:
        World(seed, root).run(steps)
    finally:
        shutil.rmtree(root)
