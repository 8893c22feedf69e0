"""How much the record log takes, where memory and disks are small."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.quota import Quota, cgroup_headroom_bytes, used_bytes
from plait.values import Flaws
from plait.writer import Writer
from plaitwire.folders import Folders, resolve
from plaitwire.limits import HOT_BYTES_MAX, KIB, MIB
from plaitwire.records import Kind
from tests.sdk import logs


def write(path: Path, text: str) -> None:
    """A file of a supplied tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def v2(root: Path, limit: str, *, current: int = 0, cached: int = 0) -> None:
    """A cgroup v2 tree with this process two levels below the limit."""
    write(root / "proc/self/cgroup", "0::/job/rank\n")
    for folder in ("sys/fs/cgroup/job/rank", "sys/fs/cgroup/job"):
        write(root / folder / "memory.max", "max\n" if folder.endswith("rank") else limit)
        write(root / folder / "memory.current", f"{current}\n")
        write(root / folder / "memory.stat", f"anon 5\ninactive_file {cached}\nactive_file 0\n")


def v1(root: Path, limit: int, usage: int) -> None:
    """A cgroup v1 tree, as within a container that sees the host's path and not its folder."""
    write(root / "proc/self/cgroup", "3:cpu:/\n4:memory:/docker/abc\n0::/\n")
    write(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{limit}\n")
    write(root / "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{usage}\n")


def test_headroom_of_v2(tmp_path: Path) -> None:
    """The tightest limit on the way up counts, and the page cache counts as free."""
    v2(tmp_path, f"{100 * MIB}\n", current=90 * MIB, cached=30 * MIB)
    assert cgroup_headroom_bytes(tmp_path) == 40 * MIB


def test_headroom_without_a_limit(tmp_path: Path) -> None:
    """Without a limit, or without cgroups, there is none."""
    assert cgroup_headroom_bytes(tmp_path) is None
    v2(tmp_path, "max\n")
    assert cgroup_headroom_bytes(tmp_path) is None
    v1(tmp_path, 2**63 - 4096, 5)
    assert cgroup_headroom_bytes(tmp_path) is None


def test_headroom_of_v1(tmp_path: Path) -> None:
    """In a container the mounted cgroup is taken where the named one is not there."""
    v1(tmp_path, 64 * MIB, 60 * MIB)
    assert cgroup_headroom_bytes(tmp_path) == 4 * MIB


def test_headroom_used_up(tmp_path: Path) -> None:
    """Beyond its limit a cgroup has no headroom, and not less than none."""
    v1(tmp_path, 64 * MIB, 65 * MIB)
    assert cgroup_headroom_bytes(tmp_path) == 0


def test_hot_is_what_all_streams_share(folders: Folders, tmp_path: Path) -> None:
    """A second writer finds what the first one took."""
    quota = Quota(root=tmp_path)
    before = quota.hot_bytes_left(folders.hot)
    assert before <= HOT_BYTES_MAX
    first = Writer(folders, logs.meta(), quota=quota)
    taken = used_bytes(folders.hot / "streams")
    assert taken >= 64 * KIB
    assert quota.hot_bytes_left(folders.hot) == before - taken
    first.close()


def test_a_small_cgroup_goes_to_disk(folders: Folders, tmp_path: Path) -> None:
    """With an eighth of the headroom used, segments go to cold, and no row is lost."""
    v2(tmp_path / "root", f"{MIB}\n", current=0)
    quota = Quota(root=tmp_path / "root", cold_free_bytes_min=0)
    writer = Writer(folders, logs.meta(), quota=quota)
    for at in range(10_000):
        writer.log({"a": float(at), "b": 0.5})
    assert used_bytes(folders.hot / "streams") <= MIB // 8 + 64 * KIB
    assert len(logs.rows(folders, writer.meta.session)) == 10_000
    writer.close()


IN_CGROUP = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
import plait
run = plait.init("tests", id="r")
for at in range(200_000):
    run.log({"a": float(at), "b": 0.5, "c": 0.25})
hot = sum(os.stat(os.path.join(folder, name)).st_blocks * 512
          for folder, _, names in os.walk(os.environ["PLAIT_HOT_DIR"]) for name in names)
print(hot, flush=True)
os._exit(0)
"""


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup (v1) of 64 MiB."""
    folder = Path(f"/sys/fs/cgroup/memory/plait-test-{os.getpid()}")
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(64 * MIB))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no memory cgroup v1 can be made here: {error}")
    yield folder
    folder.rmdir()


def test_in_a_real_memory_cgroup(folders: Folders, small_cgroup: Path) -> None:
    """In 64 MiB of memory a rank logs without end, keeps to its share, and is not killed."""
    done = logs.run_python(IN_CGROUP, folders, str(small_cgroup))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 8 * MIB
    (session,) = logs.sessions(folders)
    dropped = sum(gap["records"] for gap in logs.bodies(folders, session, Kind.GAP))
    assert len(logs.rows(folders, session)) + dropped == 200_000


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 MiB of its own."""
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)


@pytest.fixture
def small(small_tmpfs: Path, tmp_path: Path) -> Folders:
    """Folders whose hot one is on the small tmpfs."""
    environ = {"PLAIT_HOT_DIR": str(small_tmpfs / "hot"), "PLAIT_DIR": str(tmp_path / "cold")}
    return resolve(environ, os.geteuid())


def test_half_of_a_small_tmpfs_stays_free(small: Folders) -> None:
    """Hot keeps to an eighth of its tmpfs; the rest is for those who need shared memory."""
    writer = Writer(small, logs.meta(), quota=Quota(cold_free_bytes_min=0))
    for at in range(50_000):
        writer.log({"a": float(at), "b": 0.5})
    assert used_bytes(small.hot / "streams") <= 512 * KIB
    assert len(logs.rows(small, writer.meta.session)) == 50_000
    writer.close()


def test_a_full_tmpfs_is_an_error_at_the_roll(small: Folders) -> None:
    """Somebody fills the tmpfs: what is mapped can be written, the rest is counted as a gap."""
    quota = Quota(cold_bytes_max=0, retry_interval_s=0)
    writer = Writer(small, logs.meta(), quota=quota, flaws=Flaws(lambda text: None))
    filling = small.hot.parent / "filling"
    with open(filling, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4 * KIB)):
            pass
    for at in range(10_000):
        writer.log({"a": float(at), "b": 0.5})
    dropped = writer.statistics().dropped
    assert dropped > 0
    filling.unlink()
    writer.log({"a": -1.0, "b": 0.5})
    session = writer.meta.session
    assert sum(gap["records"] for gap in logs.bodies(small, session, Kind.GAP)) == dropped
    values = [row.values["a"] for row in logs.rows(small, session)]
    assert values == [*map(float, range(10_000 - dropped)), -1.0]
    writer.close()
