"""Waking tasks that wait for something to change."""

from __future__ import annotations

import asyncio


class Changes:
    """A bell: who waits is woken at the next ring, and rings that nobody waited for are counted."""

    def __init__(self) -> None:
        self.count = 0
        """Rings so far."""
        self._waiters: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake everybody who waits. Call it on the event loop's thread."""
        self.count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def after(self, count: int, *, timeout_s: float | None = None) -> int:
        """Return once there have been more than count rings, or after timeout_s.

        Returns:
            How many there have been.
        """
        if self.count > count:
            return self.count
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)
        return self.count
