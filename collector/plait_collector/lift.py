"""What the few records say that ingest itself must understand: schema, finish, gap, define-metric.

All other bodies are kept as bytes; a bad one costs itself, when it is read.

Rule: pure.
"""

from __future__ import annotations

import json
from typing import Any, Final

from plait_collector.store import Finish
from plaitwire.names import key_flaw
from plaitwire.records import Kind
from plaitwire.v1 import ingest_pb2 as pb

COUNT_MAX: Final = 2**63 - 1
"""The largest count that is told apart: what a store's integers hold."""

FINISH_STATES: Final = ("finished", "failed", "crashed")
GAP_WORDS: Final[dict[int, str]] = {
    value: name.removeprefix("GAP_REASON_").lower() for name, value in pb.GapReason.items()
}
"""A GapReason's word, by its number."""
_WHOLE_KINDS: Final = frozenset({Kind.FINISH, Kind.GAP, Kind.DEFINE_METRIC})


class BadBody(ValueError):
    """A body that does not say what its kind must say. The message is for people."""


def schema_keys(body: bytes) -> tuple[str, ...]:
    """The keys a schema's body names, in order.

    Raises:
        BadBody: it is no JSON array of keys that may be, each once.
    """
    keys = _json(body)
    if not isinstance(keys, list):
        raise BadBody("a schema that is no JSON array")
    for key in keys:
        if not isinstance(key, str):
            raise BadBody("a schema with a key that is no string")
        if (flaw := key_flaw(key)) is not None:
            raise BadBody(f"a schema in which {flaw}")
    if len(set(keys)) < len(keys):
        raise BadBody("a schema that names a key twice")
    return tuple(keys)


def must_be_whole(kind: int) -> bool:
    """Whether a kind's body is one JSON object in one record, checked when it comes in."""
    return kind in _WHOLE_KINDS


def small_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        BadBody: it is none.
    """
    value = _json(body)
    if not isinstance(value, dict):
        raise BadBody("a body that is no JSON object")
    return value


def finish_of(body: bytes) -> Finish:
    """What a finish record says. What it leaves open is taken for the worse.

    Raises:
        BadBody: it is no JSON object.
    """
    said = small_object(body)
    code = said.get("exit_code")
    exit_code = code if type(code) is int and -(2**31) <= code < 2**32 else None
    state = said.get("state")
    if state not in FINISH_STATES:
        state = "crashed" if exit_code is None else "failed" if exit_code else "finished"
    return Finish(state, exit_code, "agent" if said.get("by") == "agent" else "rank")


def gap_of(body: bytes) -> tuple[str, int | None, int | None]:
    """A gap record's reason as a word, how many records it stands for, and its running total.

    Raises:
        BadBody: it is no JSON object.
    """
    said = small_object(body)
    reason = said.get("reason")
    if isinstance(reason, int):
        reason = GAP_WORDS.get(reason)
    word = reason if reason in GAP_WORDS.values() else GAP_WORDS[pb.GAP_REASON_UNSPECIFIED]
    return str(word), _count(said.get("records")), _count(said.get("total"))


def _count(value: Any) -> int | None:
    """A count, None where it is none; at most COUNT_MAX."""
    return min(value, COUNT_MAX) if type(value) is int and value >= 0 else None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError) as error:  # No UTF-8, no JSON, or nested without end.
        raise BadBody(f"a body that is no JSON: {error}") from None
