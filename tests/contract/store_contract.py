"""What every store promises. A class of tests inherits StoreContract and gives it a store."""

from __future__ import annotations

from plait_collector.steps import Steps
from plait_collector.store import (
    Applied,
    Chunk,
    Conflict,
    Declined,
    Delete,
    Finish,
    GapRow,
    Open,
    Opened,
    Outcome,
    Proof,
    Schema,
    Skip,
    Store,
    StreamRow,
    StreamState,
    Why,
)
from plaitwire import records as r
from plaitwire.v1 import ingest_pb2 as pb
from plaitwire.v1 import types_pb2
from tests.support.changes import append_of, finish_record, gap_record, meta_of, row_at, session_id

ONE, TWO = session_id(1), session_id(2)
SCHEMA = r.pack_schema(1, ["loss", "accuracy"])
HEAD = SCHEMA + row_at(0)
"""The first records of a stream."""


async def chunks_of(store: Store, session: str) -> list[Chunk]:
    """All chunks of a stream."""
    return [chunk async for chunk in store.chunks(session)]


async def bytes_of(store: Store, session: str) -> bytes:
    """All that is kept of a stream, in order."""
    return b"".join(chunk.payload for chunk in await chunks_of(store, session))


def state_of(outcome: Outcome) -> StreamState:
    """The state an Opened tells."""
    assert isinstance(outcome, Opened)
    return outcome.state


def why(outcome: Outcome) -> Why:
    """Why a change was declined."""
    assert isinstance(outcome, Declined)
    assert outcome.message
    return outcome.why


