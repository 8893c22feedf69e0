"""What reading gives: frozen values, made from the messages of plaitwire.v1.query."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from plaitwire.v1 import query_pb2

_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that were lost: how many, why, where."""

    label: str
    session: str
    attempt: int
    reason: str
    """deleted, damaged, reboot, vanished, quota."""
    records: int | None
    """None: nobody knows how many."""
    after_step: int | None
    """The last step before it; None: it stands before all rows."""
    offset: int
    """Where it begins in its session's stream, in bytes."""
    end: int
    """Where what follows begins; the same as offset where what was lost never had a place."""


@dataclass(frozen=True, slots=True)
class Session:
    """One life of one writer, and how far it is known."""

    session: str
    parent: str
    """The session it branched off; empty: none."""
    state: str
    exit_code: int | None
    host: str
    pid: int
    started_ns: int
    """By the writer's clock, nanoseconds since 1970; so is last_ns."""
    last_ns: int
    """Of its last record; 0: it has none."""
    offset: int
    """The next byte of its stream that is awaited."""
    rows: int
    restart_count: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """Sessions of a label whose records are united."""

    attempt: int
    """From 1."""
    state: str
    order_by_clocks: bool
    """That it follows the attempt before rests on the clocks of two hosts."""
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of one writer of a run: what its records say, and what time adds."""

    label: str
    state: str
    """running, finished, failed, crashed: what its records say."""
    liveness: str
    """live, silent, lost, ended: what time adds."""
    primary: bool
    """It speaks for the run."""
    exit_code: int | None
    host: str
    rows: int
    last_step: int | None
    complete_through: int | None
    """The last step with no gap before it; None: nothing is known."""
    summary: Mapping[str, Any]
    attempts: tuple[Attempt, ...]
    gaps: tuple[Gap, ...]
    heard_ns: int
    """When something of it last came, by the collector's clock; 0: not since that started."""
    lag_bytes: int
    """On its node and not yet at the collector."""
    node: str
    """Whose agent relays it; empty: nobody does."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """How far a label is known."""

    offsets: Mapping[str, int]
    """Session to the next byte of its stream that is awaited."""
    rows: int
    last_step: int | None
    state: str
    gaps: tuple[Gap, ...]
    complete_through: int | None
    """The last step with no gap before it; None: nothing is known."""


@dataclass(frozen=True, slots=True)
class Event:
    """One record that is no row of numbers."""

    label: str
    attempt: int
    session: str
    offset: int
    kind: str
    """event, console, config, summary, define_metric, gap, alert, artifact, edit, finish."""
    step: int | None
    time_ns: int
    """By the writer's clock, nanoseconds since 1970."""
    body: Mapping[str, Any]


def json_object(text: str) -> dict[str, Any]:
    """A JSON object of an answer; the words for NaN and the infinities become those numbers."""
    value = json.loads(text) if text else {}
    return {key: _finite(entry) for key, entry in value.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return value


def label_from(view: query_pb2.LabelView, time: query_pb2.LabelLiveness) -> Label:
    """A label of an answer."""
    return Label(
        label=view.label,
        state=view.state,
        liveness=time.state,
        primary=view.primary,
        exit_code=view.exit_code if view.HasField("exit_code") else None,
        host=view.host,
        rows=view.rows,
        last_step=view.last_step if view.HasField("last_step") else None,
        complete_through=view.complete_through if view.HasField("complete_through") else None,
        summary=json_object(view.summary_json),
        attempts=tuple(_attempt_from(attempt) for attempt in view.attempts),
        gaps=tuple(_gap_from(view.label, gap) for gap in view.gaps),
        heard_ns=time.heard_ns,
        lag_bytes=time.lag_bytes,
        node=time.node,
    )


def frontier_from(label: Label) -> Frontier:
    """How far a label is known."""
    sessions = [session for attempt in label.attempts for session in attempt.sessions]
    return Frontier(
        offsets={session.session: session.offset for session in sessions},
        rows=label.rows,
        last_step=label.last_step,
        state=label.state,
        gaps=label.gaps,
        complete_through=label.complete_through,
    )


def event_from(event: query_pb2.Event) -> Event:
    """A record of an answer."""
    return Event(
        label=event.label,
        attempt=event.attempt,
        session=event.session,
        offset=event.offset,
        kind=event.kind,
        step=event.step if event.HasField("step") else None,
        time_ns=event.time_ns,
        body=json_object(event.body_json),
    )


def _attempt_from(view: query_pb2.AttemptView) -> Attempt:
    sessions = tuple(_session_from(session) for session in view.sessions)
    return Attempt(view.attempt, view.state, view.order_by_clocks, sessions)


def _session_from(view: query_pb2.SessionView) -> Session:
    return Session(
        session=view.session,
        parent=view.parent,
        state=view.state,
        exit_code=view.exit_code if view.HasField("exit_code") else None,
        host=view.host,
        pid=view.pid,
        started_ns=view.started_ns,
        last_ns=view.last_ns,
        offset=view.offset,
        rows=view.rows,
        restart_count=view.restart_count,
    )


def _gap_from(label: str, view: query_pb2.GapView) -> Gap:
    return Gap(
        label=label,
        session=view.session,
        attempt=view.attempt,
        reason=view.reason,
        records=view.records if view.HasField("records") else None,
        after_step=view.after_step if view.HasField("after_step") else None,
        offset=view.offset,
        end=view.end,
    )
