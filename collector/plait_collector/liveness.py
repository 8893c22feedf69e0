"""What time adds to what records say: a pure function of (streams, heartbeats, now).

Nothing of it is kept on disk: after a collector's restart nobody has been heard yet, and everybody
gets the time they promised from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from plait_collector.attempts import LabelOrder
from plait_collector.states import State, label_state, primary_of, session_state
from plaitwire.limits import (
    GRACE_S,
    HEARTBEAT_INTERVAL_S,
    LOST_AFTER_HEARTBEATS,
    SILENT_AFTER_INTERVALS,
    SILENT_AFTER_MIN_S,
)

SECOND_NS: Final = 1_000_000_000
LAG_BYTES_MAX: Final = 2**63 - 1
"""More is not told: an agent may claim anything."""


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


class Liveness(StrEnum):
    """The words for what time adds, from best to worst."""

    LIVE = "live"
    SILENT = "silent"
    """Its agent is heard, and it is not."""
    LOST = "lost"
    """Nobody who could tell of it is heard."""
    ENDED = "ended"
    """Nothing more is expected."""


_WORSE: Final = {Liveness.LIVE: 0, Liveness.SILENT: 1, Liveness.LOST: 2}


@dataclass(frozen=True, slots=True)
class LabelLiveness:
    """What time adds to a label."""

    label: str
    state: Liveness
    heard_ns: int
    """When something of it last came, by the collector's clock; 0: not in this collector's life,
    or all of it is delivered."""
    lag_bytes: int
    """On the node and not yet here, by the last heartbeat."""
    node: str
    """Empty: nobody has relayed it since the collector started, or all of it is delivered."""


@dataclass(frozen=True, slots=True)
class RunLiveness:
    """What time adds to a run."""

    state: Liveness
    labels: tuple[LabelLiveness, ...]


def run_liveness(heard: Heard, labels: Sequence[LabelOrder], now_ns: int) -> RunLiveness:
    """What time adds to a run.

    A finished primary's run has ended, after a grace, although a worker still runs. The grace
    counts from the primary's own last record, by its writer's clock: that is known also after a
    restart of the collector. A clock that runs ahead of ours is taken for ours.

    Args:
        heard: who was heard.
        labels: of the run, in natural order.
        now_ns: the collector's clock, in nanoseconds since 1970.
    """
    known = tuple(label_liveness(heard, order, now_ns) for order in labels)
    running = [label.state for label in known if label.state is not Liveness.ENDED]
    primary = primary_of(labels)
    speaking = next((order for order in labels if order.label == primary), None)
    if not running or (speaking is not None and _grace_is_over(heard, speaking, now_ns)):
        return RunLiveness(Liveness.ENDED, known)
    return RunLiveness(max(running, key=_WORSE.__getitem__), known)


def _grace_is_over(heard: Heard, primary: LabelOrder, now_ns: int) -> bool:
    """Whether a primary has finished, and its workers have had their time since."""
    if label_state(primary) is not State.FINISHED:
        return False
    deciding = primary.deciding.deciding
    last_ns = max(place.row.last_ns or place.row.meta.started_ns for place in deciding)
    streams = (heard.streams.get(place.session) for place in deciding)
    heard_ns = max((stream.heard_ns for stream in streams if stream is not None), default=0)
    since_ns = max(min(last_ns, now_ns), heard_ns)
    return now_ns - since_ns > GRACE_S * SECOND_NS


def label_liveness(heard: Heard, order: LabelOrder, now_ns: int) -> LabelLiveness:
    """What time adds to a label: of its sessions that still run, the best known one counts."""
    relayed = [
        (place, stream)
        for place in order.places
        if (stream := heard.streams.get(place.session)) is not None
    ]
    latest = max((stream for _, stream in relayed), key=_last_sign_ns, default=None)
    agent = heard.agents.get(latest.agent) if latest is not None else None
    return LabelLiveness(
        order.label,
        _label_state(heard, order, now_ns),
        max((stream.heard_ns for _, stream in relayed), default=0),
        min(LAG_BYTES_MAX, sum(max(0, s.produced - p.row.next_offset) for p, s in relayed)),
        agent.node if agent is not None else "",
    )


def _label_state(heard: Heard, order: LabelOrder, now_ns: int) -> Liveness:
    if label_state(order) is not State.RUNNING:
        return Liveness.ENDED
    deciding = order.deciding.deciding
    running = [place for place in deciding if session_state(place) is State.RUNNING]
    states = [_stream_state(heard, heard.streams.get(place.session), now_ns) for place in running]
    return min(states, key=_WORSE.__getitem__)


def _stream_state(heard: Heard, stream: StreamHeard | None, now_ns: int) -> Liveness:
    """What time adds to a stream that has no finish."""
    agent = heard.agents.get(stream.agent) if stream is not None else None
    heard_ns = heard.started_ns if agent is None else agent.heard_ns
    interval_s = HEARTBEAT_INTERVAL_S if agent is None else agent.interval_s
    if now_ns - heard_ns > LOST_AFTER_HEARTBEATS * interval_s * SECOND_NS:
        return Liveness.LOST
    if stream is None:
        return Liveness.LIVE  # The collector has just started: its agent has time to come back.
    patience_ns = max(SILENT_AFTER_INTERVALS * stream.interval_ns, SILENT_AFTER_MIN_S * SECOND_NS)
    return Liveness.SILENT if now_ns - _last_sign_ns(stream) > patience_ns else Liveness.LIVE


def _last_sign_ns(stream: StreamHeard) -> int:
    return stream.heard_ns or stream.opened_ns
