"""What all relays of a collector share: credit, who relays which stream, who was heard when.

Invariant: a stream has at most one owner, the relay that opened it last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plait_collector.credit import CreditPool
from plait_collector.liveness import Heard
from plaitwire import limits


@dataclass(frozen=True, slots=True)
class RelayCounts:
    """What all relays of a collector have seen since it started."""

    relays: int
    """That stand now."""
    frames: int
    payload_bytes: int
    duplicates: int
    """Frames that were held already, whole."""
    gaps: int
    refused: Mapping[str, int]
    """By a RefusedReason's word."""
    diverged: int
    """Streams an agent gave up because its bytes are others."""


@dataclass(slots=True)
class Counts:
    """RelayCounts, being counted."""

    relays: int = 0
    frames: int = 0
    payload_bytes: int = 0
    duplicates: int = 0
    gaps: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    diverged: int = 0


class Registry:
    """What all relays of a collector share."""

    def __init__(
        self,
        *,
        store_id: str,
        version: str,
        heard: Heard,
        credit_bytes_total: int = limits.RELAYED_BYTES_MAX,
    ) -> None:
        """
        Args:
            store_id: the store's identity, told to every agent.
            version: the collector's, for people.
            heard: who was heard when; kept up to date here.
            credit_bytes_total: what all relays together may have under way, in bytes.
        """
        self.store_id = store_id
        self.version = version
        self.heard = heard
        self.credit = CreditPool(credit_bytes_total)
        self.owners: dict[str, object] = {}
        """Which relay opened a stream last: frames of any other are refused."""
        self.counts = Counts()

    def statistics(self) -> RelayCounts:
        """What all relays have seen."""
        c = self.counts
        return RelayCounts(
            c.relays, c.frames, c.payload_bytes, c.duplicates, c.gaps, dict(c.refused), c.diverged
        )
