"""Spilling to disk, power loss and what is believed after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from plait_agent.disk import DISK, Disk
from plait_agent.effects import Acked, Delivered, Opened
from plait_agent.events import Ended, Found, Grew
from plait_agent.streams import Streams
from plaitwire import records
from plaitwire.folders import META, Folders, segment_name
from plaitwire.v1 import ingest_pb2 as pb
from tests.agent.support import (
    BOOT,
    OTHER_BOOT,
    Life,
    PowerLossDisk,
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


@pytest.fixture
def disk(folders: Folders) -> PowerLossDisk:
    return PowerLossDisk(folders)


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


def names(folder: Path) -> list[str]:
    """The segments in a folder."""
    return sorted(path.name for path in folder.glob("*.log"))


def test_what_waits_too_long_is_spilled(folders: Folders, life: Life) -> None:
    """A sealed segment leaves memory for the disk; the open one is copied and stays."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.rows(range(5))
    writer.roll()
    writer.rows(range(5))
    streams.poll(0.0)
    streams.spill(0.0)
    assert not folders.cold_stream(writer.session).exists()
    streams.spill(1.0)
    cold = folders.cold_stream(writer.session)
    assert names(cold) == [segment_name(0), segment_name(writer.base)]
    assert names(writer.folder) == [segment_name(writer.base)]
    assert json.loads((cold / META).read_text()) == writer.meta
    assert collect(streams, writer.session) == (writer.written, [])
    assert [status.spilled for status in streams.status()] == [writer.end]


def test_what_is_acknowledged_in_time_is_not_spilled(folders: Folders, life: Life) -> None:
    """A steady flow with acknowledgements within a second never touches the disk."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    for second in range(5):
        writer.rows(range(2))
        streams.poll(float(second))
        streams.spill(float(second))
        streams.apply(Acked(writer.session, writer.end))
    assert not folders.cold_stream(writer.session).exists()


def test_hot_wins_over_cold(folders: Folders, life: Life) -> None:
    """While both hold a segment, the newer bytes of hot are read."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    streams.poll(0.0)
    streams.spill(0.0)
    streams.spill(1.0)
    assert names(folders.cold_stream(writer.session)) == [segment_name(0)]
    writer.rows(range(5))
    streams.poll(1.2)
    assert collect(streams, writer.session) == (writer.written, [])


