"""The session: what is sent, written and refused, for each thing an agent may say."""

from __future__ import annotations

import google_crc32c
import zstandard

from plait_collector.session import Session
from plait_collector.store import (
    Append,
    Applied,
    Conflict,
    Declined,
    Open,
    Opened,
    Proof,
    Skip,
    StreamState,
    Why,
)
from plaitwire import limits, records
from plaitwire.records import Kind
from plaitwire.status import Refused, WrongVersion
from plaitwire.v1 import ingest_pb2 as pb
from tests.collector.relays import SCHEMA, A, Harness, end, frame, refusal, row, words


def test_hello_is_answered_with_the_store_and_a_window() -> None:
    """A relay begins with Welcome and a credit within the limits of a window."""
    greeting = Harness().relay().greeting
    assert words(greeting) == ["welcome", "credit"]
    welcome, credit = greeting
    assert isinstance(welcome, pb.RelayResponse)
    assert isinstance(credit, pb.RelayResponse)
    assert welcome.welcome.store_id == "store"
    assert limits.CREDIT_BYTES_MIN <= credit.credit.bytes <= limits.CREDIT_BYTES_MAX


def test_another_protocol_is_told_so() -> None:
    """An agent of another protocol gets WrongVersion, with both numbers."""
    session = Session(Harness().registry)
    hello = pb.Hello(protocol=99, agent="a", node="n", heartbeat_interval_ms=1)
    error = end(session.received(pb.RelayRequest(hello=hello), 0)).error
    assert isinstance(error, WrongVersion)
    assert "99" in str(error)


def test_the_first_message_must_be_hello() -> None:
    """A relay that begins otherwise is ended."""
    session = Session(Harness().registry)
    actions = session.received(pb.RelayRequest(goodbye=pb.Goodbye()), 0)
    assert isinstance(end(actions).error, Refused)


def test_agents_beyond_the_memory_are_sent_away() -> None:
    """When the windows are given out, a further agent is asked to come back, and room returns."""
    harness = Harness()
    peers = [harness.relay(f"agent-{i}") for i in range(5)]
    assert [words(peer.greeting)[0] for peer in peers] == ["welcome"] * 4 + ["draining"]
    peers[0].session.closed()
    assert words(harness.relay().greeting)[0] == "welcome"
    assert harness.registry.statistics().relays == 4


def test_a_frame_is_acknowledged_after_its_commit_and_not_before() -> None:
    """Receipt gives a change to write; the commit gives Ack and the credit back."""
    peer = Harness().relay()
    handle = peer.open()
    payload = SCHEMA + row(0)
    actions = peer.send(frame(handle, payload))
    assert words(actions) == ["Append"]
    answers = peer.done(actions[0], Applied())
    assert words(answers) == ["ack", "credit"]
    ack, credit = answers
    assert isinstance(ack, pb.RelayResponse)
    assert isinstance(credit, pb.RelayResponse)
    assert [(o.handle, o.offset) for o in ack.ack.offsets] == [(handle, len(payload))]
    assert credit.credit.bytes == limits.frame_charge(len(payload))


def test_a_change_says_what_its_records_are() -> None:
    """Rows, steps and lifted records of a frame are in the change, with offsets of the stream."""
    peer = Harness().relay()
    state = StreamState(next_offset=1000, segment_base=960, schemas={0: 1})
    handle = peer.open(state)
    config = records.pack_json(Kind.CONFIG, {"lr": 1}, time_ns=3)
    (change,) = peer.send(frame(handle, row(4) + config, offset=1000, base=960))
    assert isinstance(change, Append)
    assert (change.rows, change.steps.anchored_max, change.last_ns) == (1, 4, 3)
    assert [(r.offset, r.kind) for r in change.lifted] == [(1032, Kind.CONFIG)]


def test_what_is_held_already_is_cut_off() -> None:
    """Of a frame that overlaps, only the new part is appended; of a duplicate, nothing."""
    peer = Harness().relay()
    handle = peer.open()
    payload = SCHEMA + row(0) + row(1)
    peer.send(frame(handle, payload))
    assert words(peer.send(frame(handle, payload))) == ["credit"]
    (change,) = peer.send(frame(handle, payload + row(2)))
    assert isinstance(change, Append)
    assert (change.offset, change.payload) == (len(payload), row(2))


def test_a_frame_beyond_the_next_offset_is_refused_for_now() -> None:
    """A hole is never written: the stream is refused and may be opened again."""
    peer = Harness().relay()
    handle = peer.open()
    refused = refusal(peer.send(frame(handle, SCHEMA, offset=800, base=800)))
    assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_OUT_OF_ORDER, True)


def test_what_follows_a_refusal_is_ignored_and_its_credit_comes_back() -> None:
    """Frames that were under way under a refused handle change nothing."""
    peer = Harness().relay()
    handle = peer.open()
    peer.send(frame(handle, SCHEMA, offset=800, base=800))
    assert words(peer.send(frame(handle, SCHEMA))) == ["credit"]


