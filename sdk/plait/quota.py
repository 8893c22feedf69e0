"""How much a new segment may take, in memory and on disk.

This is looked at when a segment rolls, never per call. Hot, in memory, is what all streams of one
user share: the least of a fixed bound, a share of the tmpfs and a share of the memory cgroup's
headroom, and half of the tmpfs stays free whoever filled the rest. Cold, on disk, is bounded for
each stream, above a floor of free space.

In a memory cgroup a tmpfs that grows ends in the OOM killer, not in an error: so its headroom
counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plaitwire.folders import STREAMS
from plaitwire.limits import (
    COLD_BYTES_MAX,
    COLD_FREE_BYTES_MIN,
    HOT_BYTES_MAX,
    HOT_FILESYSTEM_SHARE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What the segments of a user may take. The defaults are the limits, tests set smaller ones."""

    hot_bytes_max: int = HOT_BYTES_MAX
    """Hot, of all streams of the user."""
    cold_bytes_max: int = COLD_BYTES_MAX
    """Cold, of one stream."""
    cold_free_bytes_min: int = COLD_FREE_BYTES_MIN
    """What stays free on cold's file system."""
    retry_interval_s: float = 0.1
    """After a roll that found no room, how long rows are dropped before the next look."""
    root: Path = Path("/")
    """Where /proc and /sys are found."""

    def hot_bytes_left(self, hot: Path) -> int:
        """What a new segment in hot may take, in bytes; 0 or less: nothing.

        Raises:
            OSError: the folder cannot be looked at.
        """
        file_system = os.statvfs(hot)
        total = file_system.f_blocks * file_system.f_frsize
        free = file_system.f_bavail * file_system.f_frsize
        share = min(self.hot_bytes_max, total // HOT_FILESYSTEM_SHARE)
        headroom = cgroup_headroom_bytes(self.root)
        if headroom is not None:
            share = min(share, headroom // HOT_FILESYSTEM_SHARE)
        return min(share - used_bytes(hot / STREAMS), free - total // 2)

    def cold_bytes_left(self, cold: Path, stream: Path) -> int:
        """What a new segment of a stream in cold may take, in bytes; 0 or less: nothing.

        Raises:
            OSError: the folder cannot be looked at.
        """
        file_system = os.statvfs(cold)
        free = file_system.f_bavail * file_system.f_frsize
        return min(self.cold_bytes_max - _files_bytes(stream), free - self.cold_free_bytes_min)


def used_bytes(streams: Path) -> int:
    """What the files of all streams in a folder take, in bytes."""
    return sum(_files_bytes(streams / session) for session in _listed(streams))


def _files_bytes(folder: Path) -> int:
    used = 0
    for name in _listed(folder):
        try:
            used += os.stat(folder / name, follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:  # Acknowledged and deleted since it was listed.
            continue
    return used


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def cgroup_headroom_bytes(root: Path = Path("/")) -> int | None:
    """What this process's memory cgroup, or one above it, can still take; None without a limit.

    The page cache of files counts as free: the kernel gives it up before it kills.

    Args:
        root: where /proc and /sys are found.
    """
    left: int | None = None
    for folder, limit, usage, caches in _memory_cgroups(root):
        bound = _number(folder / limit)
        used = _number(folder / usage)
        if bound is None or used is None or bound >= 2**62:  # v1 says "none" with a huge number.
            continue
        headroom = max(0, bound - used + _cached(folder / "memory.stat", caches))
        left = headroom if left is None else min(left, headroom)
    return left


_V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


def _memory_cgroups(root: Path) -> Iterator[tuple[Path, str, str, tuple[str, str]]]:
    """The folders of the cgroup and those above it, with the names of the files to read there."""
    try:
        table = (root / "proc/self/cgroup").read_text()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in table.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            top, names = mounts / "memory", _V1
        elif not controllers:
            top, names = mounts, _V2
        else:
            continue
        # Within a container the path may be the host's: then what is mounted is the cgroup itself.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield (top.joinpath(*parts[:depth]), *names)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cached(stat: Path, names: tuple[str, str]) -> int:
    try:
        fields = dict(line.split(" ", 1) for line in stat.read_text().splitlines() if " " in line)
    except OSError:
        return 0
    return sum(int(fields[name]) for name in names if fields.get(name, "").isdigit())
