"""Relays of one collector, fed messages and outcomes by hand, over scan's real frames."""

from __future__ import annotations

import google_crc32c

from plait_collector.liveness import Heard
from plait_collector.registry import Registry
from plait_collector.scan import BadFrame, unpack
from plait_collector.session import Action, End, Session
from plait_collector.store import (
    Change,
    Opened,
    Outcome,
    StreamState,
)
from plaitwire import limits, records
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import types_pb2

A = "a" * 32
SCHEMA = records.pack_schema(0, ["loss"])


def row(step: int) -> bytes:
    """A row of one value."""
    return records.pack_row(0, step, 10**18 + step, [0.5])


def frame(handle: int, payload: bytes, *, offset: int = 0, base: int = 0) -> pb.Frame:
    """A frame as a right agent makes it."""
    return pb.Frame(
        handle=handle,
        offset=offset,
        segment_base=base,
        size=len(payload),
        crc32c=google_crc32c.value(payload),
        encoding=pb.ENCODING_RAW,
        payload=payload,
    )


class Harness:
    """Relays of one collector."""

    def __init__(self) -> None:
        self.heard = Heard(0)
        self.registry = Registry(
            store_id="store",
            version="v",
            heard=self.heard,
            credit_bytes_total=4 * limits.CREDIT_BYTES_MIN,
        )

    def relay(self, agent: str = "agent") -> Peer:
        return Peer(self, agent)


class Peer:
    """One relay, with a Hello said."""

    def __init__(self, harness: Harness, agent: str) -> None:
        self.session = Session(harness.registry)
        self.handles = 0
        self.greeting = self.say(
            hello=pb.Hello(
                protocol=limits.PROTOCOL, agent=agent, node="node", heartbeat_interval_ms=5000
            )
        )

    def say(
        self,
        hello: pb.Hello | None = None,
        open_stream: pb.OpenStream | None = None,
        gap: pb.Gap | None = None,
        heartbeat: pb.Heartbeat | None = None,
        close_stream: pb.CloseStream | None = None,
        goodbye: pb.Goodbye | None = None,
    ) -> list[Action]:
        message = pb.RelayRequest(
            hello=hello,
            open_stream=open_stream,
            gap=gap,
            heartbeat=heartbeat,
            close_stream=close_stream,
            goodbye=goodbye,
        )
        return self.session.received(message, 5)

    def ask(self, **meta: str) -> list[Action]:
        self.handles += 1
        values = {"session": A, "project": "p", "run": "r", "label": "0"} | meta
        value = types_pb2.StreamMeta(
            kind=types_pb2.STREAM_KIND_RUN,
            session=values["session"],
            project=values["project"],
            run=values["run"],
            label=values["label"],
        )
        return self.say(open_stream=pb.OpenStream(handle=self.handles, meta=value))

    def open(self, state: StreamState | None = None) -> int:
        """Open stream A, and let the store answer."""
        (change,) = self.ask()
        self.done(change, Opened(state or StreamState()))
        return self.handles

    def send(self, message: pb.Frame) -> list[Action]:
        try:
            return self.session.frame(message, unpack(message), 6)
        except BadFrame as bad:
            return self.session.frame(message, bad, 6)

    def done(self, change: Action, outcome: Outcome) -> list[Action]:
        assert isinstance(change, Change)
        return self.session.committed([(change, outcome)], 7)


def words(actions: list[Action]) -> list[str]:
    """What actions are, in a word each."""
    return [
        action.WhichOneof("message") or ""
        if isinstance(action, pb.RelayResponse)
        else type(action).__name__
        for action in actions
    ]


def refusal(actions: list[Action]) -> pb.Refused:
    """The one refusal among actions."""
    (refused,) = [
        action.refused
        for action in actions
        if isinstance(action, pb.RelayResponse) and action.HasField("refused")
    ]
    return refused


def end(actions: list[Action]) -> End:
    """The end among actions."""
    (found,) = [action for action in actions if isinstance(action, End)]
    return found
