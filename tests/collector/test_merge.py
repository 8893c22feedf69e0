"""Config, summary, states and gaps of a run: what its records say, label by label and together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plaitwire.records import FLAG_CONTINUED, Kind, pack_json, pack_record
from plaitwire.v1 import query_pb2
from tests.support.fold import Fold, Writer, meta, session_id
from tests.support.reading import merged, view


def config(fold: Fold) -> Any:
    """The run's config as a value."""
    return json.loads(view(fold).config_json)


def conflicts(fold: Fold) -> dict[str, dict[str, Any]]:
    """Key to what each label says."""
    return {
        conflict.key: {label: json.loads(text) for label, text in conflict.values_json.items()}
        for conflict in view(fold).conflicts
    }


def summary(fold: Fold) -> Any:
    """The run's summary as a value."""
    return json.loads(view(fold).summary_json)


def label_of(fold: Fold, label: str) -> query_pb2.LabelView:
    """One label's view."""
    (found,) = [seen for seen in view(fold).labels if seen.label == label]
    return found


def label_summary(fold: Fold, label: str = "0") -> Any:
    """A label's summary as a value."""
    return json.loads(label_of(fold, label).summary_json)


# Config.


def test_primary_s_config_wins_and_conflicts_are_told() -> None:
    """The primary's value is the run's; where labels differ, what each says is there."""
    fold = Fold().add(
        Writer(meta(1, "0")).config(lr=0.1, seed=1, only0="a"),
        Writer(meta(2, "1", primary=True)).config(lr=0.2, seed=1),
        Writer(meta(3, "2")).config(lr=0.1, only2=None),
    )
    assert config(fold) == {"lr": 0.2, "only0": "a", "only2": None, "seed": 1}
    assert conflicts(fold) == {"lr": {"0": 0.1, "1": 0.2, "2": 0.1}}


def test_without_a_primary_the_smallest_label_s_config_wins() -> None:
    """Natural order decides: worker 2 before worker 10."""
    fold = Fold().add(Writer(meta(1, "w10")).config(lr=10), Writer(meta(2, "w2")).config(lr=2))
    assert view(fold).primary == ""
    assert config(fold) == {"lr": 2}


def test_of_several_primaries_the_smallest_label_speaks() -> None:
    """Two labels that both say they speak for the run are settled by natural order."""
    fold = Fold().add(
        Writer(meta(1, "10", primary=True)).config(lr=10),
        Writer(meta(2, "9", primary=True)).config(lr=9),
        Writer(meta(3, "0")).config(lr=0),
    )
    assert view(fold).primary == "9"
    assert config(fold) == {"lr": 9}


def test_label_s_latest_attempt_wins_its_config_key_by_key() -> None:
    """What a restart sets again counts; what it does not, stays."""
    fold = Fold().add(
        Writer(meta(9)).config(lr=0.2), Writer(meta(1)).config(lr=0.1, depth=4).config(depth=5)
    )
    assert config(fold) == {"depth": 5, "lr": 0.2}
    assert conflicts(fold) == {}


def test_continued_config_is_one_config() -> None:
    """A config over several records is read as a whole."""
    fold = Fold().add(Writer(meta(1)).continued(Kind.CONFIG, {"text": "x" * 5000, "n": 1}, 7))
    assert config(fold) == {"text": "x" * 5000, "n": 1}


def test_config_that_lost_its_end_costs_itself_alone() -> None:
    """A config whose rest never came is left out and counted; the next one is read."""
    half = pack_record(Kind.CONFIG, b'{"a": ', flags=FLAG_CONTINUED)
    row = Writer(meta(1)).raw(half).row(0, x=1.0).config(b=2)
    fold = Fold().add(row)
    assert config(fold) == {"b": 2}
    assert merged(fold).bad == 1


@pytest.mark.parametrize(
    "body", [b"[1]", b"{", b"\xff\xfe", b'{"a":' * 100_000, b'{"a":' + b"9" * 5000 + b"}"]
)
def test_bad_config_costs_itself_alone(body: bytes) -> None:
    """A config that is no JSON object, or none anyone can read, is left out and counted."""
    if len(body) > 200_000:
        body = body[:200_000]
    fold = Fold().add(Writer(meta(1)).config(a=1).raw(pack_record(Kind.CONFIG, body)).config(b=2))
    assert config(fold) == {"a": 1, "b": 2}
    assert merged(fold).bad == 1


def test_numbers_that_are_not_finite_are_words() -> None:
    """Every answer is strict JSON: NaN and the infinities are told in words."""
    values = {"clip": float("inf"), "deep": [float("nan"), {"x": -float("inf")}]}
    writer = Writer(meta(1)).raw(pack_json(Kind.CONFIG, values))
    assert config(Fold().add(writer)) == {"clip": "Infinity", "deep": ["NaN", {"x": "-Infinity"}]}


