"""Run: what a user holds, from init() to every way in which it can end."""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import plait
from plaitwire.folders import Folders, UnusableFolder
from plaitwire.records import Kind
from tests.sdk import logs

COLLECTOR = "127.0.0.1:7431"


def finish_of(folders: Folders, session: str) -> dict[str, Any]:
    """The stream's one finish record."""
    (finish,) = logs.bodies(folders, session, Kind.FINISH)
    assert isinstance(finish, dict)
    return finish


def test_a_run_from_init_to_finish(environ: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    """Config, rows, summary and end are in the stream, and the stream is on disk."""
    run = plait.init("tests", id="a run", label=3, config={"lr": 0.1}, primary=True, group="g")
    assert (run.project, run.id, run.label, run.step) == ("tests", "a run", "3", None)
    run.config.update({"lr": 0.1, "depth": 4})
    run.config.width = 7
    run.config["name"] = Path("a/b")
    run.log({"loss": 1.0})
    run.summary["best"] = float("nan")
    run.define_metric("loss", "min")
    assert run.step == 0
    assert dict(run.config) == {"lr": 0.1, "depth": 4, "width": 7, "name": Path("a/b")}
    run.finish()
    run.finish()
    session = run.session
    assert logs.bodies(environ, session, Kind.CONFIG) == [
        {"lr": 0.1},
        {"depth": 4},
        {"width": 7},
        {"name": "a/b"},
    ]
    assert logs.bodies(environ, session, Kind.SUMMARY) == [{"best": "NaN"}]
    assert logs.bodies(environ, session, Kind.DEFINE_METRIC) == [{"key": "loss", "summary": "min"}]
    assert logs.rows(environ, session) == [logs.Row(0, {"loss": 1.0})]
    assert finish_of(environ, session) == {"exit_code": 0, "state": "finished", "by": "rank"}
    assert not environ.hot_stream(session).exists()
    meta = logs.meta_of(environ, session)
    assert (meta["primary"], meta["group"], meta["kind"]) == (True, "g", "run")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert f"plait agent --collector {COLLECTOR}" in said[0]
    assert str(environ.cold_stream(session)) in said[1]


def test_config_of_objects(environ: Folders) -> None:
    """A Namespace and a dataclass are configs like a dict; nested values stay nested."""

    @dataclasses.dataclass
    class Model:
        width: int = 4

    with plait.init("tests", config=argparse.Namespace(lr=0.5, model=Model())) as run:
        run.config.update(Model(8))
        assert run.config.width == 8
    assert logs.bodies(environ, run.session, Kind.CONFIG) == [
        {"lr": 0.5, "model": {"width": 4}},
        {"width": 8},
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"id": ""}, ValueError, "id is empty"),
        ({"id": "a/b"}, ValueError, "'/'"),
        ({"project": "x" * 129}, ValueError, "129 characters"),
        ({"label": ""}, ValueError, "label is empty"),
        ({"label": "a\nb"}, ValueError, "control characters"),
        ({"label": 1.5}, TypeError, "label must be text"),
        ({"group": "a,b"}, ValueError, "group"),
        ({"primary": "yes"}, TypeError, "primary"),
        ({"config": 5}, TypeError, "config and summary take a dict"),
        ({"config": {"": 1}}, ValueError, "key is empty"),
        ({"dir": 5}, TypeError, "dir must be a path"),
    ],
)
def test_wrong_arguments(
    environ: Folders, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """init() says which argument is wrong and why, and leaves nothing behind."""
    with pytest.raises(error, match=words):
        plait.init(**arguments)
    assert logs.sessions(environ) == []


def test_wrong_environment(environ: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says is checked like an argument."""
    monkeypatch.setenv("PLAIT_COLLECTOR", "nowhere")
    with pytest.raises(ValueError, match="PLAIT_COLLECTOR"):
        plait.init("tests")
    monkeypatch.delenv("PLAIT_COLLECTOR")
    monkeypatch.setenv("PLAIT_HOT_DIR", os.fspath(environ.cold / "hot"))
    with pytest.raises(UnusableFolder, match="PLAIT_HOT_DIR"):
        plait.init("tests")


def test_wrong_use_of_a_run(environ: Folders) -> None:
    """Config, summary and define_metric refuse what cannot be recorded, with a sentence."""
    with plait.init("tests") as run:
        with pytest.raises(ValueError, match="key is empty"):
            run.summary[""] = 1
        with pytest.raises(ValueError, match="must be one of"):
            run.define_metric("a", "median")
        with pytest.raises(TypeError, match="taken back"):
            del run.config["a"]
        with pytest.raises(AttributeError, match="no 'absent'"):
            _ = run.config.absent


def test_what_was_counted_is_told_at_the_end(
    environ: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flaw that is said once is told with its count when the run ends."""
    with plait.init("tests", id="r") as run:
        for _ in range(3):
            run.log({"loss": 1.0}, step="x")  # type: ignore[arg-type]
    told = [line for line in capsys.readouterr().err.splitlines() if "in all" in line]
    assert told == [
        "plait: tests/r label 0: in all, log() could not record what it was given: step 3 times"
    ]


def test_agent_to_start_for_a_collector_elsewhere_needs_to_be_told_so(
    environ: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that people are told can be run as it is: beyond loopback with --insecure."""
    monkeypatch.setenv("PLAIT_COLLECTOR", "collector.example:7431")
    plait.init("tests").finish()
    assert "`plait agent --collector collector.example:7431 --insecure`" in capsys.readouterr().err


ENDS = {
    "falls off the end": ("", 0),
    "exits": ("sys.exit(0)", 0),
    "exits with a code": ("sys.exit(3)", 3),
    "exits with a text": ("sys.exit('no')", 1),
    "raises": ("raise ValueError('as planned')", 1),
    "interrupted": ("raise KeyboardInterrupt", 130),
    "a with block that raises": ("with run: raise ValueError('as planned')", 1),
    "a with block that exits": ("with run: raise SystemExit(4)", 4),
    "finished with a code": ("run.finish(exit_code=5)", 5),
    "exit caught": (
        "try: sys.exit(3)\nexcept SystemExit: run.log({'a': 2.0})",
        0,
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_ends(folders: Folders, end: str) -> None:
    """However a program ends that Python can tell, its run ends so."""
    code, expected = ENDS[end]
    program = f"import sys, plait\nrun = plait.init('tests', id='r')\nrun.log({{'a': 1.0}})\n{code}"
    logs.run_python(program, folders)
    (session,) = logs.sessions(folders)
    assert finish_of(folders, session) == {
        "exit_code": expected,
        "state": "failed" if expected else "finished",
        "by": "rank",
    }


def test_own_hooks_are_called(folders: Folders) -> None:
    """An excepthook that was there before is called as before."""
    program = (
        "import sys, plait\nsys.excepthook = lambda *_: print('mine')\n"
        "run = plait.init('tests')\nraise ValueError"
    )
    done = logs.run_python(program, folders)
    assert done.stdout == "mine\n"
    assert done.returncode == 1


def test_no_thread_is_started(environ: Folders) -> None:
    """The SDK starts no thread."""
    before = threading.active_count()
    run = plait.init("tests")
    run.log({"a": 1.0})
    assert threading.active_count() == before
    run.finish()
    assert threading.active_count() == before


def test_a_finished_run_can_go_elsewhere(environ: Folders, tmp_path: Path) -> None:
    """dir= is where a run that no agent took is put, its overflow with it."""
    target = tmp_path / "else"
    run = plait.init("tests", dir=target)
    run._writer._log._quota = run._writer._log.files._quota = dataclasses.replace(
        run._writer._quota, hot_bytes_max=0, cold_free_bytes_min=0
    )
    for at in range(5000):
        run.log({"a": float(at)})
    assert environ.cold_stream(run.session).exists()
    run.finish()
    there = Folders(environ.hot, target)
    assert len(logs.rows(there, run.session)) == 5000
    assert not environ.cold_stream(run.session).exists()
    assert not environ.hot_stream(run.session).exists()


def test_an_unusable_dir_is_said_at_once(environ: Folders, tmp_path: Path) -> None:
    """A dir= that others could write to is refused before training begins."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UnusableFolder, match=r"chmod 700.*dir="):
        plait.init("tests", dir=tmp_path / "open")
    assert logs.sessions(environ) == []


def test_spawned_processes_finish(folders: Folders) -> None:
    """A spawned child of multiprocessing that failed has failed; its run is its own stream."""
    program = """
import multiprocessing, sys, types

def work():
    import plait
    run = plait.init("tests", id="r", label="7")
    run.log({"a": 1.0})
    raise ValueError("as planned")

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
"""
    path = folders.cold / "program.py"
    path.write_text(program)
    environ = {**os.environ, "PLAIT_HOT_DIR": str(folders.hot), "PLAIT_DIR": str(folders.cold)}
    subprocess.run([sys.executable, path], env=environ, capture_output=True, check=True, timeout=60)
    (session,) = logs.sessions(folders)
    assert finish_of(folders, session)["exit_code"] == 1


def test_api_says_what_to_install() -> None:
    """Where reading is not installed, plait.Api names the extra."""
    program = (
        "import sys, plait\nsys.modules['grpc'] = sys.modules['pyarrow'] = None\n"
        "try: plait.Api\nexcept ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'plait[query]'" in done.stdout
    with pytest.raises(AttributeError, match="nothing"):
        _ = plait.nothing
