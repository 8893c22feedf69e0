"""A run, read from a store: what is asynchronous about answering, around the pure merge.

An answer is about the streams as they stood at one look: what is committed while it is made is left
out, by offset. What costs time is done in threads, so that ingest goes on beside it; what costs
memory is bounded by one label, not by a run.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from plait_collector.attempts import LabelOrder, Place, order_run, shifted_step
from plait_collector.bodies import Said, read_bodies, write_object
from plait_collector.decode import Decoded, Decoder, coalesced
from plait_collector.history import Written, written_rows
from plait_collector.merge import MERGED_KINDS, RunRecords, merge
from plait_collector.run_summary import KeyFacts, key_facts
from plait_collector.store import Chunk, GapRow, LiftedRow, Schema, Store
from plaitwire.limits import MIB
from plaitwire.records import FLAG_AUTOMATIC_STEP, Kind
from plaitwire.status import NotFound
from plaitwire.v1 import query_pb2

BATCH_BYTES: Final = 4 * MIB
"""Frames that one thread call decodes."""
VALUES_BYTES_MAX: Final = 64 * MIB
"""Values of a label that are looked at together for its summary."""
FACTS_MAX: Final = 200_000
"""Facts of keys that are kept, so that what did not change is not decoded again."""

Standing = tuple[tuple[str, int, int, int], ...]
"""What a label's facts depend on: of each session, its offset, attempt and shift."""


@dataclass(frozen=True, slots=True)
class ReaderStatistics:
    """What a reader has come across."""

    bad_records: int
    """Records that could not be read, each time they were met."""
    facts_kept: int


class RunReader:
    """Reads runs from a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bad = 0
        self._facts: OrderedDict[tuple[str, str, str], tuple[Standing, dict[str, KeyFacts]]]
        self._facts = OrderedDict()
        self._facts_kept = 0

    def statistics(self) -> ReaderStatistics:
        """What was come across so far."""
        return ReaderStatistics(self._bad, self._facts_kept)

    async def labels(self, project: str, run: str) -> tuple[LabelOrder, ...]:
        """The labels of a run, in natural order.

        Raises:
            NotFound: there is no such run.
        """
        labels = order_run(await self._store.streams(project, run))
        if not labels:
            raise NotFound(f"there is no run {project}/{run}")
        return labels

    async def view(self, project: str, run: str, labels: Sequence[LabelOrder]) -> query_pb2.RunView:
        """What a run's records say."""
        places = {place.session: place for order in labels for place in order.places}
        gaps = [gap for gap in await self._store.gaps(list(places)) if _known_gap(gap, places)]
        lifted = await self._store.lifted(list(places), MERGED_KINDS)
        facts = {order.label: await self._label_facts(project, run, order) for order in labels}
        records = RunRecords(
            project=project,
            run=run,
            streams=[place.row for place in places.values()],
            gaps=gaps,
            lifted=[row for row in lifted if _known(row, places)],
            keys=list({key for keys in facts.values() for key in keys}),
        )
        merged = await asyncio.to_thread(merge, records, facts)
        self._bad += merged.bad
        return merged.view

    async def written(self, order: LabelOrder, keys: Collection[str] | None) -> Written:
        """A label's rows.

        Args:
            order: the label.
            keys: what to read; None: everything.
        """
        schemas = await self._schemas(order)
        return await self._written(order, schemas, keys)

    async def events(
        self, order: LabelOrder, kinds: Sequence[int]
    ) -> AsyncIterator[query_pb2.Event]:
        """A label's records of some kinds that are no rows, in its order."""
        for place in order.places:
            rows = await self._store.lifted([place.session], kinds)
            parts = [row.record for row in rows if row.record.offset < place.row.next_offset]
            said, bad = await asyncio.to_thread(read_bodies, parts)
            self._bad += bad
            anchor = await self._anchor(place) if said else None
            for record in said:
                yield _event(order.label, place, record, anchor)

    async def _label_facts(self, project: str, run: str, order: LabelOrder) -> dict[str, KeyFacts]:
        """The facts of a label's keys, a few keys at a time."""
        name = (project, run, order.label)
        standing = tuple((p.session, p.row.next_offset, p.attempt, p.shift) for p in order.places)
        if name in self._facts and self._facts[name][0] == standing:
            self._facts.move_to_end(name)
            return self._facts[name][1]
        schemas = await self._schemas(order)
        facts: dict[str, KeyFacts] = {}
        for keys in _key_groups(schemas, sum(place.row.rows for place in order.places)):
            written = await self._written(order, schemas, keys)
            facts.update(await asyncio.to_thread(key_facts, written))
        self._keep(name, standing, facts)
        return facts

    def _keep(
        self, name: tuple[str, str, str], standing: Standing, facts: dict[str, KeyFacts]
    ) -> None:
        if name in self._facts:
            self._facts_kept -= len(self._facts.pop(name)[1])
        self._facts[name] = (standing, facts)
        self._facts_kept += len(facts)
        while self._facts_kept > FACTS_MAX or len(self._facts) > FACTS_MAX:
            _, (_, oldest) = self._facts.popitem(last=False)
            self._facts_kept -= len(oldest)

    async def _written(
        self, order: LabelOrder, schemas: Sequence[Schema], keys: Collection[str] | None
    ) -> Written:
        sessions = []
        for place in order.places:
            own = [schema for schema in schemas if schema.session == place.session]
            decoder = Decoder(own, keys=keys, end=place.row.next_offset)
            async for batch in self._batches(place):
                await asyncio.to_thread(_feed, decoder, batch)
            sessions.append((place, await asyncio.to_thread(decoder.decoded)))
        self._bad += sum(decoded.bad for _, decoded in sessions)
        return await asyncio.to_thread(_rows_of, sessions)

    async def _schemas(self, order: LabelOrder) -> Sequence[Schema]:
        return await self._store.schemas([place.session for place in order.places])

    async def _batches(self, place: Place) -> AsyncIterator[list[Chunk]]:
        """A session's chunks, some at a time."""
        batch: list[Chunk] = []
        size = 0
        async for chunk in self._store.chunks(place.session):
            if chunk.offset >= place.row.next_offset:
                break
            batch.append(chunk)
            size += len(chunk.payload)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    async def _anchor(self, place: Place) -> int | None:
        """Where a session's steps are given from; looked for only where it makes a difference."""
        steps = place.row.steps
        if not place.shift or steps.floating_max is None:
            return 0
        if steps.anchored_max is None:
            return None
        decoder = Decoder([], keys=(), end=place.row.next_offset)
        async for batch in self._batches(place):
            await asyncio.to_thread(_feed, decoder, batch)
            if decoder.anchor is not None:
                break
        return decoder.anchor


