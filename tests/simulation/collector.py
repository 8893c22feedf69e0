"""The collector's real protocol over a store in memory, driven step by step."""

from __future__ import annotations

import contextlib
import random
from collections import deque

from plait_collector.liveness import Heard
from plait_collector.registry import Registry
from plait_collector.scan import BadFrame, Unpacked, unpack
from plait_collector.session import Action, End, Session
from plait_collector.store import Append, Change, Delete, Outcome, StoreUnavailable
from plaitwire import limits
from plaitwire.v1 import ingest_pb2 as pb
from tests.simulation.network import Link
from tests.simulation.store import WatchedStore
from tests.support.memory_store import Contents

CREDIT_TOTAL = 64 * limits.MIB


class Relay:
    """One agent's connection, as the collector has it."""

    def __init__(self, session: Session, link: Link) -> None:
        self.session = session
        self.link = link
        self.handles: dict[int, str] = {}  # For the check of acknowledgements alone.


class Collector:
    """One collector: it can crash at any step, and its store can be set back."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.store = WatchedStore()
        self.epoch = 0
        """How often the store was wiped or set back."""
        self._start()

    def _start(self) -> None:
        self.now_ns = 10**18
        self.heard = Heard(self.now_ns)
        self.registry = Registry(
            store_id=self.store.store_id,
            version="simulated",
            heard=self.heard,
            credit_bytes_total=CREDIT_TOTAL,
        )
        self.relays: list[Relay] = []
        self.queue: deque[tuple[Change, Relay | None]] = deque()

    # Connections.

    def accept(self, link: Link) -> None:
        self.relays.append(Relay(Session(self.registry), link))

    def drop_gone(self) -> None:
        """See that links are broken, for those at which nothing is left to arrive."""
        for relay in list(self.relays):
            link = relay.link
            if link.collector_gone or (link.agent_gone and not link.to_collector):
                relay.session.closed()
                self.relays.remove(relay)

    def deliver(self, relay: Relay) -> None:
        """Take in the oldest message of a relay."""
        message = pb.RelayRequest.FromString(relay.link.to_collector.popleft())
        if message.WhichOneof("message") == "open_stream":
            relay.handles[message.open_stream.handle] = message.open_stream.meta.session
        if message.WhichOneof("message") != "frames":
            self._act(relay, relay.session.received(message, self.now_ns))
            return
        for frame in message.frames.frames:
            opened: Unpacked | BadFrame
            try:
                opened = unpack(frame)
            except BadFrame as bad:
                opened = bad
            self._act(relay, relay.session.frame(frame, opened, self.now_ns))

    def _act(self, relay: Relay, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, pb.RelayResponse):
                self._check_acks(relay, action)
                relay.link.to_agent.append(action.SerializeToString())
            elif isinstance(action, End):
                assert action.error is None, action.error
                relay.link.collector_gone = True
            else:
                self.queue.append((action, relay))
        held = sum(len(c.payload) for c, _ in self.queue if isinstance(c, Append))
        assert held <= CREDIT_TOTAL, "the collector holds more than it granted"

    def _check_acks(self, relay: Relay, response: pb.RelayResponse) -> None:
        for entry in response.ack.offsets:
            session = relay.handles[entry.handle]
            stored = self.store.next_offset(session)
            deleted = self.store.is_deleted(session)
            assert entry.offset <= stored or deleted, "acknowledged, and not stored"

    # The writer.

    def commit(self) -> None:
        """Commit some of what waits, as the writer does: together, then the answers."""
        batch = [self.queue[i] for i in range(self.rng.randint(1, len(self.queue)))]
        try:
            outcomes = self.store.commit_now([change for change, _ in batch])
        except StoreUnavailable:
            return  # Nobody is told anything; the same changes are tried again.
        for _ in batch:
            self.queue.popleft()
        answers: dict[int, tuple[Relay, list[tuple[Change, Outcome]]]] = {}
        for (change, relay), outcome in zip(batch, outcomes, strict=True):
            if relay is not None:
                answers.setdefault(id(relay), (relay, []))[1].append((change, outcome))
        for relay, results in answers.values():
            self._act(relay, relay.session.committed(results, self.now_ns))

    def commit_and_die(self) -> None:
        """The commit is on disk, and the process is gone before anybody heard."""
        with contextlib.suppress(StoreUnavailable):
            self.store.commit_now([change for change, _ in self.queue])
        self.crash()

    def delete(self, project: str, run: str) -> None:
        """Delete a run, in the writer's turn."""
        self.queue.append((Delete(project, run), None))

    # Its end.

    def crash(self) -> None:
        """Lose all that is not in the store."""
        for relay in self.relays:
            relay.link.collector_gone = relay.link.agent_gone = True
            relay.link.to_agent.clear()
        self._start()

    def wipe(self) -> None:
        """Come back with an empty store."""
        self.epoch += 1
        self.store.wipe(f"store-{self.epoch}")
        self.crash()

    def restore(self, copy: Contents) -> None:
        """Come back with an old copy of the store."""
        self.epoch += 1
        self.store.restore(copy)
        self.crash()
