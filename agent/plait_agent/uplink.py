"""The protocol towards the collector: what the agent says next, and what an answer means.

A stream's life here, for as long as one relay lasts:

    waiting ──OpenStream──► opening ──StreamOpened──► open ──all acknowledged──► (delivered)
       ▲                       │                       │
       └──── Refused, retry ───┴───────────────────────┘──── Refused for good ──► refused

When the relay ends, every stream that is not refused is waiting again; where it goes on, the
collector says. Nothing that a relay knew outlives it, so there is nothing to reconcile.

Rule: this file never awaits, never asks the time and does no I/O of its own; the node's bytes come
      through the Log it is given.
Rule: bytes are sent in a stream's order, each once per relay, and only against credit.

Invariant: of an open stream, acked <= shipped; shipped - acked is what is under way.
"""

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
    Log,
    Lost,
    Opened,
    Rejected,
    StreamStatistics,
    UplinkStatistics,
)
from plait_agent.encoder import Encoder
from plait_agent.relayed import Relay, State, Stream, Totals
from plaitwire import limits
from plaitwire.backoff import backoff_s
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import types_pb2


class Uplink:
    """The agent's half of the relay. Feed it what happened, and ask it what to say."""

    def __init__(self, hello: pb.Hello, *, rng: random.Random) -> None:
        """
        Args:
            hello: what every relay begins with.
            rng: chance, for the waits before a refused stream is tried again.
        """
        self._hello = hello
        self._rng = rng
        self._streams: dict[str, Stream] = {}
        self._relay: Relay | None = None
        self._later: list[Stream] = []  # Refused for now, waiting for their time.
        self._store_id = ""
        self._totals = Totals()
        self._encoder = Encoder()

    # What happens on the node.

    def add(self, session: str, meta: types_pb2.StreamMeta) -> None:
        """Relay this stream from now on. One that is relayed already stays as it is."""
        if session in self._streams:
            return
        self._streams[session] = Stream(session, meta)
        if self._relay is not None:
            self._relay.to_open.append(session)

    def grew(self, session: str, end: int) -> None:
        """A stream's committed end on the node is at this offset."""
        stream = self._streams.get(session)
        if stream is not None:
            stream.end = max(stream.end, end)
            self._make_ready(stream)

    def ended(self, session: str, end: int) -> list[Effect]:
        """Nothing comes after this offset: the writer is gone, and its closing is written."""
        stream = self._streams.get(session)
        if stream is None:
            return []
        stream.end, stream.ended = end, True
        self._make_ready(stream)
        return self._if_delivered(stream)

    def remove(self, session: str) -> None:
        """Forget a stream. Its handle, if it has one, is closed by the relay's end."""
        stream = self._streams.pop(session, None)
        if stream is not None and self._relay is not None:
            self._relay.handles.pop(stream.handle, None)
            self._relay.opening -= stream.state is State.OPENING
            stream.state = State.REFUSED  # For queues that still hold it.

    # The connection's life.

    def connected(self, now_s: float) -> None:
        """A new relay stands; all streams are to be opened on it."""
        self._relay = Relay(heartbeat_due_s=now_s + self._interval_s)
        self._later.clear()
        for stream in self._streams.values():
            if stream.state is not State.REFUSED:
                stream.state, stream.handle, stream.queued = State.WAITING, 0, False
                stream.reported = 0
                self._relay.to_open.append(stream.session)
        self._relay.outbox.append(pb.RelayRequest(hello=self._hello))

    def disconnected(self) -> None:
        """The relay is gone, with all that was under way on it."""
        self._relay = None
        self._later.clear()
        for stream in self._streams.values():
            if stream.state is not State.REFUSED:
                stream.state, stream.handle, stream.queued = State.WAITING, 0, False
                stream.shipped = stream.acked

    @property
    def _interval_s(self) -> float:
        return self._hello.heartbeat_interval_ms / 1000

    # What to say.

    def goodbye(self) -> pb.RelayRequest:
        """The last message of a relay that ends on purpose."""
        return pb.RelayRequest(goodbye=pb.Goodbye())

    def next_deadline_s(self) -> float:
        """Until when next_message has nothing of its own accord; infinite without a relay."""
        if self._relay is None or not self._relay.welcomed:
            return float("inf")
        times = [stream.not_before_s for stream in self._later]
        return min([self._relay.heartbeat_due_s, *times])

    def next_message(self, log: Log, now_s: float, wall_ns: int) -> pb.RelayRequest | None:
        """What to say now; None: nothing, until something happens or next_deadline_s() comes.

        Args:
            log: where the bytes of streams are read.
            now_s: a clock that never goes back, in seconds.
            wall_ns: the wall clock, in nanoseconds since 1970.
        """
        relay = self._relay
        if relay is None:
            return None
        if relay.outbox:
            return relay.outbox.popleft()
        if not relay.welcomed:
            return None
        if now_s >= relay.heartbeat_due_s:
            return self._heartbeat(relay, now_s, wall_ns)
        self._wake_later(relay, now_s)
        # In turns, so that neither ten thousand opens nor a backlog holds up the other.
        turns = (self._next_open, self._next_frames)
        first, second = turns if relay.opens_turn else reversed(turns)
        relay.opens_turn = not relay.opens_turn
        return first(relay, log) or second(relay, log)

    def _heartbeat(self, relay: Relay, now_s: float, wall_ns: int) -> pb.RelayRequest:
        relay.heartbeat_due_s = now_s + self._interval_s
        beat = pb.Heartbeat(sent_ns=wall_ns)
        for handle, stream in relay.handles.items():
            if stream.state is State.OPEN:
                self._make_ready(stream)  # A read that failed for a moment is tried again.
                if stream.end != stream.reported:
                    stream.reported = stream.end
                    beat.produced.add(handle=handle, offset=stream.end)
        return pb.RelayRequest(heartbeat=beat)

    def _wake_later(self, relay: Relay, now_s: float) -> None:
        due = [stream for stream in self._later if stream.not_before_s <= now_s]
        if due:
            self._later = [stream for stream in self._later if stream.not_before_s > now_s]
            relay.to_open.extend(stream.session for stream in due)

    def _next_open(self, relay: Relay, log: Log) -> pb.RelayRequest | None:
        while relay.to_open and relay.opening < limits.OPENS_IN_FLIGHT_MAX:
            stream = self._streams.get(relay.to_open.popleft())
            if stream is None or stream.state is not State.WAITING:
                continue
            stream.state, stream.handle = State.OPENING, relay.next_handle
            relay.handles[stream.handle] = stream
            relay.next_handle += 1
            relay.opening += 1
            return pb.RelayRequest(
                open_stream=pb.OpenStream(handle=stream.handle, meta=stream.meta)
            )
        return None

    def _next_frames(self, relay: Relay, log: Log) -> pb.RelayRequest | None:
        """Frames of as many streams as wait, in turns; or one gap."""
        # Filled in place: a message that is put into another is copied, payloads and all.
        message = pb.RelayRequest()
        frames = message.frames.frames
        room = limits.FRAMES_PER_MESSAGE_BYTES_MAX
        while (
            relay.ready
            and len(frames) < limits.FRAMES_PER_MESSAGE_MAX
            and min(room, relay.credit) >= limits.FRAME_BYTES_MAX
        ):
            stream = relay.ready.popleft()
            stream.queued = False
            if stream.state is not State.OPEN:
                continue
            found = log.read(stream.session, stream.shipped)
            if found is None:
                continue  # It comes back when it grows, or with the next heartbeat.
            assert found.offset == stream.shipped
            if isinstance(found, Lost):
                if frames:  # A gap is a message of its own; what was gathered goes first.
                    relay.ready.appendleft(stream)
                    stream.queued = True
                    break
                return self._gap(stream, found)
            charge = limits.frame_charge(len(found.payload))
            relay.credit -= charge
            room -= charge
            self._fill(frames.add(), stream, found)
            self._make_ready(stream)
        return message if frames else None

    def _fill(self, frame: pb.Frame, stream: Stream, chunk: Chunk) -> None:
        assert 0 < len(chunk.payload) <= limits.FRAME_BYTES_MAX
        assert chunk.segment_base <= chunk.offset
        stream.shipped += len(chunk.payload)
        encoding, payload = self._encoder.encode(chunk.payload)
        self._totals.frames += 1
        self._totals.payload_bytes += len(chunk.payload)
        self._totals.wire_bytes += len(payload)
        frame.handle = stream.handle
        frame.offset = chunk.offset
        frame.segment_base = chunk.segment_base
        frame.size = len(chunk.payload)
        frame.crc32c = google_crc32c.value(chunk.payload)
        frame.encoding = encoding
        frame.payload = payload

    def _gap(self, stream: Stream, lost: Lost) -> pb.RelayRequest:
        assert lost.offset < lost.end
        stream.shipped = lost.end
        stream.end = max(stream.end, lost.end)
        self._totals.gaps += 1
        self._make_ready(stream)
        return pb.RelayRequest(
            gap=pb.Gap(
                handle=stream.handle,
                offset=lost.offset,
                end=lost.end,
                reason=lost.reason,
                records=lost.records,
                message=lost.message,
            )
        )

    def _make_ready(self, stream: Stream) -> None:
        relay = self._relay
        if relay is None or stream.state is not State.OPEN or stream.queued:
            return
        if stream.shipped < stream.end:
            stream.queued = True
            relay.ready.append(stream)

    # What an answer means.

    def received(self, message: pb.RelayResponse, log: Log, now_s: float) -> list[Effect]:
        """Take in what the collector said.

        Args:
            message: one message.
            log: where bytes are checked against the collector's proof.
            now_s: a clock that never goes back, in seconds.

        Returns:
            What it means for the node, in order.
        """
        relay = self._relay
        if relay is None:
            return []
        match message.WhichOneof("message"):
            case "welcome":
                relay.welcomed = True
                self._store_id = message.welcome.store_id
            case "stream_opened":
                return self._stream_opened(relay, message.stream_opened, log)
            case "ack":
                return [e for entry in message.ack.offsets for e in self._acked(relay, entry)]
            case "credit":
                relay.credit += message.credit.bytes
            case "refused":
                return self._refused(relay, message.refused, now_s)
            case "draining":
                wait_s = message.draining.retry_after_ms / 1000
                return [GoAway(wait_s, message.draining.message)]
            case _:  # A clock echo, or a word of a later version: nothing to do.
                pass
        return []

    def _stream_opened(self, relay: Relay, opened: pb.StreamOpened, log: Log) -> list[Effect]:
        stream = relay.handles.get(opened.handle)
        if stream is None or stream.state is not State.OPENING:
            return []
        relay.opening -= 1
        if opened.HasField("proof"):
            ours = log.checksum(stream.session, opened.proof.offset, opened.next_offset)
            if ours is not None and ours != opened.proof.crc32c:
                self._close(relay, stream, pb.CLOSE_REASON_DIVERGED)
                stream.state = State.REFUSED
                message = (
                    f"the collector holds other bytes before offset {opened.next_offset}: this "
                    f"stream's folder was copied, and both copies grew"
                )
                return [Rejected(stream.session, pb.REFUSED_REASON_DIVERGED, message)]
        stream.state = State.OPEN
        stream.shipped = stream.acked = opened.next_offset
        self._make_ready(stream)
        return [Opened(stream.session, opened.next_offset), *self._if_delivered(stream)]

    def _acked(self, relay: Relay, entry: pb.StreamOffset) -> list[Effect]:
        stream = relay.handles.get(entry.handle)
        if stream is None or stream.state is not State.OPEN or entry.offset <= stream.acked:
            return []
        if entry.offset > stream.shipped:  # It would make us delete what nobody has.
            message = f"{stream.session} is acknowledged beyond what was sent: {entry.offset}"
            return [GoAway(0.0, message)]
        stream.acked = entry.offset
        stream.failures = 0
        return [Acked(stream.session, entry.offset), *self._if_delivered(stream)]

    def _if_delivered(self, stream: Stream) -> list[Effect]:
        relay = self._relay
        if relay is None or stream.state is not State.OPEN:
            return []
        # Acknowledged beyond our end: whoever knows the stream's files decides what that means.
        if not stream.ended or stream.acked != stream.end:
            return []
        self._close(relay, stream, pb.CLOSE_REASON_DELIVERED)
        del self._streams[stream.session]
        stream.state = State.REFUSED  # For queues that still hold it.
        return [Delivered(stream.session)]

    def _close(self, relay: Relay, stream: Stream, reason: pb.CloseReason.ValueType) -> None:
        del relay.handles[stream.handle]
        close = pb.CloseStream(handle=stream.handle, reason=reason)
        relay.outbox.append(pb.RelayRequest(close_stream=close))

    def _refused(self, relay: Relay, refused: pb.Refused, now_s: float) -> list[Effect]:
        stream = relay.handles.pop(refused.handle, None)
        if stream is None:
            return []
        relay.opening -= stream.state is State.OPENING
        stream.handle, stream.queued = 0, False
        if not refused.retry:
            stream.state = State.REFUSED
            return [Rejected(stream.session, refused.reason, refused.message)]
        stream.state = State.WAITING
        stream.shipped = stream.acked
        self._totals.retries += 1
        stream.not_before_s = now_s
        if stream.failures:
            stream.not_before_s += backoff_s(
                stream.failures,
                base_s=limits.RECONNECT_BASE_S,
                cap_s=limits.RECONNECT_CAP_S,
                rng=self._rng,
            )
        stream.failures += 1
        self._later.append(stream)
        if refused.reason == pb.REFUSED_REASON_DAMAGED:
            return [DamagedAt(stream.session, refused.offset)]
        return []

    # How it stands.

    def statistics(self) -> UplinkStatistics:
        """What was done, and where the uplink stands."""
        relay = self._relay
        return UplinkStatistics(
            welcomed=relay is not None and relay.welcomed,
            store_id=self._store_id,
            credit_bytes=relay.credit if relay is not None else 0,
            streams=len(self._streams),
            refused=sum(s.state is State.REFUSED for s in self._streams.values()),
            frames=self._totals.frames,
            payload_bytes=self._totals.payload_bytes,
            wire_bytes=self._totals.wire_bytes,
            gaps=self._totals.gaps,
            retries=self._totals.retries,
        )

    def stream_statistics(self, session: str) -> StreamStatistics | None:
        """How far one stream is; None: it is not relayed (any more)."""
        stream = self._streams.get(session)
        if stream is None:
            return None
        state = stream.state.name.lower()
        return StreamStatistics(state, stream.end, stream.shipped, stream.acked, stream.ended)
