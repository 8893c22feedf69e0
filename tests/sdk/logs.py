"""What the SDK's tests share: streams read back, and child processes that end."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from plait.identity import Meta
from plaitwire.folders import Folders, segment_base
from plaitwire.records import (
    FLAG_CONTINUED,
    SEGMENT_HEADER,
    Kind,
    Record,
    scan,
    unpack_segment_header,
)


class Row(NamedTuple):
    """A row, as a reader sees it."""

    step: int
    values: dict[str, float]


def meta(label: str = "0") -> Meta:
    """A root session of a run that exists nowhere else."""
    return Meta.of_this_process(kind="run", project="tests", run="run", label=label, argv=["test"])


def segments(folders: Folders, session: str) -> list[tuple[int, memoryview]]:
    """Base and committed record bytes of each segment, in order; hot wins over cold."""
    found: dict[int, Path] = {}
    for folder in (folders.cold_stream(session), folders.hot_stream(session)):
        for path in folder.glob("*.log"):
            base = segment_base(path.name)
            assert base is not None
            found[base] = path
    read = []
    for base in sorted(found):
        data = found[base].read_bytes()
        said, committed = unpack_segment_header(data)
        assert said == base
        start = SEGMENT_HEADER.size
        assert len(data) >= start + committed
        read.append((base, memoryview(data)[start : start + committed]))
    for (base, held), (following, _) in itertools.pairwise(read):
        assert base + len(held) == following, "a segment's base is the former one's end"
    return read


def records(folders: Folders, session: str) -> list[tuple[Record, tuple[str, ...]]]:
    """Each record of a stream, with the keys its schema id stands for in its segment."""
    read = []
    for _, data in segments(folders, session):
        schemas: dict[int, tuple[str, ...]] = {}
        for record in scan(data):
            if record.kind is Kind.SCHEMA:
                schemas[record.schema] = tuple(record.json())
            keys = schemas[record.schema] if record.kind is Kind.ROW else ()
            read.append((record, keys))
    return read


def rows(folders: Folders, session: str) -> list[Row]:
    """The rows of a stream."""
    return [
        Row(record.step, dict(zip(keys, record.body.cast("d"), strict=True)))
        for record, keys in records(folders, session)
        if record.kind is Kind.ROW
    ]


def bodies(folders: Folders, session: str, kind: Kind) -> list[Any]:
    """The JSON of the stream's records of a kind, continued ones joined."""
    found, begun = [], b""
    for record, _ in records(folders, session):
        if record.kind is not kind:
            begun = b""  # A body that another record follows was cut short.
            continue
        begun += bytes(record.body)
        if not record.flags & FLAG_CONTINUED:
            found.append(json.loads(begun))
            begun = b""
    return found


def sessions(folders: Folders) -> list[str]:
    """The streams that are in either folder."""
    return sorted(
        {path.name for root in (folders.hot, folders.cold) for path in (root / "streams").iterdir()}
    )


def meta_of(folders: Folders, session: str) -> dict[str, Any]:
    """meta.json of a stream, wherever it is."""
    for folder in (folders.hot_stream(session), folders.cold_stream(session)):
        if (folder / "meta.json").exists():
            found = json.loads((folder / "meta.json").read_bytes())
            assert isinstance(found, dict)
            return found
    raise AssertionError(f"no meta.json of {session}")


_ASK_FOR_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("locked")
"""


def is_locked(folders: Folders, session: str) -> bool:
    """Whether somebody holds the lock of a stream's writer. Another process asks: closing the file
    here would drop a lock of ours."""
    path = folders.hot_stream(session) / "alive"
    done = run_python(_ASK_FOR_LOCK, folders, str(path))
    assert done.returncode == 0, done.stderr
    return str(done.stdout) == "locked\n"


def run_python(code: str, folders: Folders, *arguments: str, **variables: str) -> Any:
    """Run a program to its end, with its record logs in folders."""
    environ = {
        **os.environ,
        "PLAIT_HOT_DIR": str(folders.hot),
        "PLAIT_DIR": str(folders.cold),
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def opcodes(limit: int) -> Iterator[int]:
    """0, 1, 2, … : which instruction to strike at, until the caller stops asking."""
    yield from range(limit)
    raise AssertionError(f"no end after {limit} instructions")
