"""What is wrong on a node: folders, addresses, files of streams, values. Each is told, alone."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import plait
from plait.identity import boot_id
from plait_agent.config import BadConfig, parse
from plaitwire import records
from plaitwire.folders import META, Folders, UnusableFolder, segment_name
from tests.agent.support import Writer, row
from tests.system.programs import DEADLINE_S, Program, site, wait_until
from tests.system.scene import Scene

pytestmark = pytest.mark.system

ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with site() as here:
        scene = Scene(here, tmp_path_factory.mktemp("scene") / "pace")
        try:
            yield scene
            scene.check_whole()
        finally:
            scene.close()


@pytest.fixture(autouse=True)
def a_bystander_logs_on(scene: Scene) -> Iterator[None]:
    """Whatever a test does, another stream goes on."""
    scene.log_on()
    yield
    scene.log_on()


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory."""
    path = Path("/dev/shm") / f"plait-bad-{os.getpid()}-{tmp_path.name}"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A file system that cannot be written."""
    path = tmp_path / "read-only"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs", str(path)]
    if not ROOT or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def _said(module: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """How a program that cannot start ends, and its one line."""
    program = Program(module, *arguments, environment=environment)
    code = program.wait()
    assert len(program.lines) == 1, program.lines
    assert "cannot start" in program.lines[0]
    return code, program.lines[0]


def _a_file(path: Path) -> Path:
    path.write_text("a file")
    return path


def _open_to_all(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o755)
    return path


def _somebody_elses(path: Path) -> Path:
    if not ROOT:
        pytest.skip("giving files away needs root")
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    return path


FLAWS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "file": (_a_file, "cannot be made|is no folder"),
    "mode": (_open_to_all, "chmod 700"),
    "owner": (_somebody_elses, "belongs to user 12345"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_an_unusable_cold_folder(
    flaw: str, hot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agent and rank say which folder, what is wrong with it and what to set."""
    make, why = FLAWS[flaw]
    bad = make(tmp_path / "bad")
    code, line = _said("plait_agent", PLAIT_HOT_DIR=str(hot), PLAIT_DIR=str(bad))
    assert (code, str(bad) in line, "PLAIT_DIR" in line) == (2, True, True), line
    monkeypatch.setenv("PLAIT_HOT_DIR", str(hot))
    monkeypatch.setenv("PLAIT_DIR", str(bad))
    with pytest.raises(UnusableFolder, match=why):
        plait.init(project="system", id="bad")


def test_a_hot_folder_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are written in memory: a folder elsewhere is refused by agent and rank."""
    cold = str(tmp_path / "cold")
    _, line = _said("plait_agent", PLAIT_HOT_DIR=str(tmp_path / "hot"), PLAIT_DIR=cold)
    assert "tmpfs" in line
    monkeypatch.setenv("PLAIT_HOT_DIR", str(tmp_path / "hot"))
    monkeypatch.setenv("PLAIT_DIR", cold)
    with pytest.raises(UnusableFolder, match="tmpfs"):
        plait.init(project="system", id="bad")


def test_a_file_system_that_cannot_be_written(
    hot: Path, read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agent, rank and collector each say that it cannot be written, and which."""
    bad = str(read_only)
    _, line = _said("plait_agent", PLAIT_HOT_DIR=str(hot), PLAIT_DIR=bad)
    assert "Read-only" in line
    _, line = _said("plait_collector", "--data", bad, "--grpc", "127.0.0.1:0")
    assert bad in line
    monkeypatch.setenv("PLAIT_HOT_DIR", str(hot))
    monkeypatch.setenv("PLAIT_DIR", bad)
    with pytest.raises(UnusableFolder, match="Read-only"):
        plait.init(project="system", id="bad")


