"""Writers of record logs, made with plaitwire.records alone, and a disk that can lose its power."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from plait_agent.disk import Disk
from plait_agent.effects import Chunk, Lost
from plait_agent.events import NodeEvent
from plait_agent.streams import Streams
from plaitwire import records
from plaitwire.folders import (
    ALIVE,
    META,
    STATUS,
    STATUS_BYTES,
    STREAMS,
    DropStatus,
    Folders,
    pack_status,
    segment_name,
)
from plaitwire.v1 import ingest_pb2 as pb

T = TypeVar("T")

BOOT = "11111111-1111-1111-1111-111111111111"
OTHER_BOOT = "22222222-2222-2222-2222-222222222222"
CAPACITY = 64 * 1024 - 64


def session_id(number: int) -> str:
    """The id of a test's stream."""
    return f"{number:032x}"


def make_folders(root: Path) -> Folders:
    """Hot and cold roots below root."""
    folders = Folders(root / "hot", root / "cold")
    for folder in (folders.hot, folders.cold):
        (folder / STREAMS).mkdir(parents=True, exist_ok=True)
        for each in (folder, folder / STREAMS):
            each.chmod(0o700)
    return folders


def row(step: int) -> bytes:
    """A row of one value; its schema is 0."""
    return records.pack_row(0, step, 1_000 + step, [float(step)])


def finish(code: int = 0) -> bytes:
    """A rank's own finish record."""
    body = {"exit_code": code, "state": "finished" if code == 0 else "failed", "by": "rank"}
    return records.pack_json(records.Kind.FINISH, body, time_ns=9_000)


@dataclass
class Life:
    """Which simulated writers hold their locks."""

    sessions: set[str] = field(default_factory=set)

    def __call__(self, alive: Path) -> bool:
        return alive.parent.name in self.sessions


class Writer:
    """A rank's writer: plain files, no mapping. Alive while life says so."""

    def __init__(
        self, folders: Folders, number: int = 1, *, life: Life | None = None, boot_id: str = BOOT
    ) -> None:
        self.session = session_id(number)
        self.life = life
        self.folder = folders.hot_stream(self.session)
        self.folder.mkdir()
        self.meta = {
            "session": self.session,
            "kind": "run",
            "project": "p",
            "run": "r",
            "label": str(number),
            "restart_count": 0,
            "started_ns": 500,
            "host": "h",
            "boot_id": boot_id,
            "pid": 1,
            "primary": False,
            "group": "",
            "extra": {"argv": ["train.py"]},
        }
        (self.folder / META).write_text(json.dumps(self.meta))
        (self.folder / STATUS).write_bytes(pack_status(DropStatus(0, 0, 0, 0)).ljust(STATUS_BYTES))
        (self.folder / ALIVE).write_bytes(b"")
        if life is not None:
            life.sessions.add(self.session)
        self.base = 0
        self.committed = 0
        self.written = b""
        self._file(self.folder)

    @property
    def end(self) -> int:
        """The stream's committed end."""
        return self.base + self.committed

    def _file(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True, parents=True)
        self.path = folder / segment_name(self.base)
        self.path.write_bytes(records.pack_segment_header(self.base) + bytes(CAPACITY))
        self.write(records.pack_schema(0, ["loss"]))

    def write(self, packed: bytes) -> None:
        """Commit whole records."""
        assert self.committed + len(packed) <= CAPACITY
        with open(self.path, "r+b") as file:
            file.seek(64 + self.committed)
            file.write(packed)
            file.flush()
            self.committed += len(packed)
            file.seek(0)
            file.write(records.pack_segment_header(self.base, self.committed))
        self.written += packed

    def rows(self, steps: Iterable[int]) -> None:
        """Commit a row a step."""
        self.write(b"".join(row(step) for step in steps))

    def roll(self, folder: Path | None = None) -> None:
        """Begin the next segment, in hot or in the folder given."""
        self.base, self.committed = self.end, 0
        self._file(folder or self.folder)

    def drops(self, dropped: int, reported: int = 0) -> None:
        """Say on the status page that records were dropped."""
        page = pack_status(DropStatus(pb.GAP_REASON_QUOTA, dropped, reported, self.end))
        (self.folder / STATUS).write_bytes(page.ljust(STATUS_BYTES, b"\0"))

    def die(self) -> None:
        """The kernel lets go of the lock."""
        assert self.life is not None
        self.life.sessions.discard(self.session)


class PowerLossDisk(Disk):
    """Remembers what was synced; `lose_power` leaves that, and no more."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._bytes: dict[int, bytes] = {}  # Inode to what was synced of it.
        self._names: dict[Path, dict[str, int]] = {}  # Folder to the entries that were synced.

    def sync_file(self, descriptor: int, path: Path) -> None:
        inode = os.fstat(descriptor).st_ino
        self._bytes[inode] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def sync_folder(self, folder: Path) -> None:
        entries = {entry.name: entry.inode() for entry in os.scandir(folder)}
        self._names[folder] = entries

    def lose_power(self) -> None:
        """Empty hot, and cut cold down to what was synced."""
        for entry in (self._folders.hot / STREAMS).iterdir():
            shutil.rmtree(entry)
        self._cut(self._folders.cold)

    def _cut(self, folder: Path) -> None:
        kept = self._names.get(folder)
        for entry in list(folder.iterdir()):
            if entry.is_dir():
                if kept is not None and entry.name not in kept and entry.name != STREAMS:
                    shutil.rmtree(entry)
                else:
                    self._cut(entry)
            elif kept is None or entry.name not in kept:
                entry.unlink()
            else:
                entry.write_bytes(self._bytes.get(entry.stat().st_ino, b""))


def collect(streams: Streams, session: str, offset: int = 0) -> tuple[bytes, list[Lost]]:
    """All that can be read of a stream from offset on: its bytes, and what is lost."""
    data, lost = b"", []
    while (found := streams.read(session, offset)) is not None:
        if isinstance(found, Chunk):
            data += found.payload
            offset += len(found.payload)
        else:
            lost.append(found)
            offset = found.end
    return data, lost


def kinds(data: bytes) -> list[str]:
    """The kinds of the records in data, in order."""
    return [record.kind.word for record in records.scan(data)]


def events_of(events: Iterable[NodeEvent], kind: type[T]) -> list[T]:
    """Those events that are of one kind."""
    return [event for event in events if isinstance(event, kind)]
