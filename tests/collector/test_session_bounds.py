"""What a relay may claim and ask for at once: past its bounds it is told so, and nothing breaks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from plait_collector.incoming import OFFSET_MAX
from plait_collector.store import Applied, Open, Opened, Skip, StreamState
from plait_collector.store.sqlite import SqliteStore
from plaitwire import limits
from plaitwire.status import Refused
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import types_pb2
from tests.collector.relays import SCHEMA, A, Harness, end, frame, refusal


@pytest.mark.parametrize("stop", [OFFSET_MAX + 8, 2**63, 2**64 - 8])
def test_a_gap_beyond_what_a_store_can_hold_is_refused(stop: int) -> None:
    """A gap to an offset that no store holds never reaches the writer."""
    peer = Harness().relay()
    gap = pb.Gap(handle=peer.open(), offset=0, end=stop, reason=pb.GAP_REASON_DAMAGED)
    assert refusal(peer.say(gap=gap)).reason == pb.REFUSED_REASON_INVALID


def test_a_frame_beyond_what_a_store_can_hold_is_refused() -> None:
    """A stream ends at the largest offset: a frame that would pass it is refused for good."""
    peer = Harness().relay()
    handle = peer.open(StreamState(OFFSET_MAX, OFFSET_MAX))
    refused = refusal(peer.send(frame(handle, SCHEMA, offset=OFFSET_MAX, base=OFFSET_MAX)))
    assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_INVALID, False)


def test_a_store_holds_the_largest_offset(tmp_path: Path) -> None:
    """What passes the session's bounds is kept and read back."""

    async def life() -> None:
        peer = Harness().relay()
        store = await SqliteStore.open(tmp_path)
        try:
            (opening,) = peer.ask()
            assert isinstance(opening, Open)
            (outcome,) = await store.commit([opening])
            peer.done(opening, outcome)
            gap = pb.Gap(handle=1, offset=0, end=OFFSET_MAX, reason=pb.GAP_REASON_DAMAGED)
            (skip,) = peer.say(gap=gap)
            assert isinstance(skip, Skip)
            assert await store.commit([skip]) == [Applied()]
            (kept,) = await store.gaps([A])
            assert kept.end == OFFSET_MAX
        finally:
            await store.close()

    asyncio.run(life())


def test_streams_asked_for_at_once_are_bounded() -> None:
    """An agent that asks for more streams than may be in flight is ended; answers make room."""
    peer = Harness().relay()
    asked = [peer.ask(session=f"{n:032x}") for n in range(limits.OPENS_IN_FLIGHT_MAX)]
    ((first,), *_) = asked
    assert isinstance(first, Open)
    peer.done(first, Opened(StreamState()))
    assert len(peer.ask(session="e" * 32)) == 1
    assert isinstance(end(peer.ask(session="f" * 32)).error, Refused)


def test_a_refusal_repeats_no_long_name() -> None:
    """What an agent sent too long is not sent back to it whole."""
    refused = refusal(Harness().relay().ask(session="x" * 60_000))
    assert len(refused.message) < 200


def test_an_extra_that_is_nested_without_end_is_refused() -> None:
    """A meta whose extra cannot be read refuses its stream, not the relay."""
    peer = Harness().relay()
    peer.ask()
    meta = types_pb2.StreamMeta(
        session="b" * 32,
        kind=types_pb2.STREAM_KIND_RUN,
        project="p",
        run="r",
        label="0",
        extra_json="[" * 30_000,
    )
    refused = refusal(peer.say(open_stream=pb.OpenStream(handle=2, meta=meta)))
    assert refused.reason == pb.REFUSED_REASON_INVALID
