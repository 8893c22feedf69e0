"""The agent's configuration: what is taken, and what is refused with which words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait_agent.config import BadConfig, parse


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Folders of the test's own; hot on a tmpfs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="plait-test-") as hot:
        yield {"PLAIT_HOT_DIR": f"{hot}/h", "PLAIT_DIR": str(tmp_path / "cold")}


def test_defaults(environ: dict[str, str]) -> None:
    """With nothing said, the collector is on this machine and the node is its host name."""
    config = parse([], environ)
    assert config.collector == "127.0.0.1:7431"
    assert config.node
    assert config.grpc is None


def test_options_win_over_the_environment(environ: dict[str, str], tmp_path: Path) -> None:
    """What is said on the command line counts."""
    environ["PLAIT_COLLECTOR"] = "127.0.0.1:1"
    arguments = ["--collector", "[::1]:2", "--node", "n1", "--dir", str(tmp_path / "other")]
    config = parse(arguments, environ)
    assert (config.collector, config.node) == ("[::1]:2", "n1")
    assert config.folders.cold == tmp_path / "other"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--collector", "somewhere"], "no HOST:PORT"),
        (["--collector", "127.0.0.1:0"], "a port is"),
        (["--collector", "127.0.0.1:70000"], "a port is"),
        (["--collector", "example.org:7431"], "--insecure"),
        (["--grpc", "0.0.0.0:0"], "--insecure"),
        (["--node", "a/b"], "--node"),
        (["--node", ""], "--node"),
        (["--exit-when-idle", "0"], "more than 0"),
        (["--hot-dir", "/dev/shm/" + "x" * 120], "too long"),
        (["--hot-dir", "/proc/nowhere"], "PLAIT_HOT_DIR"),
    ],
)
def test_what_does_not_work_is_said(
    environ: dict[str, str], arguments: list[str], words: str
) -> None:
    """Each mistake is one clear sentence that says what to change."""
    with pytest.raises(BadConfig, match=words):
        parse(arguments, environ)
    if "x" * 120 in arguments[-1]:
        path = Path(arguments[-1])
        (path / "streams").rmdir()
        path.rmdir()


def test_other_machines_need_insecure(environ: dict[str, str]) -> None:
    """With --insecure an address beyond this machine is taken."""
    config = parse(["--collector", "example.org:7431", "--insecure"], environ)
    assert config.collector == "example.org:7431"
