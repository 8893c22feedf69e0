"""A query service in this process, over streams written by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc

from plait_collector.liveness import Heard
from plait_collector.query import QueryService
from plait_collector.store import Store
from plaitwire.v1 import query_pb2_grpc
from tests.support.fold import SECOND, Fold, FoldStore

T = TypeVar("T")
NOW_NS = 10_000 * SECOND


@asynccontextmanager
async def serving(store: Store, heard: Heard | None = None) -> AsyncIterator[str]:
    """The address of a server that lives as long as the block."""
    server = grpc.aio.server()
    service = QueryService(store, heard or Heard(NOW_NS), lambda: NOW_NS)
    query_pb2_grpc.add_QueryServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def asked(fold: Fold, question: Callable[[str], T], heard: Heard | None = None) -> T:
    """What a blocking question, given the server's address, is answered."""

    async def ask() -> T:
        async with serving(FoldStore(fold), heard) as address:
            return await asyncio.to_thread(question, address)

    return asyncio.run(ask())
