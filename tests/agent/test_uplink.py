"""The uplink, fed messages and a clock by hand."""

from __future__ import annotations

import random

import google_crc32c

from plait_agent.effects import (
    Acked,
    Chunk,
    DamagedAt,
    Delivered,
    Effect,
    GoAway,
    Lost,
    Opened,
    Rejected,
)
from plait_agent.uplink import Uplink
from plaitwire import limits
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import types_pb2

_A, _B = "a" * 32, "b" * 32


class MemoryLog:
    """Streams in memory, each of one segment at 0 unless a gap is planted."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.lost: dict[str, Lost] = {}
        self.reads = 0

    def read(self, session: str, offset: int) -> Chunk | Lost | None:
        self.reads += 1
        if session in self.lost and self.lost[session].offset == offset:
            return self.lost[session]
        payload = self.data[session][offset:][: limits.FRAME_BYTES_MAX]
        return Chunk(offset, 0, payload) if payload else None

    def checksum(self, session: str, offset: int, end: int) -> int | None:
        data = self.data[session][offset:end]
        return google_crc32c.value(data) if len(data) == end - offset else None


class Harness:
    """An uplink, its log and its collector's words."""

    def __init__(self) -> None:
        hello = pb.Hello(
            protocol=limits.PROTOCOL, agent="agent", node="node", heartbeat_interval_ms=5000
        )
        self.uplink = Uplink(hello, rng=random.Random(1))
        self.log = MemoryLog()
        self.now_s = 100.0

    def connect(self, credit: int = 4 * limits.MIB) -> None:
        self.uplink.connected(self.now_s)
        assert self.say().WhichOneof("message") == "hello"
        self.hear(welcome=pb.Welcome(store_id="store"))
        self.hear(credit=pb.Credit(bytes=credit))

    def add(self, session: str, data: bytes) -> None:
        self.log.data[session] = data
        self.uplink.add(session, types_pb2.StreamMeta(session=session))
        self.uplink.grew(session, len(data))

    def open(self, session: str, data: bytes, next_offset: int = 0) -> int:
        """Add a stream and let the collector open it; returns its handle."""
        self.add(session, data)
        message = self.say()
        assert message.open_stream.meta.session == session
        handle = message.open_stream.handle
        self.hear(stream_opened=pb.StreamOpened(handle=handle, next_offset=next_offset))
        return handle

    def say(self) -> pb.RelayRequest:
        message = self.silent()
        assert message is not None
        return message

    def silent(self) -> pb.RelayRequest | None:
        return self.uplink.next_message(self.log, self.now_s, 7)

    def hear(
        self,
        welcome: pb.Welcome | None = None,
        stream_opened: pb.StreamOpened | None = None,
        ack: pb.Ack | None = None,
        credit: pb.Credit | None = None,
        refused: pb.Refused | None = None,
        draining: pb.Draining | None = None,
    ) -> list[Effect]:
        message = pb.RelayResponse(
            welcome=welcome,
            stream_opened=stream_opened,
            ack=ack,
            credit=credit,
            refused=refused,
            draining=draining,
        )
        return self.uplink.received(message, self.log, self.now_s)

    def ack(self, handle: int, offset: int) -> list[Effect]:
        return self.hear(ack=pb.Ack(offsets=[pb.StreamOffset(handle=handle, offset=offset)]))


def test_a_relay_begins_with_hello_and_says_no_more_before_welcome() -> None:
    """Hello is the first message, and nothing follows until the collector has answered."""
    harness = Harness()
    harness.add(_A, b"x" * 64)
    harness.uplink.connected(harness.now_s)
    assert harness.say().WhichOneof("message") == "hello"
    assert harness.silent() is None


def test_a_stream_goes_on_where_the_collector_says() -> None:
    """Bytes before the collector's next offset are not sent again."""
    harness = Harness()
    harness.connect()
    harness.open(_A, b"0123456789abcdef", next_offset=8)
    frame = harness.say().frames.frames[0]
    assert (frame.offset, frame.payload, frame.size) == (8, b"89abcdef", 8)
    assert frame.crc32c == google_crc32c.value(b"89abcdef")


def test_nothing_is_sent_without_credit() -> None:
    """Without room for a whole frame in the credit no byte is read from the log."""
    harness = Harness()
    harness.connect(credit=limits.FRAME_BYTES_MAX - 1)
    harness.open(_A, b"x" * 64)
    assert harness.silent() is None
    assert harness.log.reads == 0
    harness.hear(credit=pb.Credit(bytes=1))
    assert harness.say().WhichOneof("message") == "frames"


def test_a_frame_takes_its_charge_of_the_credit() -> None:
    """A small frame costs the least charge, and the statistics show what is left."""
    harness = Harness()
    harness.connect(credit=2 * limits.MIB)
    harness.open(_A, b"x" * 64)
    harness.say()
    left = 2 * limits.MIB - limits.FRAME_CHARGE_BYTES_MIN
    assert harness.uplink.statistics().credit_bytes == left