def _rows_of(sessions: list[tuple[Place, Decoded]]) -> Written:
    """written_rows, letting go of what it was made from."""
    rows = written_rows(sessions)
    sessions.clear()
    return rows


def _feed(decoder: Decoder, batch: Sequence[Chunk]) -> None:
    for chunk in coalesced(batch):
        decoder.feed(chunk)


def _key_groups(schemas: Sequence[Schema], rows: int) -> list[list[str]]:
    """A label's keys in groups whose values fit into VALUES_BYTES_MAX, at least one in each."""
    keys = sorted({key for schema in schemas for key in schema.keys})
    size = max(1, VALUES_BYTES_MAX // (8 * max(1, rows)))
    return [keys[at : at + size] for at in range(0, len(keys), size)]


def _known(row: LiftedRow, places: dict[str, Place]) -> bool:
    return row.record.offset < places[row.session].row.next_offset


def _known_gap(gap: GapRow, places: dict[str, Place]) -> bool:
    """Whether a gap was there at the first look. One of no bytes at the very end was, or is new."""
    end = places[gap.session].row.next_offset
    return gap.offset < end if gap.total is not None else gap.end <= end


def _event(label: str, place: Place, record: Said, anchor: int | None) -> query_pb2.Event:
    automatic = bool(record.flags & FLAG_AUTOMATIC_STEP)
    floating = automatic and (anchor is None or record.offset < anchor)
    step = record.step
    return query_pb2.Event(
        label=label,
        attempt=place.attempt,
        session=place.session,
        offset=record.offset,
        kind=Kind(record.kind).word,
        step=shifted_step(step, place.shift) if floating and step is not None else step,
        time_ns=record.time_ns,
        body_json=write_object(record.values),
    )
