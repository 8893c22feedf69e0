"""Children of fork: the parent's stream is the parent's, a child that logs has its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable

import pytest

import plait
from plait.values import Flaws
from plait.writer import Writer
from plaitwire.folders import Folders
from plaitwire.records import Kind
from tests.sdk import logs


def in_child(work: Callable[[], None]) -> int:
    """Run work in a child of fork. Returns its exit code: 0 if work returned."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def branches(folders: Folders, parent: str) -> list[str]:
    """The sessions whose meta.json names parent."""
    return [
        session
        for session in logs.sessions(folders)
        if logs.meta_of(folders, session)["parent"] == parent
    ]


def test_a_child_that_logs_opens_a_branch(folders: Folders) -> None:
    """The child's rows are in a session of its own, from step 0; the parent's go on."""
    writer = Writer(folders, logs.meta("7"))
    root = writer.meta.session
    writer.log({"a": 1.0})

    def work() -> None:
        writer.log({"a": 10.0})
        writer.log({"a": 11.0})
        assert in_child(lambda: writer.log({"a": 20.0})) == 0

    assert in_child(work) == 0
    writer.log({"a": 2.0})
    assert logs.rows(folders, root) == [logs.Row(0, {"a": 1.0}), logs.Row(1, {"a": 2.0})]
    (branch,) = branches(folders, root)
    assert logs.rows(folders, branch) == [logs.Row(0, {"a": 10.0}), logs.Row(1, {"a": 11.0})]
    (twig,) = branches(folders, branch)
    assert logs.rows(folders, twig) == [logs.Row(0, {"a": 20.0})]
    meta = logs.meta_of(folders, branch)
    assert (meta["label"], meta["run"]) == ("7", "run")
    assert meta["pid"] != os.getpid()
    writer.close()


def test_a_silent_child_leaves_no_trace(folders: Folders) -> None:
    """A child that logs nothing makes no session, and its end does not drop the parent's lock."""
    writer = Writer(folders, logs.meta())
    assert in_child(writer.close) == 0
    assert logs.sessions(folders) == [writer.meta.session]
    assert logs.is_locked(folders, writer.meta.session)
    writer.log({"a": 1.0})
    assert len(logs.rows(folders, writer.meta.session)) == 1
    writer.close()
    assert not logs.is_locked(folders, writer.meta.session)


def test_fork_while_another_thread_logs(folders: Folders) -> None:
    """Children forked while the lock is in use log at once; the parent's rows stay whole."""
    writer = Writer(folders, logs.meta())
    root = writer.meta.session
    stop, count = threading.Event(), 0

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            writer.log({"a": float(count)})
            count += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            assert in_child(lambda: writer.log({"child": 1.0})) == 0
    finally:
        stop.set()
        thread.join()
    assert [row.values["a"] for row in logs.rows(folders, root)] == list(map(float, range(count)))
    made = branches(folders, root)
    assert len(made) == 20
    for branch in made:
        assert logs.rows(folders, branch) == [logs.Row(0, {"child": 1.0})]
    writer.close()


def test_fork_while_the_lock_is_held(folders: Folders) -> None:
    """A handler that forks in the middle of log() gives the child a writer that works."""
    writer = Writer(folders, logs.meta())
    root = writer.meta.session
    with writer._lock:
        assert in_child(lambda: writer.log({"child": 1.0})) == 0
    (branch,) = branches(folders, root)
    assert logs.rows(folders, branch) == [logs.Row(0, {"child": 1.0})]
    assert logs.rows(folders, root) == []
    writer.close()


def test_a_child_without_room_says_so(folders: Folders) -> None:
    """Where a branch cannot be made the child is told once, and goes on."""
    said: list[str] = []
    writer = Writer(folders, logs.meta(), flaws=Flaws(said.append))
    (folders.hot / "streams").rename(folders.hot / "elsewhere")
    (folders.hot / "streams").touch()

    def work() -> None:
        writer.log({"a": 1.0})
        writer.log({"a": 2.0})
        assert len(said) == 1
        assert writer.flaws.counts == {"branch": 2}

    assert in_child(work) == 0
    (folders.hot / "streams").unlink()
    (folders.hot / "elsewhere").rename(folders.hot / "streams")
    writer.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_multiprocessing_child_finishes(environ: Folders, fails: bool) -> None:
    """A multiprocessing child that logged ends as its work did, without being told to."""
    run = plait.init("tests", id="forked")
    root = run.session

    def work() -> None:
        run.log({"a": 1.0})
        if fails:
            raise RuntimeError("as planned")

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    run.finish()
    (branch,) = branches(environ, root)
    (finish,) = logs.bodies(environ, branch, Kind.FINISH)
    assert finish == {
        "exit_code": int(fails),
        "state": "failed" if fails else "finished",
        "by": "rank",
    }
    assert logs.bodies(environ, root, Kind.FINISH)[0]["state"] == "finished"