def test_half_a_surrogate_pair_harms_nothing() -> None:
    """Text that UTF-8 cannot hold stays readable as JSON, and as a key it is left out."""
    body = b'{"a": "\\ud800", "\\ud800": 1}'
    fold = Fold().add(Writer(meta(1)).raw(pack_record(Kind.CONFIG, body)))
    assert config(fold) == {"a": "\ud800"}


# Summary.


def test_summary_is_the_last_value_of_the_effective_series() -> None:
    """Without a definition a key's last value counts, in the label's order."""
    fold = Fold().add(
        Writer(meta(1)).row(0, loss=3.0, acc=0.5).row(1, loss=2.0), Writer(meta(9)).row(1, loss=5.0)
    )
    assert label_summary(fold) == {"acc": 0.5, "loss": 5.0}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("min", 1.0), ("max", 4.0), ("mean", 2.5), ("first", 3.0), ("last", 2.0), ("none", None)],
)
def test_define_metric_rules_the_summary(rule: str, expected: float | None) -> None:
    """Each rule takes its value from the effective series; none takes none."""
    writer = Writer(meta(1)).define("x", rule)
    for step, value in enumerate([3.0, 1.0, 4.0, 2.0]):
        writer.row(step, x=value)
    assert label_summary(Fold().add(writer)) == ({} if expected is None else {"x": expected})


def test_points_that_do_not_count_are_not_summarised() -> None:
    """The best value of an attempt that was overridden is no longer the run's best."""
    first = Writer(meta(1)).define("x", "min").row(0, x=5.0).row(1, x=-100.0)
    assert label_summary(Fold().add(first, Writer(meta(9)).row(1, x=4.0))) == {"x": 4.0}


def test_nan_hides_no_extreme() -> None:
    """The least and largest are those of numbers; where there are none, NaN is told."""
    nan = float("nan")
    writer = Writer(meta(1)).define("x", "min").define("y", "max")
    writer.row(0, x=nan, y=nan).row(1, x=2.0, y=nan)
    assert label_summary(Fold().add(writer)) == {"x": 2.0, "y": "NaN"}


def test_what_is_set_later_wins() -> None:
    """Between a row and an explicit value the later one counts, unless a rule other than last."""
    writer = Writer(meta(1)).define("best", "max").summary(best="mine", a=1, b=2)
    writer.row(0, a=10.0, best=0.5).summary(c=3).row(1, c=30.0).summary(c="end")
    assert label_summary(Fold().add(writer)) == {"a": 10.0, "b": 2, "best": "mine", "c": "end"}


def test_primary_s_definition_holds_for_labels_without_one() -> None:
    """A label that defines nothing is summarised as the primary says."""
    fold = Fold().add(
        Writer(meta(1, "0")).define("x", "min").row(0, x=1.0).row(1, x=2.0),
        Writer(meta(2, "1")).row(0, x=3.0).row(1, x=4.0),
        Writer(meta(3, "2")).define("x", "max").row(0, x=5.0).row(1, x=6.0),
    )
    assert [label_summary(fold, label) for label in "012"] == [{"x": 1.0}, {"x": 3.0}, {"x": 6.0}]
    assert summary(fold) == {"x": 1.0}


@pytest.mark.parametrize(("rule", "expected"), [("min", 1.0), ("max", 8.0), ("mean", 4.5)])
def test_run_s_summary_combines_the_labels_by_rule(rule: str, expected: float) -> None:
    """A run's least is the least of its labels', its mean the mean of their means."""
    writers = []
    for number, values in enumerate([(1.0, 3.0), (6.0, 8.0)]):
        writer = Writer(meta(number + 1, str(number)))
        if number == 0:
            writer.define("x", rule)
        for step, value in enumerate(values):
            writer.row(step, x=value)
        writers.append(writer)
    assert summary(Fold().add(*writers)) == {"x": expected}


def test_run_s_summary_is_its_primary_s_else_its_smallest_label_s() -> None:
    """With a primary its values alone; without one, for each key the smallest label that has it."""
    zero = Writer(meta(1, "0")).row(0, x=1.0)
    fold = Fold().add(zero, Writer(meta(2, "1")).row(0, x=2.0, y=3.0))
    assert summary(fold) == {"x": 1.0}
    fold = Fold().add(Writer(meta(1, "a")).row(0, x=1.0), Writer(meta(2, "b")).row(0, x=2.0, y=3.0))
    assert summary(fold) == {"x": 1.0, "y": 3.0}


# States.


def test_state_is_the_latest_attempt_s_worst() -> None:
    """Earlier attempts are forgiven; of the latest one's root sessions the worst counts."""
    fold = Fold().add(Writer(meta(1)).row(0, x=1.0).crash(), Writer(meta(9)).row(1, x=1.0).finish())
    assert (view(fold).state, label_of(fold, "0").exit_code) == ("finished", 0)
    both = Writer(meta(1)).row(0, x=1.0)
    both.now_ns += 10**12
    fold = Fold().add(both.finish(), Writer(meta(9)).row(1, x=1.0).finish(3, "failed"))
    assert (view(fold).state, label_of(fold, "0").exit_code) == ("failed", 3)
    assert label_of(fold, "0").attempts[0].state == "failed"


