"""One relay's connection: bytes in order, both ways, until it is cut."""

from __future__ import annotations

from collections import deque


class Link:
    """What is under way between an agent and the collector.

    A cut link may live on at the collector's end for a while: what was sent before still arrives
    there, while the agent has already come back on another.
    """

    def __init__(self, epoch: int) -> None:
        """
        Args:
            epoch: how often the store had been wiped or set back when the connection was made.
        """
        self.epoch = epoch
        self.to_collector: deque[bytes] = deque()
        self.to_agent: deque[bytes] = deque()
        self.agent_gone = False
        self.collector_gone = False

    def cut(self, *, linger: bool) -> None:
        """Break the connection for the agent; for the collector too, unless it is to linger."""
        self.agent_gone = True
        self.to_agent.clear()
        if not linger:
            self.collector_gone = True
            self.to_collector.clear()
