"""The bodies of records that are no rows: JSON objects, joined where they were continued.

A value is kept as its JSON text, in one canonical form: so two values are the same where their
texts are, and nothing is ever nested deeper than what was read once. What JSON cannot say (NaN and
the infinities, which a writer in Python may send) becomes the words "NaN", "Infinity" and
"-Infinity", so that every answer is JSON that any language reads.

Rule: pure. A body that cannot be read costs itself, and is counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from plait_collector.store import Lifted
from plaitwire.limits import CONTINUED_BYTES_MAX
from plaitwire.names import key_flaw
from plaitwire.records import FLAG_CONTINUED, NO_STEP, ROW_HEADER, aligned

NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class Said:
    """What a record that is no row says."""

    offset: int
    """Of its first byte, in its stream."""
    kind: int
    flags: int
    step: int | None
    time_ns: int
    values: Mapping[str, str]
    """Key to JSON text."""


def read_bodies(records: Iterable[Lifted]) -> tuple[list[Said], int]:
    """What records of one session say, and how many could not be read.

    Args:
        records: of any kinds with JSON bodies, in the order of their offsets.
    """
    said, bad = [], 0
    for first, body in _whole(records):
        values = None if body is None else read_object(body)
        if values is None:
            bad += 1
            continue
        step = None if first.step == NO_STEP else first.step
        said.append(Said(first.offset, first.kind, first.flags, step, first.time_ns, values))
    return said, bad


def _whole(records: Iterable[Lifted]) -> Iterator[tuple[Lifted, bytes | None]]:
    """Each record's first part and its whole body; None where a part is missing, or too much."""
    parts: list[Lifted] = []
    size = 0
    for record in records:
        if parts and not (record.kind == parts[0].kind and record.offset == _end(parts[-1])):
            yield parts[0], None  # The rest of it was lost.
            parts, size = [], 0
        parts.append(record)
        size += len(record.body)
        if record.flags & FLAG_CONTINUED:
            continue
        whole = b"".join(part.body for part in parts) if size <= CONTINUED_BYTES_MAX else None
        yield parts[0], whole
        parts, size = [], 0
    if parts:
        yield parts[0], None


def _end(record: Lifted) -> int:
    return record.offset + aligned(ROW_HEADER.size + len(record.body))


def read_object(body: bytes) -> dict[str, str] | None:
    """A JSON object's values as JSON texts; None where body is none. Flawed keys are left out."""
    try:
        value = json.loads(body.decode())
        if not isinstance(value, dict):
            return None
        return {key: write(entry) for key, entry in value.items() if key_flaw(key) is None}
    except (ValueError, RecursionError):  # No UTF-8, no JSON, or nested without end.
        return None


def write(value: Any) -> str:
    """A value as canonical JSON: strict, ASCII, keys sorted."""
    try:
        return _ENCODER.encode(value)
    except ValueError:
        return _ENCODER.encode(_finite(value))


def _finite(value: Any) -> Any:
    """The value with words where a number is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value


_ENCODER: Final = json.JSONEncoder(allow_nan=False, sort_keys=True, separators=(",", ":"))


def write_object(texts: Mapping[str, str]) -> str:
    """JSON texts by key as one JSON object, keys sorted."""
    return "{" + ",".join(f"{json.dumps(key)}:{texts[key]}" for key in sorted(texts)) + "}"


def number(text: str) -> float | None:
    """The number a JSON text stands for, words for numbers that are not finite included."""
    value = json.loads(text)
    if isinstance(value, str):
        return NOT_FINITE.get(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:  # An integer beyond what a float holds.
        return math.inf if value > 0 else -math.inf
