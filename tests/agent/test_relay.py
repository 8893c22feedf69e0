"""The relay over real gRPC on loopback, with a collector made for the test."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from plait_agent.events import Ended, Found, Gone, Grew
from plait_agent.relay import Relay
from plait_agent.signals import Changes
from plait_agent.streams import Streams
from plait_agent.uplink import Uplink
from plaitwire.folders import Folders
from plaitwire.v1 import ingest_pb2 as pb
from tests.agent.collector import TinyCollector, serving, until
from tests.agent.support import BOOT, Life, Writer, finish, kinds, make_folders


class Site:
    """Streams, uplink and relay of one agent, polled by the test."""

    def __init__(self, folders: Folders, life: Life, port: int) -> None:
        self.streams = Streams(
            folders, node="n", boot_id=BOOT, is_alive=life, delayed=False, cold_free_bytes_min=0
        )
        hello = pb.Hello(protocol=1, agent="a", node="n", heartbeat_interval_ms=200)
        rng = random.Random(1)
        self.uplink = Uplink(hello, rng=rng)
        self.relay = Relay(
            self.uplink,
            self.streams,
            collector=f"127.0.0.1:{port}",
            clock=time.monotonic,
            wall_ns=time.time_ns,
            rng=rng,
            progress=Changes(),
        )

    def poll(self) -> None:
        """Look at the files, and tell the uplink."""
        for event in self.streams.poll(time.monotonic()):
            match event:
                case Found(session, meta):
                    self.uplink.add(session, meta)
                case Grew(session, end):
                    self.uplink.grew(session, end)
                case Ended(session, end):
                    for effect in self.uplink.ended(session, end):
                        self.streams.apply(effect)
                case Gone(session):
                    self.uplink.remove(session)
        self.relay.wake.ring()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the relay's two tasks; at the end they leave by themselves."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.relay.run())
            tasks.create_task(self.relay.run_writer())
            try:
                yield
            finally:
                self.relay.leave()


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make_folders(tmp_path)


@pytest.fixture
def life() -> Life:
    return Life()


async def test_a_stream_is_delivered(folders: Folders, life: Life) -> None:
    """What a rank wrote arrives byte for byte, is acknowledged, and leaves the node."""
    collector = TinyCollector()
    async with serving(collector) as port:
        site = Site(folders, life, port)
        writer = Writer(folders, life=life)
        writer.rows(range(1000))
        async with site.running():
            site.poll()
            await until(lambda: collector.streams, "the stream")
            held = collector.streams[writer.session]
            writer.write(finish())
            site.poll()
            writer.die()
            site.poll()
            await until(lambda: held.delivered, "the delivery")
    assert held.data == writer.written
    assert collector.misplaced == 0
    assert collector.goodbyes == 1
    assert not writer.folder.exists()


async def test_a_collector_that_comes_late_gets_everything(folders: Folders, life: Life) -> None:
    """With nobody listening the relay tries again; nothing is lost, nothing is sent twice."""
    collector = TinyCollector()
    async with serving(collector) as port:
        pass
    site = Site(folders, life, port)
    writer = Writer(folders, life=life)
    writer.rows(range(10))
    async with site.running():
        site.poll()
        await until(lambda: site.relay.last_error, "a failure")
        assert not site.relay.connected
        async with serving(collector, port):
            await until(lambda: site.relay.connected, "a connection")
            assert site.relay.last_error == ""

            def is_acknowledged() -> bool:
                progress = site.streams.progress(writer.session)
                return progress is not None and progress.acked == writer.end

            await until(is_acknowledged, "the ack")
            assert collector.streams[writer.session].data == writer.written
            site.relay.leave()
            await until(lambda: collector.goodbyes, "goodbye")


async def test_a_restarted_collector_is_found_again(folders: Folders, life: Life) -> None:
    """A relay that breaks is made again, and goes on where the collector is."""
    collector = TinyCollector()
    writer = Writer(folders, life=life)
    async with serving(collector) as port:
        site = Site(folders, life, port)
        collector.acking = False
    async with site.running():
        for round_ in range(3):
            async with serving(collector, port):
                writer.rows(range(round_ * 10, round_ * 10 + 10))
                site.poll()
                await until(
                    lambda: (
                        (held := collector.streams.get(writer.session))
                        and held.data == writer.written
                    ),
                    "the rows",
                )
            await until(lambda: not site.relay.connected, "the end")
        collector.acking = True
        async with serving(collector, port):
            await until(lambda: site.relay.connected, "a connection")
            site.relay.leave()
            await until(lambda: collector.goodbyes, "goodbye")
    assert collector.misplaced == 0


async def test_a_draining_collector_is_left_and_found_again(folders: Folders, life: Life) -> None:
    """Draining ends the relay on purpose; the agent comes back."""
    collector = TinyCollector()
    collector.drain = 10
    async with serving(collector) as port:
        site = Site(folders, life, port)
        async with site.running():
            await until(lambda: collector.relays == 2, "the second relay")
            await until(lambda: site.relay.connected, "the second welcome")


async def test_a_collector_of_another_version_is_tried_slowly(
    folders: Folders, life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    """FAILED_PRECONDITION is an error in the log, and the agent does not hammer on."""
    collector = TinyCollector()
    collector.refuse = grpc.StatusCode.FAILED_PRECONDITION
    async with serving(collector) as port:
        site = Site(folders, life, port)
        async with site.running():
            await until(lambda: site.relay.last_error, "the refusal")
            assert "not this version" in site.relay.last_error
    assert "does not take us" in caplog.text


async def test_a_refused_stream_harms_no_other(folders: Folders, life: Life) -> None:
    """A stream of a deleted run is set aside; the next one is relayed."""
    collector = TinyCollector()
    collector.reject = True
    async with serving(collector) as port:
        site = Site(folders, life, port)
        bad, good = Writer(folders, 1, life=life), Writer(folders, 2)
        async with site.running():
            site.poll()
            await until(lambda: site.streams.statistics().refusals.streams == 2, "the refusals")
            collector.reject = False
            third = Writer(folders, 3, life=life)
            site.poll()
            await until(lambda: third.session in collector.streams, "the third stream")
            bad.die()

            def is_set_aside() -> bool:
                site.poll()
                return not bad.folder.exists()

            await until(is_set_aside, "the refused stream to go")
    assert kinds(bad.written) == kinds(good.written) == ["schema"]
    assert (folders.cold / "refused" / bad.session).is_dir()
