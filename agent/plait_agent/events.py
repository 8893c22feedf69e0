"""What the streams of a node tell: events for the uplink, and how they stand. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from plait_agent.refusals import RefusalStatistics
from plaitwire.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Found:
    """A stream is to be relayed from now on."""

    session: str
    meta: types_pb2.StreamMeta


@dataclass(frozen=True, slots=True)
class Grew:
    """A stream is committed up to this offset."""

    session: str
    end: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing comes after this offset."""

    session: str
    end: int


@dataclass(frozen=True, slots=True)
class Gone:
    """A refused stream has left the node: the uplink may forget it."""

    session: str


NodeEvent = Found | Grew | Ended | Gone


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream is, in stream offsets."""

    acked: int
    end: int
    refused: str = ""
    """Why the collector refuses it for good; empty: it does not."""


@dataclass(frozen=True, slots=True)
class StreamsStatistics:
    """The streams of the node, together."""

    streams: int
    unfinished: int
    """Of them, how many have a writer or something to deliver."""
    delivered: int
    """Streams seen to their end by this agent."""
    refusals: RefusalStatistics
    spill_errors: int
