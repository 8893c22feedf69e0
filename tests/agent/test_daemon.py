"""The agent as a process: start, lock, health, signals, death; with a collector in the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from plait_agent.liveness import lock_held
from plait_agent.stream import PIECES_MAX
from plaitwire.folders import ALIVE, Folders
from tests.agent.collector import TinyCollector, serving, until
from tests.agent.support import Writer, finish, kinds, make_folders

pytestmark = pytest.mark.system


class Process:
    """One agent."""

    def __init__(self, folders: Folders, port: int, *more: str) -> None:
        command = [sys.executable, "-m", "plait_agent", "--collector", f"127.0.0.1:{port}"]
        command += ["--hot-dir", str(folders.hot), "--dir", str(folders.cold), "--node", "n"]
        handle, name = tempfile.mkstemp(prefix="plait-test-", suffix=".log")
        self.log = Path(name)
        self.popen = subprocess.Popen(
            [*command, *more], stderr=handle, stdin=subprocess.DEVNULL, start_new_session=True
        )
        os.close(handle)

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text()

    async def ready(self) -> dict[str, str]:
        """Wait for the ready line; its keys and values."""
        await until(lambda: "msg=ready" in self.text() or self.popen.poll() is not None, "ready")
        lines = [line for line in self.text().splitlines() if "msg=ready" in line]
        assert lines, self.text()
        return dict(re.findall(r"(\w+)=(\S+)", lines[0]))

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        await until(lambda: self.popen.poll() is not None, "the agent's end")
        assert self.popen.returncode is not None
        return self.popen.returncode

    def close(self) -> None:
        """Kill it, if it is still there."""
        self.popen.kill()
        self.popen.wait()
        self.log.unlink()


@pytest.fixture
def folders() -> Iterator[Folders]:
    hot = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="plait-test-"))
    with tempfile.TemporaryDirectory(prefix="plait-test-") as cold:
        made = make_folders(hot)
        yield Folders(made.hot, Path(cold))
    shutil.rmtree(hot)


@contextlib.contextmanager
def held(writer: Writer) -> Iterator[None]:
    """Hold a writer's lock from a process of its own, as a rank does."""
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(writer.folder / ALIVE)]
    rank = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert rank.stdin is not None
    assert rank.stdout is not None
    try:
        assert rank.stdout.readline() == b"held\n"
        yield
    finally:
        rank.kill()
        rank.wait()
        rank.stdin.close()
        rank.stdout.close()


async def ask(folders: Folders, request: dict[str, object]) -> Any:
    """One question to the control socket."""
    reader, writer = await asyncio.open_unix_connection(folders.control_socket)
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        return json.loads(await reader.readline())
    finally:
        writer.close()
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def agent(folders: Folders, port: int, *more: str) -> AsyncIterator[Process]:
    """A running agent, killed at the end."""
    process = Process(folders, port, *more)
    try:
        await process.ready()
        yield process
    finally:
        process.close()


def test_a_lock_of_another_process_is_seen(folders: Folders) -> None:
    """The lock is held while the rank lives, whatever it forks, and not after."""
    writer = Writer(folders)
    path = writer.folder / ALIVE
    assert not lock_held(path)
    assert not lock_held(writer.folder / "nothing")
    with held(writer):
        assert lock_held(path)
        assert lock_held(path)
    assert not lock_held(path)


async def test_a_rank_that_is_killed_is_crashed_and_delivered(folders: Folders) -> None:
    """Its last rows arrive, then a finish record that says crashed, and the node is clean."""
    collector = TinyCollector()
    async with serving(collector) as port, agent(folders, port):
        writer = Writer(folders)
        with held(writer):
            writer.rows(range(100))
            await until(lambda: collector.streams, "the stream")
            writer.rows(range(100, 200))
        stream = collector.streams[writer.session]
        await until(lambda: stream.delivered, "the delivery")
        await until(lambda: not writer.folder.exists(), "the folder to go")
    assert stream.data.startswith(writer.written)
    assert kinds(stream.data)[-1] == "finish"
    assert collector.misplaced == 0


async def test_kill_and_restart_lose_and_repeat_nothing(folders: Folders) -> None:
    """SIGKILL at any moment: the next agent goes on where the collector is."""
    collector = TinyCollector()
    async with serving(collector) as port:
        writer = Writer(folders)
        with held(writer):
            for round_ in range(3):
                async with agent(folders, port) as process:
                    writer.rows(range(round_ * 50, round_ * 50 + 50))
                    await until(
                        lambda: (
                            (held := collector.streams.get(writer.session))
                            and held.data == writer.written
                        ),
                        "the rows",
                    )
                    process.popen.send_signal(signal.SIGKILL)
                    assert await process.ended() == -signal.SIGKILL
    assert collector.misplaced == 0


