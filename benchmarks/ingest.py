"""How fast a collector takes frames in, beside an empty gRPC stream with the same messages.

    python benchmarks/ingest.py              the comparison: ratios of medians, from one run
    python benchmarks/ingest.py --rounds 3   shorter

One agent, eight streams, two kinds of frames: one row of 10 values, and 4,096 rows of 10. The other
side is the collector as people start it, on a disk; or a grpc.aio server whose handler does nothing
but acknowledge each message, to an agent that has all the credit it wants. Blocks of both take
turns, so that a busy machine slows both. A block ends when everything is acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from plait_agent.effects import Chunk, Delivered, GoAway, Opened, Rejected
from plait_agent.uplink import Uplink
from plaitwire import limits, records
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import ingest_pb2_grpc, types_pb2

STREAMS = 8
VALUES = 10
OPTIONS = [("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX)]


@dataclass(frozen=True)
class Kind:
    """A kind of frames."""

    name: str
    rows: int
    frames_per_message: int
    messages: int
    """In a block."""


KINDS = (
    Kind("1 row", 1, STREAMS, 3000),
    Kind("4096 rows", 4096, 4, 100),
)


@dataclass
class Block:
    """What was measured of a block."""

    frames_per_s: float
    bytes_per_s: float


# The agent: the real uplink over a log in memory.


class Stream:
    """What a rank has written: segments of rows, each with its schema; random values, because
    nothing about those helps anybody."""

    def __init__(self, number: int, kind: Kind) -> None:
        chance = random.Random(number)
        self.session = random.randbytes(16).hex()
        self.meta = types_pb2.StreamMeta(
            session=self.session,
            kind=types_pb2.STREAM_KIND_RUN,
            project="benchmark",
            run="ingest",
            label=str(number),
        )
        rows = b"".join(
            records.pack_row(1, step, time.time_ns(), [chance.random() for _ in range(VALUES)])
            for step in range(kind.rows)
        )
        schema = records.pack_schema(1, [f"metric_{i}" for i in range(VALUES)])
        room = limits.SEGMENT_BYTES_MAX - limits.SEGMENT_HEADER_BYTES
        per_segment = (room - len(schema)) // len(rows)
        self._frames = [schema + rows, *[rows] * (per_segment - 1)]
        self._size = sum(map(len, self._frames))
        self._starts = {0: 0} | {len(schema) + n * len(rows): n for n in range(1, per_segment)}

    def chunk(self, offset: int) -> Chunk:
        """The frame that begins at offset."""
        base = offset - offset % self._size
        return Chunk(offset, base, self._frames[self._starts[offset - base]])

    def after(self, frames: int) -> int:
        """Where the stream ends after so many frames."""
        whole, rest = divmod(frames, len(self._frames))
        return whole * self._size + sum(map(len, self._frames[:rest]))


class MemoryLog:
    """The streams of a node, as the uplink reads them."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = {stream.session: stream for stream in streams}

    def read(self, session: str, offset: int) -> Chunk:
        """A frame."""
        return self._streams[session].chunk(offset)

    def checksum(self, session: str, offset: int, end: int) -> int | None:
        """Nothing is ever compared: no stream is opened twice."""
        return None


class Agent:
    """One relay, driven as fast as its credit allows."""

    def __init__(self, kind: Kind) -> None:
        """Nothing was said yet."""
        self.kind = kind
        self.streams = [Stream(number, kind) for number in range(STREAMS)]
        self.frames = kind.messages * kind.frames_per_message // STREAMS
        """Of each stream, in a block."""
        self.log = MemoryLog(self.streams)
        hello = pb.Hello(
            protocol=limits.PROTOCOL,
            agent=random.randbytes(16).hex(),
            node="benchmark",
            heartbeat_interval_ms=5000,
        )
        self.uplink = Uplink(hello, rng=random.Random(0))
        self.opened = self.delivered = 0
        self.changed = asyncio.Event()

    async def listen(self, call: Any) -> None:
        """Take in what the other side says."""
        async for message in call:
            for effect in self.uplink.received(message, self.log, time.monotonic()):
                self.opened += isinstance(effect, Opened)
                self.delivered += isinstance(effect, Delivered)
                if isinstance(effect, Rejected | GoAway):
                    raise RuntimeError(f"the other side says {effect}")
            self.changed.set()

    async def say(self, call: Any) -> bool:
        """Send the next message, if there is one now."""
        message = self.uplink.next_message(self.log, time.monotonic(), time.time_ns())
        if message is not None:
            await call.write(message)
        return message is not None

    async def wait(self) -> None:
        """Until the other side has said something."""
        self.changed.clear()
        await self.changed.wait()

    async def open(self, call: Any) -> None:
        """Greet, and open all streams."""
        self.uplink.connected(time.monotonic())
        for stream in self.streams:
            self.uplink.add(stream.session, stream.meta)
        while self.opened < STREAMS:
            if not await self.say(call):
                await self.wait()

    async def deliver(self, call: Any) -> None:
        """Send the block. Rows that come one by one are a frame each, of all streams a message;
        large frames are a backlog, and the uplink batches them as it does."""
        one_by_one = self.kind.rows == 1
        for frame in range(1 if one_by_one else self.frames, self.frames + 1):
            for stream in self.streams:
                self.uplink.grew(stream.session, stream.after(frame))
            while not await self.say(call):
                await self.wait()
        for stream in self.streams:
            self.uplink.ended(stream.session, stream.after(self.frames))
        while self.delivered < STREAMS:
            if not await self.say(call):
                await self.wait()


