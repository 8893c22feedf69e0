"""What goes wrong around one stream, and must cost that stream alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from plait_agent.disk import Disk, write_file
from plait_agent.effects import Acked, Opened
from plait_agent.events import Ended
from plait_agent.liveness import lock_held
from plait_agent.streams import Streams
from plaitwire import records
from plaitwire.folders import ALIVE, META, Folders, segment_name
from plaitwire.v1 import ingest_pb2 as pb
from tests.agent.support import (
    BOOT,
    OTHER_BOOT,
    Life,
    Writer,
    collect,
    events_of,
    finish,
    kinds,
    make_folders,
)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make_folders(tmp_path)


@pytest.fixture
def life() -> Life:
    return Life()


def agent(folders: Folders, life: Life, *, boot_id: str = BOOT) -> Streams:
    """The streams of a new life of the agent."""
    return Streams(
        folders, node="n", boot_id=boot_id, is_alive=life, delayed=False, cold_free_bytes_min=0
    )


def test_a_state_that_cannot_be_written_after_a_job_harms_no_other(
    folders: Folders, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acknowledgement that came during a job is noted after it; a full disk fails that alone."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.rows(range(9))
    writer.roll()
    streams.poll(0.0)
    streams.apply(Opened(writer.session, 0))
    assert streams.spill_jobs(0.0) == []
    (job,) = streams.spill_jobs(5.0)
    streams.apply(Acked(writer.session, writer.end))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("plait_agent.state.write_file", full)
        streams.spilled(streams.carry_out(job))
    assert "No space" in streams.status()[0].error
    assert (writer.folder / segment_name(0)).exists() or (
        folders.cold_stream(writer.session) / segment_name(0)
    ).exists()
    writer.rows(range(2))
    streams.poll(9.0)
    streams.apply(Acked(writer.session, writer.end))
    assert not (writer.folder / segment_name(0)).exists()


@pytest.mark.parametrize("kind", [[], {}, 5])
@pytest.mark.parametrize("alive", ["link", "folder", "none"])
def test_garbage_in_one_folder_harms_no_other(
    folders: Folders, life: Life, kind: object, alive: str
) -> None:
    """A folder of nonsense, its lock no file, costs itself: another stream is found and read."""
    bad = Writer(folders, 2)
    (bad.folder / META).write_text(json.dumps({**bad.meta, "kind": kind}))
    (bad.folder / ALIVE).unlink()
    if alive == "link":
        (bad.folder / ALIVE).symlink_to("/dev/null")
    elif alive == "folder":
        (bad.folder / ALIVE).mkdir()
    good = Writer(folders, 1, life=life)

    def is_alive(path: Path) -> bool:
        return life(path) or lock_held(path)

    streams = Streams(folders, node="n", boot_id=BOOT, is_alive=is_alive, delayed=False)
    found = [event for now_s in (0.0, 5.0, 9.0) for event in streams.poll(now_s)]
    assert {event.session for event in found} == {good.session}
    assert collect(streams, good.session)[0] == good.written


def test_a_collector_back_from_a_copy_that_knows_more_is_closed_behind_that(
    folders: Folders, life: Life
) -> None:
    """An orphan that was closed for an empty store is closed once more for one that knows more."""
    writer = Writer(folders, life=life)
    writer.rows(range(50))
    agent(folders, life).poll(0.0)
    writer.die()
    shutil.rmtree(writer.folder)  # A reboot.
    streams = agent(folders, life, boot_id=OTHER_BOOT)
    streams.poll(0.0)
    streams.apply(Opened(writer.session, 0))
    (first,) = events_of(streams.poll(0.2), Ended)
    streams.apply(Opened(writer.session, writer.end))  # The wiped store's owner found a backup.
    (second,) = events_of(streams.poll(0.4), Ended)
    assert second.end > writer.end > first.end
    data, lost = collect(streams, writer.session, writer.end)
    assert (kinds(data), lost) == (["gap", "finish"], [])
    again = agent(folders, life, boot_id=OTHER_BOOT)
    again.poll(0.0)
    assert collect(again, writer.session, writer.end)[0] == data


def test_a_collector_that_knows_more_than_was_written_is_another_streams(
    folders: Folders, life: Life
) -> None:
    """A stream whole on its node that the collector has beyond its end was copied: refused."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.write(finish())
    writer.die()
    streams.poll(0.0)
    streams.poll(5.0)
    streams.apply(Opened(writer.session, writer.end + 8))
    (status,) = streams.status()
    assert (status.state, "DIVERGED" in status.error) == ("refused", True)


def test_what_is_still_in_memory_outlived_no_reboot(folders: Folders, life: Life) -> None:
    """A writer in a container that is told another boot's id is closed as any: nothing is lost."""
    writer = Writer(folders, boot_id=OTHER_BOOT)
    writer.rows(range(9))
    writer.roll()
    writer.rows(range(9))
    streams = agent(folders, life)
    streams.poll(0.0)
    (ended,) = events_of(streams.poll(5.0), Ended)
    data, lost = collect(streams, writer.session)
    assert (data[: writer.end], lost) == (writer.written, [])
    assert (kinds(data[writer.end :]), len(data)) == (["finish"], ended.end)


def test_a_file_larger_than_any_segment_is_not_read(folders: Folders, life: Life) -> None:
    """A segment that claims a terabyte is damage, and never comes into memory."""
    writer = Writer(folders)
    writer.rows(range(3))
    os.truncate(writer.path, 2**40)
    with writer.path.open("r+b") as file:
        file.write(records.pack_segment_header(0, 2**40 - 64))
    streams = agent(folders, life)
    streams.poll(0.0)
    (ended,) = events_of(streams.poll(5.0), Ended)
    data, (lost,) = collect(streams, writer.session)
    assert (lost.offset, lost.reason) == (0, pb.GAP_REASON_DAMAGED)
    assert (kinds(data), lost.end + len(data)) == (["finish"], ended.end)


def test_a_closing_that_goes_to_disk_is_not_hidden(
    folders: Folders, life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory full, the closing takes the place of an empty last segment in memory, too."""
    writer = Writer(folders)
    writer.rows(range(3))
    end = writer.end
    (writer.folder / segment_name(end)).write_bytes(records.pack_segment_header(end) + bytes(4096))
    streams = agent(folders, life)
    streams.poll(0.0)
    whole = write_file

    def full(path: Path, data: bytes, *, disk: Disk | None) -> None:
        if path.parent == writer.folder:
            raise OSError(28, "No space left on device")
        whole(path, data, disk=disk)

    monkeypatch.setattr("plait_agent.ending.write_file", full)
    (ended,) = events_of(streams.poll(5.0), Ended)
    data, lost = collect(streams, writer.session)
    assert (kinds(data[end:]), lost, len(data)) == (["finish"], [], ended.end)