async def test_sigterm_ships_what_is_committed(folders: Folders) -> None:
    """SIGTERM: everything is acknowledged, the collector hears goodbye, the exit code is 0."""
    collector = TinyCollector()
    async with serving(collector) as port, agent(folders, port) as process:
        writer = Writer(folders)
        with held(writer):
            await until(lambda: collector.streams, "the stream")
            writer.rows(range(1000))
            process.popen.send_signal(signal.SIGTERM)
            assert await process.ended() == 0
        assert collector.streams[writer.session].data == writer.written
        assert collector.goodbyes == 1
        assert "bytes_not_acknowledged=0" in process.text()
        assert not folders.control_socket.exists()


async def test_sigterm_without_a_collector_saves_to_disk(folders: Folders) -> None:
    """With nobody to ship to, the agent does not wait: it syncs to disk, and ends."""
    async with serving(TinyCollector()) as port:
        pass
    async with agent(folders, port) as process:
        writer = Writer(folders)
        with held(writer):
            for step in range(PIECES_MAX + 10):  # More segments than one spill takes.
                writer.rows([step])
                writer.roll()
            answer = await ask(
                folders,
                {"op": "wait", "session": writer.session, "offset": 1, "timeout_s": 0.5},
            )
            assert answer["acked"] == 0
            process.popen.send_signal(signal.SIGTERM)
            assert await process.ended() == 0
    segments = sorted(folders.cold_stream(writer.session).glob("*.log"))
    assert b"".join(segment.read_bytes()[64:] for segment in segments) == writer.written


async def test_a_second_signal_ends_at_once(folders: Folders) -> None:
    """A collector that never acknowledges holds up a drain; a second SIGTERM does not wait."""
    collector = TinyCollector()
    collector.acking = False
    async with serving(collector) as port, agent(folders, port) as process:
        writer = Writer(folders)
        with held(writer):
            await until(
                lambda: (held := collector.streams.get(writer.session)) and held.data, "bytes"
            )
            process.popen.send_signal(signal.SIGTERM)
            await until(lambda: "msg=draining" in process.text(), "the drain")
            process.popen.send_signal(signal.SIGTERM)
            assert await process.ended() == -signal.SIGTERM


async def test_a_second_agent_is_refused(folders: Folders) -> None:
    """Two agents on one folder: the second says who has it, and leaves the first alone."""
    async with serving(TinyCollector()) as port, agent(folders, port) as first:
        second = Process(folders, port)
        try:
            assert await second.ended() == 1
            assert f"another agent (pid {first.popen.pid})" in second.text()
        finally:
            second.close()
        assert (await ask(folders, {"op": "hello"}))["pid"] == first.popen.pid


async def test_health(folders: Folders) -> None:
    """Health is served on the Unix socket, and on TCP if asked for."""
    async with serving(TinyCollector()) as port, agent(folders, port, "--grpc", "127.0.0.1:0") as p:
        bound = (await p.ready())["grpc"]
        for address in (f"unix:{folders.hot}/health.sock", bound):
            async with grpc.aio.insecure_channel(address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest(service="plait.agent"))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_port_in_use_is_a_clear_error(folders: Folders) -> None:
    """The agent says which address it cannot have, and ends with 1."""
    async with serving(TinyCollector()) as port:
        process = Process(folders, port, "--grpc", f"127.0.0.1:{port}")
        try:
            assert await process.ended() == 1
            assert f"127.0.0.1:{port} cannot be bound" in process.text()
            assert "Traceback" not in process.text()
        finally:
            process.close()


async def test_bad_usage_is_a_clear_error(folders: Folders) -> None:
    """A bad option is one line and exit code 2."""
    process = Process(folders, 1, "--grpc", "0.0.0.0:1")
    try:
        assert await process.ended() == 2
        assert "--insecure" in process.text()
        assert "Traceback" not in process.text()
    finally:
        process.close()


async def test_status_of_a_node(folders: Folders) -> None:
    """The control socket tells for each stream what is committed, shipped and acknowledged."""
    collector = TinyCollector()
    async with serving(collector) as port, agent(folders, port):
        writer = Writer(folders)
        with held(writer):
            writer.rows(range(10))
            request = {"session": writer.session, "offset": writer.end, "timeout_s": 20}
            reader, client = await asyncio.open_unix_connection(folders.control_socket)
            client.write(json.dumps({"op": "wait", **request}).encode() + b"\n")
            while "done" not in (line := json.loads(await reader.readline())):
                pass
            client.close()
            await client.wait_closed()
            assert line["done"] is True
            status = await ask(folders, {"op": "status"})
    (stream,) = status["streams"]
    assert status["agent"]["connected"] is True
    assert stream["state"] == "open"
    assert stream["committed"] == stream["shipped"] == stream["acked"] == writer.end
    assert stream["hot_bytes"] > 0


async def test_an_idle_agent_ends_if_told_to(folders: Folders) -> None:
    """With --exit-when-idle the agent ends once everything is delivered."""
    collector = TinyCollector()
    writer = Writer(folders)
    writer.write(finish())
    async with serving(collector) as port:
        process = Process(folders, port, "--exit-when-idle", "0.3")
        try:
            assert await process.ended() == 0
        finally:
            process.close()
    assert collector.streams[writer.session].delivered
    assert (folders.hot / "agent.lock").exists()
    assert os.listdir(folders.hot / "streams") == []
