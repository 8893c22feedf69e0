"""Streams: found, followed, closed, deleted; real files, simulated writers, time passed in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import google_crc32c
import pytest

from plait_agent.disk import DISK, Disk
from plait_agent.effects import Acked, DamagedAt, Delivered, Opened, Rejected
from plait_agent.events import Found, Gone, Grew
from plait_agent.streams import Streams
from plaitwire.folders import META, Folders, segment_name
from plaitwire.v1 import ingest_pb2 as pb
from tests.agent.support import (
    BOOT,
    Life,
    Writer,
    collect,
    events_of,
    finish,
    make_folders,
    session_id,
)


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


def test_a_stream_is_found_and_followed(folders: Folders, life: Life) -> None:
    """A new folder gives Found and Grew; later commits give Grew; its bytes are read as written."""
    streams = agent(folders, life)
    assert streams.poll(0.0) == []
    writer = Writer(folders, life=life)
    writer.rows(range(3))
    found, grew = streams.poll(0.2)
    assert isinstance(found, Found)
    assert (found.meta.run, found.meta.label) == ("r", "1")
    assert json.loads(found.meta.extra_json) == {"argv": ["train.py"]}
    assert grew == Grew(writer.session, writer.end)
    assert streams.poll(0.4) == []
    writer.rows(range(3, 5))
    assert streams.poll(0.6) == [Grew(writer.session, writer.end)]
    assert collect(streams, writer.session) == (writer.written, [])


def test_acknowledged_segments_are_deleted_once_sealed(folders: Folders, life: Life) -> None:
    """A segment goes when it is acknowledged whole and a later one exists; the others stay."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.rows(range(3))
    first_end = writer.end
    streams.poll(0.0)
    streams.apply(Opened(writer.session, 0))
    streams.apply(Acked(writer.session, first_end))
    assert (writer.folder / segment_name(0)).exists()
    writer.roll()
    writer.rows(range(3))
    streams.poll(0.2)
    streams.apply(Acked(writer.session, first_end + 24))
    assert not (writer.folder / segment_name(0)).exists()
    assert (writer.folder / segment_name(first_end)).exists()


def test_what_we_deleted_is_told_as_deleted(folders: Folders, life: Life) -> None:
    """A store that asks from the beginning again gets a gap up to the first segment present."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.rows(range(3))
    writer.roll()
    streams.poll(0.0)
    streams.apply(Acked(writer.session, writer.base))
    for life_of_agent in (streams, agent(folders, life)):
        life_of_agent.poll(0.2)
        _, lost = collect(life_of_agent, writer.session)
        assert [(gap.offset, gap.end, gap.reason) for gap in lost] == [
            (0, writer.base, pb.GAP_REASON_DELETED)
        ]


def test_delivered_streams_leave_nothing(folders: Folders, life: Life) -> None:
    """Folders and the agent's own files go, and who asks later still hears that all arrived."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.write(finish())
    streams.poll(0.0)
    writer.die()
    streams.poll(0.2)
    streams.apply(Acked(writer.session, writer.end))
    streams.apply(Delivered(writer.session))
    assert not writer.folder.exists()
    assert not list((folders.cold / "agent" / "streams").iterdir())
    progress = streams.progress(writer.session)
    assert progress is not None
    assert progress.acked == progress.end == writer.end
    assert streams.poll(9.0) == []


def test_a_restart_gives_the_same_bytes(folders: Folders, life: Life) -> None:
    """A new life of the agent finds every stream again, and reads it from where it is asked."""
    writer = Writer(folders, life=life)
    writer.rows(range(10))
    streams = agent(folders, life)
    streams.poll(0.0)
    again = agent(folders, life)
    events = again.poll(0.0)
    assert [type(event) for event in events] == [Found, Grew]
    assert collect(again, writer.session, 48)[0] == writer.written[48:]


