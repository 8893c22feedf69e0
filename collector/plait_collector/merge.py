"""Label streams to one run: what the records of a run say.

    streams, gaps, records that are no rows, facts of the rows  ->  RunView

Rule: pure, and a function of the set of streams: any interleaving of arrivals gives the same view,
byte for byte (tests/collector/test_merge_convergence.py). Nothing here asks the time, and between
labels there is no order but that of their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plait_collector.attempts import Attempt, LabelOrder, Place, order_run
from plait_collector.bodies import Said, read_bodies, write_object
from plait_collector.gaps import Loss, complete_through, losses
from plait_collector.run_config import label_config, run_config
from plait_collector.run_summary import (
    KeyFacts,
    Spot,
    Summary,
    defined_rules,
    label_summary,
    run_summary,
)
from plait_collector.states import (
    attempt_state,
    label_exit_code,
    label_state,
    primary_of,
    run_state,
    session_state,
)
from plait_collector.steps import larger
from plait_collector.store import GapRow, Lifted, LiftedRow, StreamRow
from plaitwire.names import key_flaw
from plaitwire.records import Kind
from plaitwire.v1 import query_pb2

MERGED_KINDS = (Kind.CONFIG, Kind.SUMMARY, Kind.DEFINE_METRIC)
"""The kinds of records that a view is made of, beside rows, gaps and finishes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecords:
    """All that a view is made of, but the rows. In any order."""

    project: str
    run: str
    streams: Sequence[StreamRow]
    gaps: Sequence[GapRow]
    lifted: Sequence[LiftedRow]
    """Of MERGED_KINDS at least."""
    keys: Sequence[str]
    """Of all rows."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What the records of a run say, and how many of them could not be read."""

    view: query_pb2.RunView
    bad: int


@dataclass(frozen=True, slots=True)
class _Told:
    """What a label's records say that are no rows, in its order."""

    config: list[Said]
    summary: list[tuple[Spot, Mapping[str, str]]]
    rules: dict[str, str]


def merge(records: RunRecords, facts: Mapping[str, Mapping[str, KeyFacts]]) -> Merged:
    """A run's view.

    Args:
        records: at least one stream of a run among them.
        facts: by label, of its rows.
    """
    labels = order_run(records.streams)
    primary = primary_of(labels)
    told, bad = _told(labels, records.lifted)
    shared_rules = told[primary].rules if primary is not None else {}
    summaries = {
        order.label: label_summary(
            facts.get(order.label, {}),
            told[order.label].summary,
            {**shared_rules, **told[order.label].rules},
        )
        for order in labels
    }
    config = run_config({label: label_config(said.config) for label, said in told.items()}, primary)
    conflicts = [
        query_pb2.ConfigConflict(key=key, values_json=config.conflicts[key])
        for key in sorted(config.conflicts)
    ]
    view = query_pb2.RunView(
        project=records.project,
        run=records.run,
        group=run_group(labels, primary),
        state=run_state(labels, primary),
        primary=primary or "",
        config_json=write_object(config.values),
        conflicts=conflicts,
        summary_json=write_object(run_summary(summaries, primary)),
        labels=[
            _label_view(order, order.label == primary, summaries[order.label], records.gaps)
            for order in labels
        ],
        started_ns=run_started_ns(labels),
        keys=sorted({key for key in records.keys if key_flaw(key) is None}),
    )
    return Merged(view, bad)


def run_group(labels: Sequence[LabelOrder], primary: str | None) -> str:
    """The group a run is in: as its primary says, else its smallest label that says any."""
    ranked = sorted(labels, key=lambda order: order.label != primary)  # Natural order stays.
    named = [p.row.meta.group for order in ranked for p in order.places if p.row.meta.group]
    return named[0] if named else ""


def run_started_ns(labels: Sequence[LabelOrder]) -> int:
    """When the earliest session of a run started, by its own clock."""
    return min(place.row.meta.started_ns for order in labels for place in order.places)


def run_last_step(labels: Sequence[LabelOrder]) -> int | None:
    """The largest step of any label."""
    last: int | None = None
    for order in labels:
        last = larger(last, order.last_step)
    return last


def _told(
    labels: Sequence[LabelOrder], lifted: Sequence[LiftedRow]
) -> tuple[dict[str, _Told], int]:
    """By label, what its records say that are no rows; and how many could not be read."""
    by_session: dict[str, list[Lifted]] = {}
    for row in lifted:
        if row.record.kind in MERGED_KINDS:
            by_session.setdefault(row.session, []).append(row.record)
    told, bad = {}, 0
    for order in labels:
        said: list[tuple[int, Said]] = []
        for place in order.places:
            parts = sorted(by_session.get(place.session, ()), key=lambda record: record.offset)
            read, unread = read_bodies(parts)
            said += [(place.index, record) for record in read]
            bad += unread
        told[order.label] = _Told(
            [record for _, record in said if record.kind == Kind.CONFIG],
            [((at, r.offset), r.values) for at, r in said if r.kind == Kind.SUMMARY],
            defined_rules(record for _, record in said if record.kind == Kind.DEFINE_METRIC),
        )
    return told, bad


def _label_view(
    order: LabelOrder, primary: bool, summary: Summary, gaps: Sequence[GapRow]
) -> query_pb2.LabelView:
    lost = losses(order, gaps)
    return query_pb2.LabelView(
        label=order.label,
        state=label_state(order),
        exit_code=_small(label_exit_code(order)),
        primary=primary,
        host=order.attempts[-1].deciding[-1].row.meta.host,
        rows=sum(place.row.rows for place in order.places),
        last_step=order.last_step,
        complete_through=complete_through(order, lost),
        summary_json=write_object(summary.values),
        attempts=[_attempt_view(attempt) for attempt in order.attempts],
        gaps=[_gap_view(loss) for loss in lost],
    )


def _attempt_view(attempt: Attempt) -> query_pb2.AttemptView:
    return query_pb2.AttemptView(
        attempt=attempt.number,
        state=attempt_state(attempt),
        order_by_clocks=attempt.order_by_clocks,
        sessions=[_session_view(place) for place in attempt.places],
    )


def _session_view(place: Place) -> query_pb2.SessionView:
    row, meta = place.row, place.row.meta
    return query_pb2.SessionView(
        session=meta.session,
        parent=meta.parent,
        state=session_state(place),
        exit_code=None if row.finish is None else _small(row.finish.exit_code),
        host=meta.host,
        pid=meta.pid,
        started_ns=meta.started_ns,
        last_ns=row.last_ns,
        offset=row.next_offset,
        rows=row.rows,
        restart_count=meta.restart_count,
    )


def _gap_view(loss: Loss) -> query_pb2.GapView:
    return query_pb2.GapView(
        session=loss.gap.session,
        offset=loss.gap.offset,
        end=loss.gap.end,
        reason=loss.gap.reason,
        records=_small(loss.records),
        attempt=loss.place.attempt,
        after_step=loss.after_step,
    )


def _small(number: int | None) -> int | None:
    """A count or code that a writer made up; None where an answer could not hold it."""
    return number if number is not None and abs(number) < 2**63 else None
