"""The query service over gRPC: answers, limits and errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from plait_collector import run_reader
from plait_collector.liveness import Heard
from plait_collector.store import Chunk, LiftedRow, StoreUnavailable, StreamRow
from plaitwire.records import FLAG_AUTOMATIC_STEP, Kind
from plaitwire.v1 import query_pb2, query_pb2_grpc
from tests.support.fold import Fold, FoldStore, Writer, meta, session_id
from tests.support.query_server import NOW_NS, serving
from tests.support.reading import view


@asynccontextmanager
async def stub_for(store: FoldStore, heard: Heard | None = None) -> AsyncIterator[Any]:
    """A client of a server over the store."""
    async with serving(store, heard) as address, grpc.aio.insecure_channel(address) as channel:
        yield query_pb2_grpc.QueryStub(channel)


def three_labels() -> Fold:
    """A run of ranks 0, 2 and 10."""
    fold = Fold()
    for number, label in enumerate(["10", "2", "0"], 1):
        writer = Writer(meta(number, label)).config(label=label)
        for step in range(50):
            writer.row(step, loss=float(step), label=1.0)
        fold.add(writer.finish())
    return fold


async def history(stub: Any, **fields: Any) -> list[query_pb2.HistoryBlock]:
    """All blocks of an answer about the run p/r."""
    request = query_pb2.HistoryRequest(project="p", run="r", **fields)
    return [block async for block in stub.History(request)]


async def events(stub: Any, **fields: Any) -> list[query_pb2.Event]:
    """All events of an answer about the run p/r."""
    request = query_pb2.EventsRequest(project="p", run="r", **fields)
    return [event async for event in stub.Events(request)]


async def test_run_is_what_the_merge_says() -> None:
    """GetRun answers the pure view, and liveness beside it."""
    fold = three_labels()
    async with stub_for(FoldStore(fold)) as stub:
        for _ in range(2):  # The second answer is made of facts that were kept.
            run = await stub.GetRun(query_pb2.GetRunRequest(project="p", run="r"))
            assert run.view == view(fold)
    assert run.liveness.state == "ended"
    assert [label.label for label in run.liveness.labels] == ["0", "2", "10"]
    assert run.liveness.now_ns == NOW_NS


async def test_kept_facts_follow_the_stream() -> None:
    """A summary is that of the rows that are there now, however often it was asked before."""
    fold = Fold()
    writer = Writer(meta(1), segment_bytes=1).row(0, x=1.0)
    request = query_pb2.GetRunRequest(project="p", run="r")
    async with stub_for(FoldStore(fold)) as stub:
        for value in (1.0, 2.0, 3.0):
            for piece in [p for p in writer.pieces if p.offset >= _end(fold)]:
                fold.append(writer.meta, [piece])
            run = await stub.GetRun(request)
            assert json.loads(run.view.summary_json) == {"x": value}
            writer.row(int(value), x=value + 1)


def _end(fold: Fold) -> int:
    return sum(stream.end for stream in fold.streams_by_session.values())


async def test_history_comes_label_by_label_in_natural_order() -> None:
    """Blocks of a label follow each other, and hold each of its rows once."""
    async with stub_for(FoldStore(three_labels())) as stub:
        blocks = await history(stub, keys=["loss"])
    assert [block.label for block in blocks] == ["0", "2", "10"]
    assert [block.rows for block in blocks] == [50, 50, 50]
    assert [[column.key for column in block.columns] for block in blocks] == [["loss"]] * 3


async def test_history_of_some_labels_and_steps() -> None:
    """Labels and steps narrow an answer; bounds are inclusive."""
    async with stub_for(FoldStore(three_labels())) as stub:
        blocks = await history(stub, labels=["10", "0", "10"], min_step=48, max_step=60)
    assert [(block.label, block.rows) for block in blocks] == [("0", 2), ("10", 2)]
    assert [column.key for column in blocks[0].columns] == ["label", "loss"]


@pytest.mark.parametrize(
    ("mode", "rows"),
    [
        (query_pb2.ATTEMPTS_MODE_UNSPECIFIED, 3),
        (query_pb2.ATTEMPTS_MODE_EFFECTIVE, 3),
        (query_pb2.ATTEMPTS_MODE_LATEST, 2),
        (query_pb2.ATTEMPTS_MODE_RAW, 4),
    ],
)
async def test_modes_of_attempts(mode: int, rows: int) -> None:
    """Effective unless told otherwise; latest and raw as their words say."""
    fold = Fold().add(
        Writer(meta(1)).row(0, x=1.0).row(1, x=2.0), Writer(meta(9)).row(1, x=3.0).row(2, x=4.0)
    )
    async with stub_for(FoldStore(fold)) as stub:
        blocks = await history(stub, attempts=mode)
    assert sum(block.rows for block in blocks) == rows


async def test_what_is_committed_meanwhile_is_left_out() -> None:
    """An answer is about the streams as they were first looked at, down to the byte."""
    writer = Writer(meta(1)).row(0, x=1.0).summary(a=1)
    seen = Fold().add(writer).rows()
    writer.row(1, x=2.0).summary(a=2).gap(1, 1)

    class Growing(FoldStore):
        async def streams(self, project: str, run: str) -> Sequence[StreamRow]:
            return seen

    async with stub_for(Growing(Fold().add(writer))) as stub:
        (block,) = await history(stub)
        run = await stub.GetRun(query_pb2.GetRunRequest(project="p", run="r"))
        said = await events(stub, kinds=["summary"])
    assert block.rows == 1
    assert json.loads(run.view.summary_json) == {"a": 1, "x": 1.0}
    assert not run.view.labels[0].gaps
    assert len(said) == 1


async def test_events_in_the_label_s_order_and_counting() -> None:
    """Events of a later attempt follow, their automatic steps after what the label had before."""
    first = Writer(meta(1)).row(5, x=1.0).say(Kind.EVENT, {"a": "one"}, step=5)
    second = Writer(meta(9)).row(x=1.0)
    second.say(Kind.EVENT, {"a": "two"}, step=0, flags=FLAG_AUTOMATIC_STEP)
    second.say(Kind.ALERT, {"text": "hot"}).row(3, x=1.0)
    second.say(Kind.EVENT, {"a": "three"}, step=4, flags=FLAG_AUTOMATIC_STEP).config(b=1)
    async with stub_for(FoldStore(Fold().add(second, first))) as stub:
        said = await events(stub)
        config = await events(stub, kinds=["config"], labels=["0"])
    steps = [event.step if event.HasField("step") else None for event in said]
    assert steps == [5, 6, None, 4]
    assert [event.kind for event in said] == ["event", "event", "alert", "event"]
    assert [event.attempt for event in said] == [1, 2, 2, 2]
    assert [event.body_json for event in config] == ['{"b":1}']


async def test_events_of_a_session_that_only_counts() -> None:
    """Where a session never gave a step, all its events continue after the label's rows."""
    first = Writer(meta(1)).row(5, x=1.0)
    second = Writer(meta(9)).say(Kind.EVENT, {"a": 1}, step=0, flags=FLAG_AUTOMATIC_STEP)
    async with stub_for(FoldStore(Fold().add(first, second))) as stub:
        assert [event.step for event in await events(stub)] == [6]


