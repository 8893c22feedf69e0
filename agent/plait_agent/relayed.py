"""What the uplink keeps in mind: of each stream, and of the one relay that stands."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import types_pb2


class State(Enum):
    """Where a stream stands with the relay."""

    WAITING = auto()
    OPENING = auto()
    OPEN = auto()
    REFUSED = auto()


@dataclass(slots=True)
class Stream:
    """One stream that is relayed."""

    session: str
    meta: types_pb2.StreamMeta
    end: int = 0
    ended: bool = False
    state: State = State.WAITING
    handle: int = 0
    shipped: int = 0
    acked: int = 0
    reported: int = 0
    """The end that the last heartbeat told."""
    failures: int = 0
    """Refusals since something of it was last acknowledged."""
    not_before_s: float = 0.0
    queued: bool = False
    """It stands in the ready queue."""


@dataclass(slots=True)
class Totals:
    """What was done since the uplink was made."""

    frames: int = 0
    payload_bytes: int = 0
    wire_bytes: int = 0
    gaps: int = 0
    retries: int = 0


@dataclass(slots=True)
class Relay:
    """All that one connection knows; a new connection starts with a new one."""

    outbox: deque[pb.RelayRequest] = field(default_factory=deque)
    handles: dict[int, Stream] = field(default_factory=dict)
    to_open: deque[str] = field(default_factory=deque)
    ready: deque[Stream] = field(default_factory=deque)
    opening: int = 0
    next_handle: int = 1
    credit: int = 0
    welcomed: bool = False
    heartbeat_due_s: float = 0.0
    opens_turn: bool = True
