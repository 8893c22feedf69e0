"""Folders on a real tmpfs and a real disk, gone after each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plaitwire.folders import Folders, filesystem_type, resolve


@pytest.fixture
def hot_root() -> Iterator[Path]:
    """An empty folder on a tmpfs."""
    if filesystem_type(Path("/dev/shm")) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    folder = tempfile.mkdtemp(prefix="plait-test-", dir="/dev/shm")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folders(hot_root: Path, tmp_path: Path) -> Folders:
    """A hot and a cold folder."""
    environ = {"PLAIT_HOT_DIR": str(hot_root / "hot"), "PLAIT_DIR": str(tmp_path / "cold")}
    return resolve(environ, os.geteuid())


@pytest.fixture
def environ(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """The folders, named by this process's environment, in which no launcher speaks."""
    from plait.identity import LAUNCHER_VARIABLES

    for name in (*LAUNCHER_VARIABLES, "PLAIT_RUN_ID", "PLAIT_PROJECT", "PLAIT_COLLECTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PLAIT_HOT_DIR", str(folders.hot))
    monkeypatch.setenv("PLAIT_DIR", str(folders.cold))
    return folders
