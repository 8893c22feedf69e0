"""The hot path: what a returned log() promises, whatever strikes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from plait.quota import Quota
from plait.values import Flaws
from plait.writer import Writer
from plaitwire.folders import Folders
from plaitwire.limits import (
    CONTINUED_BYTES_MAX,
    RECORD_BYTES_MAX,
    SCHEMAS_PER_SEGMENT_MAX,
)
from plaitwire.records import FLAG_AUTOMATIC_STEP, FLAG_CONTINUED, Kind
from tests.sdk import logs

TINY = Quota(hot_bytes_max=0, cold_bytes_max=0)


@pytest.fixture
def said() -> list[str]:
    """What was said to people."""
    return []


@pytest.fixture
def writer(folders: Folders, said: list[str]) -> Iterator[Writer]:
    """A writer with an open session."""
    opened = Writer(folders, logs.meta(), flaws=Flaws(said.append))
    yield opened
    opened.close()


def rows(writer: Writer) -> list[logs.Row]:
    """What a reader sees of the writer's session."""
    return logs.rows(writer.folders, writer.meta.session)


def bodies(writer: Writer, kind: Kind) -> list[Any]:
    """What a reader sees of its records of a kind."""
    return logs.bodies(writer.folders, writer.meta.session, kind)


def test_rows_come_back_in_order(writer: Writer) -> None:
    """Rows over several segments and schemas are read in the order of their calls."""
    expected = []
    for step in range(4000):
        values = {f"metric {at}": step + at / 8 for at in range(1 + step % 7)}
        writer.log(values)
        expected.append(logs.Row(step, values))
    assert rows(writer) == expected
    assert len(logs.segments(writer.folders, writer.meta.session)) > 2


def test_steps_given_and_counted(writer: Writer) -> None:
    """A step that is not given is the last one plus one, and its row is flagged so."""
    for step in (None, 10, None, 3, None):
        writer.log({"a": 1.0}, step)
    found = [
        (record.step, bool(record.flags & FLAG_AUTOMATIC_STEP))
        for record, _ in logs.records(writer.folders, writer.meta.session)
        if record.kind is Kind.ROW
    ]
    assert found == [(0, True), (10, False), (11, True), (3, False), (4, True)]
    assert writer.last_step == 4


def test_mixed_values(writer: Writer) -> None:
    """Numbers become a row, the rest an event of the same step, nested dicts flat keys."""

    class Scalar:
        def __float__(self) -> float:
            return 0.25

    for _ in range(2):  # The second call takes the fast path as far as it goes.
        writer.log({"loss": Scalar(), "on": True, "n": 3, "note": "hi", "in": {"x": 1, "y": None}})
    assert rows(writer) == [
        logs.Row(step, {"loss": 0.25, "on": 1.0, "n": 3.0, "in/x": 1.0}) for step in (0, 1)
    ]
    assert bodies(writer, Kind.EVENT) == [{"note": "hi", "in/y": None}] * 2


def test_text_that_reads_as_a_number_is_an_event(writer: Writer) -> None:
    """The text "0.5" is no number, not even under keys that had numbers before."""
    writer.log({"a": 0.5})
    writer.log({"a": "0.5"})
    assert rows(writer) == [logs.Row(0, {"a": 0.5})]
    assert bodies(writer, Kind.EVENT) == [{"a": "0.5"}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_every_float_is_kept(writer: Writer, value: float) -> None:
    """NaN, the infinities and the smallest float come back as they are."""
    for _ in range(2):
        writer.log({"a": value})
    for row in rows(writer):
        assert repr(row.values["a"]) == repr(value)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (5, "data"),
        (None, "data"),
        ([("a", 1)], "data"),
        ({"": 1}, "key"),
        ({"k" * 1025: 1}, "key"),
        ({"\ud800": 1}, "key"),
        ({3: 1.0}, "key"),
    ],
)
def test_bad_data_is_said_once_and_counted(
    writer: Writer, said: list[str], data: Any, kind: str
) -> None:
    """log() of what cannot be recorded raises nothing, says so once, and counts each."""
    for _ in range(3):
        writer.log(data)
    writer.log({"good": 1.0})
    assert rows(writer)[-1].values == {"good": 1.0}
    assert writer.statistics().flaws == {kind: 3}
    assert len(said) == 1


