"""One node: simulated ranks, and the real agent over their files."""

from __future__ import annotations

import random
from pathlib import Path

from plait_agent.effects import Acked, DamagedAt, Delivered, Effect, GoAway, Rejected
from plait_agent.events import Ended, Found, Gone, Grew
from plait_agent.streams import Streams
from plait_agent.uplink import Uplink
from plaitwire import limits
from plaitwire.folders import Folders
from plaitwire.v1 import ingest_pb2 as pb
from tests.simulation.disk import ForgetfulDisk
from tests.simulation.network import Link
from tests.simulation.ranks import Rank


class Node:
    """A machine. Its agent can crash at any step; all of it can lose power."""

    def __init__(self, name: str, root: Path, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.folders = Folders(hot=root / "hot", cold=root / "cold")
        for folder in (self.folders.hot, self.folders.cold):
            (folder / "streams").mkdir(parents=True, mode=0o700)
            folder.chmod(0o700)
        self.disk = ForgetfulDisk(self.folders.cold, rng)
        self.boots = 1
        self.ranks: list[Rank] = []
        self.past: list[Rank] = []
        """Ranks that died with the power."""
        self.link: Link | None = None
        self.delivered: dict[str, int] = {}
        """Session to the epoch of the store that it was delivered to whole."""
        self.rejected: dict[str, pb.RefusedReason.ValueType] = {}
        self.damage_told: set[str] = set()
        self.now_s = 1000.0
        self._start_agent()

    @property
    def boot_id(self) -> str:
        return f"boot-{self.name}-{self.boots}"

    def everyone(self) -> list[Rank]:
        return [*self.ranks, *self.past]

    def _start_agent(self) -> None:
        self.streams = Streams(
            self.folders,
            node=self.name,
            boot_id=self.boot_id,
            disk=self.disk,
            is_alive=lambda path: any(
                rank.alive and rank.session == path.parent.name for rank in self.ranks
            ),
        )
        hello = pb.Hello(
            protocol=limits.PROTOCOL,
            agent=self.rng.randbytes(8).hex(),
            node=self.name,
            boot_id=self.boot_id,
            version="simulated",
            heartbeat_interval_ms=5000,
        )
        self.uplink = Uplink(hello, rng=self.rng)

    # Steps.

    def poll(self) -> None:
        """Look at the files, and tell the uplink."""
        for event in self.streams.poll(self.now_s):
            match event:
                case Found(session, meta):
                    self.uplink.add(session, meta)
                case Grew(session, end):
                    self.uplink.grew(session, end)
                case Ended(session, end):
                    self._apply(self.uplink.ended(session, end))
                case Gone(session):
                    self.uplink.remove(session)

    def send(self) -> bool:
        """Say the next thing, if there is one."""
        if self.link is None or self.link.agent_gone:
            return False
        message = self.uplink.next_message(self.streams, self.now_s, int(self.now_s * 1e9))
        if message is None:
            return False
        assert message.ByteSize() <= limits.MESSAGE_BYTES_MAX
        if not self.link.collector_gone:
            self.link.to_collector.append(message.SerializeToString())
        return True

    def receive(self) -> bool:
        """Take in the oldest answer, if there is one."""
        if self.link is None or not self.link.to_agent:
            return False
        message = pb.RelayResponse.FromString(self.link.to_agent.popleft())
        self._apply(self.uplink.received(message, self.streams, self.now_s))
        return True

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case GoAway():
                    self.lose_link(linger=False)
                case Delivered(session):
                    assert self.link is not None
                    self.delivered[session] = self.link.epoch
                    self.streams.apply(effect)
                case Rejected(session, reason, _):
                    self.rejected[session] = reason
                    self.streams.apply(effect)
                case DamagedAt(session, _):
                    self.damage_told.add(session)
                    self.streams.apply(effect)
                case Acked():
                    self.streams.apply(effect)
                case _:
                    self.streams.apply(effect)

    def spill(self) -> None:
        """Copy to disk what waits."""
        self.streams.spill(self.now_s)

    # Faults.

    def connect(self, link: Link) -> None:
        self.link = link
        self.uplink.connected(self.now_s)

    def lose_link(self, *, linger: bool) -> None:
        if self.link is not None:
            self.link.cut(linger=linger)
            self.link = None
            self.uplink.disconnected()

    def crash_agent(self) -> None:
        """SIGKILL, and a new agent."""
        self.lose_link(linger=self.rng.random() < 0.5)
        self._start_agent()

    def reboot(self) -> None:
        """Lose the power: memory is empty, the disk is as it was synced, nobody is alive."""
        self.lose_link(linger=self.rng.random() < 0.5)
        synced = {status.session: status.spilled for status in self.streams.status()}
        for rank in self.ranks:
            rank.alive = False
            rank.synced = synced.get(rank.session, 0)
        self.past += self.ranks
        self.ranks = []
        for path in sorted(self.folders.hot.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (self.folders.hot / "streams").mkdir(mode=0o700)
        self.disk.lose_power()
        self.boots += 1
        self._start_agent()
