"""What other processes see of a log: while it is written, and after its writer was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.values import Flaws
from plait.writer import Writer
from plaitwire.folders import Folders
from tests.sdk import logs


@pytest.fixture
def writer(folders: Folders) -> Iterator[Writer]:
    """A writer with an open session."""
    opened = Writer(folders, logs.meta(), flaws=Flaws(lambda text: None))
    yield opened
    opened.close()


WRITE_UNTIL_KILLED = """
import os, sys
from plait.identity import Meta
from plait.writer import Writer
from plaitwire.folders import resolve
writer = Writer(resolve(os.environ, os.geteuid()), Meta.of_this_process(
    kind="run", project="tests", run="run", label="0"))
at = 0
while True:
    writer.log({"a": float(at), "b": 0.5})
    at += 1
    if at % 100 == 0:
        os.write(1, b"%d\\n" % at)
"""


def test_returned_rows_survive_sigkill(folders: Folders) -> None:
    """After SIGKILL every row of every call that returned is there, once and in order."""
    environ = {
        **os.environ,
        "PLAIT_HOT_DIR": str(folders.hot),
        "PLAIT_DIR": str(folders.cold),
    }
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_UNTIL_KILLED], env=environ, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        for _ in range(60):
            returned = int(child.stdout.readline())
        child.kill()
        returned = max([returned, *map(int, child.stdout.read().split())])
    (session,) = logs.sessions(folders)
    values = [row.values["a"] for row in logs.rows(folders, session)]
    assert len(values) >= returned
    assert values == list(map(float, range(len(values))))


READ_COMMIT_WORD = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
words = memoryview(mapped).cast("Q")
step, last, reads = int(sys.argv[2]), 0, 0
print("ready", flush=True)
while last < int(sys.argv[3]):
    word = words[3]
    assert word >= last and (word - 16) % step == 0, (word, last)
    last = word
print("good", flush=True)
"""


def test_a_concurrent_reader_of_the_commit_word(writer: Writer) -> None:
    """Another process that reads the commit word all the time only sees ends of whole rows."""
    writer.log({"a": 1.0})
    (path,) = folders_of(writer).glob("*.log")
    row_bytes, count = 32, 1800
    goal = 16 + count * row_bytes
    arguments = [sys.executable, "-c", READ_COMMIT_WORD, str(path), str(row_bytes), str(goal)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for _ in range(count - 1):
            writer.log({"a": 1.0})
        assert child.stdout.readline() == "good\n"


def folders_of(writer: Writer) -> Path:
    """The hot folder of the writer's stream."""
    return writer.folders.hot_stream(writer.meta.session)