async def measure(address: str, kind: Kind) -> Block:
    """One block."""
    agent = Agent(kind)
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call: Any = ingest_pb2_grpc.IngestStub(channel).Relay()
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(agent.listen(call))
            await agent.open(call)
            began = time.perf_counter()
            await agent.deliver(call)
            took = time.perf_counter() - began
            await call.write(agent.uplink.goodbye())
            await call.done_writing()
            await listening
    frames = agent.frames * STREAMS
    return Block(frames / took, sum(stream.after(agent.frames) for stream in agent.streams) / took)


# The empty other side.


class Empty(ingest_pb2_grpc.IngestServicer):
    """Acknowledges each message. Credit is no matter: it gives as much as one could want."""

    async def Relay(  # type: ignore[override]  # The stubs know generators alone.
        self, request_iterator: AsyncIterator[pb.RelayRequest], context: Any
    ) -> None:
        """Answer everything at once, from memory."""
        async for message in request_iterator:
            kind = message.WhichOneof("message")
            if kind == "frames":
                ends = {f.handle: f.offset + f.size for f in message.frames.frames}
                offsets = [pb.StreamOffset(handle=h, offset=end) for h, end in ends.items()]
                await context.write(pb.RelayResponse(ack=pb.Ack(offsets=offsets)))
            elif kind == "open_stream":
                opened = pb.StreamOpened(handle=message.open_stream.handle)
                await context.write(pb.RelayResponse(stream_opened=opened))
            elif kind == "hello":
                await context.write(pb.RelayResponse(welcome=pb.Welcome(store_id="none")))
                await context.write(pb.RelayResponse(credit=pb.Credit(bytes=2**60)))
            elif kind == "goodbye":
                return


async def serve_nothing() -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=OPTIONS)
    ingest_pb2_grpc.add_IngestServicer_to_server(Empty(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"msg=ready grpc=127.0.0.1:{port}", file=sys.stderr, flush=True)
    await server.wait_for_termination()


# The comparison.


@contextmanager
def program(*command: str) -> Iterator[tuple[str, int]]:
    """The address and the process id of a server, for the length of a block."""
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"msg=ready grpc=(\S+)", line):
                    yield found.group(1), process.pid
                    break
            else:
                raise RuntimeError(f"{command} did not get ready")
        finally:
            process.terminate()
            process.communicate()


def memory_mib(pid: int) -> float:
    """What a process has in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) / 1024


def compare(rounds: int) -> None:
    """Blocks of both sides in turn, and what they come to."""
    random.seed(1)
    with (
        tempfile.TemporaryDirectory(prefix="plait-benchmark-") as data,
        program(__file__, "--empty") as (empty, empty_pid),
        program(
            "-m", "plait_collector", "--data", data, "--grpc", "127.0.0.1:0",
            "--http", "127.0.0.1:0",
        ) as (collector, collector_pid),
    ):  # fmt: skip
        for kind in KINDS:
            blocks: dict[str, list[Block]] = {empty: [], collector: []}
            memory: list[tuple[float, float]] = []
            for _ in range(rounds + 1):
                for address, measured in blocks.items():
                    measured.append(asyncio.run(measure(address, kind)))
                memory.append((memory_mib(empty_pid), memory_mib(collector_pid)))
            report(kind, blocks[empty][1:], blocks[collector][1:], memory)


def report(
    kind: Kind, empty: list[Block], collector: list[Block], memory: list[tuple[float, float]]
) -> None:
    """Say what a kind of frames came to. The first block of each side was left out: a warm-up."""
    sides = (empty, collector)
    frames = [statistics.median(block.frames_per_s for block in side) for side in sides]
    size = [statistics.median(block.bytes_per_s for block in side) for side in sides]
    ratios = sorted(c.frames_per_s / e.frames_per_s for e, c in zip(empty, collector, strict=True))
    print(f"frames of {kind.name}, {kind.frames_per_message} a message, {len(empty)} blocks each")
    print(f"  empty      {frames[0]:10,.0f} frames/s  {size[0] / 1e6:8,.1f} MB/s")
    print(f"  collector  {frames[1]:10,.0f} frames/s  {size[1] / 1e6:8,.1f} MB/s")
    span = f"{ratios[0]:.2f}..{ratios[-1]:.2f}"
    print(f"  ratio of medians {frames[1] / frames[0]:.2f}, of pairs {span}")
    told = "  ".join(f"{own:.0f}" for _, own in memory)
    print(f"  memory after each block, MiB: collector {told}; empty {memory[-1][0]:.0f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--empty", action="store_true", help="be the empty server (internal)")
    options = parser.parse_args()
    if options.empty:
        asyncio.run(serve_nothing())
    else:
        compare(options.rounds)


if __name__ == "__main__":
    main()