def test_a_frame_before_the_stream_is_open_is_refused() -> None:
    """Until the store has said where a stream goes on, no frame of it is taken."""
    peer = Harness().relay()
    peer.ask()
    refused = refusal(peer.send(frame(peer.handles, SCHEMA)))
    assert refused.reason == pb.REFUSED_REASON_OUT_OF_ORDER


def test_damage_ends_the_stream_where_the_good_records_end() -> None:
    """The records before a damaged one are taken; the refusal names the offset behind them."""
    peer = Harness().relay()
    handle = peer.open()
    good = SCHEMA + row(0)
    actions = peer.send(frame(handle, good + bytes(32) + row(1)))
    assert words(actions) == ["Append", "refused"]
    refused = refusal(actions)
    assert (refused.reason, refused.offset) == (pb.REFUSED_REASON_DAMAGED, len(good))
    assert refused.retry


def test_a_row_without_its_schema_is_damage() -> None:
    """A row whose schema its segment never defined is refused where it stands."""
    peer = Harness().relay()
    handle = peer.open()
    good = SCHEMA + row(0)
    stray = records.pack_row(7, 1, 1, [1.0])
    actions = peer.send(frame(handle, good + stray))
    refused = refusal(actions)
    assert (refused.reason, refused.offset) == (pb.REFUSED_REASON_DAMAGED, len(good))
    (change,) = [action for action in actions if isinstance(action, Append)]
    assert change.payload == good
    assert change.crc32c == google_crc32c.value(good)


def test_schemas_hold_for_their_segment_alone() -> None:
    """A new segment begins without schemas; within one they hold over frames."""
    peer = Harness().relay()
    handle = peer.open()
    first = SCHEMA + row(0)
    peer.send(frame(handle, first))
    assert words(peer.send(frame(handle, row(1), offset=len(first)))) == ["Append"]
    at = len(first) + len(row(1))
    refused = refusal(peer.send(frame(handle, row(2), offset=at, base=at)))
    assert (refused.reason, refused.offset) == (pb.REFUSED_REASON_DAMAGED, at)


def test_a_frame_of_a_segment_that_is_not_there_is_refused_for_good() -> None:
    """A base that is neither the current segment's nor the frame's own offset is invalid."""
    peer = Harness().relay()
    handle = peer.open()
    peer.send(frame(handle, SCHEMA))
    refused = refusal(peer.send(frame(handle, row(0), offset=len(SCHEMA), base=8)))
    assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_INVALID, False)


def test_a_bad_checksum_is_refused_for_now() -> None:
    """Bytes that were changed on the way are asked for again."""
    peer = Harness().relay()
    handle = peer.open()
    message = frame(handle, SCHEMA)
    message.crc32c ^= 1
    refused = refusal(peer.send(message))
    assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_CHECKSUM, True)


def test_a_zstd_bomb_is_refused() -> None:
    """A payload that unpacks to more than it declares never takes more memory than declared."""
    peer = Harness().relay()
    handle = peer.open()
    message = frame(handle, SCHEMA)
    message.encoding = pb.ENCODING_ZSTD
    message.payload = zstandard.ZstdCompressor().compress(bytes(64 * limits.MIB))
    assert refusal(peer.send(message)).reason == pb.REFUSED_REASON_CHECKSUM


def test_more_than_the_credit_ends_the_relay() -> None:
    """An agent that sends more than it may is ended with a clear error."""
    peer = Harness().relay()
    handle = peer.open()
    message = frame(handle, SCHEMA)
    message.size = limits.CREDIT_BYTES_MAX + 1
    assert isinstance(end(peer.send(message)).error, Refused)


def test_a_gap_is_applied_at_the_next_offset() -> None:
    """A gap moves the stream like a frame, and what follows must begin a segment."""
    peer = Harness().relay()
    handle = peer.open()
    gap = pb.Gap(handle=handle, offset=0, end=4096, reason=pb.GAP_REASON_DAMAGED)
    (skip,) = peer.say(gap=gap)
    assert isinstance(skip, Skip)
    assert skip == Skip(A, 0, 4096, pb.GAP_REASON_DAMAGED, None, "")
    assert words(peer.say(gap=gap)) == []  # Sent twice, counted once.
    (change,) = peer.send(frame(handle, SCHEMA, offset=4096, base=4096))
    assert isinstance(change, Append)
    answers = peer.session.committed([(skip, Applied()), (change, Applied())], 8)
    assert words(answers) == ["ack", "credit"]


def test_a_gap_that_is_none_is_refused() -> None:
    """A gap that goes backwards or nowhere, or is not aligned, is invalid."""
    for offset, stop in [(0, 0), (8, 0), (0, 12)]:
        peer = Harness().relay()
        handle = peer.open()
        gap = pb.Gap(handle=handle, offset=offset, end=stop, reason=pb.GAP_REASON_DAMAGED)
        assert refusal(peer.say(gap=gap)).reason == pb.REFUSED_REASON_INVALID


