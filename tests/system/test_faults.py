"""Faults of whole programs and disks, with real processes: what is lost is said, and no more."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import plait
from plait_collector.store import Delete
from plait_collector.store.sqlite import SqliteStore
from plaitwire.folders import Folders
from tests.system.programs import DEADLINE_S, Site, site, wait_until
from tests.system.scene import Scene

pytestmark = pytest.mark.system

TOTAL = 3000
"""Rows of a rank: several segments."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A rank that logs, its agent and their collector, all to be treated badly."""
    with site() as here:
        scene = Scene(here, tmp_path / "pace", total=TOTAL)
        try:
            yield scene
        finally:
            scene.close()


def _finish(scene: Scene) -> tuple[list[int], tuple[plait.api.values.Gap, ...]]:
    """Let the rank end; the steps that are read back, and the gaps."""
    scene.allow(TOTAL)
    assert scene.bystander.wait(DEADLINE_S) == 0
    with plait.Api(scene.here.grpc) as api:
        wait_until(lambda: api.run("system/paced").state == "finished", "the run to be finished")
        run = api.run("system/paced")
        steps = run.history(keys=["metric/0"])["step"].to_pylist()
        return steps, run.frontier()["0"].gaps


def test_a_wiped_collector_gets_what_the_node_still_has(scene: Scene) -> None:
    """With its data deleted it begins anew: what was acknowledged and deleted is one gap."""
    scene.log_on(2000)
    scene.collector.kill()
    scene.allow(2100)
    shutil.rmtree(scene.here.data)
    scene.collector = scene.here.collector()
    steps, (gap,) = _finish(scene)
    assert (gap.reason, gap.offset, gap.records, gap.after_step) == ("deleted", 0, None, None)
    assert steps == list(range(steps[0], TOTAL))
    assert 0 < steps[0] <= 2000


def test_a_collector_back_from_a_copy_meets_again_by_a_gap(scene: Scene, tmp_path: Path) -> None:
    """It keeps what the copy had, misses what was deleted since, and takes all from there on."""
    scene.log_on(100)
    assert scene.collector.stop() == 0
    copy = tmp_path / "copy"
    shutil.copytree(scene.here.data, copy)
    scene.collector = scene.here.collector()
    scene.log_on(2500)
    scene.collector.kill()
    shutil.rmtree(scene.here.data)
    shutil.copytree(copy, scene.here.data)
    scene.collector = scene.here.collector()
    steps, (gap,) = _finish(scene)
    assert (gap.reason, gap.after_step) == ("deleted", 99)
    assert steps == [*range(100), *range(steps[100], TOTAL)]
    assert 100 < steps[100] <= 2500


def test_a_run_that_was_deleted_stays_so_while_its_rank_writes(scene: Scene) -> None:
    """The rank logs on and is told nothing; its stream is set aside, and others are taken."""
    scene.log_on(100)
    scene.collector.kill()

    async def delete() -> None:
        store = await SqliteStore.open(scene.here.data)
        await store.commit([Delete("system", "paced")])
        await store.close()

    asyncio.run(delete())
    scene.collector = scene.here.collector()
    scene.allow(2000)
    wait_until(
        lambda: any("DELETED" in line and "refused" in line for line in scene.agent.lines),
        "the agent to hear of it",
    )
    wait_until(lambda: list((scene.here.cold / "refused").glob("*/*.log")), "it to be set aside")
    other = _rank(scene.here, "run.log({'loss': 1.0}); run.finish()")
    other.communicate(timeout=DEADLINE_S)
    assert other.returncode == 0
    with plait.Api(scene.here.grpc) as api:
        assert [run.path for run in api.runs()] == ["system/other"]


def test_a_collector_that_stands_still_holds_up_no_rank(scene: Scene) -> None:
    """While it is stopped every call of log() returns; afterwards all of it arrives, once."""
    scene.log_on(10)
    scene.collector.send(signal.SIGSTOP)
    try:
        scene.allow(2500)
    finally:
        scene.collector.send(signal.SIGCONT)
    assert _finish(scene) == (list(range(TOTAL)), ())


def test_an_agent_that_ends_during_an_outage_leaves_all_to_the_next(scene: Scene) -> None:
    """Told to stop with the collector away, it has all of it on disk; the next one delivers it."""
    scene.log_on(10)
    scene.collector.kill()
    scene.allow(1500)
    assert scene.agent.stop() == 0
    (cold,) = (scene.here.cold / "streams").iterdir()
    assert list(cold.glob("*.log"))
    scene.allow(2000)
    scene.agent = scene.here.agent()
    scene.collector = scene.here.collector()
    assert _finish(scene) == (list(range(TOTAL)), ())


def test_a_full_disk_at_the_collector_is_waited_out(scene: Scene) -> None:
    """While it cannot write nothing is acknowledged, and nothing lost; freed, it goes on."""
    scene.log_on(10)
    assert scene.collector.stop() == 0
    data = scene.here.data
    aside = data.with_name("aside")
    data.rename(aside)
    data.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(data)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        shutil.copytree(aside, data, dirs_exist_ok=True)
        scene.collector = scene.here.collector()
        used = os.statvfs(data)
        (data / "ballast").write_bytes(bytes(used.f_bavail * used.f_frsize))
        scene.allow(1000)
        wait_until(
            lambda: any("cannot write" in line for line in scene.collector.lines),
            "the collector to say that it cannot write",
        )
        (data / "ballast").unlink()
        assert _finish(scene) == (list(range(TOTAL)), ())
        scene.collector.kill()
    finally:
        scene.collector.kill()
        subprocess.run(["umount", str(data)], check=True)


def _rank(here: Site, code: str) -> subprocess.Popen[str]:
    """A rank that opens the run system/other, says so, and carries out code."""
    begin = "import plait, sys; run = plait.init(project='system', id='other'); print(flush=True); "
    return subprocess.Popen(
        [sys.executable, "-c", begin + code],
        env={**os.environ, **here.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_ranks_that_die_before_their_first_row(scene: Scene) -> None:
    """One killed after init is crashed with no rows; a folder half made goes, and harms nobody."""
    unmade = Folders(scene.here.hot, scene.here.cold).hot_stream("e" * 32)
    unmade.mkdir(mode=0o700)
    rank = _rank(scene.here, "sys.stdin.read()")
    assert rank.stdout is not None
    assert rank.stdin is not None
    with rank.stdout, rank.stdin:
        assert rank.stdout.readline() == "\n"
        rank.kill()
        assert rank.wait() == -signal.SIGKILL
    with plait.Api(scene.here.grpc) as api:

        def has_crashed() -> bool:
            return any(run.path == "system/other" and run.state == "crashed" for run in api.runs())

        wait_until(has_crashed, "the run to have crashed")
        assert api.run("system/other").labels["0"].rows == 0
    wait_until(lambda: not unmade.exists(), "the folder that never became a stream to go")
    scene.log_on()