def test_a_spilled_segment_grows_on_disk(folders: Folders, life: Life) -> None:
    """The copy is carried on from where it stood, and is whole when the memory is gone."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    for second in range(4):
        writer.rows(range(10))
        streams.poll(float(second))
        streams.spill(float(second))
    writer.roll()
    streams.poll(4.0)
    streams.spill(5.0)
    assert segment_name(0) not in names(writer.folder)
    again = agent(folders, life)
    again.poll(0.0)
    assert collect(again, writer.session) == (writer.written, [])


def test_a_segment_the_writer_put_on_disk_is_synced(
    folders: Folders, life: Life, disk: PowerLossDisk
) -> None:
    """With memory used up the writer writes to cold itself; an outage syncs that, too."""
    streams = agent(folders, life, disk=disk)
    writer = Writer(folders, life=life)
    writer.roll(folders.cold_stream(writer.session))
    writer.rows(range(5))
    streams.poll(0.0)
    streams.spill(0.0, everything=True)
    disk.lose_power()
    life.sessions.clear()
    again = agent(folders, life, boot_id=OTHER_BOOT, disk=disk)
    again.poll(0.0)
    assert collect(again, writer.session) == (writer.written, [])


@pytest.mark.parametrize("collector_at", ["behind", "between", "ahead"])
def test_after_a_reboot_the_synced_prefix_is_believed(
    folders: Folders, life: Life, disk: PowerLossDisk, collector_at: str
) -> None:
    """The stream is closed as crashed at the later of the synced prefix and the collector."""
    streams = agent(folders, life, disk=disk)
    writer = Writer(folders, life=life)
    writer.rows(range(5))
    writer.roll()
    writer.rows(range(5))
    streams.poll(0.0)
    streams.spill(0.0, everything=True)
    synced = writer.end
    writer.rows(range(5, 8))
    streams.poll(0.2)
    disk.lose_power()
    life.sessions.clear()
    again = agent(folders, life, boot_id=OTHER_BOOT, disk=disk)
    events = again.poll(0.0)
    assert [type(event) for event in events] == [Found, Grew]
    assert collect(again, writer.session) == (writer.written[:synced], [])
    offset = {"behind": 0, "between": synced - 32, "ahead": writer.end}[collector_at]
    again.apply(Opened(writer.session, offset))
    end = max(offset, synced)
    (ended,) = events_of(again.poll(0.2), Ended)
    data, lost = collect(again, writer.session, offset)
    assert lost == []
    assert data.startswith(writer.written[offset:synced])
    closing = data[end - offset :]
    assert kinds(closing) == ["gap", "finish"]
    assert ended.end == end + len(closing)
    gap, crashed = (record.json() for record in records.scan(closing))
    assert gap["reason"] == pb.GAP_REASON_REBOOT
    assert gap["records"] is None
    assert crashed["state"] == "crashed"
    third = agent(folders, life, boot_id=OTHER_BOOT, disk=disk)
    assert events_of(third.poll(0.0), Ended) == [ended]
    assert collect(third, writer.session, offset)[0] == data
    disk.lose_power()
    fourth = agent(folders, life, boot_id="3", disk=disk)
    assert events_of(fourth.poll(0.0), Ended) == [ended]
    assert collect(fourth, writer.session, offset)[0] == data


def test_a_stream_that_was_never_spilled_is_still_closed(
    folders: Folders, life: Life, disk: PowerLossDisk
) -> None:
    """The list of open streams is on disk from the moment a stream is found."""
    streams = agent(folders, life, disk=disk)
    writer = Writer(folders, life=life)
    writer.rows(range(5))
    (found, *_) = streams.poll(0.0)
    disk.lose_power()
    life.sessions.clear()
    again = agent(folders, life, boot_id=OTHER_BOOT, disk=disk)
    assert again.poll(0.0) == [found]
    again.apply(Opened(writer.session, writer.end))
    (ended,) = events_of(again.poll(0.2), Ended)
    data, _ = collect(again, writer.session, writer.end)
    assert kinds(data) == ["gap", "finish"]
    again.apply(Acked(writer.session, ended.end))
    again.apply(Delivered(writer.session))
    assert not folders.cold_stream(writer.session).exists()


def test_bytes_beyond_the_mark_are_not_believed(
    folders: Folders, life: Life, disk: PowerLossDisk
) -> None:
    """What happened to reach the disk without a sync is not read after a change of boot."""
    streams = agent(folders, life, disk=disk)
    writer = Writer(folders, life=life)
    cold = folders.cold_stream(writer.session)
    writer.roll(cold)
    streams.poll(0.0)
    streams.spill(0.0, everything=True)
    synced = writer.end
    writer.rows(range(5))
    writer.roll(cold)
    shutil.rmtree(writer.folder)
    life.sessions.clear()
    again = agent(folders, life, boot_id=OTHER_BOOT)
    again.poll(0.0)
    assert collect(again, writer.session) == (writer.written[:synced], [])


def test_a_mark_that_does_not_match_costs_its_segment_only(
    folders: Folders, life: Life, disk: PowerLossDisk
) -> None:
    """A last segment that is not what was synced is not believed; those before it are."""
    streams = agent(folders, life, disk=disk)
    writer = Writer(folders, life=life)
    writer.rows(range(5))
    writer.roll()
    streams.poll(0.0)
    streams.spill(0.0, everything=True)
    disk.lose_power()
    path = folders.cold_stream(writer.session) / segment_name(writer.base)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    life.sessions.clear()
    again = agent(folders, life, boot_id=OTHER_BOOT, disk=disk)
    again.poll(0.0)
    assert collect(again, writer.session) == (writer.written[: writer.base], [])


@pytest.mark.parametrize("finished", [True, False])
def test_an_offline_stream_of_another_boot(folders: Folders, life: Life, finished: bool) -> None:
    """One that its writer moved to disk and finished is believed; one without a finish is not."""
    writer = Writer(folders)
    writer.rows(range(5))
    if finished:
        writer.write(finish())
    shutil.move(writer.folder, folders.cold_stream(writer.session))
    streams = agent(folders, life, boot_id=OTHER_BOOT)
    events = streams.poll(0.0)
    assert events_of(events, Ended) == ([Ended(writer.session, writer.end)] if finished else [])
    expected = writer.written if finished else b""
    assert collect(streams, writer.session) == (expected, [])
    if not finished:
        streams.apply(Opened(writer.session, 0))
        streams.poll(0.2)
        assert kinds(collect(streams, writer.session)[0]) == ["gap", "finish"]


def test_a_finished_stream_whose_last_ack_was_lost_stays_finished(
    folders: Folders, life: Life, disk: PowerLossDisk
) -> None:
    """A collector that had all of it hears nothing of a crash after a reboot."""
    streams = agent(folders, life, disk=disk)
    writer = Writer(folders, life=life)
    writer.write(finish())
    streams.poll(0.0)
    writer.die()
    streams.poll(0.2)
    shutil.rmtree(writer.folder)  # A reboot; the agent's file had reached the disk by then.
    again = agent(folders, life, boot_id=OTHER_BOOT)
    again.poll(0.0)
    again.apply(Opened(writer.session, writer.end))
    assert again.poll(0.2) == [Ended(writer.session, writer.end)]


def test_memory_that_went_with_its_container(folders: Folders, life: Life) -> None:
    """Same boot, hot gone: what is on disk counts, the rest is a gap of unknown count."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.rows(range(5))
    streams.poll(0.0)
    streams.spill(0.0, everything=True)
    synced = writer.end
    writer.rows(range(5))
    streams.poll(0.2)
    shutil.rmtree(writer.folder)
    life.sessions.clear()
    again = agent(folders, life)
    again.poll(0.0)
    again.poll(5.0)
    again.apply(Opened(writer.session, 0))
    assert len(events_of(again.poll(5.2), Ended)) == 1
    data, _ = collect(again, writer.session)
    assert data[:synced] == writer.written[:synced]
    gap = next(iter(records.scan(data[synced:]))).json()
    assert gap["reason"] == pb.GAP_REASON_VANISHED


