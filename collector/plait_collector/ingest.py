"""The gRPC service for agents: messages to the session, its actions to the writer and the wire.

    agent ──► read ──► session ──► writer ──► store
    agent ◄── send ◄── outbox ◄── session ◄──┘

Rule: it translates and decides nothing; session.py does.
Rule: no frame holds up the loop for longer than a slice of a few milliseconds.

Invariant: what a relay holds is bounded: frames by its credit, other changes and answers by counts;
           past those it does not read on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc

from plait_collector import scan
from plait_collector.outbox import Outbox
from plait_collector.registry import Registry
from plait_collector.scan import BadFrame, Unpacked
from plait_collector.session import Action, End, Session
from plait_collector.store import Change, Outcome
from plait_collector.writer import Writer
from plaitwire.status import Unavailable, WireError, code_for
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import ingest_pb2_grpc

log = logging.getLogger(__name__)

IN_ONE_GO_BYTES: Final = 8 * 1024
"""A frame of at most this many bytes, before compression, is unpacked without giving way."""
IN_ONE_GO_WORK: Final = 64 * 1024
"""Frames of this many bytes, and FRAME_WORK for each, are taken in before others get their turn."""
FRAME_WORK: Final = 512
CHANGES_MAX: Final = 32_768
"""Changes of one relay at the writer, past which it does not read on."""

Context = grpc.aio.ServicerContext[pb.RelayRequest, pb.RelayResponse]


class IngestService(ingest_pb2_grpc.IngestServicer):
    """plaitwire.v1.Ingest over a writer."""

    def __init__(self, registry: Registry, writer: Writer, clock_ns: Callable[[], int]) -> None:
        """
        Args:
            registry: what the relays share.
            writer: where changes go.
            clock_ns: the collector's clock, nanoseconds since 1970.
        """
        self._registry = registry
        self._writer = writer
        self._clock_ns = clock_ns
        self._relays: set[_Relay] = set()
        self._draining: tuple[int, str] | None = None

    async def Relay(  # type: ignore[override]  # The stubs know generators alone; see below.
        self, request_iterator: AsyncIterator[pb.RelayRequest], context: Context
    ) -> None:
        """Carry all streams of one agent. It reads and writes at its own pace: no generator."""
        relay = _Relay(self._registry, self._writer, self._clock_ns)
        self._relays.add(relay)
        if self._draining is not None:
            relay.drain(*self._draining)
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(relay.read(request_iterator), name="relay reads")
                await relay.send(context)
                reading.cancel()
        finally:
            self._relays.discard(relay)
            relay.close()
        if relay.error is not None:
            await context.abort(code_for(relay.error), str(relay.error))

    def drain(self, retry_after_ms: int, message: str) -> None:
        """Send all agents away, in order, and all that come.

        Args:
            retry_after_ms: when they should come back.
            message: for people.
        """
        self._draining = (retry_after_ms, message)
        for relay in list(self._relays):
            relay.drain(retry_after_ms, message)


class _Relay:
    """One call: its session, and what stands between the session and the wire."""

    def __init__(self, registry: Registry, writer: Writer, clock_ns: Callable[[], int]) -> None:
        self._session = Session(registry)
        self._writer = writer
        self._clock_ns = clock_ns
        self._outbox = Outbox()
        self._to_send = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._at_writer = 0
        self._over = False
        self.error: WireError | None = None
        """Why the relay ended; None: in order, or it did not end yet."""

    async def read(self, messages: AsyncIterator[pb.RelayRequest]) -> None:
        """Take in what the agent says, until it says no more or is not listened to any more."""
        try:
            async for message in messages:
                if message.HasField("frames"):
                    await self._frames(message.frames.frames)
                else:
                    self._act(self._session.received(message, self._clock_ns()))
                if self._over:
                    return
                if self._at_writer >= CHANGES_MAX or self._outbox.is_full:
                    self._room.clear()
                    await self._room.wait()
        except Exception:
            self._fail("a relay failed while it was read")
        else:
            self._end(None)  # Nothing more comes, with or without a Goodbye.

    async def send(self, context: Context) -> None:
        """Send what there is to say, until the relay has ended and all is said."""
        while True:
            while (message := self._outbox.take()) is not None:
                self._make_room()
                try:
                    await context.write(message)
                except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                    self._end(None)  # The agent is gone.
                    return
            if self._over:
                return
            self._to_send.clear()
            await self._to_send.wait()

    async def _frames(self, frames: Sequence[pb.Frame]) -> None:
        work = 0
        for frame in frames:
            opened: Unpacked | BadFrame
            try:
                if frame.size <= IN_ONE_GO_BYTES:
                    opened = scan.unpack(frame)
                    work += frame.size + FRAME_WORK
                else:
                    opened, work = await _unpacked(frame), 0
            except BadFrame as bad:
                opened = bad
            self._act(self._session.frame(frame, opened, self._clock_ns()))
            if self._over:
                return
            if work > IN_ONE_GO_WORK:
                work = 0
                await asyncio.sleep(0)

    def committed(self, results: Sequence[tuple[Change, Outcome]]) -> None:
        """What the writer has to say of changes submitted here."""
        self._at_writer -= len(results)
        self._make_room()
        try:
            self._act(self._session.committed(results, self._clock_ns()))
        except Exception:  # One relay's fault must not stop the writing of all.
            self._fail("a relay failed over what was committed")

    def drain(self, retry_after_ms: int, message: str) -> None:
        """Send the agent away."""
        self._act(self._session.drain(retry_after_ms, message))

    def close(self) -> None:
        """The call is over. What is at the writer is still written, and its credit comes back."""
        self._over = True
        self._session.closed()

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, pb.RelayResponse):
                self._outbox.put(action)
                self._to_send.set()
            elif isinstance(action, End):
                self._end(action.error)
            else:
                self._at_writer += 1
                self._writer.submit(action, self)

    def _make_room(self) -> None:
        if self._at_writer < CHANGES_MAX and not self._outbox.is_full:
            self._room.set()

    def _end(self, error: WireError | None) -> None:
        if not self._over:
            self._over, self.error = True, error
        self._to_send.set()
        self._room.set()

    def _fail(self, what: str) -> None:
        log.exception(what)
        self._end(Unavailable("the collector failed over this relay; its log says why"))


async def _unpacked(frame: pb.Frame) -> Unpacked:
    """A large frame's records; others get their turn between slices."""
    slices = scan.unpack_slices(frame)
    while True:
        try:
            next(slices)
        except StopIteration as end:
            opened: Unpacked = end.value
            return opened
        await asyncio.sleep(0)


def server_options(message_bytes_max: int, *, ping_s: float) -> list[tuple[str, Any]]:
    """The gRPC server's options: message sizes, and pings that find out about dead peers.

    Args:
        message_bytes_max: the largest message taken in.
        ping_s: how often a silent peer is asked whether it is there.
    """
    ping_ms = int(ping_s * 1000)
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", -1),  # What readers asked for is as large as it is.
        ("grpc.keepalive_time_ms", ping_ms),
        ("grpc.keepalive_timeout_ms", ping_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
        ("grpc.so_reuseport", 0),  # A port in use is an error, not half of the calls.
    ]
