"""The collector as a process: it starts or says why not, serves, and stops within its bound."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from plaitwire import limits
from tests.support.http import get
from tests.support.relay import hello_of, relay

pytestmark = pytest.mark.system

DEADLINE_S = 60.0


class Collector:
    """A collector's process."""

    def __init__(self, *arguments: str) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "plait_collector", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if "msg=ready" in line:
                self._ready.set()
        self._ready.set()

    def address(self, key: str) -> str:
        """What the ready line says of key."""
        assert self._ready.wait(DEADLINE_S)
        found = re.search(rf"msg=ready .*\b{key}=(\S+)", "\n".join(self.lines))
        assert found is not None, self.lines
        return found.group(1)

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(DEADLINE_S)
        self._reader.join()
        return code

    def close(self) -> None:
        """End it, however it is."""
        self.process.kill()
        self.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def collector(*arguments: str) -> Iterator[Collector]:
    """A collector for the length of a block."""
    started = Collector(*arguments)
    try:
        yield started
    finally:
        started.close()


def free(data: Path) -> list[str]:
    """Arguments for a collector on free ports."""
    return ["--data", str(data), "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]


async def test_it_serves_and_stops(tmp_path: Path) -> None:
    """Health over gRPC and HTTP, reflection, an agent that is sent away, exit code 0."""
    with collector(*free(tmp_path)) as started:
        address = started.address("grpc")
        url = f"http://{started.address('http')}/healthz"
        status, body = await asyncio.to_thread(get, url)
        assert (status, json.loads(body)["state"]) == (200, "ok")
        async with grpc.aio.insecure_channel(address) as channel:
            alive = health_pb2_grpc.HealthStub(channel)
            for service in ("", "plaitwire.v1.Ingest", "plaitwire.v1.Query"):
                request = health_pb2.HealthCheckRequest(service=service)
                assert (await alive.Check(request)).status == 1
            assert {"plaitwire.v1.Ingest", "plaitwire.v1.Query"} <= await listed(channel)
        async with relay(address) as wire:
            await wire.say(hello=hello_of())
            await wire.next("welcome")
            started.process.send_signal(signal.SIGTERM)
            assert (await wire.next("draining")).draining.retry_after_ms
            assert await wire.end() is grpc.StatusCode.OK
        assert started.wait() == 0
        assert "msg=stopped" in started.lines[-1]


async def listed(channel: grpc.aio.Channel) -> set[str]:
    """The services that reflection lists."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call: Any = stub.ServerReflectionInfo(iter([request]))
    answers = [answer async for answer in call]
    return {service.name for service in answers[0].list_services_response.service}


async def test_it_stops_within_its_bound_with_calls_open(tmp_path: Path) -> None:
    """An agent that does not go is cut off; the bound of a drain is kept by the program itself."""
    with collector(*free(tmp_path)) as started:
        async with relay(started.address("grpc")) as wire:
            await wire.say(hello=hello_of())
            await wire.next("welcome")
            started.process.send_signal(signal.SIGTERM)
            await wire.next("draining")
            assert started.wait() == 0
    assert any(f"within_s={limits.DRAIN_S:g}" in line for line in started.lines)


def refused(*arguments: str) -> str:
    """The only line of a collector that cannot start."""
    with collector(*arguments) as started:
        assert started.wait() == 2, started.lines
        (line,) = started.lines
        assert "level=error" in line
        return line


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """It says which option, which address and why, and ends with code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--grpc", "--http"):
            arguments = [*free(tmp_path), option, address]
            line = refused(*arguments)
            assert f"{option} {address}" in line
            assert os.strerror(98) in line


def test_an_unusable_folder_is_one_line(tmp_path: Path) -> None:
    """A file in its place; or a folder where another collector is at work."""
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(*free(tmp_path / "file"))
    with collector(*free(tmp_path / "data")) as first:
        first.address("grpc")
        line = refused(*free(tmp_path / "data"))
        assert f"in use by another collector (process {first.process.pid})" in line


def test_a_public_address_is_one_line(tmp_path: Path) -> None:
    """Nothing listens before somebody said that this is meant."""
    assert "--insecure" in refused("--data", str(tmp_path), "--grpc", "0.0.0.0:0")
    assert not (tmp_path / "plait.sqlite3").exists()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Whoever asks twice does not want to wait; nothing acknowledged is lost by it."""
    with collector(*free(tmp_path)) as started:
        started.address("grpc")
        started.process.send_signal(signal.SIGINT)
        started.process.send_signal(signal.SIGTERM)
        assert started.wait() in (0, 1)  # 0: it was done before the second came.