@pytest.mark.parametrize("step", ["7", 1.5, 2**70, object(), math.nan])
def test_bad_step_keeps_the_row(writer: Writer, step: Any) -> None:
    """A row whose step is no integer is kept, with a counted step."""
    writer.log({"a": 1.0}, step)
    writer.log({"a": 2.0}, step)
    assert [row.step for row in rows(writer)] == [0, 1]
    assert writer.statistics().flaws == {"step": 2}


def test_bad_values_keep_the_rest(writer: Writer) -> None:
    """Values that convert to nothing are kept as text beside those that are numbers."""

    class Broken:
        def __float__(self) -> float:
            raise RuntimeError("no device")

        def __repr__(self) -> str:
            raise RuntimeError("no text either")

    writer.log({"a": 1.0, "huge": 10**400, "broken": Broken()})
    assert rows(writer) == [logs.Row(0, {"a": 1.0})]
    assert bodies(writer, Kind.EVENT) == [{"huge": str(10**400), "broken": "<Broken>"}]


def test_threads_share_a_writer(writer: Writer) -> None:
    """Rows of eight threads are all there, each thread's in order, no automatic step twice."""

    def work(name: str) -> None:
        for at in range(500):
            writer.log({name: float(at)})

    threads = [threading.Thread(target=work, args=(f"t{at}",)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = rows(writer)
    assert sorted(row.step for row in read) == list(range(4000))
    for at in range(8):
        mine = [row.values[f"t{at}"] for row in read if f"t{at}" in row.values]
        assert mine == list(map(float, range(500)))


def test_schema_churn(writer: Writer) -> None:
    """Past 4,096 schemas in a segment, rows of a further one are events, and none is lost."""
    count = SCHEMAS_PER_SEGMENT_MAX + 200
    for at in range(count):
        writer.log({f"{at}": float(at)})
    seen = {key: value for row in rows(writer) for key, value in row.values.items()}
    for event in bodies(writer, Kind.EVENT):
        seen.update(event)
    assert seen == {f"{at}": float(at) for at in range(count)}


def test_schemas_past_the_limit_become_events(writer: Writer) -> None:
    """In a segment whose schema ids are used up, NaN among the values stays valid JSON."""
    writer.log({"a": 1.0})
    writer._log.segment.schemas = SCHEMAS_PER_SEGMENT_MAX
    writer.log({"b": math.nan})
    writer.log({"a": 2.0})
    assert [row.values for row in rows(writer)] == [{"a": 1.0}, {"a": 2.0}]
    assert bodies(writer, Kind.EVENT) == [{"b": "NaN"}]


def test_a_wide_row_is_split(writer: Writer) -> None:
    """A row of more keys than one record holds is several rows of the same step."""
    values = {f"key {at}": float(at) for at in range(40_000)}
    for _ in range(2):
        writer.log(values)
    read = rows(writer)
    for step in (0, 1):
        parts = [row.values for row in read if row.step == step]
        assert len(parts) > 1
        assert {key: value for part in parts for key, value in part.items()} == values


@pytest.mark.parametrize("excess", [-8, 0, 1, RECORD_BYTES_MAX])
def test_a_record_at_and_over_the_limit(writer: Writer, excess: int) -> None:
    """A body that just fits is one record; a larger one is continued, and reads the same."""
    overhead = len('{"text":""}') + 24
    text = "x" * (RECORD_BYTES_MAX - overhead + excess)
    writer.log({"text": text})
    assert bodies(writer, Kind.EVENT) == [{"text": text}]
    flags = [
        record.flags & FLAG_CONTINUED
        for record, _ in logs.records(writer.folders, writer.meta.session)
        if record.kind is Kind.EVENT
    ]
    assert len(flags) == 1 + max(0, -(-excess // (RECORD_BYTES_MAX - 24)))
    assert all(flags[:-1])
    assert not flags[-1]


def test_a_body_beyond_every_limit_is_a_gap(writer: Writer, said: list[str]) -> None:
    """More than 8 MiB are refused: said, counted, and told by a gap in the stream."""
    writer.log({"text": "x" * CONTINUED_BYTES_MAX})
    writer.log({"a": 1.0})
    assert bodies(writer, Kind.EVENT) == []
    gap = bodies(writer, Kind.GAP)
    assert [(one["records"], one["total"]) for one in gap] == [(1, 1)]
    assert [row.step for row in rows(writer)] == [1]
    assert len(said) == 1


def test_no_room_is_a_gap(folders: Folders, said: list[str]) -> None:
    """Out of every quota rows are dropped, counted first; with room again a gap tells how many."""
    quota = Quota(hot_bytes_max=128 * 1024, cold_bytes_max=0, retry_interval_s=0)
    writer = Writer(folders, logs.meta(), quota=quota, flaws=Flaws(said.append))
    for at in range(2000):
        writer.log({f"metric {key}": float(at) for key in range(10)})
    dropped = writer.statistics().dropped
    assert 0 < dropped < 2000
    writer._log._quota = Quota()
    writer._log.files._quota = Quota()
    writer.log({"after": 1.0})
    read = rows(writer)
    assert len(read) == 2000 - dropped + 1
    assert read[-1] == logs.Row(2000, {"after": 1.0})
    gaps = bodies(writer, Kind.GAP)
    assert sum(gap["records"] for gap in gaps) == gaps[-1]["total"] == dropped
    assert len([text for text in said if "no room" in text]) == 1
    writer.close()


def test_hot_overflows_into_cold(folders: Folders) -> None:
    """Past hot's quota segments go to disk, meta.json with them, and the stream is one."""
    quota = Quota(hot_bytes_max=128 * 1024, cold_free_bytes_min=0)
    writer = Writer(folders, logs.meta(), quota=quota)
    for at in range(5000):
        writer.log({"a": float(at), "b": 0.5})
    session = writer.meta.session
    cold = folders.cold_stream(session)
    assert (cold / "meta.json").read_bytes() == (
        folders.hot_stream(session) / "meta.json"
    ).read_bytes()
    assert list(cold.glob("*.log"))
    assert [row.values["a"] for row in rows(writer)] == list(map(float, range(5000)))
    assert writer.statistics().dropped == 0
    writer.close()


def test_finish_finds_room_past_the_quotas(folders: Folders) -> None:
    """A stream that is out of room still gets its gap and its finish record."""
    writer = Writer(folders, logs.meta(), quota=TINY, flaws=Flaws(lambda text: None))
    for at in range(1000):
        writer.log({"a": float(at)})
    writer.finish(0, "finished")
    session = writer.meta.session
    kinds = [record.kind for record, _ in logs.records(folders, session)]
    assert kinds[-2:] == [Kind.GAP, Kind.FINISH]
    told = sum(gap["records"] for gap in logs.bodies(folders, session, Kind.GAP))
    assert len(logs.rows(folders, session)) + told == 1000
    writer.close()


def test_nothing_after_finish(writer: Writer, said: list[str]) -> None:
    """What is logged after the finish record is refused, counted, and said once."""
    writer.log({"a": 1.0})
    writer.finish(0, "finished")
    end = writer.end
    writer.log({"a": 2.0})
    writer.log({"a": 3.0})
    assert writer.end == end
    assert writer.statistics().flaws == {"finished": 2}
    assert len(said) == 1
    writer.close()
    writer.log({"a": 4.0})
    writer.close()
