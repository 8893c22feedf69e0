"""Every component of the collector: closing is safe before use and twice, and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from plait_collector.http.health import Health
from plait_collector.http.server import HttpServer
from plait_collector.liveness import Heard
from plait_collector.registry import Registry
from plait_collector.store.checkpoint import Checkpoints
from plait_collector.store.folder import Folder
from plait_collector.store.sqlite import SqliteStore
from plait_collector.store.writing import Writing
from plait_collector.writer import Writer
from tests.support.http import get
from tests.support.memory_store import MemoryStore


async def test_a_store_opens_and_closes_again_and_again(tmp_path: Path) -> None:
    """Each time the folder is free for the next, and no thread is left."""
    for _ in range(3):
        store = await SqliteStore.open(tmp_path)
        await store.close()
        await store.close()


async def test_parts_of_a_store_close_before_they_open(tmp_path: Path) -> None:
    """What was never opened has nothing to let go of."""
    Writing(tmp_path / "file").close()
    await Checkpoints(tmp_path / "file").close()
    folder = Folder(tmp_path)
    folder.let_go()
    folder.let_go()
    Folder(tmp_path).let_go()


async def test_a_writer_ends_before_it_wrote() -> None:
    """Drained before it ran, or cancelled before anything came: it ends."""
    async with asyncio.timeout(20):
        writer = Writer(MemoryStore())
        writer.drain()
        writer.drain()
        await writer.run()
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(Writer(MemoryStore()).run())
            await asyncio.sleep(0)
            task.cancel()


def health_of(writer: Writer, *, is_draining: bool = False) -> Health:
    """How a collector with this writer is."""
    registry = Registry(store_id="s", version="v", heard=Heard(0))
    return Health(
        version="v",
        store_id="s",
        uptime_s=1.5,
        is_draining=is_draining,
        writer=writer.statistics(),
        relays=registry.statistics(),
    )


@pytest.mark.parametrize(("is_draining", "status"), [(False, 200), (True, 503)])
async def test_health_is_told_over_http(is_draining: bool, status: int) -> None:
    """As JSON, with a status that probes understand; the server ends when it is told to."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    now = health_of(Writer(MemoryStore()), is_draining=is_draining)
    server = HttpServer(listener, lambda: now)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run_until_told())
        found, body = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/healthz")
        missing, _ = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/nothing")
        server.should_exit = True
    assert (found, missing) == (status, 404)
    said = json.loads(body)
    assert said["state"] == ("draining" if is_draining else "ok")
    assert said["writer"]["queued"] == 0
    assert said["relays"]["relays"] == 0
