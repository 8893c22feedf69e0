"""The gRPC shell: what is said on the wire when things go well, badly, or end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import pytest

from plait_collector import ingest as module
from plait_collector.store import Change, Outcome
from plaitwire import limits
from plaitwire import records as r
from plaitwire.v1 import ingest_pb2 as pb
from tests.contract.store_contract import HEAD, bytes_of
from tests.support.changes import row_at, session_id
from tests.support.memory_store import MemoryStore
from tests.support.relay import DEADLINE_S, Served, relay, serving, wire_frame, wire_meta


class GatedStore(MemoryStore):
    """A store in memory whose commits wait for a gate, which is open at first."""

    def __init__(self) -> None:
        """Open."""
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Commit once the gate is open."""
        await self.gate.wait()
        return self.commit_now(changes)


@pytest.fixture
async def store() -> GatedStore:
    """An empty one."""
    return GatedStore()


@pytest.fixture
async def served(store: GatedStore) -> AsyncIterator[Served]:
    """A service over store."""
    async with serving(store) as served:
        yield served


async def until(condition: Callable[[], object]) -> None:
    """Let others run until condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def test_a_frame_is_acknowledged_when_it_is_kept(store: GatedStore, served: Served) -> None:
    """Not when it came: while the store is at it, nothing is said and no credit comes back."""
    async with relay(served.address) as wire:
        welcome = await wire.hello()
        assert welcome.store_id == store.store_id
        window = wire.credit
        assert (await wire.open(1, wire_meta(1))).next_offset == 0
        store.gate.clear()
        await wire.send(wire_frame(1, 0, HEAD), wire_frame(1, len(HEAD), row_at(1)))
        await until(lambda: served.writer.statistics().queued == 2)
        # The echo is said after all that came before: no acknowledgement stands before it.
        await wire.say(heartbeat=pb.Heartbeat(sent_ns=5))
        assert (await wire.next("clock_echo")).clock_echo.sent_ns == 5
        assert wire.acked == {}
        assert wire.credit == window
        store.gate.set()
        end = len(HEAD) + len(row_at(1))
        await wire.until_acked(1, end)
        assert await bytes_of(store, session_id(1)) == HEAD + row_at(1)
        await wire.say(goodbye=pb.Goodbye())
        assert await wire.end() is grpc.StatusCode.OK
    await until(lambda: served.registry.counts.relays == 0)


async def test_many_streams_of_one_relay(store: GatedStore, served: Served) -> None:
    """Each is acknowledged to its own end, and kept in its own order."""
    numbers = range(1, 9)
    async with relay(served.address) as wire:
        await wire.hello()
        for number in numbers:
            await wire.open(number, wire_meta(number))
        written = b""
        for step in range(50):
            payload = row_at(step) if written else HEAD
            await wire.send(*(wire_frame(n, len(written), payload) for n in numbers))
            written += payload
        for number in numbers:
            await wire.until_acked(number, len(written))
            assert await bytes_of(store, session_id(number)) == written


async def test_large_frames_keep_their_place(store: GatedStore, served: Served) -> None:
    """A frame that is taken in slices comes before what was sent after it."""
    large = HEAD + b"".join(row_at(step) for step in range(1, 20_000))
    async with relay(served.address) as wire:
        await wire.hello()
        await wire.open(1, wire_meta(1))
        await wire.open(2, wire_meta(2))
        await wire.send(wire_frame(1, 0, large), wire_frame(1, len(large), row_at(1)))
        await wire.send(wire_frame(2, 0, HEAD), wire_frame(1, len(large) + 40, row_at(2)))
        await wire.until_acked(1, len(large) + 80)
    assert await bytes_of(store, session_id(1)) == large + row_at(1) + row_at(2)


async def test_a_bad_frame_ends_its_stream_alone(store: GatedStore, served: Served) -> None:
    """Whatever is wrong with a frame, the other stream of the relay goes on."""
    bad = [
        (wire_frame(1, 0, HEAD, crc32c=1), pb.REFUSED_REASON_CHECKSUM),
        (wire_frame(1, 0, HEAD, size=0), pb.REFUSED_REASON_CHECKSUM),
        (wire_frame(1, 0, HEAD, encoding=pb.ENCODING_ZSTD), pb.REFUSED_REASON_CHECKSUM),
        (wire_frame(1, 0, b"\0" * 64), pb.REFUSED_REASON_DAMAGED),
        (wire_frame(1, 8, HEAD), pb.REFUSED_REASON_OUT_OF_ORDER),
    ]
    async with relay(served.address) as wire:
        await wire.hello()
        await wire.open(100, wire_meta(100))
        offset = 0
        for handle, (frame, reason) in enumerate(bad, start=101):
            await wire.open(handle, wire_meta(handle))
            frame.handle = handle
            payload = row_at(1) if offset else HEAD
            await wire.send(frame, wire_frame(100, offset, payload))
            assert (await wire.next("refused")).refused.reason == reason
            offset += len(payload)
            await wire.until_acked(100, offset)


async def test_bytes_that_are_no_message_end_their_relay_alone(served: Served) -> None:
    """What cannot even be read is an error to whoever sent it."""
    async with relay(served.address) as wire, relay(served.address) as other:
        await other.hello(agent="other")
        await wire.hello()
        await wire.call.write(b"\xff" * 40)
        assert await wire.end() is not grpc.StatusCode.OK
        await other.open(1, wire_meta(1))


async def test_a_message_too_large_ends_its_relay_alone(served: Served) -> None:
    """The limit of a message is the wire's, and is said as such."""
    async with relay(served.address) as wire, relay(served.address) as other:
        await other.hello(agent="other")
        await wire.hello()
        payload = bytes(limits.MESSAGE_BYTES_MAX)
        await wire.send(wire_frame(1, 0, payload))
        assert await wire.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await other.open(1, wire_meta(1))


