"""The order of a label's sessions, and which of what they wrote counts: the planted cases."""

from __future__ import annotations

import json

from plait_collector.attempts import order_run
from plait_collector.natural import natural_key
from plaitwire.records import Kind
from plaitwire.v1 import types_pb2
from tests.support.fold import SECOND, Fold, Writer, meta, session_id
from tests.support.reading import cells, series, table, view


def attempts_of(fold: Fold, label: str = "0") -> list[list[int]]:
    """The numbers of a label's sessions, attempt by attempt."""
    (order,) = [order for order in order_run(fold.rows()) if order.label == label]
    return [[int(place.session, 16) for place in attempt.places] for attempt in order.attempts]


def test_natural_order_compares_digits_as_numbers() -> None:
    """Rank 2 stands before rank 10, and names that differ never tie."""
    names = ["10", "2", "node-10", "node-9", "1", "01", "a"]
    assert sorted(names, key=natural_key) == ["1", "01", "2", "10", "a", "node-9", "node-10"]


def test_forked_child_that_logs_one_row_costs_nothing() -> None:
    """A branch that writes one automatic row leaves every point of its parent as it was."""
    parent = Writer(meta(1))
    for step in range(100):
        parent.row(step, loss=float(step))
    child = Writer(meta(2, parent=session_id(1))).row(loss=-1.0)
    fold = Fold().add(parent.finish(), child)
    assert attempts_of(fold) == [[1, 2]]
    assert series(fold, "loss") == {**{step: float(step) for step in range(100)}, 100: -1.0}
    assert view(fold).state == "finished"


def test_forked_child_that_logs_a_given_step_counts_at_that_step_alone() -> None:
    """A branch's records are united with its attempt's: its point wins at its step, no other."""
    parent = Writer(meta(1)).row(0, loss=0.0).row(1, loss=1.0).row(2, loss=2.0)
    child = Writer(meta(2, parent=session_id(1))).row(1, loss=-1.0)
    fold = Fold().add(parent, child)
    assert series(fold, "loss") == {0: 0.0, 1: -1.0, 2: 2.0}


def test_restart_without_steps_goes_on_after_its_predecessor() -> None:
    """Automatic steps of a later attempt follow the earlier one's last step and override none."""
    first = Writer(meta(1)).row(loss=1.0).row(loss=2.0).row(loss=3.0).crash()
    second = Writer(meta(9, restart_count=1)).row(loss=4.0).row(loss=5.0)
    fold = Fold().add(first, second)
    assert series(fold, "loss") == {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: 5.0}
    assert [attempt for attempt, _, _ in cells(fold)] == [1, 1, 1, 2, 2]


def test_restart_whose_first_row_has_an_automatic_step() -> None:
    """The automatic row overrides nothing; the given steps after it override from the first on."""
    first = Writer(meta(1))
    for step in range(10):
        first.row(step, loss=float(step))
    second = Writer(meta(9, restart_count=1)).row(started=1.0).row(5, loss=50.0).row(6, loss=60.0)
    fold = Fold().add(first, second)
    expected = {**{step: float(step) for step in range(5)}, 5: 50.0, 6: 60.0}
    assert series(fold, "loss") == expected
    assert series(fold, "started") == {10: 1.0}


def test_automatic_steps_after_a_given_one_are_as_written() -> None:
    """Only what stands before a session's first given step is shifted."""
    first = Writer(meta(1)).row(100, loss=0.0)
    second = Writer(meta(9, restart_count=1)).row(loss=1.0).row(7, loss=2.0).row(loss=3.0)
    fold = Fold().add(first, second)
    assert series(fold, "loss") == {101: 1.0, 7: 2.0, 8: 3.0}


def test_event_with_a_given_step_anchors_what_follows() -> None:
    """A given step anchors a session whether a row or an event carries it."""
    first = Writer(meta(1)).row(100, loss=0.0)
    second = Writer(meta(9, restart_count=1)).say(Kind.EVENT, {"note": "x"}, step=4)
    fold = Fold().add(first, second.row(loss=1.0))
    assert series(fold, "loss") == {0: 1.0}


def test_host_with_a_slow_clock_joins_and_loses_nothing() -> None:
    """A restart whose clock says it began before its predecessor ended is united with it."""
    first = Writer(meta(100, host="a"))
    for step in range(20):
        first.row(step, loss=float(step))
    late = Writer(meta(150, host="b", started_ns=100 * SECOND + 5)).row(20, loss=20.0)
    fold = Fold().add(first, late.row(21, loss=21.0))
    assert attempts_of(fold) == [[100, 150]]
    assert series(fold, "loss") == {step: float(step) for step in range(22)}