def test_a_network_file_system(hot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on a network file system is refused, unless it is asked for in words."""
    monkeypatch.setattr(
        "plaitwire.folders.filesystem_type",
        lambda path, **_: "tmpfs" if path == hot else "nfs4",
    )
    environ = {"PLAIT_HOT_DIR": str(hot), "PLAIT_DIR": str(tmp_path / "cold")}
    with pytest.raises(BadConfig, match="PLAIT_FORCE_NETWORK_DIR"):
        parse([], environ)
    assert parse([], environ | {"PLAIT_FORCE_NETWORK_DIR": "1"}).folders.cold.is_dir()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--collector", "nowhere"], "HOST:PORT"),
        (["--collector", "127.0.0.1:70000"], "1 to 65535"),
        (["--collector", "192.0.2.1:7431"], "--insecure"),
        (["--grpc", "0.0.0.0:0"], "--insecure"),
        (["--node", "a/b"], "--node"),
        (["--node", "x" * 129], "129 characters"),
    ],
)
def test_an_agent_that_is_told_nonsense(
    hot: Path, tmp_path: Path, arguments: list[str], why: str
) -> None:
    """It says which option is wrong, and does not start."""
    environ = {"PLAIT_HOT_DIR": str(hot), "PLAIT_DIR": str(tmp_path / "cold")}
    with pytest.raises(BadConfig, match=why):
        parse(arguments, environ)


def test_folders_and_ports_that_are_in_use(scene: Scene, tmp_path: Path) -> None:
    """A second agent, a second collector and a taken port each say who or what is in the way."""
    _, line = _said("plait_agent", "--collector", scene.here.grpc, **scene.here.environment)
    assert f"another agent (pid {scene.agent.pid})" in line
    used = str(scene.here.data)
    free = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    _, line = _said("plait_collector", "--data", used, *free)
    assert f"in use by another collector (process {scene.collector.pid})" in line
    taken = ("--grpc", scene.here.grpc, "--http", "127.0.0.1:0")
    _, line = _said("plait_collector", "--data", str(tmp_path / "new"), *taken)
    assert "in use" in line


def test_data_of_a_newer_version(tmp_path: Path) -> None:
    """A collector leaves the data of a newer one alone, and says what to do."""
    free = ("--data", str(tmp_path), "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    program = Program("plait_collector", *free, environment={})
    program.value("grpc")
    assert program.stop() == 0
    (path,) = tmp_path.glob("*.sqlite3")
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    _, line = _said("plait_collector", *free)
    assert "newer version" in line
    assert path.read_bytes() == before


def _writer(hot: Path, number: int, label: str) -> Writer:
    """A stream beside the node's folders; its writer is dead."""
    (hot / "streams").mkdir(exist_ok=True)
    writer = Writer(Folders(hot, hot), number, boot_id=boot_id())
    writer.meta |= {"project": "system", "run": "damaged", "label": label}
    (writer.folder / META).write_text(json.dumps(writer.meta))
    return writer


def _show(scene: Scene, writer: Writer) -> None:
    """Have a stream appear on the node, all at once."""
    writer.folder.rename(scene.here.hot / "streams" / writer.session)


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _break_record(writer: Writer) -> int:
    """Damage the third record of the segment being written; the rows before it stay."""
    at = len(records.pack_schema(0, ["loss"])) + 2 * len(row(0))
    _overwrite(writer.path, 64 + at, bytes(8))
    return writer.base + at


def _break_header(writer: Writer) -> int:
    _overwrite(writer.path, 0, b"nonsense")
    return writer.base


def _break_commit_word(writer: Writer) -> int:
    _overwrite(writer.path, records.COMMIT_AT, (2**40).to_bytes(8, "little"))
    return writer.base


def _make_huge(writer: Writer) -> int:
    """A file that claims more than any segment has: never read into memory."""
    os.truncate(writer.path, 2**40)
    _overwrite(writer.path, records.COMMIT_AT, (2**40 - 64).to_bytes(8, "little"))
    return writer.base


DAMAGES: list[Callable[[Writer], int]] = [
    _break_record,
    _break_header,
    _break_commit_word,
    _make_huge,
]


def test_a_damaged_segment_is_a_gap_and_the_stream_goes_on(scene: Scene, hot: Path) -> None:
    """The rest of the segment is a gap with a reason and a place; all before and after is read."""
    damaged = []
    for number, damage in enumerate(DAMAGES, 1):
        writer = _writer(hot, number, f"damaged-{number}")
        writer.rows(range(10))
        writer.roll()
        writer.rows(range(10, 20))
        begin = damage(writer)
        writer.roll()
        lost = (begin, writer.base)
        writer.rows(range(20, 30))
        damaged.append((writer, lost, 12 if damage is _break_record else 10))
    for writer, _, _ in damaged:
        _show(scene, writer)
    with plait.Api(scene.here.grpc) as api:

        def have_ended() -> bool:
            if "system/damaged" not in [run.path for run in api.runs()]:
                return False
            labels = api.run("system/damaged").labels.values()
            return [label.state for label in labels] == ["crashed"] * len(DAMAGES)

        wait_until(have_ended, "the streams to have ended")
        run = api.run("system/damaged")
        for writer, (begin, end), kept in damaged:
            label = str(writer.meta["label"])
            frontier = run.frontier()[label]
            (gap,) = frontier.gaps
            assert (gap.reason, gap.offset, gap.end) == ("damaged", begin, end)
            assert (gap.records, gap.after_step) == (None, kept - 1)
            assert frontier.complete_through == kept - 1
            assert frontier.offsets[writer.session] > writer.end
            steps = run.history(keys=["loss"], labels=[label])["step"].to_pylist()
            assert steps == [*range(kept), *range(20, 30)]


def test_garbage_in_meta_is_set_aside(scene: Scene, hot: Path) -> None:
    """A folder that does not say what it is moves to refused/; the agent says so and goes on."""
    garbage = [b"", b"{", b"[]", b"[" * 60_000, b"x" * 70_000, b"null", b"\xff"]
    sessions = []
    for number, meta in enumerate(garbage, 100):
        writer = _writer(hot, number, "garbage")
        (writer.folder / META).write_bytes(meta)
        _show(scene, writer)
        sessions.append(writer.session)
    writer = _writer(hot, 99, "garbage")
    (writer.folder / META).write_text(json.dumps(writer.meta | {"kind": []}))
    _show(scene, writer)
    refused = scene.here.cold / "refused"
    for session in (*sessions, writer.session):
        wait_until((refused / session / segment_name(0)).exists, f"{session} to be set aside")
        wait_until(partial(_is_told, scene, session), f"the agent to tell of {session}")


def _is_told(scene: Scene, session: str) -> bool:
    return any(session in line and "refused" in line for line in scene.agent.lines)


def test_values_that_are_none_cost_themselves(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """log() raises for no value and no key: it keeps what it can, and says once what it cannot."""
    for name, text in scene.here.environment.items():
        monkeypatch.setenv(name, text)
    for label in ("", "x" * 129, "a/b"):
        with pytest.raises(ValueError, match="label"):
            plait.init(project="system", id="values", label=label)
    run = plait.init(project="system", id="values")
    not_dicts: list[object] = [[1, 2], None, 7, "text"]
    for data in (*not_dicts, {"": 1.0}, {"k" * 1025: 1.0}, {3: 1.0}, {"ok": 1.0, "": 2.0}):
        run.log(data)  # type: ignore[arg-type]
    run.finish(timeout=DEADLINE_S)
    said = capsys.readouterr().err
    assert said.count("1024") <= 2
    assert said
    with plait.Api(scene.here.grpc) as api:
        read = api.run("system/values")
        assert (read.state, read.keys[:1]) == ("finished", ["3"] if "3" in read.keys else ["ok"])
        assert 1.0 in read.history(keys=["ok"])["ok"].to_pylist()