def test_a_small_stream_is_not_stuck_behind_a_backlog() -> None:
    """With one stream far behind, a small one's bytes go in the very next message."""
    harness = Harness()
    harness.connect(credit=16 * limits.MIB)
    big = harness.open(_A, bytes(8 * limits.MIB))
    first = harness.say()
    assert {frame.handle for frame in first.frames.frames} == {big}
    small = harness.open(_B, b"y" * 64)
    assert small in {frame.handle for frame in harness.say().frames.frames}


def test_opens_and_a_backlog_take_turns() -> None:
    """While many streams wait to be opened, frames of an open one still go out, and vice versa."""
    harness = Harness()
    harness.connect(credit=16 * limits.MIB)
    harness.open(_A, bytes(8 * limits.MIB))
    for number in range(10):
        harness.add(f"{number:032x}", b"x" * 8)
    kinds = [harness.say().WhichOneof("message") for _ in range(6)]
    assert kinds.count("frames") == kinds.count("open_stream") == 3


def test_opens_under_way_are_bounded() -> None:
    """No more than OPENS_IN_FLIGHT_MAX streams are asked for before answers come."""
    harness = Harness()
    harness.connect()
    for number in range(limits.OPENS_IN_FLIGHT_MAX + 10):
        harness.add(f"{number:032x}", b"")
    opens = 0
    while harness.silent() is not None:
        opens += 1
    assert opens == limits.OPENS_IN_FLIGHT_MAX


def test_an_ended_stream_is_delivered_with_its_last_acknowledgement() -> None:
    """Delivered comes when the end is acknowledged, never before, and closes the handle."""
    harness = Harness()
    harness.connect()
    handle = harness.open(_A, b"x" * 64)
    harness.say()
    assert harness.uplink.ended(_A, 64) == []
    assert harness.ack(handle, 32) == [Acked(_A, 32)]
    assert harness.ack(handle, 64) == [Acked(_A, 64), Delivered(_A)]
    assert harness.say().close_stream.reason == pb.CLOSE_REASON_DELIVERED


def test_an_ended_stream_that_is_there_already_is_delivered_at_once() -> None:
    """If the collector awaits nothing more, opening the stream delivers it."""
    harness = Harness()
    harness.connect()
    harness.add(_A, b"x" * 64)
    harness.uplink.ended(_A, 64)
    handle = harness.say().open_stream.handle
    effects = harness.hear(stream_opened=pb.StreamOpened(handle=handle, next_offset=64))
    assert effects == [Opened(_A, 64), Delivered(_A)]


def test_after_a_cut_a_stream_is_sent_from_the_collectors_offset() -> None:
    """What was under way when the relay broke is sent again on the next."""
    harness = Harness()
    harness.connect()
    harness.open(_A, b"0123456789abcdef")
    harness.say()
    harness.uplink.disconnected()
    assert harness.silent() is None
    harness.connect()
    handle = harness.say().open_stream.handle
    harness.hear(stream_opened=pb.StreamOpened(handle=handle, next_offset=0))
    assert harness.say().frames.frames[0].payload == b"0123456789abcdef"


def test_lost_bytes_are_told_as_a_gap_in_their_place() -> None:
    """Bytes the node has not become a Gap, after the frames before it, and the stream goes on."""
    harness = Harness()
    harness.connect()
    harness.log.lost[_A] = Lost(0, 64, pb.GAP_REASON_DAMAGED, None, "gone")
    harness.open(_A, bytes(64) + b"y" * 64)
    gap = harness.say().gap
    assert (gap.offset, gap.end, gap.HasField("records")) == (0, 64, False)
    frame = harness.say().frames.frames[0]
    assert (frame.offset, frame.payload) == (64, b"y" * 64)


def test_a_diverged_stream_is_given_up() -> None:
    """Where the collector's proof does not match our bytes, the stream is refused for good."""
    harness = Harness()
    harness.connect()
    harness.add(_A, b"x" * 64)
    handle = harness.say().open_stream.handle
    opened = pb.StreamOpened(handle=handle, next_offset=64, proof=pb.Proof(offset=0, crc32c=1))
    (effect,) = harness.hear(stream_opened=opened)
    assert isinstance(effect, Rejected)
    assert effect.reason == pb.REFUSED_REASON_DIVERGED
    assert harness.say().close_stream.reason == pb.CLOSE_REASON_DIVERGED
    assert harness.silent() is None


def test_a_matching_proof_is_no_divergence() -> None:
    """A proof over the bytes we have opens the stream."""
    harness = Harness()
    harness.connect()
    harness.add(_A, b"x" * 64)
    handle = harness.say().open_stream.handle
    proof = pb.Proof(offset=32, crc32c=google_crc32c.value(b"x" * 32))
    opened = pb.StreamOpened(handle=handle, next_offset=64, proof=proof)
    assert harness.hear(stream_opened=opened) == [Opened(_A, 64)]


