"""plait.Api against a query service in this process."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa
import pytest

from plait.api import Api, Frontier, Label, NotFound, Refused, Run, Unavailable
from plait.api.tables import column_name
from plaitwire.records import Kind
from tests.support.fold import Fold, Writer, meta, session_id
from tests.support.query_server import asked

T = TypeVar("T")


def ask(fold: Fold, question: Callable[[Api], T]) -> T:
    """What an Api answers about some streams."""

    def with_api(address: str) -> T:
        with Api(address) as api:
            return question(api)

    return asked(fold, with_api)


def two_labels() -> Fold:
    """Rank 0 finished after a restart, rank 1 lost rows and crashed."""
    first = Writer(meta(1)).config(lr=0.1, clip=float("inf")).row(0, loss=2.0).crash()
    second = Writer(meta(5, host="b")).config(lr=0.1).row(0, loss=1.0, step=7.0)
    second.row(1, loss=float("nan")).say(Kind.EVENT, {"note": "x"}, step=1).finish()
    other = Writer(meta(2, "1")).config(lr=0.2).row(0, loss=3.0).gap(4, 4).row(9, loss=4.0)
    return Fold().add(first, second, other.crash())


def test_run_tells_what_is_known() -> None:
    """State, liveness, config, conflicts, summary, labels and gaps as plain Python values."""

    def look(api: Api) -> None:
        run = api.run("p/r")
        assert (run.path, run.state, run.liveness, run.primary) == ("p/r", "finished", "ended", "0")
        assert run.config == {"lr": 0.1, "clip": math.inf}
        assert run.conflicts == {"lr": {"0": 0.1, "1": 0.2}}
        assert list(run.summary) == ["loss", "step"]
        assert math.isnan(run.summary["loss"])
        assert run.keys == ["loss", "step"]
        assert (run.rows, run.last_step) == (5, 9)
        zero, one = run.labels.values()
        assert isinstance(zero, Label)
        assert (zero.state, zero.exit_code, zero.rows, zero.host) == ("finished", 0, 3, "b")
        assert [attempt.state for attempt in zero.attempts] == ["crashed", "finished"]
        assert (one.state, one.last_step, one.complete_through) == ("crashed", 9, 0)
        (gap,) = run.gaps
        assert (gap.label, gap.reason, gap.records, gap.after_step) == ("1", "quota", 4, 0)
        assert "p/r: finished" in repr(run)

    ask(two_labels(), look)


def test_history_is_an_arrow_table() -> None:
    """Typed columns: null where a row lacks a key, NaN where one was logged."""
    table = ask(two_labels(), lambda api: api.run("p/r").history())
    assert table.schema == pa.schema(
        [
            ("label", pa.string()),
            ("attempt", pa.int32()),
            ("step", pa.int64()),
            ("time", pa.timestamp("ns", "UTC")),
            ("loss", pa.float64()),
            ("key:step", pa.float64()),
        ]
    )
    table.validate(full=True)
    rows = table.to_pylist()
    assert [(row["label"], row["attempt"], row["step"]) for row in rows] == [
        ("0", 2, 0),
        ("0", 2, 1),
        ("1", 1, 0),
        ("1", 1, 9),
    ]
    assert math.isnan(rows[1]["loss"])
    assert [row["key:step"] for row in rows] == [7.0, None, None, None]
    assert table["time"][0].as_py() == datetime(1970, 1, 1, 0, 0, 5, 2000, tzinfo=UTC)


def test_history_of_keys_that_no_row_has() -> None:
    """Columns that were asked for are there, in the order asked, and null."""

    def tables(api: Api) -> list[pa.Table]:
        run = api.run("p/r")
        return [
            run.history(keys=["nobody", "loss"], labels=[1]),
            run.history(keys="nobody"),
            run.history(keys=[]),
            run.history(labels=[]),
            run.history(attempts="raw"),
            run.history(min_step=1, max_step=1, attempts="latest"),
        ]

    some, none, empty, nobody, raw, latest = ask(two_labels(), tables)
    assert some.column_names[4:] == ["nobody", "loss"]
    assert some["nobody"].null_count == some.num_rows == 2
    assert (none.num_rows, none.column_names[4:]) == (0, ["nobody"])
    assert (empty.num_rows, nobody.num_rows, raw.num_rows, latest.num_rows) == (0, 0, 5, 1)


def test_column_names_never_meet() -> None:
    """Keys named like the table's own columns are renamed, and no two keys to the same name."""
    keys = ["step", "key:step", "key:key:step", "key:loss", "loss", "label", "time", "attempt"]
    names = [column_name(key) for key in keys]
    assert names[:5] == ["key:step", "key:key:step", "key:key:key:step", "key:loss", "loss"]
    assert len(set(names)) == len(keys)
    assert not set(names) & {"label", "attempt", "step", "time"}


