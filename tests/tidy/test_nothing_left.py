"""The suite's own watch over threads and child processes catches what a test leaves running."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tests import conftest


def test_a_thread_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that goes on after its deadline is named."""
    monkeypatch.setattr(conftest, "GONE_WITHIN_S", 0.05)
    before = set(threading.enumerate())
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-behind")
    thread.start()
    try:
        assert conftest.threads_left_by(before) == [thread]
    finally:
        stop.set()
        thread.join()
    assert conftest.threads_left_by(before) == []


def test_a_process_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that goes on after its deadline is named, and one that has ended is not."""
    monkeypatch.setattr(conftest, "GONE_WITHIN_S", 0.05)
    before = set(conftest.child_processes())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert conftest.processes_left_by(before) == [child.pid]
        assert "input()" in conftest.command(child.pid)
    assert conftest.processes_left_by(before) == []
