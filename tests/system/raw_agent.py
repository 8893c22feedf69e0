"""An agent that says what a test wants: nothing of plait_agent stands between it and the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import google_crc32c
import grpc

from plaitwire import limits, records
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import ingest_pb2_grpc, types_pb2
from tests.system.programs import DEADLINE_S

SCHEMA = records.pack_schema(0, ["loss"])


def rows(steps: range) -> bytes:
    """A row a step, of one value."""
    return b"".join(records.pack_row(0, step, 10**18 + step, [float(step)]) for step in steps)


def frame(handle: int, data: bytes, /, **change: Any) -> pb.RelayRequest:
    """A message with one frame at the beginning of a stream, right but for a change."""
    fields: dict[str, Any] = {
        "handle": handle,
        "offset": 0,
        "segment_base": 0,
        "size": len(data),
        "crc32c": google_crc32c.value(data),
        "encoding": pb.ENCODING_RAW,
        "payload": data,
    }
    return pb.RelayRequest(frames=pb.Frames(frames=[pb.Frame(**(fields | change))]))


class RawAgent:
    """One relay."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.credit = 0

    async def say(self, message: pb.RelayRequest) -> None:
        """Send a message; a call that has ended takes it too, and says so at its end."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

    async def hear(self, kind: str) -> Any:
        """The next answer of a kind; others are counted or passed over."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                answer = await self._call.read()
                assert answer is not grpc.aio.EOF, f"the relay ended before any {kind}"
                self.credit += answer.credit.bytes
                if answer.WhichOneof("message") == kind:
                    return getattr(answer, kind)

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """How the collector ended the call."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while await self._call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
            return await self._call.code(), await self._call.details() or ""

    async def hello(self, protocol: int = limits.PROTOCOL) -> None:
        await self.say(
            pb.RelayRequest(
                hello=pb.Hello(
                    protocol=protocol, agent="raw", node="raw", heartbeat_interval_ms=5000
                )
            )
        )

    async def open(self, handle: int, session: str, **meta: Any) -> None:
        """Ask for a stream of the run system/raw."""
        fields: dict[str, Any] = {
            "kind": types_pb2.STREAM_KIND_RUN,
            "project": "system",
            "run": "raw",
            "label": str(handle),
            "session": session,
        }
        value = types_pb2.StreamMeta(**(fields | meta))
        await self.say(pb.RelayRequest(open_stream=pb.OpenStream(handle=handle, meta=value)))


@asynccontextmanager
async def raw_agent(
    collector: str, *, serializer: Callable[[Any], bytes] = pb.RelayRequest.SerializeToString
) -> AsyncIterator[RawAgent]:
    """A relay to a collector, nothing said yet."""
    async with grpc.aio.insecure_channel(collector) as channel:
        stub = ingest_pb2_grpc.IngestStub(channel)
        if serializer is pb.RelayRequest.SerializeToString:
            call = stub.Relay()
        else:
            method = "/plaitwire.v1.Ingest/Relay"
            call = channel.stream_stream(method, serializer, pb.RelayResponse.FromString)()
        try:
            yield RawAgent(call)
        finally:
            call.cancel()
