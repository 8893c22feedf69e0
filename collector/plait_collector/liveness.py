"""What time adds to what records say: a pure function of (streams, heartbeats, now).

Nothing of it is kept on disk: after a collector's restart nobody has been heard yet, and everybody
gets the time they promised from then on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class AgentHeard:
    """When an agent was last heard, and what it promised."""

    node: str
    heard_ns: int
    interval_s: float


@dataclass(slots=True)
class StreamHeard:
    """When something of a stream last came, and how far its node says it goes."""

    agent: str
    opened_ns: int
    heard_ns: int = 0
    produced: int = 0
    """Stream offset of the end on the node."""
    interval_ns: int = 0
    """Usual time between two arrivals: an exponential mean; 0: not known yet."""


class Heard:
    """Who was heard when, by the collector's clock (nanoseconds since 1970)."""

    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.agents: dict[str, AgentHeard] = {}
        self.streams: dict[str, StreamHeard] = {}

    def agent(self, agent: str, node: str, interval_s: float, now_ns: int) -> None:
        """An agent said hello."""
        self.agents[agent] = AgentHeard(node, now_ns, interval_s)

    def heartbeat(self, agent: str, now_ns: int) -> None:
        """An agent said anything."""
        self.agents[agent].heard_ns = now_ns

    def opened(self, session: str, agent: str, now_ns: int) -> None:
        """An agent relays a stream."""
        self.streams[session] = StreamHeard(agent, now_ns)

    def arrived(self, session: str, end: int, now_ns: int) -> None:
        """Records of a stream came, up to end."""
        stream = self.streams[session]
        if stream.heard_ns:
            gap = now_ns - stream.heard_ns
            stream.interval_ns += (gap - stream.interval_ns) // 8 if stream.interval_ns else gap
        stream.heard_ns = now_ns
        stream.produced = max(stream.produced, end)

    def produced(self, session: str, end: int) -> None:
        """A heartbeat said how far a stream goes on its node."""
        self.streams[session].produced = end

    def closed(self, session: str) -> None:
        """A stream is delivered whole: nothing more is expected of it."""
        self.streams.pop(session, None)
