"""KeyboardInterrupt at every instruction of log(): nothing torn, nothing stuck, nothing lost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from plait.quota import Quota
from plait.values import Flaws
from plait.writer import Writer
from plaitwire.folders import Folders
from plaitwire.limits import RECORD_BYTES_MAX
from plaitwire.records import Kind
from tests.sdk import logs

CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "same keys": ({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}),
    "new keys": ({"a": 1.0}, {"b": 2.0}),
    "an event": ({"a": 1.0}, {"a": 2.0, "t": "text"}),
}


class Striker:
    """Raises KeyboardInterrupt before the n-th instruction of plait's own code, once."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.has_struck = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A trace function, as sys.settrace takes it."""
        if not frame.f_globals.get("__name__", "").startswith("plait"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.has_struck:
            if self.left == 0:
                self.has_struck = True
                raise KeyboardInterrupt
            self.left -= 1
        return self

    def strike(self, call: Callable[[], object]) -> bool:
        """Run call under the trace. Returns whether it returned."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(before)
        return True


def log_elsewhere(writer: Writer, value: float) -> None:
    """Log from another thread: a lock that was left held hangs here."""
    thread = threading.Thread(target=writer.log, args=({"elsewhere": value},), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the lock was left held"


def check(writer: Writer, key: str, returned: list[float], struck: float) -> None:
    """Every returned value once, in order; the struck one at most once; every record whole."""
    seen = []
    session = writer.meta.session
    for row in logs.rows(writer.folders, session):
        seen += [row.values[key]] if key in row.values else []
    expected = [value for value in seen if value != struck]
    assert expected == returned
    assert seen.count(struck) <= 1
    logs.bodies(writer.folders, session, Kind.EVENT)


@pytest.mark.parametrize("case", CALLS)
def test_at_every_instruction(folders: Folders, case: str) -> None:
    """Wherever the interrupt strikes, the log is whole and the next calls go on."""
    first, then = CALLS[case]
    for at in logs.opcodes(5000):
        writer = Writer(folders, logs.meta())
        writer.log({"x": 1.0})
        writer.log(first)
        striker = Striker(at)
        returned = striker.strike(lambda writer=writer: writer.log({**then, "x": 2.0}))  # type: ignore[misc]
        log_elsewhere(writer, float(at))
        writer.log({"x": 3.0})
        check(writer, "x", [1.0, 2.0, 3.0] if returned else [1.0, 3.0], -1.0 if returned else 2.0)
        check(writer, "elsewhere", [float(at)], -1.0)
        writer.close()
        remove(writer)
        if not striker.has_struck:
            assert returned
            return


def test_at_every_instruction_of_the_fast_path(folders: Folders) -> None:
    """The same where the struck call has the keys of the one before."""
    writer = Writer(folders, logs.meta())
    returned: list[float] = []
    struck: set[float] = set()
    value = 0.0
    for at in logs.opcodes(1000):
        writer.log({"x": value})
        returned.append(value)
        value += 1
        striker = Striker(at)
        if striker.strike(lambda value=value: writer.log({"x": value})):  # type: ignore[misc]
            returned.append(value)
        else:
            struck.add(value)
        value += 1
        if not striker.has_struck:
            break
        assert not writer._is_owned()
    log_elsewhere(writer, value)
    seen = [row.values["x"] for row in logs.rows(folders, writer.meta.session) if "x" in row.values]
    assert [one for one in seen if one not in struck] == returned
    assert len(seen) == len(set(seen))
    assert len(struck) > 50
    writer.close()


def test_at_every_instruction_of_a_roll(folders: Folders) -> None:
    """The same where the struck call makes the next segment."""
    filler = {f"f{at}": 0.5 for at in range(100)}
    for at in logs.opcodes(20_000):
        if at > 200 and at % 3:
            continue  # A third of a long way is enough; which third moves with each change.
        writer = Writer(folders, logs.meta(), quota=Quota(cold_free_bytes_min=0))
        segment = writer._log.segment
        writer.log(filler)
        while segment.position + 2 * 824 <= segment.limit:
            writer.log(filler)
        writer.log({"x": 1.0})
        while segment.position + 40 <= segment.limit:
            writer.log({"x": 1.0})
        count = sum("x" in row.values for row in logs.rows(folders, writer.meta.session))
        striker = Striker(at)
        returned = striker.strike(lambda writer=writer: writer.log({"x": 2.0}))  # type: ignore[misc]
        log_elsewhere(writer, float(at))
        writer.log({"x": 3.0})
        expected = [1.0] * count + ([2.0, 3.0] if returned else [3.0])
        check(writer, "x", expected, -1.0 if returned else 2.0)
        assert writer._log.segment is not segment
        writer.close()
        remove(writer)
        if not striker.has_struck:
            return


def test_in_a_continued_body(folders: Folders) -> None:
    """A body that was cut short between its records is not read, and a gap stands behind it."""
    text = "x" * (3 * RECORD_BYTES_MAX)
    whole = cut = 0
    for at in logs.opcodes(20_000):
        if at % 7:
            continue
        writer = Writer(folders, logs.meta(), flaws=Flaws(lambda text: None))
        striker = Striker(at)
        returned = striker.strike(lambda writer=writer: writer.log({"big": text}))  # type: ignore[misc]
        writer.log({"small": "y"})
        events = logs.bodies(folders, writer.meta.session, Kind.EVENT)
        assert events[-1] == {"small": "y"}
        assert events[:-1] in ([], [{"big": text}])
        assert not returned or len(events) == 2
        gaps = logs.bodies(folders, writer.meta.session, Kind.GAP)
        assert not (gaps and len(events) == 2)
        whole += len(events) == 2
        cut += bool(gaps)
        writer.close()
        remove(writer)
        if not striker.has_struck:
            break
    assert whole
    assert cut


def remove(writer: Writer) -> None:
    """Make room for the next round."""
    for folder in (
        writer.folders.hot_stream(writer.meta.session),
        writer.folders.cold_stream(writer.meta.session),
    ):
        if folder.exists():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
