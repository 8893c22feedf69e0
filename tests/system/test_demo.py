"""The demo, as people run it: what it prints, and that it ends what it started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import command, is_running
from tests.tidy.sources import ROOT

pytestmark = pytest.mark.system

PATIENCE_S = 100.0
MARK = "TEST_OF_THE_DEMO"
"""A variable that all processes of a demo inherit."""


def start(kept: Path) -> subprocess.Popen[str]:
    """The demo, with its data in a folder of the test's."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "demo.py"), "--data", str(kept)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "100", MARK: str(kept)},
    )


def left_running(kept: Path) -> list[str]:
    """Command lines of all that this demo started: its environment names the test's folder."""
    running = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:  # It has ended since, or is somebody else's.
            continue
        if os.fsencode(f"{MARK}={kept}\0") in environment and is_running(int(process.name)):
            running.append(command(int(process.name)))
    return running


def test_the_demo_shows_one_run_of_four_ranks(tmp_path: Path) -> None:
    """It ends well, with four finished ranks in one finished run, and nothing is left running."""
    with start(tmp_path) as demo:
        said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, said
    assert re.search(r"digits/demo-\S+ is finished \(ended\)", said), said
    accuracy = re.search(r"([\d.]+)% are read right", said)
    assert accuracy is not None
    assert float(accuracy[1]) > 90, said
    rows = re.findall(r"^│ (\d) +│ finished │ 329 +│ (\d+) ", said, flags=re.MULTILINE)
    assert rows == [("0", "360"), ("1", "330"), ("2", "330"), ("3", "330")], said
    assert said.count("4 of 4") == 8
    assert left_running(tmp_path) == []


@pytest.mark.parametrize("times", [1, 3], ids=["once", "again-and-again"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_demo_that_is_stopped_ends_what_it_started(
    number: signal.Signals, times: int, tmp_path: Path
) -> None:
    """Stopped in the middle of the training, it says so, and no program goes on without it."""
    with start(tmp_path) as demo:
        deadline = time.monotonic() + PATIENCE_S
        while not (tmp_path / "training.log").exists():
            assert demo.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = left_running(tmp_path)
        for _ in range(times):
            demo.send_signal(number)
            time.sleep(0.02)  # Signals that come at once are one; its length decides nothing.
        said, _ = demo.communicate(timeout=PATIENCE_S)
    assert len(started) >= 3, started  # The demo, the collector, the agent; maybe the training.
    assert demo.returncode == 130, said
    assert "Stopped; all that was started has ended." in said
    assert left_running(tmp_path) == []


def test_a_demo_whose_collector_cannot_start_says_why(tmp_path: Path) -> None:
    """A data folder that cannot be used fails the demo with the collector's own words."""
    (tmp_path / "collector").write_text("a file where a folder should be")
    with start(tmp_path) as demo:
        said, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert "The demo failed: the collector ended at once" in said
    assert str(tmp_path / "collector") in said.replace("\n", "")
    assert left_running(tmp_path) == []
