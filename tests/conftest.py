"""What every test of the suite gets without asking: a look at what it left running.

Invariant: a test ends with the threads and the child processes that it began with.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

GONE_WITHIN_S = 5.0
"""How long a thread or process that was told to end may take: a loaded machine is no leak."""

LIBRARIES_OWN = ("_poll_wrapper",)
"""Threads that a library starts once and keeps for its process: grpc.aio's poller."""


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a thread or a child process behind fails here, under its own name."""
    threads, children = set(threading.enumerate()), set(child_processes())
    yield
    left = [f"thread {thread.name}" for thread in threads_left_by(threads)]
    left += [f"process {pid} ({command(pid)})" for pid in processes_left_by(children)]
    if left:
        pytest.fail(f"{request.node.nodeid} left running: {', '.join(left)}", pytrace=False)


def threads_left_by(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that are not in before and do not end in time."""
    deadline = time.monotonic() + GONE_WITHIN_S
    left = []
    for thread in set(threading.enumerate()) - before:
        if any(name in thread.name for name in LIBRARIES_OWN):
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            left.append(thread)
    return left


def processes_left_by(before: set[int]) -> list[int]:
    """Children that are not in before and do not end in time. What has ended is not running."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while left := [pid for pid in child_processes() if pid not in before and is_running(pid)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return []


def child_processes() -> Iterable[int]:
    """The children of this process, but for multiprocessing's own helper, which outlives a test."""
    helper = getattr(resource_tracker._resource_tracker, "_pid", None)
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            listed = task.read_text().split()
        except OSError:  # The thread has ended since.
            continue
        yield from (int(pid) for pid in listed if int(pid) != helper)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended: a zombie only waits to be asked how it went."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def command(pid: int) -> str:
    """The command line of a process, for a message."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "ended since"
    return os.fsdecode(b" ".join(words)).strip()[:200]
