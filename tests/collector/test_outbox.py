"""What waits for one agent: acknowledgements become one message, all else keeps its place."""

from __future__ import annotations

from plait_collector.outbox import MESSAGES_MAX, Outbox
from plaitwire.v1 import ingest_pb2 as pb


def ack(*offsets: tuple[int, int]) -> pb.RelayResponse:
    """An acknowledgement of (handle, offset)s."""
    entries = [pb.StreamOffset(handle=handle, offset=offset) for handle, offset in offsets]
    return pb.RelayResponse(ack=pb.Ack(offsets=entries))


def credit(size: int) -> pb.RelayResponse:
    """Leave to send size bytes."""
    return pb.RelayResponse(credit=pb.Credit(bytes=size))


def refused(handle: int) -> pb.RelayResponse:
    """The end of a handle."""
    return pb.RelayResponse(refused=pb.Refused(handle=handle))


def all_of(outbox: Outbox) -> list[pb.RelayResponse]:
    """All that waits."""
    taken = []
    while (message := outbox.take()) is not None:
        taken.append(message)
    return taken


def test_acknowledgements_become_one() -> None:
    """Of each stream the latest; credit adds up."""
    outbox = Outbox()
    for message in (ack((1, 8)), credit(3), ack((2, 8), (1, 16)), credit(4)):
        outbox.put(message)
    assert all_of(outbox) == [ack((1, 16), (2, 8)), credit(7)]
    assert outbox.take() is None


def test_other_messages_keep_their_place() -> None:
    """An acknowledgement never moves behind what was said after it."""
    outbox = Outbox()
    for message in (ack((1, 8)), refused(1), ack((2, 8)), credit(1), ack((2, 16))):
        outbox.put(message)
    assert all_of(outbox) == [ack((1, 8)), refused(1), ack((2, 16)), credit(1)]


def test_a_full_outbox_says_so() -> None:
    """Acknowledgements never fill it; messages of their own do, until they are taken."""
    outbox = Outbox()
    for handle in range(MESSAGES_MAX - 1):
        outbox.put(refused(handle))
    for offset in range(10):
        outbox.put(ack((1, offset)))
    assert not outbox.is_full
    outbox.put(refused(0))
    assert outbox.is_full
    assert len(all_of(outbox)) == MESSAGES_MAX + 1
    assert not outbox.is_full
