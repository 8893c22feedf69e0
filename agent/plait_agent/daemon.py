"""What starts, in what order, and how it stops.

Downstream first: the relay is there before anything feeds it, and the sockets answer last. On
SIGTERM or SIGINT: what is committed is shipped and waited for, within DRAIN_S; the collector hears
Goodbye; what is still not acknowledged is copied to disk and synced. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from plait_agent.config import AgentConfig
from plait_agent.control import AgentStatus, ControlServer
from plait_agent.events import Ended, Found, Gone, Grew, Progress
from plait_agent.health import Health
from plait_agent.relay import Relay
from plait_agent.signals import Changes
from plait_agent.spill import Outcome
from plait_agent.stream import PIECES_MAX
from plait_agent.streams import Streams
from plait_agent.uplink import Uplink
from plaitwire import limits
from plaitwire.v1 import ingest_pb2 as pb

log = logging.getLogger(__name__)

POLL_S: Final = 0.2
SPILL_EVERY_S: Final = limits.SPILL_AFTER_S
GOODBYE_S: Final = 1.0
"""How long the collector has to take our Goodbye."""
LOCK: Final = "agent.lock"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class AnotherAgent(RuntimeError):
    """A folder is in use by another agent. The sentence says which, and by whom."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other agents.

    Raises:
        AnotherAgent: one has it.
    """
    path = folder / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise AnotherAgent(f"another agent (pid {pid}) serves {folder}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)  # The file stays: removing it would let two agents in.


class Agent:
    """One agent's life. Implements control.Node."""

    def __init__(self, config: AgentConfig, *, version: str) -> None:
        """
        Args:
            config: validated.
            version: of plait, for people.
        """
        self._config, self._version = config, version
        self._id = secrets.token_hex(16)
        self._rng = random.Random(secrets.randbits(64))
        self._started_s = time.monotonic()
        self._stop = asyncio.Event()
        self._spill_all = asyncio.Event()
        self._progress = Changes()
        self._poke = Changes()
        boot_id = BOOT_ID.read_text().strip()
        self._streams = Streams(config.folders, node=config.node, boot_id=boot_id)
        hello = pb.Hello(
            protocol=limits.PROTOCOL,
            agent=self._id,
            node=config.node,
            boot_id=boot_id,
            version=version,
            heartbeat_interval_ms=int(limits.HEARTBEAT_INTERVAL_S * 1000),
        )
        self._uplink = Uplink(hello, rng=self._rng)
        self._relay = Relay(
            self._uplink,
            self._streams,
            collector=config.collector,
            clock=time.monotonic,
            wall_ns=time.time_ns,
            rng=self._rng,
            progress=self._progress,
        )

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        config = self._config
        health = Health(config.folders.hot, config.grpc)
        control = ControlServer(
            self,
            config.folders,
            notices=config.folders.notices,
            changes=self._progress,
            clock=time.monotonic,
        )
        try:
            addresses = await health.start()
            addresses["control"] = str(await control.start())
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._relay.run(), name="relay")
                writing = tasks.create_task(self._relay.run_writer(), name="relay writer")
                following = tasks.create_task(self._follow(), name="streams")
                spilling = tasks.create_task(self._spill(), name="spill")
                self._listen_to_signals()
                self._say_ready(addresses)
                await self._stop.wait()
                log.info("draining: seconds=%g", limits.DRAIN_S)
                await health.drain()
                await self._drain()
                self._relay.leave()
                await asyncio.wait({reading, writing}, timeout=GOODBYE_S)
                self._spill_all.set()
                self._poke.ring()
                await spilling
                for task in (reading, writing, following):
                    task.cancel()
        finally:
            await control.stop()
            await health.stop()
        self._say_what_is_left()

    def _say_ready(self, addresses: dict[str, str]) -> None:
        config = self._config
        log.info(
            "ready: %s collector=%s node=%s hot=%s cold=%s id=%s",
            " ".join(f"{key}={value}" for key, value in addresses.items()),
            config.collector,
            config.node,
            config.folders.hot,
            config.folders.cold,
            self._id,
        )
        for notice in config.folders.notices:
            log.warning("folders: notice=%r", notice)

    def stop(self) -> None:
        """Begin to stop. Safe twice."""
        self._stop.set()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def first(number: signal.Signals) -> None:
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)  # The next one ends the process at once.
            log.info("stopping: signal=%s", number.name)
            self.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, first, number)

    async def _follow(self) -> None:
        """Look at the streams, and tell the uplink."""
        busy_s = time.monotonic()
        while True:
            seen, now_s = self._poke.count, time.monotonic()
            self._look(now_s)
            if self._streams.statistics().streams:
                busy_s = now_s
            idle_s = self._config.idle_exit_s
            if idle_s is not None and now_s - busy_s >= idle_s:
                log.info("nothing to do: seconds=%g", idle_s)
                self.stop()
            await self._poke.after(seen, timeout_s=POLL_S)

    def _look(self, now_s: float) -> None:
        events = self._streams.poll(now_s)
        for event in events:
            match event:
                case Found(session, meta):
                    self._uplink.add(session, meta)
                case Grew(session, end):
                    self._uplink.grew(session, end)
                case Ended(session, end):
                    for effect in self._uplink.ended(session, end):
                        self._streams.apply(effect)
                case Gone(session):
                    self._uplink.remove(session)
        if events:
            self._relay.wake.ring()
            self._progress.ring()

    async def _spill(self) -> None:
        """Copy to disk what waits too long; at the end, all that is not acknowledged."""
        while not self._spill_all.is_set():
            await self._poke.after(self._poke.count, timeout_s=SPILL_EVERY_S)
            for job in self._streams.spill_jobs(time.monotonic()):
                self._streams.spilled(await asyncio.to_thread(self._streams.carry_out, job))
        self._look(time.monotonic())
        more = True
        while more:  # A job takes so many segments of a stream; a long outage leaves more of them.
            more = False
            for job in self._streams.spill_jobs(time.monotonic(), everything=True):
                outcome: Outcome = await asyncio.to_thread(self._streams.carry_out, job)
                more |= len(job.pieces) == PIECES_MAX and not outcome.error
                self._streams.spilled(outcome)

    async def _drain(self) -> None:
        """Return once all that is committed now is acknowledged, or DRAIN_S are over."""
        self._look(time.monotonic())
        ends = {status.session: status.committed for status in self._streams.status()}
        until_s = time.monotonic() + limits.DRAIN_S
        while self._relay.connected and (left_s := until_s - time.monotonic()) > 0:
            seen = self._progress.count
            ends = {session: end for session, end in ends.items() if self._lacks(session, end)}
            if not ends:
                return
            await self._progress.after(seen, timeout_s=left_s)

    def _lacks(self, session: str, end: int) -> bool:
        progress = self._streams.progress(session)
        relayed = self._uplink.stream_statistics(session)
        return progress is not None and relayed is not None and progress.acked < end

    def _say_what_is_left(self) -> None:
        left = [s for s in self._streams.status() if s.acked < s.committed]
        unacked = sum(status.committed - status.acked for status in left)
        log.info("stopped: streams_left=%d bytes_not_acknowledged=%d", len(left), unacked)

    # What the control socket asks.

    def announce(self, session: str) -> None:
        """Look at this stream now."""
        self._streams.announce(session)
        self._poke.ring()

    def progress(self, session: str) -> Progress | None:
        """How far a stream is; None: nobody has heard of it."""
        return self._streams.progress(session)

    def agent_status(self) -> AgentStatus:
        """The agent, for people."""
        uplink = self._uplink.statistics()
        return AgentStatus(
            id=self._id,
            version=self._version,
            node=self._config.node,
            collector=self._config.collector,
            connected=uplink.welcomed,
            last_error=self._relay.last_error,
            store_id=uplink.store_id,
            uptime_s=round(time.monotonic() - self._started_s, 3),
            credit_bytes=uplink.credit_bytes,
        )

    def stream_statuses(self) -> list[dict[str, Any]]:
        """Each stream, for people."""
        found = []
        for status in self._streams.status():
            relayed = self._uplink.stream_statistics(status.session)
            found.append(
                {
                    "session": status.session,
                    "project": status.project,
                    "run": status.run,
                    "label": status.label,
                    "kind": status.kind,
                    "state": status.state,
                    "committed": status.committed,
                    "shipped": relayed.shipped if relayed is not None else status.acked,
                    "acked": status.acked,
                    "spilled": status.spilled,
                    "hot_bytes": status.hot_bytes,
                    "cold_bytes": status.cold_bytes,
                    "error": status.error,
                }
            )
        return found


def serve(config: AgentConfig, *, version: str) -> None:
    """Run an agent until it is told to stop.

    Raises:
        AnotherAgent: a folder is in use.
        OSError: a socket or a folder cannot be used.
    """
    with ExitStack() as held:
        for folder in (config.folders.hot, config.folders.cold):
            held.enter_context(locked(folder))

        async def life() -> None:
            await Agent(config, version=version).run()

        asyncio.run(life())