def test_host_whose_clock_is_slower_still_is_flagged_and_stays_readable() -> None:
    """A restart that seems to come before its predecessor is said to, and every row is there."""
    first = Writer(meta(100, host="a")).row(0, loss=0.0).row(1, loss=1.0)
    fold = Fold().add(first, Writer(meta(50, host="b")).row(2, loss=2.0))
    assert attempts_of(fold) == [[50], [100]]
    assert [a.order_by_clocks for a in view(fold).labels[0].attempts] == [False, True]
    assert len(cells(fold, mode="raw")) == 3


def test_order_that_rests_on_two_clocks_is_flagged() -> None:
    """Attempts of one restart count on two hosts are ordered by their clocks, and it says so."""
    same = [Writer(meta(1)).row(0, x=1.0), Writer(meta(5)).row(0, x=1.0)]
    assert [a.order_by_clocks for a in view(Fold().add(*same)).labels[0].attempts] == [False, False]
    hosts = [Writer(meta(1, host="a")).row(0, x=1.0), Writer(meta(5, host="b")).row(0, x=1.0)]
    assert [a.order_by_clocks for a in view(Fold().add(*hosts)).labels[0].attempts] == [False, True]
    boots = [Writer(meta(1)).row(0, x=1.0), Writer(meta(5, boot_id="next")).row(0, x=1.0)]
    assert [a.order_by_clocks for a in view(Fold().add(*boots)).labels[0].attempts] == [False, True]
    counted = [
        Writer(meta(1, host="a")).row(0, x=1.0),
        Writer(meta(5, host="b", restart_count=1)).row(0, x=1.0),
    ]
    flags = [a.order_by_clocks for a in view(Fold().add(*counted)).labels[0].attempts]
    assert flags == [False, False]


def test_restart_count_goes_before_the_clock() -> None:
    """The launcher's count orders attempts even where a clock says otherwise."""
    fold = Fold().add(Writer(meta(1, restart_count=1)).row(0, x=2.0), Writer(meta(9)).row(0, x=1.0))
    assert attempts_of(fold) == [[9], [1]]
    assert series(fold, "x") == {0: 2.0}


def test_agents_closing_record_does_not_prolong_an_attempt() -> None:
    """A closing record has no time: what starts after the session's own last record follows it."""
    crashed = Writer(meta(1)).row(0, x=1.0).crash()
    fold = Fold().add(crashed, Writer(meta(2)).row(0, x=2.0))
    assert attempts_of(fold) == [[1], [2]]


def test_sessions_at_once_are_one_attempt() -> None:
    """A session that starts while another of its label writes joins it; both are kept."""
    long = Writer(meta(1))
    long.row(0, a=1.0)
    long.now_ns = 10 * SECOND
    long.row(1, a=2.0)
    fold = Fold().add(long, Writer(meta(5)).row(0, b=3.0))
    assert attempts_of(fold) == [[1, 5]]
    assert cells(fold) == [(1, 1, {"a": 2.0}), (1, 0, {"a": 1.0, "b": 3.0})]


def test_last_record_of_a_key_and_step_counts_within_an_attempt() -> None:
    """Logging the same key at the same step again replaces the value and moves the row."""
    writer = Writer(meta(1)).row(0, a=1.0, b=1.0).row(1, a=2.0).row(0, a=3.0)
    fold = Fold().add(writer)
    assert cells(fold) == [(1, 1, {"a": 2.0}), (1, 0, {"a": 3.0, "b": 1.0})]
    assert table(fold).times_ns.tolist() == [SECOND + 2_000_000, SECOND + 3_000_000]


def test_later_attempt_overrides_key_by_key() -> None:
    """A restart that logs one key again leaves the others of its predecessor alone."""
    first = Writer(meta(1))
    for step in range(4):
        first.row(step, loss=float(step), lr=0.1)
    fold = Fold().add(first, Writer(meta(9)).row(2, loss=20.0))
    assert series(fold, "loss") == {0: 0.0, 1: 1.0, 2: 20.0}
    assert series(fold, "lr") == {0: 0.1, 1: 0.1, 2: 0.1, 3: 0.1}
    assert cells(fold, mode="latest") == [(2, 2, {"loss": 20.0})]


def test_override_holds_for_all_earlier_attempts() -> None:
    """The third attempt overrides the first where the second did not reach so low."""
    fold = Fold().add(
        Writer(meta(1)).row(0, x=0.0).row(1, x=1.0).row(2, x=2.0).row(3, x=3.0),
        Writer(meta(5)).row(3, x=30.0),
        Writer(meta(9)).row(1, x=100.0),
    )
    assert series(fold, "x") == {0: 0.0, 1: 100.0}