def test_damage_ends_at_the_next_segment(folders: Folders, life: Life) -> None:
    """What follows a bad record waits for the next segment's base, and is a gap up to it."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    good = writer.end
    writer.rows(range(3))
    streams.poll(0.0)
    streams.apply(DamagedAt(writer.session, good))
    assert collect(streams, writer.session) == (writer.written[:good], [])
    writer.roll()
    writer.rows(range(2))
    streams.poll(0.2)
    data, lost = collect(streams, writer.session)
    assert data == writer.written[:good] + writer.written[writer.base :]
    assert [(gap.offset, gap.end, gap.reason) for gap in lost] == [
        (good, writer.base, pb.GAP_REASON_DAMAGED)
    ]


def test_a_damaged_header_costs_its_segment(folders: Folders, life: Life) -> None:
    """A segment whose header is bad is a gap; those around it are read."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.rows(range(2))
    writer.roll()
    bad, path = writer.base, writer.path
    writer.rows(range(2))
    writer.roll()
    path.write_bytes(b"nonsense" + path.read_bytes()[8:])
    streams.poll(0.0)
    data, lost = collect(streams, writer.session)
    assert data == writer.written[:bad] + writer.written[writer.base :]
    assert [(gap.offset, gap.end, gap.reason) for gap in lost] == [
        (bad, writer.base, pb.GAP_REASON_DAMAGED)
    ]


def test_a_vanished_segment_is_told(folders: Folders, life: Life) -> None:
    """A file that somebody removed is a gap up to the next segment."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.rows(range(2))
    writer.roll()
    gone, path = writer.base, writer.path
    writer.roll()
    path.unlink()
    streams.poll(0.0)
    _, lost = collect(streams, writer.session)
    assert [(gap.offset, gap.end, gap.reason) for gap in lost] == [
        (gone, writer.base, pb.GAP_REASON_VANISHED)
    ]


@pytest.mark.parametrize("how", ["symlink", "hardlink", "fifo"])
def test_links_are_not_read(folders: Folders, life: Life, tmp_path: Path, how: str) -> None:
    """A segment that is a link, or no regular file, is never read: it is a gap with its reason."""
    writer = Writer(folders, life=life)
    writer.rows(range(2))
    path = writer.path
    writer.roll()
    secret = tmp_path / "secret"
    path.rename(secret)
    if how == "symlink":
        path.symlink_to(secret)
    elif how == "hardlink":
        os.link(secret, path)
    else:
        os.mkfifo(path)
    streams = agent(folders, life)
    streams.poll(0.0)
    data, (lost,) = collect(streams, writer.session)
    assert data == writer.written[writer.base :]
    assert (lost.offset, lost.end, lost.reason) == (0, writer.base, pb.GAP_REASON_DAMAGED)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_foreign_files_are_not_read(folders: Folders, life: Life) -> None:
    """A segment that belongs to another user is never read."""
    writer = Writer(folders, life=life)
    path = writer.path
    writer.roll()
    os.chown(path, 4321, 4321)
    streams = agent(folders, life)
    streams.poll(0.0)
    _, (lost,) = collect(streams, writer.session)
    assert "user 4321" in lost.message


def test_a_linked_stream_folder_is_left_alone(folders: Folders, life: Life, tmp_path: Path) -> None:
    """A folder that leads elsewhere is neither read nor removed."""
    writer = Writer(folders, life=life)
    elsewhere = tmp_path / "elsewhere"
    writer.folder.rename(elsewhere)
    writer.folder.symlink_to(elsewhere)
    life.sessions.clear()
    streams = agent(folders, life)
    assert streams.poll(0.0) == []
    assert streams.poll(5.0) == []
    assert streams.poll(9.0) == []
    assert (elsewhere / META).exists()
    assert streams.statistics().refusals.streams == 1


@pytest.mark.parametrize(
    "change",
    [
        {"label": "a/b"},
        {"session": session_id(9)},
        {"kind": "other"},
        {"pid": "x"},
        {"project": "\ud800"},
        {"extra": "x" * 70_000},
    ],
)
def test_a_bad_meta_is_refused(folders: Folders, life: Life, change: dict[str, object]) -> None:
    """A stream that does not say what it is moves to refused/ when its writer is gone."""
    writer = Writer(folders, life=life)
    (writer.folder / META).write_text(json.dumps({**writer.meta, **change}))
    streams = agent(folders, life)
    assert streams.poll(0.0) == []
    assert streams.poll(5.0) == []
    assert writer.folder.exists()
    writer.die()
    assert streams.poll(5.2) == []
    assert not writer.folder.exists()
    assert (folders.cold / "refused" / writer.session / segment_name(0)).exists()
    assert streams.statistics().refusals.streams == 1


def test_a_folder_without_meta_goes_with_its_writer(folders: Folders, life: Life) -> None:
    """A folder that never became a stream is left while its writer lives, then removed."""
    writer = Writer(folders, life=life)
    (writer.folder / META).unlink()
    streams = agent(folders, life)
    assert streams.poll(0.0) == streams.poll(60.0) == []
    assert writer.folder.exists()
    writer.die()
    streams.poll(61.0)
    assert not writer.folder.exists()


def test_a_refused_stream_is_set_aside(folders: Folders, life: Life) -> None:
    """While its writer lives its sealed segments are moved, afterwards the rest."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.roll()
    streams.poll(0.0)
    streams.apply(Rejected(writer.session, pb.REFUSED_REASON_DELETED, "the run was deleted"))
    streams.poll(0.2)
    kept = folders.cold / "refused" / writer.session
    assert (kept / segment_name(0)).exists()
    assert not (writer.folder / segment_name(0)).exists()
    again = agent(folders, life)
    assert again.poll(0.0) == []
    assert [status.state for status in again.status()] == ["refused"]
    writer.die()
    assert again.poll(9.0) == [Gone(writer.session)]
    assert not writer.folder.exists()
    assert (kept / segment_name(writer.base)).exists()


