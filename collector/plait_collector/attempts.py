"""The sessions of a label, put in order: attempts, in each the root sessions, then the branches.

    label    = attempt 1, attempt 2, ...             a later one overrides an earlier one
    attempt  = root sessions, then branches          their records are united
    session  = floating steps, then anchored ones    only the floating ones are shifted

Root sessions are ordered by (restart count, start, session id). One that starts before the current
attempt of its restart count has ended joins it; otherwise it begins the next attempt. An attempt
has ended with the last record its sessions wrote themselves, by their own clocks.

A branch (a session with a parent) stands in the attempt of the root session it descends from, and
decides no state. An *orphan* is a branch whose ancestors lead to no root session of the label:
their streams have not come yet, or belong to another label. It takes the place a root session would
have, and still decides no state, unless nothing else of its label can.

Rule: the order is a function of the set of sessions. No clock, no I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from plait_collector.natural import natural_key
from plait_collector.steps import Steps, larger
from plait_collector.store import StreamRow
from plaitwire.records import STEP_MAX, STEP_MIN
from plaitwire.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Place:
    """A session, and where it stands in its label."""

    row: StreamRow
    index: int
    """In the label's order, from 0."""
    attempt: int
    """From 1."""
    root: bool
    """It has no parent."""
    shift: int
    """What is added to the session's floating steps."""
    before: int | None
    """The largest step of all sessions before this one; None: they have no rows."""

    @property
    def session(self) -> str:
        """The session's id."""
        return self.row.meta.session

    def last(self, steps: Steps) -> int | None:
        """The largest of some steps of this session, in the label's counting."""
        floating = steps.floating_max
        shifted = None if floating is None else shifted_step(floating, self.shift)
        return larger(shifted, steps.anchored_max)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Sessions of a label whose records are united."""

    number: int
    """From 1."""
    order_by_clocks: bool
    """That it comes after the attempt before rests on the clocks of two hosts."""
    places: tuple[Place, ...]

    @property
    def deciding(self) -> tuple[Place, ...]:
        """The sessions that decide the attempt's state: the root ones, if it has any."""
        return tuple(place for place in self.places if place.root) or self.places


@dataclass(frozen=True, slots=True)
class LabelOrder:
    """A label's sessions in their order."""

    label: str
    attempts: tuple[Attempt, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """All sessions, in the label's order."""
        return tuple(place for attempt in self.attempts for place in attempt.places)

    @property
    def deciding(self) -> Attempt:
        """The attempt that decides the label's state: the latest that has a root session."""
        rooted = [a for a in self.attempts if any(place.root for place in a.places)]
        return (rooted or self.attempts)[-1]

    @property
    def last_step(self) -> int | None:
        """The largest step of all sessions; None without rows."""
        last: int | None = None
        for place in self.places:
            last = larger(last, place.last(place.row.steps))
        return last

    @property
    def primary(self) -> bool:
        """Whether any session said that the label speaks for the run."""
        return any(place.row.meta.primary for place in self.places)


def shifted_step(step: int, shift: int) -> int:
    """A floating step in the label's counting. Absurd ones stay within what a step can be."""
    return min(max(step, STEP_MIN), STEP_MAX - shift) + shift


def order_run(streams: Iterable[StreamRow]) -> tuple[LabelOrder, ...]:
    """The labels of a run, in natural order, each with its sessions in order.

    Args:
        streams: of the run, in any order. Streams of nodes and of edits are no label's.
    """
    by_label: defaultdict[str, list[StreamRow]] = defaultdict(list)
    for row in streams:
        if row.meta.kind == types_pb2.STREAM_KIND_RUN:
            by_label[row.meta.label].append(row)
    return tuple(order_label(label, by_label[label]) for label in sorted(by_label, key=natural_key))


def order_label(label: str, rows: Sequence[StreamRow]) -> LabelOrder:
    """A label's sessions, given in any order, in theirs."""
    by_session = {row.meta.session: row for row in rows}
    branches: defaultdict[str, list[StreamRow]] = defaultdict(list)
    leading = []
    ancestors = _ancestors(by_session)
    for row in rows:
        ancestor = ancestors[row.meta.session]
        if ancestor == row.meta.session:
            leading.append(row)
        else:
            branches[ancestor].append(row)
    drafts = _drafts(sorted(leading, key=_root_key))
    attempts: list[Attempt] = []
    index, before = 0, None
    for draft in drafts:
        grown = [branch for root in draft.rows for branch in branches[root.meta.session]]
        places = []
        for row in [*draft.rows, *sorted(grown, key=_branch_key)]:
            shift = 0 if before is None else min(max(before + 1, STEP_MIN), STEP_MAX)
            root = not row.meta.parent
            place = Place(row, index, len(attempts) + 1, root, shift, before)
            before = larger(before, place.last(row.steps))
            index += 1
            places.append(place)
        clocks = draft.order_by_clocks
        attempts.append(Attempt(len(attempts) + 1, clocks, tuple(places)))
    return LabelOrder(label, tuple(attempts))


@dataclass(slots=True)
class _Draft:
    """An attempt in the making: its root sessions, and orphans."""

    order_by_clocks: bool
    restart_count: int
    end_ns: int
    rows: list[StreamRow] = field(default_factory=list)


def _drafts(leading: Sequence[StreamRow]) -> list[_Draft]:
    """Attempts of sessions that are in order."""
    drafts: list[_Draft] = []
    for row in leading:
        meta = row.meta
        end_ns = row.last_ns or meta.started_ns
        current = drafts[-1] if drafts else None
        if current is None or current.restart_count != meta.restart_count:
            drafts.append(_Draft(False, meta.restart_count, end_ns, [row]))
        elif meta.started_ns < current.end_ns:
            current.rows.append(row)
            current.end_ns = max(current.end_ns, end_ns)
        else:
            clocks = any(_clock(other) != _clock(row) for other in current.rows)
            drafts.append(_Draft(clocks, meta.restart_count, end_ns, [row]))
    return drafts


def _ancestors(by_session: Mapping[str, StreamRow]) -> dict[str, str]:
    """For each session the one in whose attempt it stands: its root, or the first orphan above.

    Sessions that claim to descend from each other in a circle are orphans, all of them. Each
    session is walked over once, however deep branches go.
    """
    found: dict[str, str] = {}
    for start in by_session:
        path: dict[str, None] = {}
        at = start
        while at not in found and at not in path:
            path[at] = None
            parent = by_session[at].meta.parent
            if parent not in by_session:
                found[at] = at
            else:
                at = parent
        if at not in found:
            walked = list(path)
            found.update({session: session for session in walked[walked.index(at) :]})
        for session in path:
            found.setdefault(session, found[at])
    return found


def _root_key(row: StreamRow) -> tuple[int, int, str]:
    return row.meta.restart_count, row.meta.started_ns, row.meta.session


def _branch_key(row: StreamRow) -> tuple[int, str]:
    return row.meta.started_ns, row.meta.session


def _clock(row: StreamRow) -> tuple[str, str]:
    return row.meta.host, row.meta.boot_id
