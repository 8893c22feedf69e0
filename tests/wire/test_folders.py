"""Where record logs live, and which folders are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaitwire.folders import (
    NETWORK_FILESYSTEMS,
    STATUS_BYTES,
    DropStatus,
    Folders,
    UnusableFolder,
    filesystem_type,
    pack_status,
    resolve,
    segment_base,
    segment_name,
    unpack_status,
)

UID = os.geteuid()


class Machine:
    """A tree of folders, and a table of mounts that says what they are on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mountinfo = root / "mountinfo"
        self.mounts = {"/": "ext4", str(root / "dev/shm"): "tmpfs", str(root / "run"): "tmpfs"}
        for folder in ("dev/shm", "var/tmp", "home/ada"):
            (root / folder).mkdir(parents=True)

    def environ(self, **variables: str) -> dict[str, str]:
        """The environment of a user with a home here."""
        return {"HOME": str(self.root / "home/ada"), **variables}

    def resolve(self, **variables: str) -> Folders:
        """The folders found here."""
        lines = [
            f"{at} 1 8:{at} / {place} rw,relatime shared:1 - {kind} source rw\n"
            for at, (place, kind) in enumerate(self.mounts.items())
        ]
        self.mountinfo.write_text("".join(lines))
        environ = self.environ(**variables)
        return resolve(environ, UID, root=self.root, mountinfo=self.mountinfo)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with a tmpfs and a home on a local disk."""
    return Machine(tmp_path)


def test_defaults(machine: Machine) -> None:
    """Hot is in shared memory, cold in the user's state directory; both are the user's alone."""
    found = machine.resolve()
    assert found.hot == machine.root / f"dev/shm/plait-{UID}"
    assert found.cold == machine.root / "home/ada/.local/state/plait"
    assert found.notices == ()
    for folder in (found.hot, found.cold, found.hot / "streams", found.cold / "streams"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert machine.resolve() == found


def test_a_system_daemons_folders_win(machine: Machine) -> None:
    """What a system daemon made for the user is used."""
    for folder in (f"run/plait/{UID}", f"var/lib/plait/{UID}"):
        (machine.root / folder).mkdir(parents=True, mode=0o700)
    found = machine.resolve()
    assert found.hot == machine.root / f"run/plait/{UID}"
    assert found.cold == machine.root / f"var/lib/plait/{UID}"


def test_named_folders_win(machine: Machine) -> None:
    """PLAIT_HOT_DIR and PLAIT_DIR name the folders."""
    hot, cold = machine.root / "dev/shm/mine", machine.root / "deep/er"
    found = machine.resolve(PLAIT_HOT_DIR=str(hot), PLAIT_DIR=str(cold))
    assert (found.hot, found.cold) == (hot, cold)
    assert found.control_socket == hot / "agent.sock"


@pytest.mark.parametrize("kind", sorted(NETWORK_FILESYSTEMS))
def test_a_home_on_the_network(machine: Machine, kind: str) -> None:
    """Cold falls back to this machine's disk where the home is on a network, and says so."""
    machine.mounts[str(machine.root / "home")] = kind
    found = machine.resolve()
    assert found.cold == machine.root / f"var/tmp/plait-{UID}"
    assert len(found.notices) == 1
    assert kind in found.notices[0]
    assert str(found.cold) in found.notices[0]


def test_a_named_folder_on_the_network(machine: Machine) -> None:
    """PLAIT_DIR on a network file system is refused, unless it is forced."""
    machine.mounts[str(machine.root / "home")] = "nfs4"
    named = str(machine.root / "home/ada/logs")
    with pytest.raises(UnusableFolder, match=r"nfs4.*PLAIT_FORCE_NETWORK_DIR"):
        machine.resolve(PLAIT_DIR=named)
    found = machine.resolve(PLAIT_DIR=named, PLAIT_FORCE_NETWORK_DIR="1")
    assert found.cold == Path(named)


def test_a_home_that_cannot_be_written(machine: Machine) -> None:
    """Where the state directory cannot be made cold falls back, and says so."""
    (machine.root / "home/ada/.local").touch()
    found = machine.resolve()
    assert found.cold == machine.root / f"var/tmp/plait-{UID}"
    assert str(found.cold) in found.notices[0]