def test_a_stream_refused_for_now_is_opened_again() -> None:
    """After a refusal that may be retried the stream opens under a new handle."""
    harness = Harness()
    harness.connect()
    handle = harness.open(_A, b"x" * 64)
    refused = pb.Refused(handle=handle, reason=pb.REFUSED_REASON_OUT_OF_ORDER, retry=True)
    assert harness.hear(refused=refused) == []
    again = harness.say().open_stream
    assert again.handle > handle
    assert again.meta.session == _A


def test_repeated_refusals_wait_longer() -> None:
    """A stream refused again without progress waits for its time, and the deadline tells it."""
    harness = Harness()
    harness.connect()
    handle = harness.open(_A, b"x" * 64)
    for attempt in range(6):
        refused = pb.Refused(handle=handle, reason=pb.REFUSED_REASON_CHECKSUM, retry=True)
        harness.hear(refused=refused)
        if attempt < 5:
            harness.now_s = max(harness.now_s, harness.uplink.next_deadline_s())
            while (message := harness.say()).WhichOneof("message") != "open_stream":
                pass
            handle = message.open_stream.handle
    assert harness.now_s < harness.uplink.next_deadline_s()
    assert harness.silent() is None


def test_a_stream_refused_for_good_is_never_opened_again() -> None:
    """A final refusal is told to the node, and holds over reconnections."""
    harness = Harness()
    harness.connect()
    handle = harness.open(_A, b"x" * 64)
    refused = pb.Refused(handle=handle, reason=pb.REFUSED_REASON_DELETED, message="deleted")
    effects = harness.hear(refused=refused)
    assert effects == [Rejected(_A, pb.REFUSED_REASON_DELETED, "deleted")]
    harness.uplink.disconnected()
    harness.connect()
    assert harness.silent() is None


def test_damage_is_told_to_the_node() -> None:
    """Where the collector finds no record, the node learns the offset and the stream reopens."""
    harness = Harness()
    harness.connect()
    handle = harness.open(_A, b"x" * 64)
    harness.say()
    refused = pb.Refused(handle=handle, reason=pb.REFUSED_REASON_DAMAGED, retry=True, offset=32)
    assert harness.hear(refused=refused) == [DamagedAt(_A, 32)]
    assert harness.say().WhichOneof("message") == "open_stream"


def test_a_heartbeat_comes_when_it_is_due_and_tells_what_moved() -> None:
    """Once per promised interval, with the ends of the streams that moved since the last."""
    harness = Harness()
    harness.connect(credit=0)
    handle = harness.open(_A, b"x" * 64)
    assert harness.silent() is None
    harness.now_s = harness.uplink.next_deadline_s()
    beat = harness.say().heartbeat
    assert [(p.handle, p.offset) for p in beat.produced] == [(handle, 64)]
    assert beat.sent_ns == 7
    harness.now_s = harness.uplink.next_deadline_s()
    assert len(harness.say().heartbeat.produced) == 0


def test_an_acknowledgement_of_what_was_not_sent_ends_the_relay() -> None:
    """A collector that acknowledges beyond what was sent is left, and nothing is deleted."""
    harness = Harness()
    harness.connect(credit=0)
    handle = harness.open(_A, b"x" * 64)
    (effect,) = harness.ack(handle, 64)
    assert isinstance(effect, GoAway)


def test_draining_sends_the_agent_away_for_as_long_as_it_says() -> None:
    """The collector's wish reaches the shell in seconds."""
    harness = Harness()
    harness.connect()
    draining = pb.Draining(retry_after_ms=2500, message="restarting")
    assert harness.hear(draining=draining) == [GoAway(2.5, "restarting")]


def test_what_compresses_travels_compressed() -> None:
    """Zeros are sent as zstd, random bytes as they are; size and checksum are of the records."""
    harness = Harness()
    harness.connect()
    harness.open(_A, bytes(64 * 1024))
    frame = harness.say().frames.frames[0]
    assert frame.encoding == pb.ENCODING_ZSTD
    assert frame.size == 64 * 1024 > len(frame.payload)
    assert frame.crc32c == google_crc32c.value(bytes(64 * 1024))
    noise = random.Random(2).randbytes(64 * 1024)
    harness.open(_B, noise)
    frame = harness.say().frames.frames[0]
    assert (frame.encoding, frame.payload) == (pb.ENCODING_RAW, noise)


def test_a_message_stays_within_its_limit() -> None:
    """However many streams wait, one message holds no more than the wire allows."""
    harness = Harness()
    harness.connect(credit=16 * limits.MIB)
    noise = random.Random(3).randbytes(limits.FRAME_BYTES_MAX)
    for number in range(6):
        harness.open(f"{number:032x}", b"")
    for number in range(6):
        harness.log.data[f"{number:032x}"] = noise
        harness.uplink.grew(f"{number:032x}", len(noise))
    sent = 0
    while (message := harness.silent()) is not None:
        assert message.ByteSize() <= limits.MESSAGE_BYTES_MAX
        sent += sum(frame.size for frame in message.frames.frames)
    assert sent == 6 * len(noise)
