"""What finish, gap and schema records say, whatever is in their bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plait_collector import lift
from plait_collector.lift import BadBody
from plait_collector.store import Finish
from plaitwire.v1 import ingest_pb2 as pb


def body(value: Any) -> bytes:
    """A body as a writer would make it."""
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ({"exit_code": 0, "state": "finished", "by": "rank"}, Finish("finished", 0, "rank")),
        ({"exit_code": None, "state": "crashed", "by": "agent"}, Finish("crashed", None, "agent")),
        ({"exit_code": -9, "state": "failed"}, Finish("failed", -9, "rank")),
        ({}, Finish("crashed", None, "rank")),
        ({"exit_code": 0}, Finish("finished", 0, "rank")),
        ({"exit_code": 3, "state": "sideways", "by": 7}, Finish("failed", 3, "rank")),
        ({"exit_code": True, "state": []}, Finish("crashed", None, "rank")),
        ({"exit_code": 2**70, "state": "failed"}, Finish("failed", None, "rank")),
    ],
)
def test_a_finish_is_read_for_the_worse(said: dict[str, Any], finish: Finish) -> None:
    """What a writer left open, or made up, never makes a session look better than it is."""
    assert lift.finish_of(body(said)) == finish


@pytest.mark.parametrize(
    ("said", "gap"),
    [
        ({"reason": "quota", "records": 2, "total": 5}, ("quota", 2, 5)),
        ({"reason": int(pb.GAP_REASON_QUOTA), "records": 2, "total": 5}, ("quota", 2, 5)),
        ({"reason": "reboot", "records": None}, ("reboot", None, None)),
        ({"reason": "boredom", "records": -1, "total": "many"}, ("unspecified", None, None)),
        ({"reason": {}, "records": 2**80}, ("unspecified", lift.COUNT_MAX, None)),
    ],
)
def test_a_gap_says_why_and_how_many(
    said: dict[str, Any], gap: tuple[str, int | None, int | None]
) -> None:
    """Its reason as a word, and counts that a store can hold; what is no count is unknown."""
    assert lift.gap_of(body(said)) == gap


@pytest.mark.parametrize("bad", [b"", b"[]", b"1", b"{", b"\xff{}", b"[" * 100_000])
def test_what_is_no_object_is_bad(bad: bytes) -> None:
    """Neither a finish nor a gap, and never another error."""
    for read in (lift.finish_of, lift.gap_of, lift.small_object):
        with pytest.raises(BadBody):
            read(bad)


def test_every_reason_has_a_word() -> None:
    """The words of GapRow are those of the wire."""
    assert set(lift.GAP_WORDS.values()) == {
        "unspecified", "deleted", "damaged", "reboot", "vanished", "quota",
    }  # fmt: skip
