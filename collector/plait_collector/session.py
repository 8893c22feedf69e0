"""One agent's relay, as the collector understands it: messages in, actions out.

    OpenStream ──► Open ──► writer ──► Opened ──► StreamOpened
    Frame      ──► Append ─► writer ──► Applied ──► Ack, Credit

Which bytes a stream accepts, incoming.py says; who may send how much, and what is told to whom and
when, this file does. What is durable the store decides, in the transaction that moves the offset.

Rule: every decision about credit, ownership and acknowledgement is made in this file.
Rule: this file never awaits and never asks the time.

Invariant: acknowledged <= durable <= accepted, for every stream.
Invariant: granted to the agent + taken and not yet committed == the relay's window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from plait_collector.incoming import OFFSET_MAX, Incoming, Refusal
from plait_collector.meta import meta_flaw, meta_value
from plait_collector.registry import Registry
from plait_collector.scan import BadFrame, Unpacked
from plait_collector.store import (
    Append,
    Applied,
    Change,
    Conflict,
    Declined,
    Delete,
    Open,
    Opened,
    Outcome,
    Skip,
    Why,
)
from plaitwire import limits
from plaitwire.names import identifier_flaw
from plaitwire.status import Refused, WireError, WrongVersion
from plaitwire.v1 import ingest_pb2 as pb


@dataclass(frozen=True, slots=True)
class End:
    """The relay is over: with an error to tell, or in order."""

    error: WireError | None


Action = pb.RelayResponse | Change | End


_MOVED = Refusal(pb.REFUSED_REASON_MOVED, "another agent relays this stream now", retry=True)


class Session:
    """One agent's relay."""

    def __init__(self, registry: Registry) -> None:
        """A relay that has just come in; its Hello is awaited."""
        self._registry = registry
        self._counts = registry.counts
        self._counts.relays += 1
        self._agent = ""
        self._said_hello = False
        self._over = False
        self._window = 0
        self._granted = 0
        self._taken = 0
        self._handles: dict[int, Incoming] = {}
        self._by_session: dict[str, Incoming] = {}
        self._handle_last = 0
        self._opening = 0
        """Opens at the writer."""
        self._charges: deque[int] = deque()  # Of the appends at the writer, in order.

    # Messages.

    def received(self, message: pb.RelayRequest, now_ns: int) -> list[Action]:
        """Take in any message but frames.

        Args:
            message: as it came.
            now_ns: the collector's wall clock, nanoseconds since 1970.

        Returns:
            What to send, to write, and whether to end, in order.
        """
        if self._over:
            return []
        kind = message.WhichOneof("message")
        if kind == "hello":
            return self._hello(message.hello, now_ns)
        if not self._said_hello:
            return self._end(Refused("the first message of a relay is Hello"))
        self._registry.heard.heartbeat(self._agent, now_ns)
        match kind:
            case "open_stream":
                return self._open_stream(message.open_stream, now_ns)
            case "gap":
                return self._gap(message.gap, now_ns)
            case "heartbeat":
                return self._heartbeat(message.heartbeat, now_ns)
            case "close_stream":
                return self._close_stream(message.close_stream)
            case "goodbye":
                return self._end(None)
            case "frames":
                raise AssertionError("frames are unpacked first, and come by frame()")
            case _:
                return self._end(WrongVersion("a message this collector does not know"))

    def _hello(self, hello: pb.Hello, now_ns: int) -> list[Action]:
        if self._said_hello:
            return self._end(Refused("a relay has one Hello"))
        if hello.protocol != limits.PROTOCOL:
            return self._end(
                WrongVersion(
                    f"the agent speaks protocol {hello.protocol}, this collector "
                    f"{limits.PROTOCOL}; bring both to one version of plait"
                )
            )
        flaw = identifier_flaw("node", hello.node) or identifier_flaw("agent", hello.agent)
        if flaw is None and not 0 < hello.heartbeat_interval_ms <= 3_600_000:
            flaw = f"a heartbeat every {hello.heartbeat_interval_ms} ms cannot be promised"
        if flaw is not None:
            return self._end(Refused(flaw))
        self._window = self._granted = self._registry.credit.take()
        if not self._window:
            return self.drain(5_000, "the collector serves as many agents as it has memory for")
        self._said_hello = True
        self._agent = hello.agent
        interval_s = hello.heartbeat_interval_ms / 1000
        self._registry.heard.agent(hello.agent, hello.node, interval_s, now_ns)
        welcome = pb.Welcome(store_id=self._registry.store_id, version=self._registry.version)
        return [pb.RelayResponse(welcome=welcome), _credit(self._window)]

    def _open_stream(self, message: pb.OpenStream, now_ns: int) -> list[Action]:
        if message.handle <= self._handle_last:
            return self._end(Refused(f"handle {message.handle} was used before"))
        if self._opening >= limits.OPENS_IN_FLIGHT_MAX:
            return self._end(
                Refused(f"more than {limits.OPENS_IN_FLIGHT_MAX} streams are asked for at once")
            )
        self._handle_last = message.handle
        flaw = meta_flaw(message.meta)
        if flaw is None and len(self._handles) >= limits.STREAMS_PER_RELAY_MAX:
            flaw = f"more than {limits.STREAMS_PER_RELAY_MAX} streams in one relay"
        if flaw is not None:
            return [self._refuse(message.handle, Refusal(pb.REFUSED_REASON_INVALID, flaw))]
        meta = meta_value(message.meta)
        former = self._by_session.pop(meta.session, None)
        if former is not None:
            self._handles.pop(former.handle, None)
        stream = Incoming(message.handle, meta.session)
        self._handles[message.handle] = self._by_session[meta.session] = stream
        # From here on another relay's frames of this stream are ignored; those it handed to the
        # writer come before this Open, so its outcome counts them.
        self._registry.owners[meta.session] = self
        self._registry.heard.opened(meta.session, self._agent, now_ns)
        self._opening += 1
        return [Open(meta)]

    def frame(self, frame: pb.Frame, opened: Unpacked | BadFrame, now_ns: int) -> list[Action]:
        """Take in one frame, unpacked by its caller.

        Args:
            frame: as it came.
            opened: what scan.unpack made of it.
            now_ns: the collector's wall clock, nanoseconds since 1970.
        """
        if self._over:
            return []
        if not self._said_hello:
            return self._end(Refused("the first message of a relay is Hello"))
        self._registry.heard.heartbeat(self._agent, now_ns)
        self._counts.frames += 1
        charge = limits.frame_charge(frame.size)
        if charge > self._granted:
            return self._end(Refused(f"a frame of {charge} bytes with a credit of {self._granted}"))
        self._granted -= charge
        self._taken += charge
        stream = self._handles.get(frame.handle)
        if stream is None:  # Refused or closed before: what was under way is ignored.
            return [self._give_back(charge)]
        change, refusal = stream.frame(frame, opened) if self._owns(stream) else (None, _MOVED)
        actions: list[Action] = []
        if change is None:
            self._counts.duplicates += refusal is None
            actions.append(self._give_back(charge))
        else:
            self._charges.append(charge)
            self._counts.payload_bytes += len(change.payload)
            self._registry.heard.arrived(stream.session, stream.accepted, now_ns)
            actions.append(change)
        if refusal is not None:
            actions.append(self._refuse(stream.handle, refusal))
        return actions

    def _gap(self, gap: pb.Gap, now_ns: int) -> list[Action]:
        stream = self._handles.get(gap.handle)
        if stream is None:
            return []
        skip, refusal = stream.gap(gap) if self._owns(stream) else (None, _MOVED)
        if refusal is not None:
            return [self._refuse(stream.handle, refusal)]
        if skip is None:
            return []
        self._counts.gaps += 1
        self._registry.heard.arrived(stream.session, gap.end, now_ns)
        return [skip]

    def _heartbeat(self, beat: pb.Heartbeat, now_ns: int) -> list[Action]:
        for entry in beat.produced:
            stream = self._handles.get(entry.handle)
            if stream is not None and self._registry.owners.get(stream.session) is self:
                self._registry.heard.produced(stream.session, min(entry.offset, OFFSET_MAX))
        echo = pb.ClockEcho(sent_ns=beat.sent_ns, received_ns=now_ns)
        return [pb.RelayResponse(clock_echo=echo)]

    def _close_stream(self, close: pb.CloseStream) -> list[Action]:
        stream = self._handles.pop(close.handle, None)
        if stream is None:
            return []
        self._by_session.pop(stream.session, None)
        if self._registry.owners.get(stream.session) is self:
            del self._registry.owners[stream.session]
            self._registry.heard.closed(stream.session)
        if close.reason == pb.CLOSE_REASON_DIVERGED:
            self._counts.diverged += 1
        return []

    # What the writer answers.

    def committed(self, results: Sequence[tuple[Change, Outcome]], now_ns: int) -> list[Action]:
        """Take in what became of changes, in the order they were submitted.

        Args:
            results: each change with its outcome. Applied means: on disk.
            now_ns: the collector's wall clock, nanoseconds since 1970.
        """
        acks: dict[int, int] = {}
        credit = 0
        answers: list[Action] = []
        for change, outcome in results:
            if isinstance(change, Append):
                charge = self._charges.popleft()
                self._taken -= charge
                credit += charge
            self._opening -= isinstance(change, Open)
            if isinstance(change, Append | Skip) and isinstance(outcome, Applied):
                stream = self._by_session.get(change.session)
                if stream is not None and stream.is_open:
                    assert change.end <= stream.accepted
                    acks[stream.handle] = change.end
            elif not isinstance(outcome, Applied):
                answers.extend(self._answer(change, outcome))
        if self._over:
            self._registry.credit.give_back(credit)
            self._window -= credit
            return []
        actions: list[Action] = []
        if acks:
            ack = pb.Ack(offsets=[pb.StreamOffset(handle=h, offset=end) for h, end in acks.items()])
            actions.append(pb.RelayResponse(ack=ack))
        if credit:
            actions.append(self._give_back(credit, committed=True))
        return [*actions, *answers]

    def _answer(self, change: Change, outcome: Outcome) -> list[Action]:
        """What an agent is told of an outcome that is not Applied."""
        assert not isinstance(change, Delete)
        session = change.meta.session if isinstance(change, Open) else change.session
        stream = self._by_session.get(session)
        # The writer keeps the order: while an Open is awaited, what comes for an append belongs to
        # a handle of before, and once the stream is open, an Opened does.
        if stream is None or stream.is_open == isinstance(change, Open):
            return []
        if not self._owns(stream):
            return [self._refuse(stream.handle, _MOVED)]
        match outcome:
            case Opened(state):
                return [pb.RelayResponse(stream_opened=stream.opened(state))]
            case Conflict(next_offset):
                message = f"the stream goes on at {next_offset}"
                refusal = Refusal(pb.REFUSED_REASON_OUT_OF_ORDER, message, retry=True)
            case Declined(Why.DELETED, message):
                refusal = Refusal(pb.REFUSED_REASON_DELETED, message)
            case Declined(_, message):
                refusal = Refusal(pb.REFUSED_REASON_DIVERGED, message)
            case _:
                raise AssertionError(f"{outcome} is no answer to {type(change).__name__}")
        return [self._refuse(stream.handle, refusal)]

    # The end.

    def drain(self, retry_after_ms: int, message: str) -> list[Action]:
        """Send the agent away in order. What it sent before is still written, if there is time."""
        draining = pb.Draining(retry_after_ms=retry_after_ms, message=message)
        return [pb.RelayResponse(draining=draining), *self._end(None)]

    def closed(self) -> None:
        """The relay is gone, however it ended. Safe to call twice."""
        self._end(None)

    def _end(self, error: WireError | None) -> list[Action]:
        if self._over:
            return []
        self._over = True
        self._counts.relays -= 1
        free = self._window - self._taken  # The rest comes back as it is committed.
        self._registry.credit.give_back(free)
        self._window -= free
        for session in self._by_session:
            if self._registry.owners.get(session) is self:
                del self._registry.owners[session]
        return [End(error)]

    # Words.

    def _owns(self, stream: Incoming) -> bool:
        """Whether no other relay has opened the stream since."""
        return self._registry.owners.get(stream.session) is self

    def _refuse(self, handle: int, refusal: Refusal) -> pb.RelayResponse:
        """End a handle, and say why."""
        stream = self._handles.pop(handle, None)
        if stream is not None:
            del self._by_session[stream.session]
            if self._owns(stream):
                del self._registry.owners[stream.session]
        word = pb.RefusedReason.Name(refusal.reason).removeprefix("REFUSED_REASON_").lower()
        self._counts.refused[word] = self._counts.refused.get(word, 0) + 1
        refused = pb.Refused(
            handle=handle,
            reason=refusal.reason,
            retry=refusal.retry,
            offset=refusal.offset,
            message=refusal.message,
        )
        return pb.RelayResponse(refused=refused)

    def _give_back(self, credit: int, *, committed: bool = False) -> pb.RelayResponse:
        """Let the agent send as much again."""
        if not committed:
            self._taken -= credit
        self._granted += credit
        assert self._granted + self._taken == self._window
        return _credit(credit)


def _credit(size: int) -> pb.RelayResponse:
    return pb.RelayResponse(credit=pb.Credit(bytes=size))