def test_hot_must_be_in_memory(machine: Machine) -> None:
    """A hot folder that is on a disk is refused, whether named or not."""
    with pytest.raises(UnusableFolder, match=r"ext4.*PLAIT_HOT_DIR"):
        machine.resolve(PLAIT_HOT_DIR=str(machine.root / "disk"))
    machine.mounts[str(machine.root / "dev/shm")] = "overlay"
    with pytest.raises(UnusableFolder, match="overlay"):
        machine.resolve()


def test_no_shared_memory(machine: Machine) -> None:
    """Without /dev/shm the error says what to set."""
    (machine.root / "dev/shm").rmdir()
    with pytest.raises(UnusableFolder, match="PLAIT_HOT_DIR"):
        machine.resolve()


def test_others_may_not_write(machine: Machine) -> None:
    """A folder that is open to others is refused, and the way out is named."""
    hot = machine.root / f"dev/shm/plait-{UID}"
    hot.mkdir(mode=0o755)
    with pytest.raises(UnusableFolder, match="chmod 700"):
        machine.resolve()
    hot.chmod(0o700)
    machine.resolve()
    (hot / "streams").chmod(0o770)
    with pytest.raises(UnusableFolder, match="streams"):
        machine.resolve()


def test_a_link_is_not_followed(machine: Machine) -> None:
    """A symbolic link in the place of a folder is refused."""
    (machine.root / "dev/shm/elsewhere").mkdir()
    (machine.root / f"dev/shm/plait-{UID}").symlink_to(machine.root / "dev/shm/elsewhere")
    with pytest.raises(UnusableFolder, match="symbolic link"):
        machine.resolve()


def test_a_file_is_no_folder(machine: Machine) -> None:
    """A file in the place of a folder is refused."""
    (machine.root / f"dev/shm/plait-{UID}").touch()
    with pytest.raises(UnusableFolder, match="PLAIT_HOT_DIR"):
        machine.resolve()


def test_somebody_elses_folder(machine: Machine) -> None:
    """A folder that another user owns is refused."""
    if UID != 0:
        pytest.skip("only root can give a folder away")
    hot = machine.root / f"dev/shm/plait-{UID}"
    hot.mkdir(mode=0o700)
    os.chown(hot, 12345, -1)
    with pytest.raises(UnusableFolder, match="belongs to user 12345"):
        machine.resolve()


def test_filesystem_of_this_machine() -> None:
    """The kernel's own table is read: /proc is a proc."""
    assert filesystem_type(Path("/proc/self/status")) == "proc"
    assert filesystem_type(Path("/proc"), mountinfo=Path("/nowhere")) == ""


def test_the_later_mount_is_on_top(tmp_path: Path) -> None:
    """Of two mounts on one place the later counts; a place with a space is understood."""
    place = tmp_path / "a b"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    lines = ["1 0 8:1 / / rw - ext4 a rw\n"]
    lines += [
        f"2 1 8:2 / {escaped} rw shared:2 master:1 - {kind} a rw\n" for kind in ("xfs", "nfs")
    ]
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("".join(lines))
    assert filesystem_type(place / "not/there", mountinfo=mountinfo) == "nfs"
    assert filesystem_type(tmp_path / "a", mountinfo=mountinfo) == "ext4"


@given(st.integers(min_value=0, max_value=10**20 - 1))
def test_segment_names_round_trip(base: int) -> None:
    """A segment's name tells its base, and names sort as bases do."""
    assert segment_base(segment_name(base)) == base
    assert (segment_name(base) < segment_name(10**19)) == (base < 10**19)


@pytest.mark.parametrize(
    "name", ["0.log", "meta.json", ".00000000000000000000.log.tmp", "0" * 20, "0" * 20 + ".log\n"]
)
def test_what_is_no_segment(name: str) -> None:
    """A file of any other name is no segment."""
    assert segment_base(name) is None


def test_status_pages_round_trip() -> None:
    """A status page says what was packed; other bytes say nothing."""
    status = DropStatus(5, 100, 40, 4096)
    page = pack_status(status).ljust(STATUS_BYTES, b"\0")
    assert unpack_status(page) == status
    assert status.untold == 60
    for bad in (b"", page[:20], b"\0" * STATUS_BYTES, page.replace(b"plait", b"other")):
        assert unpack_status(bad) is None