async def test_runs_come_newest_first_in_pages() -> None:
    """Pages follow each other without holes, also where a run of the last page is gone."""
    fold = Fold()
    for number in range(1, 8):
        group = "even" if number % 2 == 0 else ""
        given = replace(meta(number, group=group), run=f"r{number}")
        writer = Writer(given).row(number, x=1.0)
        fold.add(writer.finish() if number > 3 else writer)
    async with stub_for(FoldStore(fold)) as stub:
        found: list[str] = []
        token = ""
        while token or not found:
            request = query_pb2.ListRunsRequest(project="p", page_size=3, page_token=token)
            page = await stub.ListRuns(request)
            found += [brief.run for brief in page.runs]
            assert len(page.runs) <= 3
            token = page.next_page_token
        assert found == ["r7", "r6", "r5", "r4", "r3", "r2", "r1"]
        running = await stub.ListRuns(query_pb2.ListRunsRequest(state="running"))
        assert [brief.run for brief in running.runs] == ["r3", "r2", "r1"]
        even = await stub.ListRuns(query_pb2.ListRunsRequest(group="even"))
        assert [brief.run for brief in even.runs] == ["r6", "r4", "r2"]
        page = await stub.ListRuns(query_pb2.ListRunsRequest(page_size=2))
        del fold.streams_by_session[session_id(6)]
        page = await stub.ListRuns(query_pb2.ListRunsRequest(page_token=page.next_page_token))
        assert "r4" in [brief.run for brief in page.runs]
    brief = even.runs[0]
    assert (brief.state, brief.liveness, brief.labels, brief.labels_alive) == (
        "finished",
        "ended",
        1,
        0,
    )
    assert (brief.last_step, brief.rows, brief.started_ns) == (6, 1, 6 * 10**9)


