"""The `plait` command: what it prints, and the codes it ends with."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plait import cli
from plait.cli import printing, programs
from plait.cli.labels import Unreadable, listed_labels
from plaitwire import folders
from tests.support.fold import Fold, Writer, meta
from tests.support.query_server import asked

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal of the machine that tests run on shows through."""
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "PLAIT_COLLECTOR"):
        monkeypatch.delenv(name, raising=False)


def plait(fold: Fold, *arguments: str) -> int:
    """Run the command against a service over some streams."""
    return asked(fold, lambda address: cli.main([*arguments, "--collector", address]))


def run_of_ranks(ranks: int = 2, rows: int = 3) -> Fold:
    """A run whose last rank crashed with a gap."""
    fold = Fold()
    for rank in range(ranks):
        writer = Writer(meta(rank + 1, str(rank), group="g")).config(lr=0.1, rank=rank)
        for step in range(rows):
            writer.row(step, loss=step + rank / 10, acc=0.5)
        fold.add(writer.gap(2, 2).crash() if rank == ranks - 1 else writer.finish())
    return fold


def test_ls_lists_runs(capsys: Capture) -> None:
    """A line for each run; in JSON, an array."""
    fold = run_of_ranks()
    assert plait(fold, "ls") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[:3] == ["p/r", "finished", "ended"]
    assert plait(fold, "ls", "p", "--group", "g", "--state", "finished", "--json") == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["project"], run["run"], run["rows"], run["last_step"]) == ("p", "r", 6, 2)
    assert plait(fold, "ls", "nobody") == 0
    assert capsys.readouterr().err == "no runs\n"


