"""The HTTP server: starlette's routes in uvicorn, on a socket that is bound before it starts."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from plait_collector.http import health


class HttpServer(uvicorn.Server):
    """Serves until `should_exit` is set. Signals are the daemon's business."""

    def __init__(self, listener: socket.socket, now: Callable[[], health.Health]) -> None:
        """
        Args:
            listener: bound; taken over, and closed at the end.
            now: how the collector is, at any moment.
        """
        app = Starlette(routes=[health.route(now)])
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._listener = listener

    async def run_until_told(self) -> None:
        """Serve, and let go of the socket."""
        try:
            await self.serve(sockets=[self._listener])
        finally:
            self._listener.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield
