"""Where record logs live on a node, and what their files are called.

A stream is one directory name in two places: hot, on a tmpfs, where segments are written, and
cold, on disk, where they go when hot is full, when an outage lasts, or when a run ends and no agent
is there. SDK and agent find both with this module, so that both look at the same files.

    streams/<session>/
      meta.json                     what the stream is; there before anything else is visible
      00000000000000000000.log      a segment, named by the stream offset of its first record byte
      status                        one mapped page: what was dropped, and how much of it was told
      alive                         held by a POSIX record lock for the life of the writer

Rule: standard library only. A rank imports this module.
Rule: a folder that others could write to, or that leads elsewhere, is never used.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

META: Final = "meta.json"
STATUS: Final = "status"
ALIVE: Final = "alive"
STREAMS: Final = "streams"
CONTROL_SOCKET: Final = "agent.sock"
"""In hot: the agent's control socket."""

STATUS_PAGE: Final = struct.Struct("<8sIIQQQQ")
"""magic, version, reason (a GapReason), dropped, reported, first offset, reserved."""
STATUS_MAGIC: Final = b"plaitsta"
STATUS_VERSION: Final = 1
STATUS_BYTES: Final = 4096
STATUS_REASON_AT: Final = 12
STATUS_DROPPED_AT: Final = 16
STATUS_REPORTED_AT: Final = 24
STATUS_FIRST_AT: Final = 32

MOUNTINFO: Final = Path("/proc/self/mountinfo")
# fmt: off
NETWORK_FILESYSTEMS: Final = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.afp", "fuse.ceph", "fuse.dfuse",
    "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.mount-s3",
    "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
    "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs",
))
# fmt: on
"""Where a mapped file may stall, or not be seen by others, for as long as a server is away."""

_SEGMENT: Final = re.compile(r"(\d{20})\.log")


class UnusableFolder(OSError):
    """A folder cannot hold record logs. The message says which, what is wrong, what to set."""


@dataclass(frozen=True, slots=True)
class Folders:
    """The two roots of a user's record logs on a node."""

    hot: Path
    """In memory, on a tmpfs. Streams are hot/streams/<session>/."""
    cold: Path
    """On disk. Streams are cold/streams/<session>/."""
    notices: tuple[str, ...] = ()
    """What people should be told once about how these were chosen."""

    def hot_stream(self, session: str) -> Path:
        """Where a session's segments are written."""
        return self.hot / STREAMS / session

    def cold_stream(self, session: str) -> Path:
        """Where a session's segments are kept on disk."""
        return self.cold / STREAMS / session

    @property
    def control_socket(self) -> Path:
        """Where this user's agent listens on this node."""
        return self.hot / CONTROL_SOCKET


@dataclass(frozen=True, slots=True)
class DropStatus:
    """What a status page says about records that were dropped on purpose."""

    reason: int
    """A GapReason: why the last one was dropped."""
    dropped: int
    """Records dropped so far."""
    reported: int
    """How many of those a gap record has already told."""
    first_offset: int
    """Stream offset at which the first of the untold ones would have stood."""

    @property
    def untold(self) -> int:
        """Dropped records that no gap record tells yet."""
        return max(0, self.dropped - self.reported)


def segment_name(base: int) -> str:
    """The file name of the segment whose first record byte has the stream offset base."""
    return f"{base:020d}.log"


def segment_base(name: str) -> int | None:
    """The base that a segment's file name tells; None for a file that is no segment."""
    found = _SEGMENT.fullmatch(name)
    return int(found.group(1)) if found else None


def pack_status(status: DropStatus) -> bytes:
    """The beginning of a status page; the rest of the page is zeros."""
    return STATUS_PAGE.pack(
        STATUS_MAGIC,
        STATUS_VERSION,
        status.reason,
        status.dropped,
        status.reported,
        status.first_offset,
        0,
    )


def unpack_status(page: bytes) -> DropStatus | None:
    """What a status page says; None where it is no such page, or one of another version."""
    if len(page) < STATUS_PAGE.size:
        return None
    magic, version, reason, dropped, reported, first, _ = STATUS_PAGE.unpack_from(page)
    if magic != STATUS_MAGIC or version != STATUS_VERSION:
        return None
    return DropStatus(reason, dropped, reported, first)


def filesystem_type(path: Path, *, mountinfo: Path = MOUNTINFO) -> str:
    """What kind of file system a path is on: "tmpfs", "ext4", "nfs4"; "" where nobody can say.

    Args:
        path: need not exist; its nearest existing parent is looked at.
        mountinfo: the table of mounts, in the kernel's format.
    """
    real = os.path.realpath(path)
    try:
        table = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    best, kind = -1, ""
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 7 or "-" not in fields:
            continue
        mounted = _unescaped(fields[4])
        inside = real == mounted or real.startswith(mounted.rstrip("/") + "/")
        # Of two mounts on one place the later line is on top.
        if inside and len(mounted) >= best:
            best, kind = len(mounted), fields[fields.index("-", 6) + 1]
    return kind


def resolve(
    environ: Mapping[str, str], uid: int, *, root: Path = Path("/"), mountinfo: Path = MOUNTINFO
) -> Folders:
    """The folders of a user's record logs, made where they are missing.

    PLAIT_HOT_DIR and PLAIT_DIR name them. Otherwise hot is /run/plait/<uid> where a system daemon
    made that, else /dev/shm/plait-<uid>; cold is /var/lib/plait/<uid> where a system daemon made
    that, else the user's state directory, else, where that is on a network file system or cannot
    be made, /var/tmp/plait-<uid>.

    Args:
        environ: the process's environment.
        uid: whose folders; normally os.geteuid().
        root: where /run, /dev, /var are found.
        mountinfo: the table of mounts, in the kernel's format.

    Raises:
        UnusableFolder: a folder has the wrong owner or mode, is a symbolic link, cannot be made, or
            is on the wrong kind of file system.
    """
    hot = _hot(environ, uid, root)
    if (kind := filesystem_type(hot, mountinfo=mountinfo)) != "tmpfs":
        raise UnusableFolder(
            f"{hot} is on {kind or 'an unknown file system'}, and the record log is written in "
            "memory: set PLAIT_HOT_DIR to a folder of your own on a tmpfs, such as one in /dev/shm"
        )
    cold, notices = _cold(environ, uid, root, mountinfo)
    return Folders(hot, cold, notices)


def make_private(path: Path, uid: int, variable: str) -> Path:
    """Make a folder that is its user's alone, or check that it is; its streams folder with it.

    Args:
        path: the folder; made with mode 0700 where it is missing.
        uid: who must own it.
        variable: the setting to name when it is unusable.

    Raises:
        UnusableFolder: it is a symbolic link or no folder, somebody else's, open to others, or
            cannot be made.
    """
    for folder in (path, path / STREAMS):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            found = os.lstat(folder)
        except OSError as error:
            raise UnusableFolder(
                f"{folder} cannot be made: {error.strerror}; set {variable} to a folder of your own"
            ) from error
        if (flaw := _flaw(found, uid)) is not None:
            raise UnusableFolder(f"{folder} {flaw}, or set {variable} to another folder")
    if not os.access(path / STREAMS, os.W_OK | os.X_OK):
        raise UnusableFolder(f"{path} cannot be written; set {variable} to another folder")
    return path


def _flaw(found: os.stat_result, uid: int) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link, which is not followed: name the folder it leads to"
    if not stat.S_ISDIR(found.st_mode):
        return "is no folder: move it away"
    if found.st_uid != uid:
        return f"belongs to user {found.st_uid} and not to user {uid}: have it removed"
    if found.st_mode & 0o077:
        return (
            f"is open to others (mode {stat.S_IMODE(found.st_mode):04o}): make it yours alone "
            "with chmod 700"
        )
    return None


def _hot(environ: Mapping[str, str], uid: int, root: Path) -> Path:
    if named := environ.get("PLAIT_HOT_DIR"):
        return make_private(Path(os.path.abspath(named)), uid, "PLAIT_HOT_DIR")
    if (made := root / "run/plait" / str(uid)).is_dir():
        return make_private(made, uid, "PLAIT_HOT_DIR")
    if not (root / "dev/shm").is_dir():
        raise UnusableFolder(
            f"there is no {root / 'dev/shm'}: set PLAIT_HOT_DIR to a folder of your own on a tmpfs"
        )
    return make_private(root / f"dev/shm/plait-{uid}", uid, "PLAIT_HOT_DIR")


def _cold(
    environ: Mapping[str, str], uid: int, root: Path, mountinfo: Path
) -> tuple[Path, tuple[str, ...]]:
    if named := environ.get("PLAIT_DIR"):
        chosen = Path(os.path.abspath(named))
        kind = filesystem_type(chosen, mountinfo=mountinfo)
        if kind in NETWORK_FILESYSTEMS and environ.get("PLAIT_FORCE_NETWORK_DIR") != "1":
            raise UnusableFolder(
                f"PLAIT_DIR is {chosen}, which is on {kind}, a network file system: a server that "
                "is slow would hold up training. Set PLAIT_DIR to a local folder, or "
                "PLAIT_FORCE_NETWORK_DIR=1 if it must be this one"
            )
        return make_private(chosen, uid, "PLAIT_DIR"), ()
    if (made := root / "var/lib/plait" / str(uid)).is_dir():
        return make_private(made, uid, "PLAIT_DIR"), ()
    state = _state_directory(environ, uid)
    local = root / f"var/tmp/plait-{uid}"
    if (kind := filesystem_type(state, mountinfo=mountinfo)) in NETWORK_FILESYSTEMS:
        why = f"{state} is on {kind}, a network file system"
    else:
        try:
            return make_private(state, uid, "PLAIT_DIR"), ()
        except UnusableFolder as error:
            if state.exists():
                raise
            why = str(error.__cause__ or error)
    return make_private(local, uid, "PLAIT_DIR"), (f"{why}: using {local}",)


def _state_directory(environ: Mapping[str, str], uid: int) -> Path:
    if (state := environ.get("XDG_STATE_HOME")) and os.path.isabs(state):
        return Path(state) / "plait"
    home = environ.get("HOME")
    if not home:
        import pwd  # Only here, and only Unix has it.

        try:
            home = pwd.getpwuid(uid).pw_dir
        except KeyError:  # A container's user without an entry.
            home = "/nonexistent"
    return Path(os.path.abspath(home)) / ".local/state/plait"


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), field)
