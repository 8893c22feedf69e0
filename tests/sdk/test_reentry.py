"""log() from within log(): from a conversion, a print, a signal handler."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from plait.values import Flaws
from plait.writer import Writer
from plaitwire.folders import Folders
from plaitwire.limits import REENTRANT_CALLS_MAX
from plaitwire.records import Kind
from tests.sdk import logs


@pytest.fixture
def writer(folders: Folders) -> Iterator[Writer]:
    """A writer with an open session."""
    opened = Writer(folders, logs.meta(), flaws=Flaws(lambda text: None))
    yield opened
    opened.close()


def rows(writer: Writer) -> list[logs.Row]:
    """What a reader sees of the writer's session."""
    return logs.rows(writer.folders, writer.meta.session)


def bodies(writer: Writer, kind: Kind) -> list[Any]:
    """What a reader sees of its records of a kind."""
    return logs.bodies(writer.folders, writer.meta.session, kind)


def test_reentrant_from_float(writer: Writer) -> None:
    """A value whose conversion logs is converted once, and both rows are there."""

    class Logging:
        def __float__(self) -> float:
            writer.log({"inner": 1.0})
            return 2.0

    for _ in range(3):
        writer.log({"outer": Logging()})
    assert [list(row.values) for row in rows(writer)] == [["inner"], ["outer"]] * 3
    assert [row.step for row in rows(writer)] == list(range(6))


def test_reentrant_from_a_wrapped_print(folders: Folders) -> None:
    """Saying a flaw may log, as a captured stderr does: nothing hangs and nothing is lost."""
    opened: list[Writer] = []
    flaws = Flaws(lambda text: opened[0].log({"said": text}))
    opened.append(writer := Writer(folders, logs.meta(), flaws=flaws))
    writer.log(7)  # type: ignore[arg-type]
    writer.log({"a": 1.0})
    writer.close()
    assert len(bodies(writer, Kind.EVENT)) == 1
    assert [row.values for row in rows(writer)] == [{"a": 1.0}]


def test_reentrant_while_the_lock_is_held(writer: Writer) -> None:
    """Calls within a call that holds the lock are written by it; too many are a counted gap."""
    with writer._lock:
        for at in range(REENTRANT_CALLS_MAX + 5):
            writer.log({"inner": float(at)})
    writer.log({"outer": 1.0})
    inner = [row.values["inner"] for row in rows(writer) if "inner" in row.values]
    assert inner == list(map(float, range(REENTRANT_CALLS_MAX)))
    gaps = bodies(writer, Kind.GAP)
    assert sum(gap["records"] for gap in gaps) == 5
    assert gaps[-1]["total"] == writer.statistics().dropped == 5


def test_reentrant_from_a_signal_handler(writer: Writer) -> None:
    """A signal handler may log at any moment of log(): each returned call is there once."""
    logged, is_inside = 0, False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal logged, is_inside
        if is_inside:  # A late signal within its own handler: whose call came first is moot.
            return
        is_inside = True
        writer.log({"signal": float(logged)})
        logged += 1
        is_inside = False

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    outer = 0
    try:
        deadline = time.monotonic() + 30
        while logged < 200 and time.monotonic() < deadline:
            writer.log({"outer": float(outer)})
            outer += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    writer.log({"last": 1.0})
    read = rows(writer)
    assert logged >= 200
    for key, count in (("outer", outer), ("signal", logged)):
        assert [row.values[key] for row in read if key in row.values] == list(
            map(float, range(count))
        )
