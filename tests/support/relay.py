"""An ingest service in this process, and an agent's side of a relay to it, word for word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import google_crc32c
import grpc

from plait_collector.ingest import IngestService, server_options
from plait_collector.liveness import Heard
from plait_collector.registry import Registry
from plait_collector.store import Meta, Store
from plait_collector.writer import Writer
from plaitwire import limits
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import ingest_pb2_grpc, types_pb2
from tests.support.changes import session_id

DEADLINE_S = 30.0


@dataclass
class Served:
    """A service, and what it is made of."""

    address: str
    registry: Registry
    writer: Writer
    ingest: IngestService


@asynccontextmanager
async def serving(store: Store) -> AsyncIterator[Served]:
    """An ingest service over a store, for the length of a block."""
    registry = Registry(store_id=store.store_id, version="test", heard=Heard(0))
    writer = Writer(store)
    ingest = IngestService(registry, writer, time.time_ns)
    options = server_options(limits.MESSAGE_BYTES_MAX, ping_s=10)
    server = grpc.aio.server(options=options)
    ingest_pb2_grpc.add_IngestServicer_to_server(ingest, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(writer.run())
            try:
                yield Served(f"127.0.0.1:{port}", registry, writer, ingest)
            finally:
                await server.stop(None)
                writer.drain()
    finally:
        await server.stop(None)


class Wire:
    """One relay, from the agent's end."""

    def __init__(self, call: Any) -> None:
        """Nothing was said yet."""
        self.call = call
        self.credit = 0
        self.acked: dict[int, int] = {}

    async def say(self, **message: Any) -> None:
        """Send one message."""
        await self.call.write(pb.RelayRequest(**message).SerializeToString())

    async def hello(self, **fields: Any) -> pb.Welcome:
        """Say Hello, and take the Welcome and the first credit."""
        await self.say(hello=hello_of(**fields))
        welcome: pb.Welcome = (await self.next("welcome")).welcome
        while not self.credit:
            await self._hear()
        return welcome

    async def open(self, handle: int, meta: types_pb2.StreamMeta) -> pb.StreamOpened:
        """Open a stream."""
        await self.say(open_stream=pb.OpenStream(handle=handle, meta=meta))
        opened: pb.StreamOpened = (await self.next("stream_opened")).stream_opened
        assert opened.handle == handle
        return opened

    async def send(self, *frames: pb.Frame) -> None:
        """Send frames in one message."""
        await self.say(frames=pb.Frames(frames=frames))

    async def next(self, kind: str) -> pb.RelayResponse:
        """The next message of a kind; acknowledgements and credit before it are kept."""
        while True:
            message = await self._hear()
            found = message.WhichOneof("message")
            if found == kind:
                return message
            assert found in ("ack", "credit"), message

    async def until_acked(self, handle: int, offset: int) -> None:
        """Return once a stream is acknowledged up to offset."""
        while self.acked.get(handle) != offset:
            await self._hear()

    async def _hear(self) -> pb.RelayResponse:
        message = await self.call.read()
        assert isinstance(message, pb.RelayResponse), f"the relay ended: {self.call!r}"
        if message.HasField("credit"):
            self.credit += message.credit.bytes
        for entry in message.ack.offsets:
            self.acked[entry.handle] = entry.offset
        return message

    async def end(self) -> grpc.StatusCode:
        """Take in whatever still comes; how the call ended."""
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        code: grpc.StatusCode = await self.call.code()
        return code


@asynccontextmanager
async def relay(address: str) -> AsyncIterator[Wire]:
    """A relay to an address, cut off at the block's end if it still stands."""
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(
            "/plaitwire.v1.Ingest/Relay",
            request_serializer=bytes,
            response_deserializer=pb.RelayResponse.FromString,
        )
        call = method()
        yield Wire(call)
        call.cancel()


def hello_of(**fields: Any) -> pb.Hello:
    """A good Hello, but for fields."""
    given: dict[str, Any] = {
        "protocol": limits.PROTOCOL,
        "agent": "agent-1",
        "node": "node-1",
        "heartbeat_interval_ms": 5000,
    }
    return pb.Hello(**{**given, **fields})


def wire_meta(number: int, **fields: Any) -> types_pb2.StreamMeta:
    """A good meta, but for fields."""
    given: dict[str, Any] = {
        "session": session_id(number),
        "kind": types_pb2.STREAM_KIND_RUN,
        "project": "digits",
        "run": "one",
        "label": str(number),
    }
    return types_pb2.StreamMeta(**{**given, **fields})


def meta_kept(meta: types_pb2.StreamMeta) -> Meta:
    """The meta as a store keeps it."""
    return Meta(
        session=meta.session,
        kind=meta.kind,
        project=meta.project,
        run=meta.run,
        label=meta.label,
    )


def wire_frame(handle: int, offset: int, payload: bytes, **fields: Any) -> pb.Frame:
    """A good frame of records, but for fields."""
    given: dict[str, Any] = {
        "handle": handle,
        "offset": offset,
        "segment_base": 0,
        "size": len(payload),
        "crc32c": google_crc32c.value(payload),
        "encoding": pb.ENCODING_RAW,
        "payload": payload,
    }
    return pb.Frame(**{**given, **fields})