def test_the_relay_that_opened_last_owns_a_stream() -> None:
    """Frames that an older relay still brings are refused; the new one's are taken."""
    harness = Harness()
    old, new = harness.relay("old"), harness.relay("new")
    handle = old.open()
    payload = SCHEMA + row(0)
    (late,) = old.send(frame(handle, payload))
    new.open(StreamState(next_offset=len(payload), schemas={0: 1}))
    refused = refusal(old.send(frame(handle, row(1), offset=len(payload))))
    assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_MOVED, True)
    assert words(new.send(frame(1, row(1), offset=len(payload)))) == ["Append"]
    assert words(old.done(late, Applied())) == ["credit"]  # Durable, but no more its to hear.


def test_the_store_has_the_last_word_on_an_offset() -> None:
    """A Conflict refuses the stream for now, and a late one of an older handle touches nothing."""
    peer = Harness().relay()
    handle = peer.open()
    first, second = (
        peer.send(frame(handle, SCHEMA))[0],
        peer.send(frame(handle, row(0), offset=len(SCHEMA)))[0],
    )
    answers = peer.done(first, Conflict(4096))
    assert refusal(answers).reason == pb.REFUSED_REASON_OUT_OF_ORDER
    (again,) = peer.ask()
    assert words(peer.done(second, Conflict(4096))) == ["credit"]
    assert words(peer.done(again, Opened(StreamState(next_offset=4096)))) == ["stream_opened"]


def test_a_deleted_run_and_another_meta_are_refused_for_good() -> None:
    """What the store declines ends the stream with the reason, and no retry."""
    for why, reason in [
        (Why.DELETED, pb.REFUSED_REASON_DELETED),
        (Why.DIVERGED, pb.REFUSED_REASON_DIVERGED),
    ]:
        peer = Harness().relay()
        (change,) = peer.ask()
        refused = refusal(peer.done(change, Declined(why, "no")))
        assert (refused.reason, refused.retry) == (reason, False)


def test_the_proof_of_what_is_held_is_told() -> None:
    """An opened stream's answer carries the store's proof."""
    peer = Harness().relay()
    (change,) = peer.ask()
    state = StreamState(next_offset=64, segment_base=0, proof=Proof(32, 7))
    (answer,) = peer.done(change, Opened(state))
    assert isinstance(answer, pb.RelayResponse)
    opened = answer.stream_opened
    assert (opened.next_offset, opened.proof.offset, opened.proof.crc32c) == (64, 32, 7)


def test_other_bytes_in_place_of_held_ones_diverge() -> None:
    """The last frame sent again with other bytes is refused as diverged."""
    peer = Harness().relay()
    handle = peer.open()
    peer.send(frame(handle, SCHEMA + row(0)))
    refused = refusal(peer.send(frame(handle, SCHEMA + row(9))))
    assert (refused.reason, refused.retry) == (pb.REFUSED_REASON_DIVERGED, False)


def test_bad_names_are_refused_with_a_sentence() -> None:
    """A label, run or session that is not allowed is refused for good, and says what is wrong."""
    for meta in [{"label": ""}, {"run": "a/b"}, {"session": "x"}, {"project": "p" * 129}]:
        refused = refusal(Harness().relay().ask(**meta))
        assert refused.reason == pb.REFUSED_REASON_INVALID
        assert refused.message


def test_a_handle_is_never_used_twice() -> None:
    """An agent that reuses a handle is ended."""
    peer = Harness().relay()
    peer.ask()
    peer.handles -= 1
    assert isinstance(end(peer.ask()).error, Refused)


def test_a_heartbeat_is_echoed_with_the_collectors_clock() -> None:
    """The echo carries the agent's time and ours, and lag is known from what it produced."""
    harness = Harness()
    peer = harness.relay()
    handle = peer.open()
    beat = pb.Heartbeat(sent_ns=3, produced=[pb.StreamOffset(handle=handle, offset=640)])
    (echo,) = peer.say(heartbeat=beat)
    assert isinstance(echo, pb.RelayResponse)
    assert (echo.clock_echo.sent_ns, echo.clock_echo.received_ns) == (3, 5)
    assert harness.heard.streams[A].produced == 640


def test_the_window_comes_back_whole_however_a_relay_ends() -> None:
    """Bytes at the writer when a relay breaks are free again once they are committed."""
    harness = Harness()
    free = harness.registry.credit.free
    peer = harness.relay()
    handle = peer.open()
    (change,) = peer.send(frame(handle, SCHEMA))
    peer.session.closed()
    peer.session.closed()
    charge = limits.frame_charge(len(SCHEMA))
    assert harness.registry.credit.free == free - charge
    assert peer.done(change, Applied()) == []
    assert harness.registry.credit.free == free


def test_a_closed_handle_lets_go_of_its_stream() -> None:
    """After CloseStream nothing more is expected of the stream."""
    harness = Harness()
    peer = harness.relay()
    handle = peer.open()
    close = pb.CloseStream(handle=handle, reason=pb.CLOSE_REASON_DELIVERED)
    assert peer.say(close_stream=close) == []
    assert A not in harness.heard.streams
    assert harness.registry.owners == {}


def test_opening_asks_the_store() -> None:
    """An OpenStream becomes an Open with the meta as a value, and no answer yet."""
    (change,) = Harness().relay().ask()
    assert isinstance(change, Open)
    assert (change.meta.project, change.meta.run, change.meta.label) == ("p", "r", "0")