def test_a_full_disk_keeps_the_memory(folders: Folders, life: Life) -> None:
    """What cannot be copied stays in memory, and is said; nothing is lost."""

    class FullDisk(Disk):
        full = False

        def sync_file(self, descriptor: int, path: Path) -> None:
            if self.full and path.name.endswith(".spill"):
                raise OSError(28, "No space left on device")
            super().sync_file(descriptor, path)

    disk = FullDisk()
    streams = agent(folders, life, disk=disk)
    writer = Writer(folders, life=life)
    writer.roll()
    streams.poll(0.0)
    disk.full = True
    streams.spill(0.0, everything=True)
    assert names(writer.folder) == [segment_name(0), segment_name(writer.base)]
    assert "No space" in streams.status()[0].error
    assert streams.statistics().spill_errors == 1
    disk.full = False
    streams.spill(1.0, everything=True)
    assert names(writer.folder) == [segment_name(writer.base)]
    assert collect(streams, writer.session) == (writer.written, [])


def test_the_free_space_of_the_disk_is_left(folders: Folders, life: Life) -> None:
    """With less free than cold must leave, nothing is copied."""
    streams = Streams(
        folders, node="n", boot_id=BOOT, is_alive=life, delayed=False, cold_free_bytes_min=2**60
    )
    writer = Writer(folders, life=life)
    streams.poll(0.0)
    streams.spill(0.0, everything=True)
    assert names(folders.cold_stream(writer.session)) == []
    assert "limit" in streams.status()[0].error


def test_a_stream_that_leaves_during_a_job_leaves_nothing(folders: Folders, life: Life) -> None:
    """A job that ends after its stream was delivered brings no folder back."""
    streams = agent(folders, life)
    writer = Writer(folders, life=life)
    writer.write(finish())
    streams.poll(0.0)
    writer.die()
    streams.poll(0.2)
    (job,) = streams.spill_jobs(1.0, everything=True)
    streams.apply(Acked(writer.session, writer.end))
    streams.apply(Delivered(writer.session))
    outcome = streams.carry_out(job)
    streams.spilled(outcome)
    assert streams.status() == []
    assert not folders.cold_stream(writer.session).exists()
    assert not writer.folder.exists()


@pytest.mark.parametrize("when", ["before", "between", "during"])
def test_a_writer_that_moves_to_disk_itself_is_not_undone(
    folders: Folders, life: Life, when: str
) -> None:
    """A writer that moves hot to cold at its end is not cut back by a job of ours."""
    writer = Writer(folders, life=life)
    writer.rows(range(3))
    cold = folders.cold_stream(writer.session)

    def move() -> None:
        writer.write(finish())
        cold.mkdir(exist_ok=True)
        shutil.copy(writer.path, cold / writer.path.name)
        if when != "between":
            writer.path.unlink()

    class Meddled(Disk):
        def sync_file(self, descriptor: int, path: Path) -> None:
            super().sync_file(descriptor, path)
            if when == "during" and path.name.endswith(".spill"):
                move()

    streams = agent(folders, life, disk=Meddled())
    streams.poll(0.0)
    (job,) = streams.spill_jobs(0.0, everything=True)
    if when != "during":
        move()
    outcome = streams.carry_out(job)
    streams.spilled(outcome)
    writer.path.unlink(missing_ok=True)
    writer.die()
    assert events_of(streams.poll(0.2), Ended) == [Ended(writer.session, writer.end)]
    assert collect(streams, writer.session) == (writer.written, [])
