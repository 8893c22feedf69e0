"""How streams end: closing segments of dead writers, each written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait_agent.disk import DISK, Disk
from plait_agent.effects import Chunk, DamagedAt
from plait_agent.events import Ended
from plait_agent.streams import Streams
from plaitwire import records
from plaitwire.folders import STATUS, Folders, segment_name
from plaitwire.v1 import ingest_pb2 as pb
from tests.agent.support import (
    BOOT,
    Life,
    Writer,
    collect,
    events_of,
    finish,
    kinds,
    make_folders,
)


def last_json(data: bytes) -> object:
    """The body of the last record in data."""
    return list(records.scan(data))[-1].json()


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make_folders(tmp_path)


@pytest.fixture
def life() -> Life:
    return Life()


def agent(folders: Folders, life: Life, *, boot_id: str = BOOT, disk: Disk = DISK) -> Streams:
    """The streams of a new life of the agent."""
    return Streams(
        folders,
        node="n",
        boot_id=boot_id,
        disk=disk,
        is_alive=life,
        delayed=False,
        cold_free_bytes_min=0,
    )


def test_a_dead_writer_is_closed_as_crashed(folders: Folders, life: Life) -> None:
    """The last rows are kept, a finish record that says crashed follows, and the end is final."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    streams.poll(0.0)
    writer.rows(range(4))
    writer.die()
    events = streams.poll(0.2)
    data, lost = collect(streams, writer.session)
    assert data.startswith(writer.written)
    assert lost == []
    assert last_json(data) == {"exit_code": None, "state": "crashed", "by": "agent"}
    assert events[-1] == Ended(writer.session, len(data))
    assert streams.poll(5.0) == []


def test_a_finished_writer_needs_no_closing(folders: Folders, life: Life) -> None:
    """A rank that said how it ended is taken at its word."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.write(finish())
    streams.poll(0.0)
    writer.die()
    assert streams.poll(0.2) == [Ended(writer.session, writer.end)]
    assert collect(streams, writer.session) == (writer.written, [])


def test_untold_drops_are_told_by_the_closing(folders: Folders, life: Life) -> None:
    """A finished writer with drops that no gap record tells gets a closing with a gap alone."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.write(finish())
    writer.drops(7, reported=4)
    streams.poll(0.0)
    writer.die()
    streams.poll(0.2)
    data, _ = collect(streams, writer.session)
    assert kinds(data)[-2:] == ["finish", "gap"]
    gap = {"reason": pb.GAP_REASON_QUOTA, "records": 3, "total": 7, "by": "agent"}
    assert last_json(data) == gap


@pytest.mark.parametrize("with_finish", [False, True])
def test_a_closing_is_written_once(folders: Folders, life: Life, with_finish: bool) -> None:
    """However often the agent starts, a stream has one closing, of the same bytes."""
    writer = Writer(folders, life=life)
    if with_finish:
        writer.write(finish())
    writer.drops(2)
    life.sessions.clear()
    first = agent(folders, life)
    first.poll(0.0)
    first.poll(3.0)
    data, _ = collect(first, writer.session)
    second = agent(folders, life)
    events = [*second.poll(0.0), *second.poll(3.0)]
    assert collect(second, writer.session)[0] == data
    assert events_of(events, Ended) == [Ended(writer.session, len(data))]


def test_an_agent_that_forgot_its_states_still_closes_once(folders: Folders, life: Life) -> None:
    """The closing says who wrote it, so the files alone are enough to know it."""
    writer = Writer(folders, life=life)
    life.sessions.clear()
    first = agent(folders, life)
    first.poll(0.0)
    first.poll(3.0)
    data, _ = collect(first, writer.session)
    for path in (folders.cold / "agent" / "streams").iterdir():
        path.unlink()
    second = agent(folders, life)
    second.poll(0.0)
    second.poll(3.0)
    assert collect(second, writer.session)[0] == data


def test_a_writer_that_is_just_starting_is_not_taken_for_dead(folders: Folders, life: Life) -> None:
    """Between its meta.json and its lock a writer has time."""
    streams = agent(folders, life)
    writer = Writer(folders)
    assert events_of(streams.poll(0.0), Ended) == []
    assert events_of(streams.poll(1.0), Ended) == []
    life.sessions.add(writer.session)
    assert events_of(streams.poll(10.0), Ended) == []


def test_damage_in_the_last_segment_ends_with_the_stream(folders: Folders, life: Life) -> None:
    """Once the writer is dead, the gap ends at the closing segment."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    good = writer.end
    writer.rows(range(3))
    streams.poll(0.0)
    streams.apply(DamagedAt(writer.session, good))
    end = writer.end
    writer.die()
    streams.poll(0.2)
    data, lost = collect(streams, writer.session)
    assert [(gap.offset, gap.end) for gap in lost] == [(good, end)]
    assert kinds(data) == ["schema", "finish"]


def test_a_status_page_of_nonsense_harms_nothing(folders: Folders, life: Life) -> None:
    """A stream whose status page cannot be read is closed as if nothing was dropped."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    streams.poll(0.0)
    (writer.folder / STATUS).write_bytes(b"nonsense")
    writer.die()
    streams.poll(0.2)
    assert kinds(collect(streams, writer.session)[0]) == ["schema", "finish"]


def test_an_empty_last_segment_gives_its_place_to_the_closing(folders: Folders, life: Life) -> None:
    """A writer that died just after it rolled is closed at the same base."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    streams.poll(0.0)
    end = writer.end
    (writer.folder / segment_name(end)).write_bytes(bytes(64 * 1024))
    assert streams.poll(0.2) == []
    writer.die()
    streams.poll(0.4)
    chunk = streams.read(writer.session, end)
    assert isinstance(chunk, Chunk)
    assert chunk.segment_base == end
    assert kinds(chunk.payload) == ["finish"]
