"""A simulated rank: it writes a record log as RECORDS.md says, and remembers what it wrote."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from plaitwire import records
from plaitwire.folders import ALIVE, META, segment_name
from plaitwire.limits import SEGMENT_HEADER_BYTES
from plaitwire.records import Kind


class Rank:
    """One writer of one stream.

    Invariant: `truth` is what the stream's committed bytes are, whatever happens to the files.
    """

    def __init__(
        self, hot: Path, *, project: str, run: str, label: str, boot_id: str, rng: random.Random
    ) -> None:
        """Make the stream's folder, its meta first."""
        self.rng = rng
        self.session = rng.randbytes(16).hex()
        self.run = run
        self.folder = hot / "streams" / self.session
        self.truth = bytearray()
        self.rows = 0
        self.alive = True
        self.synced = 0
        """What the agent had promised to survive a power loss, when there was one."""
        self.step = 0
        self.bases: list[int] = []
        self.damaged: int | None = None
        """Offset from which a segment was made unreadable, if one was."""
        self.folder.mkdir(parents=True, mode=0o700)
        meta = {
            "session": self.session, "kind": "run", "project": project, "run": run, "label": label,
            "parent": "", "restart_count": 0, "started_ns": rng.randrange(10**15), "host": "host",
            "boot_id": boot_id, "pid": 1, "primary": False, "group": "", "extra": {},
        }  # fmt: skip
        temporary = self.folder / "meta.tmp"
        temporary.write_text(json.dumps(meta))
        os.chmod(temporary, 0o600)
        temporary.rename(self.folder / META)
        (self.folder / ALIVE).touch(mode=0o600)
        self._schema_known = False
        self._room = 0

    def write(self, count: int) -> None:
        """Log some rows, with an event now and then."""
        for _ in range(count):
            row = records.pack_row(0, self.step, 10**18 + self.step, [self.rng.random()])
            self.step += 1
            self.rows += 1
            self._append(row)
            if self.rng.random() < 0.05:
                values = {"text": "x" * self.rng.randrange(200)}
                self._append(records.pack_json(Kind.EVENT, values, step=self.step, time_ns=1))

    def finish(self, exit_code: int) -> None:
        """Say that the session ends, and end."""
        value = {
            "exit_code": exit_code, "state": "failed" if exit_code else "finished", "by": "rank"
        }  # fmt: skip
        self._append(records.pack_json(Kind.FINISH, value, time_ns=10**18 + self.step))
        self.alive = False

    def _append(self, record: bytes) -> None:
        if not self.bases or self._room < len(record) + 64:
            self._roll()
        if not self._schema_known:
            self._schema_known = True
            self._put(records.pack_schema(0, ["loss"]))
        self._put(record)

    def _roll(self) -> None:
        base = len(self.truth)
        self.bases.append(base)
        self._room = self.rng.choice([512, 1024, 4096])
        self._schema_known = False
        path = self.folder / segment_name(base)
        path.write_bytes(records.pack_segment_header(base) + bytes(self._room))
        os.chmod(path, 0o600)

    def _put(self, record: bytes) -> None:
        base = self.bases[-1]
        at = len(self.truth) - base
        try:
            with (self.folder / segment_name(base)).open("r+b") as file:
                file.seek(SEGMENT_HEADER_BYTES + at)
                file.write(record)
                file.flush()
                file.seek(records.COMMIT_AT)
                file.write((at + len(record)).to_bytes(8, "little"))
        except FileNotFoundError:  # The mapping of a file that somebody unlinked goes on.
            pass
        self.truth += record
        self._room -= len(record)

    def damage(self) -> None:
        """Commit what is no record, as a stray write into the mapping would have it."""
        if self.damaged is None and self.bases:
            self.damaged = len(self.truth)
            self._put(bytes(8) + self.rng.randbytes(24))
