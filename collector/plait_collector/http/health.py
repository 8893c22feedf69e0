"""GET /healthz: whether the collector takes and keeps records, for people and probes.

200 while it does; 503 with the same body while its store cannot write, or it is stopping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from plait_collector.registry import RelayCounts
from plait_collector.writer import WriterStatistics


@dataclass(frozen=True, slots=True)
class Health:
    """How a collector is."""

    version: str
    store_id: str
    uptime_s: float
    is_draining: bool
    writer: WriterStatistics
    relays: RelayCounts

    @property
    def state(self) -> str:
        """ok, degraded (the store cannot write just now), or draining."""
        if self.is_draining:
            return "draining"
        return "degraded" if self.writer.failing else "ok"

    def body(self) -> dict[str, Any]:
        """The answer, as JSON will say it."""
        return {"state": self.state, **dataclasses.asdict(self)}


def route(health: Callable[[], Health]) -> Route:
    """The route that tells what health() says."""

    async def healthz(request: Request) -> JSONResponse:
        now = health()
        return JSONResponse(now.body(), status_code=200 if now.state == "ok" else 503)

    return Route("/healthz", healthz, methods=["GET"])