class StoreContract:
    """The promises of plait_collector.store.Store."""

    async def test_a_new_stream_begins_at_zero(self, store: Store) -> None:
        """An open makes the stream; a second one finds it as it was."""
        first, second = await store.commit([Open(meta_of()), Open(meta_of())])
        assert first == second == Opened(StreamState())
        assert await store.streams("digits", "one") == [
            StreamRow(meta_of(), 0, 0, Steps(), 0, None)
        ]

    async def test_bytes_count_at_the_next_offset_and_nowhere_else(self, store: Store) -> None:
        """Before and beyond it an append is told where the stream stands, and changes nothing."""
        append = append_of(ONE, 0, HEAD)
        end = len(HEAD)
        outcomes = await store.commit(
            [
                append,
                Open(meta_of()),
                append_of(ONE, 8, row_at(1)),
                append,
                append,
                append_of(ONE, end + 8, row_at(1)),
                append_of(ONE, end, row_at(1)),
            ]
        )
        assert outcomes[0] == Conflict(0)
        assert outcomes[2:] == [Conflict(0), Applied(), Conflict(end), Conflict(end), Applied()]
        assert await bytes_of(store, ONE) == HEAD + row_at(1)
        (row,) = await store.streams("digits", "one")
        assert (row.rows, row.steps, row.last_ns) == (2, Steps(None, 1), 1_001)

    async def test_a_change_that_is_not_taken_harms_no_other(self, store: Store) -> None:
        """Streams are answered one by one."""
        outcomes = await store.commit(
            [
                Open(meta_of(1)),
                Open(meta_of(2)),
                append_of(ONE, 64, HEAD),
                append_of(TWO, 0, HEAD),
                Open(meta_of(1, label="other")),
                append_of(ONE, 0, HEAD),
            ]
        )
        assert outcomes[2:4] == [Conflict(0), Applied()]
        assert why(outcomes[4]) is Why.DIVERGED
        assert outcomes[5] == Applied()

    async def test_an_open_tells_where_the_stream_goes_on(self, store: Store) -> None:
        """Offset, segment, schemas so far and the last frame's checksum, in and across commits."""
        head = append_of(ONE, 0, HEAD)
        wide = r.pack_schema(7, ["a", "b", "c"]) + row_at(1, schema=7, values=3)
        more = append_of(ONE, head.end, wide)
        *_, seen = await store.commit([Open(meta_of()), head, more, Open(meta_of())])
        assert state_of(seen) == StreamState(
            more.end, 0, {1: 2, 7: 3}, Proof(more.offset, more.crc32c)
        )
        (again,) = await store.commit([Open(meta_of())])
        assert again == seen

    async def test_schemas_hold_for_one_segment(self, store: Store) -> None:
        """A new segment begins without any; the old ones are still read back."""
        head = append_of(ONE, 0, HEAD)
        tail = append_of(ONE, head.end, r.pack_schema(1, ["x"]), base=head.end)
        *_, seen = await store.commit([Open(meta_of()), head, tail, Open(meta_of())])
        assert (state_of(seen).segment_base, state_of(seen).schemas) == (head.end, {1: 1})
        assert await store.schemas([ONE]) == [
            Schema(ONE, 0, 1, ("loss", "accuracy")),
            Schema(ONE, head.end, 1, ("x",)),
        ]
        pieces = await chunks_of(store, ONE)
        assert [(piece.offset, piece.segment_base) for piece in pieces] == [
            (0, 0),
            (head.end, head.end),
        ]

    async def test_a_skip_stands_for_bytes(self, store: Store) -> None:
        """It moves the stream like an append, is read back as a gap, and ends the segment."""
        head = append_of(ONE, 0, HEAD)
        skip = Skip(ONE, head.end, head.end + 800, pb.GAP_REASON_REBOOT, None, "a reboot")
        after = append_of(ONE, skip.end, HEAD, base=skip.end)
        outcomes = await store.commit([Open(meta_of()), head, skip, skip, Open(meta_of()), after])
        assert outcomes[2:4] == [Applied(), Conflict(skip.end)]
        assert state_of(outcomes[4]) == StreamState(skip.end, skip.end, {}, None)
        assert outcomes[5] == Applied()
        (gap,) = await store.gaps([ONE])
        assert gap == GapRow(ONE, head.end, skip.end, "reboot", None, None, Steps(None, 0), 1)
        assert await bytes_of(store, ONE) == HEAD + HEAD

    async def test_gap_records_are_gaps(self, store: Store) -> None:
        """A writer's own note is a gap without bytes, that knows what stood before it."""
        before = [SCHEMA, row_at(3, automatic=True), row_at(8), row_at(9)]
        at = sum(map(len, before[:3]))
        first = append_of(ONE, 0, before[:2])
        second = append_of(ONE, first.end, [row_at(8), gap_record(5, 12), row_at(9)])
        await store.commit([Open(meta_of()), first, second])
        assert await store.gaps([ONE, TWO]) == [GapRow(ONE, at, at, "quota", 5, 12, Steps(3, 8), 2)]

    async def test_the_last_finish_of_the_rank_counts(self, store: Store) -> None:
        """An agent's word on the end holds where the rank said none, and never over the rank's."""
        own = append_of(ONE, 0, [SCHEMA, row_at(1), finish_record(0, "finished")])
        agents = append_of(ONE, own.end, finish_record(None, "crashed", "agent"), base=own.end)
        silent = append_of(TWO, 0, [SCHEMA, row_at(1)])
        closed = append_of(
            TWO, silent.end, finish_record(None, "crashed", "agent"), base=silent.end
        )
        await store.commit([Open(meta_of()), own, Open(meta_of(2)), silent])
        mine, other = await store.streams("digits", "one")
        assert (mine.finish, mine.last_ns) == (Finish("finished", 0, "rank"), 9_000)
        assert other.finish is None
        await store.commit([agents, closed])
        mine, other = await store.streams("digits", "one")
        assert (mine.finish, mine.last_ns) == (Finish("finished", 0, "rank"), 9_000)
        assert other.finish == Finish("crashed", None, "agent")

    async def test_lifted_records_are_found_by_kind(self, store: Store) -> None:
        """By session and offset, with their bodies as they were written."""
        config = r.pack_json(r.Kind.CONFIG, {"lr": 1}, time_ns=4)
        event = r.pack_json(r.Kind.EVENT, {"note": "é"}, step=5, time_ns=6)
        for number in (2, 1):
            session = session_id(number)
            payload = [config, event, config]
            await store.commit([Open(meta_of(number)), append_of(session, 0, payload)])
        found = await store.lifted([TWO, ONE], [r.Kind.CONFIG])
        assert [(row.session, row.record.offset) for row in found] == [
            (session, offset) for session in (ONE, TWO) for offset in (0, len(config) + len(event))
        ]
        (one,) = await store.lifted([ONE], [r.Kind.EVENT])
        assert (one.record.step, one.record.time_ns) == (5, 6)
        assert one.record.body == '{"note":"é"}'.encode()
        both = await store.lifted([ONE], [r.Kind.CONFIG, r.Kind.EVENT])
        assert [row.record.kind for row in both] == [r.Kind.CONFIG, r.Kind.EVENT, r.Kind.CONFIG]

    async def test_a_deleted_run_never_comes_back(self, store: Store) -> None:
        """Its streams are gone; opens and appends are declined for good; other runs are not."""
        other = meta_of(2, run="two")
        node = meta_of(3, kind=int(types_pb2.STREAM_KIND_NODE))
        head = append_of(ONE, 0, [HEAD, gap_record(1, 1)])
        opens = [Open(meta_of()), Open(other), Open(node)]
        outcomes = await store.commit([*opens, head, Delete("digits", "one"), *opens])
        assert outcomes[4] == Applied()
        assert why(outcomes[5]) is Why.DELETED
        assert outcomes[6:] == [Opened(StreamState())] * 2
        later = await store.commit(
            [
                append_of(ONE, head.end, row_at(1)),
                Skip(ONE, head.end, head.end + 8, pb.GAP_REASON_REBOOT, None, ""),
                Open(meta_of(9)),
                append_of(TWO, 0, HEAD),
                Delete("digits", "one"),
                Delete("digits", "never-was"),
                Open(meta_of(8, run="never-was")),
            ]
        )
        assert [why(outcome) for outcome in later[:3]] == [Why.DELETED] * 3
        assert later[3:6] == [Applied()] * 3
        assert why(later[6]) is Why.DELETED
        assert await store.streams("digits", "one") == []
        assert await bytes_of(store, ONE) == b""
        assert not await store.gaps([ONE])
        assert not await store.schemas([ONE])
        assert await store.run_names() == [("digits", "two")]

    async def test_runs_come_newest_first(self, store: Store) -> None:
        """By the start of their earliest session; chosen by project or group; never a node."""
        metas = [
            meta_of(1, run="old", started_ns=10, group="g"),
            meta_of(2, run="old", started_ns=90),
            meta_of(3, run="new", started_ns=50),
            meta_of(4, run="alone", project="other", started_ns=20, group="g"),
            meta_of(5, run="node", kind=int(types_pb2.STREAM_KIND_NODE), started_ns=99),
        ]
        await store.commit([Open(meta) for meta in metas])
        old, new, alone = ("digits", "old"), ("digits", "new"), ("other", "alone")
        assert await store.run_names() == [new, alone, old]
        assert await store.run_names(project="digits") == [new, old]
        assert await store.run_names(group="g") == [alone, old]
        assert await store.run_names(project="digits", group="g") == [old]
        assert await store.run_names(project="none") == []

    async def test_nothing_is_asked_of_nobody(self, store: Store) -> None:
        """Reads about no sessions, and of streams that are not there, give nothing."""
        assert await store.commit([]) == []
        assert not await store.gaps([])
        assert not await store.lifted([ONE], [])
        assert not await store.schemas([ONE])
        assert await chunks_of(store, ONE) == []
        assert store.store_id

    async def test_many_small_appends_are_one_stream(self, store: Store) -> None:
        """Rows that came one by one, in one commit and in many, read back as they were written."""
        rows = [row_at(step) for step in range(200)]
        await store.commit([Open(meta_of()), append_of(ONE, 0, SCHEMA)])
        offset = len(SCHEMA)
        for first in range(0, 200, 25):
            group = []
            for row in rows[first : first + 25]:
                group.append(append_of(ONE, offset, row))
                offset += len(row)
            assert set(await store.commit(group)) == {Applied()}
        assert await bytes_of(store, ONE) == SCHEMA + b"".join(rows)

    async def test_close_is_safe_twice(self, store: Store) -> None:
        """Whoever closes need not know whether somebody did."""
        await store.close()
        await store.close()
