"""A collector for the relay's tests: it keeps streams in memory and does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import google_crc32c
import grpc
import zstandard

from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import ingest_pb2_grpc, types_pb2


@dataclass
class Held:
    """One stream."""

    meta: types_pb2.StreamMeta
    data: bytes = b""
    gaps: list[pb.Gap] = field(default_factory=list)
    next_offset: int = 0
    delivered: bool = False


class TinyCollector(ingest_pb2_grpc.IngestServicer):
    """Takes what is at a stream's next offset, and counts what is not."""

    def __init__(self) -> None:
        self.streams: dict[str, Held] = {}
        self.relays = 0
        self.goodbyes = 0
        self.misplaced = 0
        self.acking = True
        self.refuse: grpc.StatusCode | None = None
        self.drain: int | None = None
        """Send relays away at once, to come back after so many milliseconds."""
        self.reject = False

    async def Relay(
        self,
        request_iterator: AsyncIterator[pb.RelayRequest],
        context: grpc.aio.ServicerContext[pb.RelayRequest, pb.RelayResponse],
    ) -> AsyncIterator[pb.RelayResponse]:
        self.relays += 1
        if self.refuse is not None:
            await context.abort(self.refuse, "not this version")
        handles: dict[int, str] = {}
        async for request in request_iterator:
            for response in self._answer(request, handles):
                yield response
            if request.HasField("goodbye"):
                return
            if self.drain is not None:
                yield pb.RelayResponse(draining=pb.Draining(retry_after_ms=self.drain))
                self.drain = None
                return

    def _answer(self, request: pb.RelayRequest, handles: dict[int, str]) -> list[pb.RelayResponse]:
        match request.WhichOneof("message"):
            case "hello":
                welcome = pb.Welcome(store_id="store", version="0")
                credit = pb.Credit(bytes=4 * 1024 * 1024)
                return [pb.RelayResponse(welcome=welcome), pb.RelayResponse(credit=credit)]
            case "open_stream":
                return [self._open(request.open_stream, handles)]
            case "frames":
                answers = [self._frame(frame, handles) for frame in request.frames.frames]
                size = sum(max(frame.size, 512) for frame in request.frames.frames)
                return [*filter(None, answers), pb.RelayResponse(credit=pb.Credit(bytes=size))]
            case "gap":
                held = self.streams[handles[request.gap.handle]]
                held.gaps.append(request.gap)
                held.next_offset = request.gap.end
                return [*filter(None, [self._ack(request.gap.handle, held)])]
            case "heartbeat":
                echo = pb.ClockEcho(sent_ns=request.heartbeat.sent_ns)
                return [pb.RelayResponse(clock_echo=echo)]
            case "close_stream":
                self.streams[handles[request.close_stream.handle]].delivered = True
            case "goodbye":
                self.goodbyes += 1
            case _:
                raise AssertionError("a request without a message")
        return []

    def _open(self, opened: pb.OpenStream, handles: dict[int, str]) -> pb.RelayResponse:
        if self.reject:
            reason = pb.REFUSED_REASON_DELETED
            refused = pb.Refused(handle=opened.handle, reason=reason, message="deleted")
            return pb.RelayResponse(refused=refused)
        held = self.streams.setdefault(opened.meta.session, Held(opened.meta))
        handles[opened.handle] = opened.meta.session
        answer = pb.StreamOpened(handle=opened.handle, next_offset=held.next_offset)
        return pb.RelayResponse(stream_opened=answer)

    def _frame(self, frame: pb.Frame, handles: dict[int, str]) -> pb.RelayResponse | None:
        held = self.streams[handles[frame.handle]]
        payload = frame.payload
        if frame.encoding == pb.ENCODING_ZSTD:
            payload = zstandard.ZstdDecompressor().decompress(payload)
        assert len(payload) == frame.size
        assert google_crc32c.value(payload) == frame.crc32c
        if frame.offset != held.next_offset:
            self.misplaced += 1
            return None
        held.data += payload
        held.next_offset += frame.size
        return self._ack(frame.handle, held)

    def _ack(self, handle: int, held: Held) -> pb.RelayResponse | None:
        if not self.acking:
            return None
        offsets = [pb.StreamOffset(handle=handle, offset=held.next_offset)]
        return pb.RelayResponse(ack=pb.Ack(offsets=offsets))


@asynccontextmanager
async def serving(collector: TinyCollector, port: int = 0) -> AsyncIterator[int]:
    """Serve a collector on loopback; gives its port."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    ingest_pb2_grpc.add_IngestServicer_to_server(collector, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(0)


async def until(condition: Callable[[], object], what: str, *, deadline_s: float = 20.0) -> None:
    """Return once condition holds; fail with what was waited for."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + deadline_s
    while not condition():
        assert loop.time() < until_s, f"waited {deadline_s:g} s for {what}"
        await asyncio.sleep(0.01)