async def test_another_protocol_is_told_so(served: Served) -> None:
    """An agent of another version learns which status says so, and why."""
    async with relay(served.address) as wire:
        await wire.say(hello=pb.Hello(protocol=99, agent="a", node="n", heartbeat_interval_ms=1000))
        assert await wire.end() is grpc.StatusCode.FAILED_PRECONDITION
        assert "protocol 99" in await wire.call.details()


async def test_a_relay_that_is_cut_leaves_nothing(store: GatedStore, served: Served) -> None:
    """Its credit comes back, what it had sent is still written, and the stream opens elsewhere."""
    store.gate.clear()
    async with relay(served.address) as wire:
        await wire.say(hello=pb.Hello(protocol=1, agent="a", node="n", heartbeat_interval_ms=1000))
        await wire.next("welcome")
        await wire.say(open_stream=pb.OpenStream(handle=1, meta=wire_meta(1)))
        await until(lambda: served.writer.statistics().queued == 1)
    await until(lambda: served.registry.counts.relays == 0)
    store.gate.set()
    await until(lambda: served.registry.credit.free == served.registry.credit.total)
    await until(lambda: served.writer.statistics().queued == 0)
    assert await store.run_names() == [("digits", "one")]
    async with relay(served.address) as wire:
        await wire.hello()
        assert (await wire.open(1, wire_meta(1))).next_offset == 0


async def test_drain_sends_agents_away(served: Served) -> None:
    """All that are there and all that come hear Draining, and their calls end in order."""
    async with relay(served.address) as wire, relay(served.address) as late:
        await wire.hello()
        served.ingest.drain(700, "stopping")
        draining = (await wire.next("draining")).draining
        assert (draining.retry_after_ms, draining.message) == (700, "stopping")
        assert await wire.end() is grpc.StatusCode.OK
        await late.next("draining")
        assert await late.end() is grpc.StatusCode.OK


async def test_a_deleted_run_is_refused(store: GatedStore, served: Served) -> None:
    """An agent in the middle of a run that is deleted is told, for good."""
    async with relay(served.address) as wire:
        await wire.hello()
        await wire.open(1, wire_meta(1))
        await wire.send(wire_frame(1, 0, HEAD))
        await wire.until_acked(1, len(HEAD))
        await served.writer.delete("digits", "one")
        await wire.send(wire_frame(1, len(HEAD), row_at(1)))
        refused = (await wire.next("refused")).refused
        assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_DELETED, False)
        await wire.say(open_stream=pb.OpenStream(handle=2, meta=wire_meta(2)))
        refused = (await wire.next("refused")).refused
        assert (refused.handle, refused.reason) == (2, pb.REFUSED_REASON_DELETED)


async def test_heartbeats_are_heard_while_the_store_is_not(
    store: GatedStore, served: Served
) -> None:
    """An agent without credit is still heard: it is not lost, only waiting."""
    store.fail_before = 10**6
    async with relay(served.address) as wire:
        await wire.hello()
        await wire.say(open_stream=pb.OpenStream(handle=1, meta=wire_meta(1)))
        await until(lambda: served.writer.statistics().failing)
        for beat in range(3):
            await wire.say(heartbeat=pb.Heartbeat(sent_ns=beat))
            assert (await wire.next("clock_echo")).clock_echo.sent_ns == beat
        assert wire.acked == {}
    store.fail_before = 0


async def test_the_smallest_records_do_not_hold_up_the_loop() -> None:
    """While a whole frame of them is taken in, others get their turn every few thousand records."""
    rows = b"".join(r.pack_row(i & 1, i, 1, []) for i in range(limits.FRAME_BYTES_MAX // 24))
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        ticking = tasks.create_task(tick())
        opened = await module._unpacked(wire_frame(1, 0, rows))
        ticking.cancel()
    assert opened.scanned.rows == limits.FRAME_BYTES_MAX // 24
    assert turns >= opened.scanned.rows // 2500


async def test_a_relay_that_is_full_is_not_read_on(
    store: GatedStore, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes at the writer are bounded by a count too; reading goes on when they are answered."""
    monkeypatch.setattr(module, "CHANGES_MAX", 3)
    store.gate.clear()
    async with relay(served.address) as wire:
        await wire.hello()
        for handle in range(1, 9):
            meta = wire_meta(handle)
            await wire.say(open_stream=pb.OpenStream(handle=handle, meta=meta))
        await until(lambda: served.writer.statistics().queued == 3)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert served.writer.statistics().queued == 3
        store.gate.set()
        opened = [await wire.next("stream_opened") for _ in range(8)]
        assert [one.stream_opened.handle for one in opened] == list(range(1, 9))
