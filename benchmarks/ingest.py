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

import google_crc32c
import grpc

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


# The agent.


class Stream:
    """Frames of one stream, each at the end of the one before."""

    def __init__(self, handle: int, rows: int) -> None:
        """Rows of random values: nothing about them helps anybody."""
        self.handle = handle
        self.meta = types_pb2.StreamMeta(
            session=random.randbytes(16).hex(),
            kind=types_pb2.STREAM_KIND_RUN,
            project="benchmark",
            run="ingest",
            label=str(handle),
        )
        chance = random.Random(handle)
        self._schema = records.pack_schema(1, [f"metric_{i}" for i in range(VALUES)])
        self._rows = b"".join(
            records.pack_row(1, step, time.time_ns(), [chance.random() for _ in range(VALUES)])
            for step in range(rows)
        )
        self._sums = {
            payload: google_crc32c.value(payload)
            for payload in (self._rows, self._schema + self._rows)
        }
        self.end = 0
        self._base = 0

    def frame(self) -> pb.Frame:
        """The next one."""
        room = limits.SEGMENT_BYTES_MAX - limits.SEGMENT_HEADER_BYTES
        payload = self._rows
        if not self.end or self.end + len(payload) - self._base > room:
            self._base, payload = self.end, self._schema + self._rows
        offset, self.end = self.end, self.end + len(payload)
        return pb.Frame(
            handle=self.handle,
            offset=offset,
            segment_base=self._base,
            size=len(payload),
            crc32c=self._sums[payload],
            encoding=pb.ENCODING_RAW,
            payload=payload,
        )


def messages_of(kind: Kind, streams: Sequence[Stream]) -> list[tuple[bytes, int, int]]:
    """The messages of a block: as they go over the wire, their charge, their payload's bytes."""
    made, turn = [], 0
    for _ in range(kind.messages):
        frames = []
        for _ in range(kind.frames_per_message):
            frames.append(streams[turn % STREAMS].frame())
            turn += 1
        message = pb.RelayRequest(frames=pb.Frames(frames=frames))
        charge = sum(limits.frame_charge(frame.size) for frame in frames)
        made.append((message.SerializeToString(), charge, sum(frame.size for frame in frames)))
    return made


class Agent:
    """One relay, driven as fast as its credit allows."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        """Nothing was said yet."""
        self.credit = 0
        self.acked: dict[int, int] = {}
        self.opened = 0
        self.streams = streams
        self.changed = asyncio.Event()

    async def listen(self, call: Any) -> None:
        """Take in what the other side says."""
        async for message in call:
            kind = message.WhichOneof("message")
            if kind == "credit":
                self.credit += message.credit.bytes
            elif kind == "ack":
                self.acked.update((entry.handle, entry.offset) for entry in message.ack.offsets)
            elif kind == "stream_opened":
                self.opened += 1
            elif kind != "welcome":
                raise RuntimeError(f"the other side says {message}")
            self.changed.set()

    async def until(self, condition: Any) -> None:
        """Return once condition holds."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    @property
    def is_acknowledged(self) -> bool:
        """Whether everything is."""
        return all(self.acked.get(stream.handle) == stream.end for stream in self.streams)


async def measure(address: str, kind: Kind) -> Block:
    """One block."""
    streams = [Stream(handle + 1, kind.rows) for handle in range(STREAMS)]
    agent = Agent(streams)
    made = messages_of(kind, streams)
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        relay: Any = channel.stream_stream(
            "/plaitwire.v1.Ingest/Relay",
            request_serializer=bytes,
            response_deserializer=pb.RelayResponse.FromString,
        )
        call = relay()
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(agent.listen(call))
            hello = pb.Hello(
                protocol=limits.PROTOCOL,
                agent=random.randbytes(16).hex(),
                node="benchmark",
                heartbeat_interval_ms=5000,
            )
            await call.write(pb.RelayRequest(hello=hello).SerializeToString())
            for stream in streams:
                opening = pb.OpenStream(handle=stream.handle, meta=stream.meta)
                await call.write(pb.RelayRequest(open_stream=opening).SerializeToString())
            await agent.until(lambda: agent.opened == STREAMS and agent.credit)
            began = time.perf_counter()
            for message, charge, _ in made:
                while agent.credit < charge:
                    await agent.until(lambda charge=charge: agent.credit >= charge)
                agent.credit -= charge
                await call.write(message)
            await agent.until(lambda: agent.is_acknowledged)
            took = time.perf_counter() - began
            await call.write(pb.RelayRequest(goodbye=pb.Goodbye()).SerializeToString())
            await call.done_writing()
            await listening
    frames = kind.messages * kind.frames_per_message
    return Block(frames / took, sum(size for _, _, size in made) / took)


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
