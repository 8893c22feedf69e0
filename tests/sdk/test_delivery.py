"""How a run is seen off: by an agent that answers as it is told to, or to disk."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import plait
from plaitwire.folders import Folders
from plaitwire.records import Kind
from tests.sdk import logs

COLLECTOR = "127.0.0.1:7431"


def finish_of(folders: Folders, session: str) -> dict[str, Any]:
    """The stream's one finish record."""
    (finish,) = logs.bodies(folders, session, Kind.FINISH)
    assert isinstance(finish, dict)
    return finish


class FakeAgent:
    """A control socket that gives prepared answers to each request, in a thread of the test's."""

    def __init__(self, folders: Folders, answers: dict[str, list[Any]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._answers = answers
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(os.fspath(folders.control_socket))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection, connection.makefile("rwb") as file:
                for line in file:
                    request = json.loads(line)
                    if request["op"] == "stop":
                        return
                    self.requests.append(request)
                    for answer in self._answers[request["op"]]:
                        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                        file.write(data + b"\n")
                    file.flush()

    def stop(self) -> None:
        """End the thread."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(self._socket.getsockname())
            asking.sendall(b'{"op": "stop"}\n')
        self._thread.join()
        self._socket.close()


OPENED = {"ok": True, "outlives": True, "collector": COLLECTOR, "notices": ["by the way"]}


@pytest.fixture
def agent(environ: Folders) -> Iterator[Callable[..., FakeAgent]]:
    """Starts a fake agent that answers as given."""
    started: list[FakeAgent] = []

    def start(**answers: list[Any]) -> FakeAgent:
        started.append(FakeAgent(environ, answers))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def test_delivered_by_the_agent(
    environ: Folders, agent: Callable[..., FakeAgent], capsys: pytest.CaptureFixture[str]
) -> None:
    """With all acknowledged finish() returns, says nothing, and leaves the files to the agent."""
    progress = {"acked": 0, "end": 8, "connected": True}
    served = agent(open=[OPENED], wait=[progress, {**progress, "acked": 999, "done": True}])
    run = plait.init("tests")
    run.log({"a": 1.0})
    run.finish(timeout=5)
    assert [request["op"] for request in served.requests] == ["open", "open", "wait"]
    assert served.requests[2]["offset"] == run._writer.end
    assert environ.hot_stream(run.session).exists()
    assert not logs.is_locked(environ, run.session)
    assert capsys.readouterr().err == "plait: by the way\n"


def test_left_to_an_agent_that_outlives(
    environ: Folders, agent: Callable[..., FakeAgent], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not acknowledged in time stays in memory with an agent that lives on."""
    agent(open=[OPENED], wait=[{"acked": 8, "end": 80, "connected": False, "done": False}])
    run = plait.init("tests")
    run.finish(timeout=0.01)
    left = run._writer.end - 8
    assert f"{left} bytes are left to the agent" in capsys.readouterr().err
    assert environ.hot_stream(run.session).exists()


def test_a_refused_stream_is_not_waited_for(
    environ: Folders, agent: Callable[..., FakeAgent], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the collector refuses for good, finish() says so at once, and promises no delivery."""
    refused = {"acked": 0, "end": 80, "connected": True, "refused": "DELETED: it was deleted"}
    agent(open=[OPENED], wait=[{**refused, "done": False}])
    run = plait.init("tests")
    run.finish(timeout=600)
    said = capsys.readouterr().err
    assert "refuses them for good: DELETED: it was deleted" in said
    assert "left to the agent" not in said


def test_moved_where_the_agent_ends_with_the_job(
    environ: Folders, agent: Callable[..., FakeAgent]
) -> None:
    """An agent of the same job is no safe keeper: what it has not delivered goes to disk."""
    agent(
        open=[{**OPENED, "outlives": False}],
        wait=[{"acked": 0, "end": 80, "connected": False, "done": False}],
    )
    run = plait.init("tests")
    run.finish(timeout=0.01)
    assert not environ.hot_stream(run.session).exists()
    assert finish_of(environ, run.session)["exit_code"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": False, "error": "this agent's hot folder is another"},
        b"no JSON",
        [],
        b"x" * 100_000,
    ],
)
def test_an_agent_that_refuses(
    environ: Folders,
    agent: Callable[..., FakeAgent],
    capsys: pytest.CaptureFixture[str],
    answer: Any,
) -> None:
    """A refusal, or nonsense, is said, and the run goes on offline."""
    agent(open=[answer])
    run = plait.init("tests")
    run.log({"a": 1.0})
    run.finish()
    assert "the agent here does not take this run" in capsys.readouterr().err
    assert len(logs.rows(environ, run.session)) == 1


def test_a_socket_without_an_agent(environ: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    """The socket that a killed agent left behind is nobody."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(environ.control_socket))
    plait.init("tests").finish()
    assert "no agent is on this node" in capsys.readouterr().err