def test_backfill_leaves_one_value_at_each_step() -> None:
    """An attempt that writes a smaller step later overrides from that smaller step on."""
    first = Writer(meta(1)).row(0, x=0.0).row(5, x=5.0).row(9, x=9.0)
    fold = Fold().add(first, Writer(meta(5)).row(9, x=90.0).row(5, x=50.0))
    assert series(fold, "x") == {0: 0.0, 5: 50.0, 9: 90.0}


def test_raw_is_every_row_as_it_was_written() -> None:
    """Raw shows the rows of all attempts, with their own steps, in the label's order."""
    first = Writer(meta(1)).row(x=1.0).row(x=2.0)
    fold = Fold().add(Writer(meta(9)).row(x=3.0), first)
    assert cells(fold, mode="raw") == [(1, 0, {"x": 1.0}), (1, 1, {"x": 2.0}), (2, 0, {"x": 3.0})]


def test_branch_of_a_branch_stands_in_its_root_s_attempt() -> None:
    """Descent is followed up to the root session, whatever restart counts branches carry."""
    fold = Fold().add(
        Writer(meta(1)).row(0, x=0.0),
        Writer(meta(2, parent=session_id(1), restart_count=7)).row(1, x=1.0),
        Writer(meta(3, parent=session_id(2))).row(2, x=2.0),
        Writer(meta(9)).row(3, x=3.0),
    )
    assert attempts_of(fold) == [[1, 2, 3], [9]]


def test_orphan_takes_a_root_s_place_and_decides_no_state() -> None:
    """A branch whose parent is unknown is ordered as a root, and the state is not its business."""
    fold = Fold().add(
        Writer(meta(1)).row(0, x=0.0).finish(),
        Writer(meta(5, parent=session_id(404))).row(1, x=1.0).crash(),
    )
    assert attempts_of(fold) == [[1], [5]]
    label = view(fold).labels[0]
    assert label.state == "finished"
    assert [attempt.state for attempt in label.attempts] == ["finished", "crashed"]


def test_label_of_orphans_alone_has_their_state() -> None:
    """Where nothing else can decide a label's state, its orphans do."""
    fold = Fold().add(Writer(meta(5, "worker", parent=session_id(404))).row(1, x=1.0).crash())
    assert view(fold).labels[0].state == "crashed"


def test_sessions_that_descend_from_each_other_are_orphans() -> None:
    """A circle of parents, which only a broken writer makes, still has an order."""
    fold = Fold().add(
        Writer(meta(1, parent=session_id(2))).row(0, x=1.0),
        Writer(meta(2, parent=session_id(1))).row(0, x=2.0),
        Writer(meta(3, parent=session_id(3))).row(0, x=3.0),
        Writer(meta(4, parent=session_id(2))).row(0, x=4.0),
    )
    assert attempts_of(fold) == [[1], [2, 4], [3]]


def test_deep_descent_is_ordered_in_no_time() -> None:
    """Branches of branches, thousands deep, cost a walk each and no more."""
    depth = 5000
    chain = [Writer(meta(n, parent=session_id(n - 1) if n > 1 else "")) for n in range(1, depth)]
    (attempt,) = attempts_of(Fold().add(*reversed(chain)))
    assert attempt == list(range(1, depth))


def test_absurd_steps_stay_within_what_an_answer_can_hold() -> None:
    """Steps at the ends of what 8 bytes hold shift nothing out of them."""
    huge = Writer(meta(1)).row(2**63 - 1, x=1.0)
    low = Writer(meta(3, "1")).row(-(2**63) + 1, x=1.0)
    fold = Fold().add(
        huge, low, Writer(meta(5)).row(x=2.0).row(x=3.0), Writer(meta(6, "1")).row(x=4.0)
    )
    largest = 2**63 - 1
    assert all(abs(step) <= largest for label in "01" for _, step, _ in cells(fold, label))
    assert view(fold).labels[0].last_step == largest


def test_node_and_edit_streams_are_no_labels() -> None:
    """A node's telemetry and edits made at the collector never become a label of the run."""
    fold = Fold().add(
        Writer(meta(1)).row(0, x=0.0),
        Writer(meta(2, "node", kind=types_pb2.STREAM_KIND_NODE)).row(0, cpu=1.0),
        Writer(meta(3, "edit", kind=types_pb2.STREAM_KIND_EDIT)).config(a=1),
    )
    assert [label.label for label in view(fold).labels] == ["0"]
    assert json.loads(view(fold).config_json) == {}
