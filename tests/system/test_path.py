"""The whole path with real processes, killed and restarted."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import plait
from tests.system.paced_rank import KEYS, value
from tests.system.programs import DEADLINE_S, Site, site, wait_until

RANKS, ROWS, VICTIM = 8, 5000, 5

pytestmark = pytest.mark.system


class Pace:
    """How far each rank may go, and how far it has come."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(16 * RANKS))
        self.path = path
        self._file = path.open("r+b")
        self._mapping = mmap.mmap(self._file.fileno(), 0)
        self.words = memoryview(self._mapping).cast("Q")

    def allow(self, rows: int) -> None:
        for label in range(RANKS):
            self.words[2 * label] = rows

    def returned(self, label: int) -> int:
        return self.words[2 * label + 1]

    def wait(self, rows: int, ranks: set[int]) -> None:
        wait_until(
            lambda: all(self.returned(label) >= rows for label in ranks), f"{rows} rows a rank"
        )

    def close(self) -> None:
        self.words.release()
        self._mapping.close()
        self._file.close()


def _start_ranks(here: Site, pace: Pace) -> list[subprocess.Popen[bytes]]:
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.system.paced_rank", str(pace.path), str(n), str(ROWS)],
            env={**os.environ, **here.environment},
            stdin=subprocess.DEVNULL,
        )
        for n in range(RANKS)
    ]


def test_every_row_is_read_back_once_whatever_was_killed(tmp_path: Path) -> None:
    """8 ranks x 5,000 rows through agents, collector and a rank killed: exactly once, in order."""
    with site() as here:
        pace = Pace(tmp_path / "pace")
        collector, agent = here.collector(), here.agent()
        ranks = _start_ranks(here, pace)
        try:
            everybody = set(range(RANKS))
            pace.allow(1000)
            pace.wait(500, everybody)
            agent.kill()
            pace.wait(1000, everybody)
            agent = here.agent()
            pace.allow(2000)
            pace.wait(1500, everybody)
            collector.kill()
            pace.wait(2000, everybody)
            collector = here.collector()
            pace.allow(3000)
            pace.wait(2500, everybody)
            ranks[VICTIM].kill()
            ranks[VICTIM].wait(DEADLINE_S)
            everybody.remove(VICTIM)
            pace.wait(3000, everybody)
            agent.kill()
            pace.allow(4000)
            pace.wait(4000, everybody)
            agent = here.agent()
            pace.allow(ROWS)
            for label in everybody:
                assert ranks[label].wait(DEADLINE_S) == 0
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        survived = pace.returned(VICTIM)
        pace.close()
        _check(here, survived)
        assert agent.stop() == 0
        assert collector.stop() == 0


def _check(here: Site, survived: int) -> None:
    with plait.Api(here.grpc) as api:
        wait_until(
            lambda: api.run("system/paced").state not in ("running", ""), "the run to have ended"
        )
        run = api.run("system/paced")
        victim = str(VICTIM)
        assert {label: view.state for label, view in run.labels.items()} == {
            str(label): "crashed" if str(label) == victim else "finished" for label in range(RANKS)
        }
        assert run.state == "finished"  # As its primary, "0".
        assert run.config == {"rows": ROWS}
        table = run.history(keys=KEYS)
        for label in range(RANKS):
            mine = table.filter(np.array(table["label"].to_pylist()) == str(label))
            rows = mine.num_rows
            if label == VICTIM:
                assert survived <= rows <= survived + 1
            else:
                assert rows == ROWS
            assert mine["step"].to_pylist() == list(range(rows))
            for number, key in enumerate(KEYS):
                wanted = [value(label, step, number) for step in range(rows)]
                assert mine[key].to_pylist() == wanted
        frontier = run.frontier()
        assert not any(entry.gaps for entry in frontier.values())
