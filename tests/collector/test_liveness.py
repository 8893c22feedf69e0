"""What time adds to what records say."""

from __future__ import annotations

from plait_collector.attempts import order_run
from plait_collector.liveness import Heard, RunLiveness, run_liveness
from plaitwire.limits import (
    GRACE_S,
    HEARTBEAT_INTERVAL_S,
    LOST_AFTER_HEARTBEATS,
    SILENT_AFTER_MIN_S,
)
from tests.support.fold import SECOND, Fold, Writer, meta, session_id

START = 1_000 * SECOND
LOST_AFTER = int(LOST_AFTER_HEARTBEATS * HEARTBEAT_INTERVAL_S * SECOND)
SILENT_AFTER = int(SILENT_AFTER_MIN_S * SECOND)
GRACE = int(GRACE_S * SECOND)


def look(heard: Heard, now_ns: int, *writers: Writer) -> RunLiveness:
    """What time adds to the run of some streams."""
    return run_liveness(heard, order_run(Fold().add(*writers).rows()), now_ns)


def words(seen: RunLiveness) -> list[str]:
    """The run's word and its labels'."""
    return [seen.state.value, *(label.state.value for label in seen.labels)]


def relayed(*sessions: int) -> Heard:
    """Streams that an agent on node n1 has just opened."""
    heard = Heard(START)
    heard.agent("agent", "n1", HEARTBEAT_INTERVAL_S, START)
    for session in sessions:
        heard.opened(session_id(session), "agent", START)
    return heard


def running(number: int, label: str = "0") -> Writer:
    """A session that has no finish."""
    return Writer(meta(number, label)).row(0, x=1.0)


def test_agent_that_is_not_heard_loses_its_labels() -> None:
    """After three intervals without a heartbeat a label is lost, and not before."""
    heard = relayed(1)
    assert words(look(heard, START + LOST_AFTER, running(1))) == ["live", "live"]
    assert words(look(heard, START + LOST_AFTER + 1, running(1))) == ["lost", "lost"]
    heard.heartbeat("agent", START + LOST_AFTER)
    assert words(look(heard, START + LOST_AFTER + 1, running(1))) == ["live", "live"]


def test_agent_s_own_promise_counts() -> None:
    """An agent that promises heartbeats less often has more time."""
    heard = relayed(1)
    heard.agent("agent", "n1", 2 * HEARTBEAT_INTERVAL_S, START)
    assert words(look(heard, START + 2 * LOST_AFTER, running(1))) == ["live", "live"]


def test_restarted_collector_gives_everybody_time() -> None:
    """A stream nobody has relayed yet is lost only when its agent had time to come back."""
    heard = Heard(START)
    assert words(look(heard, START + LOST_AFTER, running(1))) == ["live", "live"]
    assert words(look(heard, START + LOST_AFTER + 1, running(1))) == ["lost", "lost"]


def test_label_that_is_not_heard_is_silent() -> None:
    """Agent heard, label not, for a minute: silent."""
    heard = relayed(1)
    for now in (START + SILENT_AFTER, START + SILENT_AFTER + 1):
        heard.heartbeat("agent", now)
    assert words(look(heard, START + SILENT_AFTER, running(1))) == ["live", "live"]
    assert words(look(heard, START + SILENT_AFTER + 1, running(1))) == ["silent", "silent"]


def test_slow_label_is_silent_only_by_its_own_measure() -> None:
    """A label that usually comes every 100 s is not silent before 500 s."""
    heard = relayed(1)
    for at in range(1, 4):
        heard.arrived(session_id(1), at * 8, START + at * 100 * SECOND)
    last = START + 300 * SECOND
    heard.heartbeat("agent", last + 501 * SECOND)
    assert words(look(heard, last + 500 * SECOND, running(1))) == ["live", "live"]
    assert words(look(heard, last + 501 * SECOND, running(1))) == ["silent", "silent"]


def test_run_is_as_its_worst_running_label() -> None:
    """One lost label makes the run lost; ended ones make it no worse."""
    heard = relayed(1)
    now = START + LOST_AFTER + 1
    heard.heartbeat("agent", now)
    done = running(3, "2").finish()
    assert words(look(heard, now, running(1, "a"), running(2, "b"), done)) == [
        "lost",
        "ended",
        "live",
        "lost",
    ]


def test_run_of_ended_labels_has_ended() -> None:
    """Whoever is heard: what has a finish is not expected to say more."""
    assert words(look(Heard(START), START, running(1).finish(), running(2, "1").crash())) == [
        "ended",
        "ended",
        "ended",
    ]


def test_finished_primary_ends_the_run_after_a_grace() -> None:
    """A worker that still runs keeps the run alive for the grace, and no longer."""
    heard = relayed(2)
    primary = running(1).finish()
    finished_ns = primary.now_ns
    heard.heartbeat("agent", finished_ns + GRACE + 1)
    worker = running(2, "1")
    heard.streams[session_id(2)].heard_ns = finished_ns + GRACE
    assert words(look(heard, finished_ns + GRACE, primary, worker))[0] == "live"
    after = look(heard, finished_ns + GRACE + 1, primary, worker)
    assert words(after) == ["ended", "ended", "live"]


def test_grace_of_a_primary_whose_finish_has_just_come_counts_from_then() -> None:
    """What was relayed late is late for the workers too."""
    heard = relayed(1, 2)
    now = START + LOST_AFTER
    heard.arrived(session_id(1), 8, now)
    heard.heartbeat("agent", now)
    primary = Writer(meta(1)).finish()
    assert words(look(heard, now, primary, running(2, "1")))[0] == "live"


def test_failed_primary_gives_no_grace() -> None:
    """A primary that failed may be restarted: its workers keep the run alive."""
    heard = relayed(2)
    primary = running(1).finish(1, "failed")
    assert words(look(heard, START + 1, primary, running(2, "1")))[0] == "live"


def test_best_known_running_session_speaks_for_its_label() -> None:
    """Of sessions at once one that is heard is enough."""
    long = running(1)
    long.now_ns += 10**12
    long.row(1, x=1.0)
    heard = relayed(2)
    heard.heartbeat("agent", START + LOST_AFTER + 1)
    assert words(look(heard, START + LOST_AFTER + 1, long, running(2)))[1] == "live"


def test_lag_is_what_the_node_has_and_the_store_does_not() -> None:
    """Produced bytes beyond the stored ones are the lag; the node and the time stand beside it."""
    heard = relayed(1)
    writer = running(1)
    heard.arrived(session_id(1), writer.end, START + 5)
    heard.produced(session_id(1), writer.end + 4096)
    (label,) = look(heard, START + 5, writer).labels
    assert (label.lag_bytes, label.node, label.heard_ns) == (4096, "n1", START + 5)
    heard.closed(session_id(1))
    (label,) = look(heard, START + 5, writer).labels
    assert (label.lag_bytes, label.node, label.heard_ns) == (0, "", 0)