@pytest.mark.parametrize(
    ("request_fields", "words"),
    [
        ({"project": ""}, "project is empty"),
        ({"run": "a/b"}, "run 'a/b' holds '/'"),
        ({"labels": ["a:b"]}, "label 'a:b' holds"),
        ({"keys": [""]}, "a key is empty"),
        ({"keys": ["k"] * 10_001}, "at most 10000"),
        ({"min_step": 2, "max_step": 1}, "min_step 2 is larger than max_step 1"),
        ({"attempts": 9}, "no AttemptsMode"),
    ],
)
async def test_bad_history_request_is_refused(request_fields: dict[str, Any], words: str) -> None:
    """A field that is not allowed is named, and nothing is read."""
    async with stub_for(FoldStore(three_labels())) as stub:
        fields = {"project": "p", "run": "r", **request_fields}
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT") as raised:
            _ = [b async for b in stub.History(query_pb2.HistoryRequest(**fields))]
    assert words in str(raised.value.details())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"page_size": 1001}, "at most 1000"),
        ({"state": "lost"}, "none of running, finished, failed, crashed"),
        ({"page_token": "!"}, "page_token"),
        ({"page_token": "W10="}, "page_token"),
        ({"group": "a,b"}, "group 'a,b' holds ','"),
    ],
)
async def test_bad_list_request_is_refused(fields: dict[str, Any], words: str) -> None:
    """A page's size, state and token are checked."""
    async with stub_for(FoldStore(Fold())) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT") as raised:
            await stub.ListRuns(query_pb2.ListRunsRequest(**fields))
    assert words in str(raised.value.details())


async def test_unknown_run_label_and_kind_are_told() -> None:
    """What is not there is NOT_FOUND with a sentence; an unknown kind is refused."""
    async with stub_for(FoldStore(three_labels())) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND") as raised:
            await stub.GetRun(query_pb2.GetRunRequest(project="p", run="none"))
        assert raised.value.details() == "there is no run p/none"
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND") as raised:
            await history(stub, labels=["7"])
        assert raised.value.details() == "run p/r has no label '7'; it has 0, 2, 10"
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await events(stub, kinds=["row"])


async def test_store_that_cannot_answer_now_is_unavailable() -> None:
    """A store that is locked or full is told as something that may pass."""

    class Broken(FoldStore):
        async def lifted(
            self, sessions: Sequence[str], kinds: Sequence[int]
        ) -> Sequence[LiftedRow]:
            raise StoreUnavailable("database is locked")

    async with stub_for(Broken(three_labels())) as stub:
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE") as raised:
            await stub.GetRun(query_pb2.GetRunRequest(project="p", run="r"))
    assert "database is locked" in str(raised.value.details())


async def test_label_is_read_while_no_other_is_held() -> None:
    """A history reads one label's streams at a time: the next only when the last was sent."""
    opened: list[str] = []

    class Watching(FoldStore):
        async def chunks(self, session: str) -> AsyncIterator[Chunk]:
            opened.append(session)
            async for chunk in super().chunks(session):
                yield chunk

    fold = Fold()
    for number in range(1, 4):
        writer = Writer(meta(number, str(number)))
        for step in range(60_000):
            writer.row(step, x=1.0, y=2.0, z=3.0)
        fold.add(writer)
    async with stub_for(Watching(fold)) as stub:
        call = stub.History(query_pb2.HistoryRequest(project="p", run="r"))
        first = await call.read()
        assert first.label == "1"
        assert len(opened) < 3
        call.cancel()


async def test_summary_of_a_large_label_is_made_a_few_keys_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However few keys are looked at together, the answer is the same."""
    monkeypatch.setattr(run_reader, "VALUES_BYTES_MAX", 1)
    fold = three_labels()
    async with stub_for(FoldStore(fold)) as stub:
        run = await stub.GetRun(query_pb2.GetRunRequest(project="p", run="r"))
    assert run.view == view(fold)


async def test_kept_facts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of labels seen long ago makes room."""
    monkeypatch.setattr(run_reader, "FACTS_MAX", 3)
    reader = run_reader.RunReader(FoldStore(three_labels()))
    for _ in range(2):
        await reader.view("p", "r", await reader.labels("p", "r"))
        assert reader.statistics().facts_kept <= 3
