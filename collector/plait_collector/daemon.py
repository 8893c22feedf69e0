"""What starts, in what order, and how it stops.

Downstream first: the store, the writer, then gRPC and HTTP. On SIGTERM or SIGINT upstream stops
first: agents are sent away, calls end, what was accepted is written and the store is closed, all
within DRAIN_S. A second signal ends at once; nothing acknowledged is lost by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import Final

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from plait_collector.config import Address, CollectorConfig
from plait_collector.http.health import Health
from plait_collector.http.server import HttpServer
from plait_collector.ingest import IngestService, server_options
from plait_collector.liveness import Heard
from plait_collector.query import QueryService
from plait_collector.registry import Registry
from plait_collector.store.sqlite import SqliteStore
from plait_collector.writer import Writer
from plaitwire import limits
from plaitwire.v1 import ingest_pb2, ingest_pb2_grpc, query_pb2, query_pb2_grpc

log = logging.getLogger(__name__)

DRAIN_CALLS_S: Final = limits.DRAIN_S / 3
"""Of DRAIN_S, what calls have to end; the rest is for the writing."""
RETRY_AFTER_MS: Final = 500
"""When agents that are sent away should come back: a restart takes about as long."""
KEPT_BYTES_MAX: Final = 32 * limits.MIB
"""Freed memory at the heap's end that is not given back to the kernel."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
SERVICES: Final = (
    ingest_pb2.DESCRIPTOR.services_by_name["Ingest"].full_name,
    query_pb2.DESCRIPTOR.services_by_name["Query"].full_name,
)


class CannotListen(OSError):
    """An address cannot be listened at. The sentence says which, and why."""


def serve(config: CollectorConfig, *, version: str) -> None:
    """Run a collector until it is told to stop.

    Args:
        config: validated.
        version: of plait, for people and agents.

    Raises:
        StoreUnusable: the data folder cannot be used.
        CannotListen: an address cannot be listened at.
    """
    keep_freed_memory()
    asyncio.run(_Collector(config, version).run())


class _Collector:
    """One collector's life."""

    def __init__(self, config: CollectorConfig, version: str) -> None:
        self._config, self._version = config, version
        self._started_s = time.monotonic()
        self._stop = asyncio.Event()
        self._draining = False

    async def run(self) -> None:
        """Start, serve, and stop when a signal says so."""
        with contextlib.ExitStack() as sockets:
            web = sockets.enter_context(listener("--http", self._config.http))
            # gRPC binds for itself, and says little when it cannot: so it is tried first.
            listener("--grpc", self._config.grpc).close()
            store = await SqliteStore.open(self._config.data)
            try:
                await self._run(store, web)
            finally:
                await store.close()
        log.info("stopped")

    async def _run(self, store: SqliteStore, web: socket.socket) -> None:
        heard = Heard(time.time_ns())
        registry = Registry(store_id=store.store_id, version=self._version, heard=heard)
        writer = Writer(store)

        def now() -> Health:
            uptime_s = time.monotonic() - self._started_s
            return Health(
                version=self._version,
                store_id=store.store_id,
                uptime_s=round(uptime_s, 3),
                is_draining=self._draining,
                writer=writer.statistics(),
                relays=registry.statistics(),
            )

        ingest = IngestService(registry, writer, time.time_ns)
        query = QueryService(store, heard, time.time_ns)
        http = HttpServer(web, now)
        # The group comes second: an address that cannot be bound is then an error of its own.
        async with (
            serving(self._config.grpc, ingest, query) as (server, alive, port),
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(writer.run(), name="writer")
            tasks.create_task(http.run_until_told(), name="http")
            try:
                self._heed_signals()
                bound = Address(self._config.grpc.host, port)
                told = Address(self._config.http.host, web.getsockname()[1])
                log.info("ready: grpc=%s http=%s data=%s", bound, told, self._config.data)
                await self._stop.wait()
                await alive.enter_graceful_shutdown()
                ingest.drain(_retry_after_ms(), "the collector is stopping")
                await server.stop(DRAIN_CALLS_S)
            finally:
                http.should_exit = True
                writer.drain()

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def told(name: str) -> None:
            if self._draining:
                log.warning("stopping at once: signal=%s", name)
                os._exit(1)
            log.info("stopping: signal=%s within_s=%g", name, limits.DRAIN_S)
            self._draining = True
            loop.call_later(limits.DRAIN_S, _out_of_time)
            self._stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told, number.name)


def keep_freed_memory() -> None:
    """Have glibc reuse large blocks, where it is glibc that we run on.

    Left alone it gives those of a frame back to the kernel at each free, and faulting them in
    again took 8 % of ingest. What is kept is at most what was in use at once.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 2 * limits.MESSAGE_BYTES_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)


def _out_of_time() -> None:
    log.error("not everything was written in time: what was not is not acknowledged either")
    os._exit(1)


def _retry_after_ms() -> int:
    """Spread, so that not all agents come in the same moment."""
    return random.randint(RETRY_AFTER_MS // 2, RETRY_AFTER_MS)


def listener(option: str, address: Address) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        CannotListen: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=128)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise CannotListen(f"cannot listen at {option} {address}: {why}") from error


@contextlib.asynccontextmanager
async def serving(
    address: Address, ingest: IngestService, query: QueryService
) -> AsyncIterator[tuple[grpc.aio.Server, health.aio.HealthServicer, int]]:
    """A gRPC server with all services, and the port it is at, for the length of a block.

    Raises:
        CannotListen: it cannot be bound.
    """
    ping_s = limits.HEARTBEAT_INTERVAL_S * limits.LOST_AFTER_HEARTBEATS
    server = grpc.aio.server(options=server_options(limits.MESSAGE_BYTES_MAX, ping_s=ping_s))
    alive = health.aio.HealthServicer()
    ingest_pb2_grpc.add_IngestServicer_to_server(ingest, server)
    query_pb2_grpc.add_QueryServicer_to_server(query, server)
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    reflection.enable_server_reflection(
        (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise CannotListen(f"cannot listen at --grpc {address}: {error}") from error
    await server.start()
    try:
        for service in ("", *SERVICES):
            await alive.set(service, health_pb2.HealthCheckResponse.SERVING)
        yield server, alive, port
    finally:
        await server.stop(None)