def test_large_history_comes_whole() -> None:
    """A history of many blocks is one table, in order."""
    writer = Writer(meta(1))
    for step in range(100_000):
        writer.row(step, x=float(step))
    table = ask(Fold().add(writer), lambda api: api.run("p/r").history(keys=["x"]))
    assert table["step"].to_pylist() == list(range(100_000))
    assert table["x"].to_pylist() == [float(step) for step in range(100_000)]


def test_events_iterate() -> None:
    """Records come as values; the kinds and labels asked for."""

    def look(api: Api) -> tuple[list[Any], list[Any]]:
        run = api.run("p/r")
        return list(run.events()), list(run.events(labels=["1"], kinds=["gap", "finish"]))

    events, kinds = ask(two_labels(), look)
    (event,) = events
    assert (event.label, event.kind, event.step, event.body) == ("0", "event", 1, {"note": "x"})
    assert [found.kind for found in kinds] == ["gap", "finish"]


def test_frontier_looks_again() -> None:
    """How far each label is known, asked anew each time."""
    fold = Fold()
    writer = Writer(meta(1)).row(0, x=1.0)
    fold.add(writer)

    def look(api: Api) -> list[dict[str, Frontier]]:
        run = api.run("p/r")
        before = run.frontier()
        writer.row(1, x=2.0)
        fold.append(writer.meta, [writer.pieces[-1]])
        return [before, run.frontier()]

    before, after = ask(fold, look)
    assert (before["0"].rows, before["0"].last_step, before["0"].complete_through) == (1, 0, 0)
    assert (after["0"].rows, after["0"].state, after["0"].gaps) == (2, "running", ())
    assert after["0"].offsets == {session_id(1): writer.end}


def test_runs_page_by_themselves() -> None:
    """More runs than a page holds come one after another, newest first, looked at when asked."""
    fold = Fold()
    for number in range(1, 251):
        given = replace(meta(number, group="g" if number == 7 else ""), run=f"r{number}")
        fold.add(Writer(given).row(number, x=1.0))

    def look(api: Api) -> list[Run]:
        found = list(api.runs())
        assert [run.id for run in found] == [f"r{number}" for number in range(250, 0, -1)]
        assert (found[0].state, found[0].rows, found[0].last_step) == ("running", 1, 250)
        assert found[0].summary == {"x": 1.0}
        assert [run.path for run in api.runs(project="p", group="g", state="running")] == ["p/r7"]
        assert list(api.runs(project="q")) == []
        return found

    ask(fold, look)


def test_what_is_not_there_is_not_found() -> None:
    """An unknown run or label is told with its name and the collector's address."""

    def look(api: Api) -> None:
        with pytest.raises(NotFound, match="there is no run p/none"):
            api.run("p/none")
        with pytest.raises(NotFound, match="has no label '7'; it has 0, 1"):
            api.run("p/r").history(labels=[7])
        with pytest.raises(Refused, match="state 'lost' is none of"):
            next(api.runs(state="lost"))
        with pytest.raises(ValueError, match="attempts is 'all'"):
            api.run("p/r").history(attempts="all")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="min_step must be an integer or None, not '1'"):
            api.run("p/r").history(min_step="1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="steps are 64-bit integers"):
            api.run("p/r").history(max_step=2**63)
        for path in ("r", "/r", "p/", ""):
            with pytest.raises(ValueError, match="PROJECT/RUN"):
                api.run(path)

    ask(two_labels(), look)


def test_unreachable_collector_is_told_with_what_to_do() -> None:
    """Nobody at the address: the error names it and says how to start a collector."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else gets the port.
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Api(address) as api, pytest.raises(Unavailable) as raised:
            api.run("p/r")
    assert address in str(raised.value)
    assert "plait collector --data DIR" in str(raised.value)


def test_closed_api_says_so() -> None:
    """A question after close() is told that the Api is closed."""
    api = Api("127.0.0.1:1")
    api.close()
    with pytest.raises(ValueError, match=r"this plait\.Api is closed"):
        api.run("p/r")


def test_http_port_is_told_from_a_collector_that_is_away() -> None:
    """What answers in HTTP/1 is told to be no gRPC port."""

    def answer(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # Closed: the test is done.
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        try:
            address = f"127.0.0.1:{listening.getsockname()[1]}"
            with Api(address) as api, pytest.raises(Unavailable, match="speaks no gRPC"):
                api.run("p/r")
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "address", ["7431", "host", "host:", "host:0", "host:99999", "a b:1", ":1"]
)
def test_bad_address_is_refused(address: str) -> None:
    """An address that is no HOST:PORT is told at once."""
    with pytest.raises(ValueError, match="no HOST:PORT"):
        Api(address)


def test_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """PLAIT_COLLECTOR says where the collector is; an argument wins over it."""
    monkeypatch.setenv("PLAIT_COLLECTOR", "somewhere:1")
    with Api() as api:
        assert api.address == "somewhere:1"
    with Api("[::1]:2") as api:
        assert api.address == "[::1]:2"
    monkeypatch.delenv("PLAIT_COLLECTOR")
    with Api() as api:
        assert api.address == "127.0.0.1:7431"
        api.close()