def test_branches_decide_no_state() -> None:
    """A crashed child of a finished rank leaves the rank finished."""
    child = Writer(meta(2, parent=session_id(1))).row(0, x=1.0).crash()
    fold = Fold().add(Writer(meta(1)).row(0, x=1.0).finish(), child)
    assert view(fold).state == "finished"
    assert [s.state for s in label_of(fold, "0").attempts[0].sessions] == ["finished", "crashed"]


def test_run_is_as_its_primary_once_the_others_have_ended() -> None:
    """While any label runs the run does; then the primary decides, even beside a crashed worker."""
    primary = Writer(meta(1, "0")).finish()
    assert view(Fold().add(primary, Writer(meta(2, "1")))).state == "running"
    assert view(Fold().add(primary, Writer(meta(2, "1")).crash())).state == "finished"


def test_run_without_a_primary_is_as_its_worst_label() -> None:
    """Crashed is worse than failed, failed worse than finished."""
    fold = Fold().add(
        Writer(meta(1, "a")).finish(),
        Writer(meta(2, "b")).finish(1, "failed"),
        Writer(meta(3, "c")).crash(),
    )
    assert view(fold).state == "crashed"


# Gaps.


def test_gaps_count_what_exceeds_the_total_told_before() -> None:
    """A drop that the writer told and the agent tells again counts once."""
    writer = Writer(meta(1)).row(0, x=1.0).gap(3, 3).row(5, x=1.0)
    writer.gap(3, 3, by_agent=True).gap(4, 7, by_agent=True)
    label = label_of(Fold().add(writer), "0")
    assert [gap.records for gap in label.gaps] == [3, 4]
    assert [gap.after_step for gap in label.gaps] == [0, 5]


def test_complete_through_is_the_last_step_before_the_first_gap() -> None:
    """Without a gap it is the last step; with one, the largest step of the rows before it."""
    whole = Writer(meta(1)).row(0, x=1.0).row(8, x=1.0)
    assert label_of(Fold().add(whole), "0").complete_through == 8
    holed = whole.gap(None, None).row(20, x=1.0)
    label = label_of(Fold().add(holed), "0")
    assert (label.complete_through, label.last_step) == (8, 20)
    assert not label.gaps[0].HasField("records")
    early = Writer(meta(1)).gap(1, 1).row(0, x=1.0)
    assert not label_of(Fold().add(early), "0").HasField("complete_through")


def test_gap_in_a_later_attempt_stands_after_what_came_before() -> None:
    """In the label's counting, floating rows before a gap come after the earlier attempt."""
    first = Writer(meta(1)).row(0, x=1.0).row(9, x=1.0)
    second = Writer(meta(20)).row(x=1.0).gap(1, 1).row(x=1.0)
    label = label_of(Fold().add(first, second), "0")
    assert (label.complete_through, label.last_step) == (10, 11)
    assert label.gaps[0].attempt == 2


def test_a_restart_from_a_checkpoint_is_complete_only_up_to_its_own_gap() -> None:
    """An attempt that went back and lost rows there pulls complete_through back with it."""
    first = Writer(meta(1)).row(0, x=1.0).row(1000, x=1.0)
    second = Writer(meta(20)).row(500, x=1.0).row(600, x=1.0).gap(3, 3).row(1200, x=1.0)
    label = label_of(Fold().add(first, second), "0")
    assert (label.complete_through, label.last_step) == (600, 1200)
    third = Writer(meta(40)).gap(1, 1).row(700, x=1.0)
    assert label_of(Fold().add(first, second, third), "0").complete_through == 600


def test_bytes_that_were_lost_are_a_gap() -> None:
    """A gap in place of bytes is told with its bounds, and the stream goes on after it."""
    writer = Writer(meta(1)).row(0, x=1.0)
    fold = Fold().add(writer)
    fold.skip(writer.meta, writer.end + 800, "vanished", None)
    gap = label_of(fold, "0").gaps[0]
    assert (gap.offset, gap.end, gap.reason) == (writer.end, writer.end + 800, "vanished")
    assert label_of(fold, "0").attempts[0].sessions[0].offset == writer.end + 800


def test_numbers_no_answer_can_hold_harm_nothing() -> None:
    """An exit code or a count that a broken writer made up is left out; the run is answered."""
    writer = Writer(meta(1)).row(0, x=1.0).gap(-5, None).gap(2**80, None).finish(2**80, "odd")
    label = label_of(Fold().add(writer), "0")
    assert not label.HasField("exit_code")
    assert label.state == "failed"
