"""A disk that forgets at a power loss what was not synced."""

from __future__ import annotations

import os
import random
from pathlib import Path

from plait_agent.disk import Disk


class ForgetfulDisk(Disk):
    """Real files; a power loss takes back what no sync has promised, or some of it."""

    def __init__(self, cold: Path, rng: random.Random) -> None:
        self._cold = cold
        self._rng = rng
        self._contents: dict[int, bytes] = {}  # By inode, as last synced.
        self._durable: dict[Path, bytes] = {}  # By name, where name and content are synced.

    def sync_file(self, descriptor: int, path: Path) -> None:
        inode = os.fstat(descriptor).st_ino
        self._contents[inode] = path.read_bytes()
        if path in self._durable:
            self._durable[path] = self._contents[inode]

    def sync_folder(self, folder: Path) -> None:
        present = set()
        for path in folder.iterdir():
            if path.is_file():
                present.add(path)
                content = self._contents.get(path.stat().st_ino)
                if content is not None:
                    self._durable[path] = content
        for path in [p for p in self._durable if p.parent == folder and p not in present]:
            del self._durable[path]

    def rename_synced(self, source: Path, target: Path) -> None:
        source.rename(target)
        self.sync_folder(target.parent)

    def lose_power(self) -> None:
        """Leave what is promised, and of the rest what chance leaves."""
        for path in [p for p in self._cold.rglob("*") if p.is_file()]:
            promised = self._durable.get(path)
            if path.read_bytes() == promised or self._rng.random() < 0.3:
                continue
            if promised is not None:
                path.write_bytes(promised)
            else:
                path.unlink()
        for path, content in self._durable.items():
            if not path.exists() and path.parent.exists() and self._rng.random() < 0.5:
                path.write_bytes(content)
                os.chmod(path, 0o600)
        self._contents = {p.stat().st_ino: p.read_bytes() for p in self._files()}
        self._durable = {p: self._contents[p.stat().st_ino] for p in self._files()}

    def _files(self) -> list[Path]:
        return [p for p in self._cold.rglob("*") if p.is_file()]