def test_show_tells_all_of_a_run(capsys: Capture) -> None:
    """State, config, conflicts, summary, labels and gaps."""
    fold = run_of_ranks()
    assert plait(fold, "show", "p/r") == 0
    out = capsys.readouterr().out
    assert "p/r is finished (ended)" in out
    assert "labels differ about rank: 0: 0, 1: 1" in out
    assert "label 1 lost 2 records after step 2 (quota)" in out
    assert any(line.split()[:3] == ["1", "crashed", "ended"] for line in out.splitlines())
    assert plait(fold, "show", "p/r", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == {"lr": 0.1, "rank": 0}
    assert found["labels"]["1"]["gaps"][0]["records"] == 2


def test_history_shows_the_last_rows_of_each_label(capsys: Capture) -> None:
    """Twenty rows a label unless told otherwise, of the keys and labels asked for."""
    fold = run_of_ranks(rows=30)
    assert plait(fold, "history", "p/r", "--keys", "loss") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["label", "attempt", "step", "time", "(UTC)", "loss"]
    assert len(lines) == 41
    assert [line.split()[2] for line in lines[1:21]] == [str(step) for step in range(10, 30)]
    assert plait(fold, "history", "p/r", "--labels", "1", "--limit", "0", "--min-step", "28") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["loss", "28.1", "29.1"]


def test_history_in_json_is_every_row(capsys: Capture) -> None:
    """One array of all rows; what JSON cannot say is a word, what is absent is not there."""
    writer = Writer(meta(1)).row(0, loss=float("nan")).row(1, acc=1.0)
    assert plait(Fold().add(writer), "history", "p/r", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["values"] for row in rows] == [{"loss": "NaN"}, {"acc": 1.0}]
    assert rows[1] == {
        "label": "0",
        "attempt": 1,
        "step": 1,
        "time_ns": 1_002_000_000,
        "values": {"acc": 1.0},
    }
    assert plait(Fold().add(Writer(meta(1))), "history", "p/r", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_history_says_which_keys_had_no_room(capsys: Capture, monkeypatch: Any) -> None:
    """On 80 columns a few keys fit; the rest is told on stderr, and named ones all come."""
    monkeypatch.setattr(printing, "PIPE_WIDTH", 80)
    fold = Fold().add(Writer(meta(1)).row(0, **{f"key{at}": 1.0 for at in range(9)}))
    assert plait(fold, "history", "p/r") == 0
    captured = capsys.readouterr()
    assert "3 more keys" in captured.err
    assert max(map(len, captured.out.splitlines())) <= 80


def test_history_tells_of_one_unknown_key_among_known_ones(capsys: Capture) -> None:
    """The rows are shown, and the key that no row has is told on stderr."""
    assert plait(run_of_ranks(), "history", "p/r", "--keys", "loss,nope") == 0
    captured = capsys.readouterr()
    assert "has no key 'nope'; it has acc, loss" in captured.err
    assert len(captured.out.splitlines()) == 7


def test_codes_tell_what_went_wrong(capsys: Capture) -> None:
    """1: not there. 2: used wrongly, or nobody answers. The sentence is on stderr."""
    fold = run_of_ranks()
    for code, words, arguments in [
        (1, "there is no run p/none", ["show", "p/none"]),
        (1, "has no label '9'; it has 0, 1", ["history", "p/r", "--labels", "9"]),
        (2, "PROJECT/RUN", ["show", "r"]),
        (2, "state 'odd' is none of", ["ls", "--state", "odd"]),
        (2, "attempts is 'all'", ["history", "p/r", "--attempts", "all"]),
        (1, "has no key 'no', 'ne'; it has acc, loss", ["history", "p/r", "--keys", "no,ne"]),
        (2, "--keys ',' names no key", ["history", "p/r", "--keys", ","]),
        (2, "min_step 3 is larger", ["history", "p/r", "--min-step", "3", "--max-step", "1"]),
        (2, "the labels 5-2 are none", ["history", "p/r", "--labels", "5-2"]),
    ]:
        assert plait(fold, *arguments) == code
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.out == ""
    assert cli.main(["ls", "--collector", "nowhere"]) == 2
    assert "no HOST:PORT" in capsys.readouterr().err
    assert cli.main(["history", "p/r", "--odd"]) == 2


def test_unreachable_collector_is_told(capsys: Capture) -> None:
    """Nobody there: code 2, the address, and how to start one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert cli.main(["show", "p/r", "--collector", address]) == 2
    captured = capsys.readouterr()
    assert address in captured.err
    assert "plait collector --data DIR" in captured.err


def test_help_lists_the_commands_and_codes(capsys: Capture) -> None:
    """--help names every command and what the exit codes mean."""
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("agent", "collector", "status", "ls", "show", "history"):
        assert f"  {command} " in out
    assert "Exit codes: 0 done; 1 not found" in out


def test_markup_and_control_characters_are_shown_and_not_obeyed(capsys: Capture) -> None:
    """What a rank wrote neither styles nor steers a terminal."""
    fold = Fold().add(Writer(meta(1, "[red]x")).config(note="[bold]\x1b[2J\x9b5n:smile:"))
    assert plait(fold, "show", "p/r") == 0
    out = capsys.readouterr().out
    assert "[red]x" in out
    assert "[bold]�[2J�5n:smile:" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0-3,7", ["0", "1", "3", "7"]),
        ("a, 1 ,1", ["a", "1"]),
        ("2-3", ["3"]),
        ("1-2", ["1-2"]),
        ("node-1-2", ["node-1-2"]),
    ],
)
def test_labels_by_range(text: str, labels: list[str]) -> None:
    """A range stands for the labels of it that the run has, unless one is called just so."""
    assert listed_labels(text, ["0", "1", "3", "7", "1-2"]) == labels


@pytest.mark.parametrize("text", ["", ",", "9-1", "0-99999", "20-30"])
def test_labels_that_name_none(text: str) -> None:
    """A list that names no label is told, and not taken for all of them."""
    with pytest.raises(Unreadable):
        listed_labels(text, ["0", "1"])


# The programs.


@pytest.mark.parametrize(("name", "module"), programs.PROGRAMS.items())
def test_programs_get_all_arguments(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plait agent ...` becomes `python -m plait_agent ...`, options and --help included."""
    called: list[Any] = []

    def execv(path: str, command: list[str]) -> None:
        called.append((path, command))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(SystemExit):
        cli.main([name, "--help", "--grpc", "x:1"])
    command = [sys.executable, "-m", module, "--help", "--grpc", "x:1"]
    assert called == [(sys.executable, command)]


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (["ls"], "typer", "query"),
        (["status"], "rich", "query"),
        (["agent"], "google_crc32c", "agent"),
        (["collector"], "aiosqlite", "collector"),
        (["show", "p/r"], "pyarrow", "query"),
    ],
)
def test_missing_extra_is_one_line(arguments: list[str], missing: str, extra: str) -> None:
    """Without an extra the command says which to install, on one line, and ends with 2."""
    program = f"""
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name}}", name=name)
sys.meta_path.insert(0, Absent())
from plait.cli import main
sys.exit(main({arguments!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert missing in done.stderr
    assert f"pip install 'plait[{extra}]'" in done.stderr


def test_command_without_extras_imports_the_standard_library_alone() -> None:
    """Importing the entry point pulls nothing that a rank does not have."""
    program = (
        "import sys, plait.cli\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(len(found & {'typer', 'rich', 'grpc', 'google', 'pyarrow', 'numpy'}))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


# The node.


@contextmanager
def agent_that_answers(hot: Path, answer: Callable[[bytes], bytes]) -> Iterator[None]:
    """A control socket that answers one question."""
    listener = socket.socket(socket.AF_UNIX)
    folder = os.open(hot, os.O_PATH)
    listener.bind(f"/proc/self/fd/{folder}/agent.sock")
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(answer(connection.recv(4096)))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()
        os.close(folder)


@pytest.fixture
def hot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hot folder with a path longer than a socket's may be."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    found = folders.Folders(folder, tmp_path)
    monkeypatch.setattr(folders, "resolve", lambda environ, uid: found)
    return folder


STATUS = {
    "ok": True,
    "agent": {
        "id": "a",
        "version": "1",
        "node": "n1",
        "collector": "127.0.0.1:7431",
        "connected": False,
        "last_error": "connection refused",
    },
    "streams": [
        {
            "session": "s" * 32,
            "project": "p",
            "run": "r",
            "label": str(label),
            "kind": "run",
            "state": "open",
            "committed": 4096,
            "shipped": 2048,
            "acked": 1024,
            "spilled": 0,
            "hot_bytes": 3 * 1024 * 1024,
            "cold_bytes": 0,
            "error": "",
        }
        for label in (10, 9)
    ],
}


def test_status_shows_the_agent_and_its_streams(hot: Path, capsys: Capture) -> None:
    """The connection and, for each stream, what is committed, shipped and acknowledged."""

    def answer(question: bytes) -> bytes:
        assert json.loads(question) == {"op": "status"}
        return json.dumps(STATUS).encode() + b"\n"

    with agent_that_answers(hot, answer):
        assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert "agent 1 on n1: not connected to 127.0.0.1:7431" in out
    assert "last error: connection refused" in out
    words = [line.split() for line in out.splitlines()]
    assert words[-2:] == [
        ["p/r", label, "open", *["4.0", "KiB", "2.0", "KiB", "1.0", "KiB", "3.0", "MiB"]]
        for label in ("9", "10")
    ]
    (hot / "agent.sock").unlink()
    with agent_that_answers(hot, answer):
        assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agent"]["node"] == "n1"


@pytest.mark.parametrize(
    "answer", [b"", b"no json\n", b"[]\n", b'{"ok": false, "error": "busy"}\n']
)
def test_status_of_something_that_is_no_agent(hot: Path, answer: bytes, capsys: Capture) -> None:
    """An answer that is none is told with the socket's path, and ends with 2."""
    with agent_that_answers(hot, lambda question: answer):
        assert cli.main(["status"]) == 2
    assert "agent.sock" in capsys.readouterr().err


def test_status_without_an_agent_says_how_to_start_one(hot: Path, capsys: Capture) -> None:
    """Nobody listens: code 2, where it was looked for, and what to do."""
    assert cli.main(["status"]) == 2
    assert "plait agent --collector HOST:PORT" in capsys.readouterr().err
