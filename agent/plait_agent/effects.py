"""What passes between the uplink and the node: bytes in, and what the collector's words mean, out.

Values only; the uplink (uplink.py) makes them and the node's streams (streams.py) carry them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from plaitwire.v1 import ingest_pb2 as pb

# What the node gives.


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole records of one segment."""

    offset: int
    segment_base: int
    payload: bytes
    """At most FRAME_BYTES_MAX."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Bytes that the node does not have, and why."""

    offset: int
    end: int
    """Beyond offset: a segment's base, or the stream's end."""
    reason: pb.GapReason.ValueType
    records: int | None
    message: str


class Log(Protocol):
    """The node's files, as far as the uplink needs them."""

    def read(self, session: str, offset: int) -> Chunk | Lost | None:
        """What stands at offset: all that is committed of its segment; None: nothing (yet)."""

    def checksum(self, session: str, offset: int, end: int) -> int | None:
        """CRC32C of these bytes; None where they are not (all) here any more."""


# What it makes of the collector's words.


@dataclass(frozen=True, slots=True)
class Opened:
    """The collector awaits a stream at this offset."""

    session: str
    next_offset: int


@dataclass(frozen=True, slots=True)
class Acked:
    """A stream is on the collector's disk up to this offset."""

    session: str
    offset: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """A stream that has ended is on the collector's disk whole."""

    session: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A stream is refused for good."""

    session: str
    reason: pb.RefusedReason.ValueType
    message: str


@dataclass(frozen=True, slots=True)
class DamagedAt:
    """The bytes at this offset are no record; the rest of their segment is lost."""

    session: str
    offset: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """The collector ends the relay on purpose; come back after this long, and some jitter."""

    retry_after_s: float
    message: str


Effect = Opened | Acked | Delivered | Rejected | DamagedAt | GoAway


@dataclass(frozen=True, slots=True)
class UplinkStatistics:
    """What the uplink has done since it was made, and where it stands."""

    welcomed: bool
    store_id: str
    credit_bytes: int
    streams: int
    refused: int
    frames: int
    payload_bytes: int
    """Before compression."""
    wire_bytes: int
    """After it."""
    gaps: int
    retries: int


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """How far one stream is, in stream offsets."""

    state: str
    """waiting, opening, open, refused."""
    end: int
    shipped: int
    acked: int
    ended: bool
