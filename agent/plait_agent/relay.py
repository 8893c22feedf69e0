"""The gRPC shell around the uplink: it connects, carries messages both ways, and comes back.

Two tasks share one call: `run` connects and reads, `run_writer` writes. Neither decides anything
about the protocol. A relay that is silent for longer than the collector may be counts as broken.

Rule: the call and the uplink change together, without an await between them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

import grpc

from plait_agent.effects import GoAway
from plait_agent.signals import Changes
from plait_agent.streams import Streams
from plait_agent.uplink import Uplink
from plaitwire import limits
from plaitwire.backoff import backoff_s
from plaitwire.status import WrongVersion, error_for
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import ingest_pb2_grpc

log = logging.getLogger(__name__)

SILENCE_S: Final = limits.HEARTBEAT_INTERVAL_S * limits.LOST_AFTER_HEARTBEATS
"""Every heartbeat is echoed: a collector that says nothing for so long is not there."""
_CONNECT_S: Final = 5.0
_Call = grpc.aio.StreamStreamCall[pb.RelayRequest, pb.RelayResponse]

_OPTIONS: Final = (
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.min_reconnect_backoff_ms", int(_CONNECT_S * 1000)),
    ("grpc.use_local_subchannel_pool", 1),  # Each connection is a new one: no memory of the last.
    ("grpc.enable_retries", 0),
)


class Relay:
    """One agent's connection to its collector, for as long as the agent lives."""

    def __init__(
        self,
        uplink: Uplink,
        streams: Streams,
        *,
        collector: str,
        clock: Callable[[], float],
        wall_ns: Callable[[], int],
        rng: random.Random,
        progress: Changes,
    ) -> None:
        """
        Args:
            uplink: decides what is said.
            streams: have the bytes, and carry out what the collector's words mean.
            collector: HOST:PORT.
            clock: seconds that never go back.
            wall_ns: nanoseconds since 1970.
            rng: chance, for the waits between connections.
            progress: rung when the collector has said something, or is gone.
        """
        self.wake = Changes()
        """Ring it when there may be something to say."""
        self.last_error = ""
        """Why the last connection ended; empty while one stands."""
        self._uplink, self._streams, self._collector = uplink, streams, collector
        self._clock, self._wall_ns, self._rng = clock, wall_ns, rng
        self._progress = progress
        self._call: _Call | None = None
        self._leaving = False
        self._go_away: GoAway | None = None
        self._failures = 0

    @property
    def connected(self) -> bool:
        """Whether the collector has welcomed this agent, and the connection stands."""
        return self._uplink.statistics().welcomed

    async def run(self) -> None:
        """Connect, read until the end, come back; until `leave`, or cancelled."""
        while not self._leaving:
            wait_s = await self._relay_once()
            seen = self.wake.count
            until_s = self._clock() + wait_s
            while not self._leaving and (left_s := until_s - self._clock()) > 0:
                seen = await self.wake.after(seen, timeout_s=left_s)

    async def run_writer(self) -> None:
        """Say what the uplink has to say, on whatever connection stands, until `leave`."""
        while True:
            seen, call = self.wake.count, self._call
            if self._leaving:
                if call is not None:
                    await self._write(call, self._uplink.goodbye())
                    await self._half_close(call)
                return
            now_s = self._clock()
            message = None
            if call is not None:
                message = self._uplink.next_message(self._streams, now_s, self._wall_ns())
            if message is None or call is None:
                wait_s = min(self._uplink.next_deadline_s() - now_s, 3600.0)
                await self.wake.after(seen, timeout_s=max(0.0, wait_s))
            elif not await self._write(call, message):
                await self.wake.after(seen)  # The reader learns why, and rings.

    def leave(self) -> None:
        """Say goodbye and end, as soon as what is being written is written."""
        self._leaving = True
        self.wake.ring()

    async def _relay_once(self) -> float:
        """One connection, from its beginning to its end.

        Returns:
            How long to wait before the next one, in seconds.
        """
        async with grpc.aio.insecure_channel(self._collector, options=_OPTIONS) as channel:
            call = ingest_pb2_grpc.IngestStub(channel).Relay()
            self._uplink.connected(self._clock())
            self._call, self._go_away = call, None
            self.wake.ring()
            try:
                why = await self._read_all(call)
            finally:
                self._call = None
                self._uplink.disconnected()
                call.cancel()
                self.wake.ring()
                self._progress.ring()
        if not self._leaving:
            self.last_error = why
        return self._wait_s()

    async def _read_all(self, call: _Call) -> str:
        """Take in what the collector says until it ends; says why it did."""
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    break
                assert isinstance(message, pb.RelayResponse)
                self._take(message)
                if self._go_away is not None:
                    log.info("collector sends us away: why=%r", self._go_away.message)
                    return f"the collector is draining: {self._go_away.message}"
            return await self._end_of(call)
        except TimeoutError:
            why = f"nothing heard from {self._collector} for {SILENCE_S:.0f} s"
        except grpc.aio.AioRpcError:
            return await self._end_of(call)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            why = "the call was cancelled"
        self._failures += 1
        log.warning("connection lost: collector=%s error=%r", self._collector, why)
        return why

    async def _end_of(self, call: _Call) -> str:
        code, details = await call.code(), await call.details() or ""
        if self._leaving:
            return ""
        self._failures += 1
        why = f"{code.name}: {details}" if code is not grpc.StatusCode.OK else "the relay ended"
        if isinstance(error_for(code, details), WrongVersion):
            self._failures = max(self._failures, 32)  # It will not get better soon.
            log.error("the collector does not take us: collector=%s why=%r", self._collector, why)
        elif self._failures == 1:
            log.warning("connection lost: collector=%s error=%r", self._collector, why)
        return why

    def _take(self, message: pb.RelayResponse) -> None:
        effects = self._uplink.received(message, self._streams, self._clock())
        if message.WhichOneof("message") == "welcome":
            self._failures, self.last_error = 0, ""
            self._streams.store(message.welcome.store_id)
            store = message.welcome.store_id
            log.info("connected: collector=%s store=%s", self._collector, store)
        for effect in effects:
            if isinstance(effect, GoAway):
                self._go_away = effect
            else:
                self._streams.apply(effect)
        self.wake.ring()
        self._progress.ring()

    def _wait_s(self) -> float:
        cap_s = limits.RECONNECT_CAP_S
        wait_s = backoff_s(
            self._failures, base_s=limits.RECONNECT_BASE_S, cap_s=cap_s, rng=self._rng
        )
        return wait_s + (self._go_away.retry_after_s if self._go_away is not None else 0.0)

    async def _write(self, call: _Call, message: pb.RelayRequest) -> bool:
        """Whether message went out; else the call is at its end."""
        try:
            await call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            return False  # The call was cancelled, not we.
        return True

    async def _half_close(self, call: _Call) -> None:
        try:
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        except asyncio.CancelledError:
            if _is_cancelled():
                raise


def _is_cancelled() -> bool:
    """Whether this task was told to end; grpc.aio raises the same where only its call was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
