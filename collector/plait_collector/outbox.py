"""What waits to be sent to one agent: acknowledgements and credit that wait become one message.

Invariant: what is taken out says what was put in, in its order; of acknowledgements the latest.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from plaitwire.v1 import ingest_pb2 as pb

MESSAGES_MAX: Final = 4096
"""Past it, whoever reads from the agent should wait until it has read from us."""


class Outbox:
    """Messages to one agent."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._messages: deque[pb.RelayResponse] = deque()
        # After all messages, and in no order among themselves:
        self._acks: dict[int, int] = {}
        self._credit = 0

    @property
    def is_full(self) -> bool:
        """Whether no more should be caused."""
        return len(self._messages) >= MESSAGES_MAX

    def put(self, message: pb.RelayResponse) -> None:
        """Have message sent, or what it says with the next of its kind."""
        kind = message.WhichOneof("message")
        if kind == "ack":
            for entry in message.ack.offsets:
                self._acks[entry.handle] = entry.offset
        elif kind == "credit":
            self._credit += message.credit.bytes
        else:
            self._settle()
            self._messages.append(message)

    def take(self) -> pb.RelayResponse | None:
        """The next message to send; None: there is none."""
        if not self._messages:
            self._settle()
        return self._messages.popleft() if self._messages else None

    def _settle(self) -> None:
        """Make messages of what was gathered."""
        if self._acks:
            offsets = [pb.StreamOffset(handle=h, offset=end) for h, end in self._acks.items()]
            self._messages.append(pb.RelayResponse(ack=pb.Ack(offsets=offsets)))
            self._acks = {}
        if self._credit:
            self._messages.append(pb.RelayResponse(credit=pb.Credit(bytes=self._credit)))
            self._credit = 0