def test_one_poll_late_where_stores_reorder(folders: Folders, life: Life) -> None:
    """There a commit word is believed at the look after; at the writer's death at once."""
    streams = Streams(folders, node="n", boot_id=BOOT, is_alive=life, delayed=True)
    writer = Writer(folders, life=life)
    assert events_of(streams.poll(0.0), Grew) == []
    first = writer.end
    writer.rows(range(2))
    assert streams.poll(0.2) == [Grew(writer.session, first)]
    writer.die()
    assert streams.poll(0.4)[0] == Grew(writer.session, writer.end)


def test_a_checksum_covers_several_segments(folders: Folders, life: Life) -> None:
    """The checksum is of the stream's bytes, wherever they stand; None where some are missing."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.rows(range(3))
    writer.roll()
    writer.rows(range(3))
    streams.poll(0.0)
    expected = google_crc32c.value(writer.written[24 : writer.end - 32])
    assert streams.checksum(writer.session, 24, writer.end - 32) == expected
    assert streams.checksum(writer.session, 24, writer.end + 8) is None
    assert streams.checksum(session_id(5), 0, 8) is None


def test_idle_streams_are_looked_at_less_often(folders: Folders, life: Life) -> None:
    """After a while with nothing new a stream waits longer, and an announcement ends the wait."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    streams.poll(0.0)
    streams.poll(10.0)
    writer.rows(range(1))
    assert streams.poll(10.2) == []
    streams.announce(writer.session)
    assert streams.poll(10.4) == [Grew(writer.session, writer.end)]


def test_a_folder_that_was_never_made_goes(folders: Folders, life: Life) -> None:
    """What a writer left that died while making its folder is removed, but not at once."""
    making = folders.hot / "streams" / f".{session_id(1)}.tmp"
    making.mkdir()
    (making / META).write_text("{}")
    streams = agent(folders, life)
    for now_s in (0.0, 1.0, 59.0):
        assert streams.poll(now_s) == []
        assert making.exists()
    streams.poll(70.0)
    assert not making.exists()
