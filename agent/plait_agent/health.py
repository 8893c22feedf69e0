"""gRPC health and reflection: on a Unix socket in the hot folder and, if asked for, on TCP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from plait_agent.config import HEALTH_SOCKET

SERVICE: Final = "plait.agent"
"""The name under which health is asked, beside the empty one."""


class Health:
    """Says whether this agent serves."""

    def __init__(self, hot: Path, address: str | None) -> None:
        """
        Args:
            hot: the folder of the socket.
            address: HOST:PORT to serve on, too; port 0: a free one.
        """
        self._socket = hot / HEALTH_SOCKET
        self._address = address
        self._servicer: Any = None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> dict[str, str]:
        """Serve.

        Returns:
            `health`, the socket, and `grpc`, the address with the port that was bound.

        Raises:
            OSError: an address cannot be bound.
        """
        self._servicer = health.aio.HealthServicer()
        server = self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        names = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        self._socket.unlink(missing_ok=True)  # The lock is ours: whoever left it is dead.
        bound = {"health": str(self._socket)}
        self._bind(f"unix:{self._socket}")
        if self._address is not None:
            port = self._bind(self._address)
            bound["grpc"] = f"{self._address.rpartition(':')[0]}:{port}"
        await server.start()
        await self._servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        return bound

    def _bind(self, address: str) -> int:
        assert self._server is not None
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"{address} cannot be bound: is it in use?") from error
        return port

    async def drain(self) -> None:
        """Say that this agent serves no more, while it still answers."""
        if self._servicer is not None:
            await self._servicer.enter_graceful_shutdown()

    async def stop(self) -> None:
        """End. Safe before start, and twice."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0.1)
            self._socket.unlink(missing_ok=True)
