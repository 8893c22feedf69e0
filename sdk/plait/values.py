"""What users log, to what a record can hold: keys, float64s, and JSON that any reader can parse.

Conversion may run code of the user's (`__float__` of a tensor, `__str__` of anything), so it
happens before any lock is taken. Nothing here raises for a bad value: it is kept as well as can be,
the flaw is counted, and each kind of flaw is said once.

Rule: JSON written here is strict: NaN and the infinities are the strings "NaN", "Infinity",
"-Infinity", an integer beyond 64 bits is its digits.
"""

from __future__ import annotations

import json
import math
import operator
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from plaitwire.limits import CONTINUED_BYTES_MAX, RECORD_BYTES_MAX
from plaitwire.names import key_flaw
from plaitwire.records import RECORD_HEADER, ROW_HEADER, STEP_MAX, STEP_MIN

DEPTH_MAX: Final = 32
"""Of nested values; what is deeper becomes text, so that a cycle ends."""
ROW_KEYS_MAX: Final = (RECORD_BYTES_MAX - ROW_HEADER.size) // 8
SCHEMA_BODY_BYTES_MAX: Final = RECORD_BYTES_MAX - RECORD_HEADER.size
ARRAY_BYTES_MAX: Final = CONTINUED_BYTES_MAX
"""A larger array among events becomes its own short text."""

Row = tuple[tuple[str, ...], Sequence[float]]
"""Keys, and a value for each."""


def say(text: str) -> None:
    """One line to people, on stderr. Never raises: stderr may be closed, or someone's own."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"plait: {text}\n")
    except Exception:
        return


class Flaws:
    """What was wrong with what users gave: counted by kind, each kind said once."""

    def __init__(self, tell: Callable[[str], None] = say) -> None:
        self._tell = tell
        self._counts: dict[str, int] = {}
        self._lock = threading.RLock()  # A tell that logs a flawed value may come back here.

    def note(self, kind: str, sentence: str) -> None:
        """Count a flaw; say the sentence if it is the first of its kind."""
        with self._lock:
            count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count == 1:
            self._tell(f"{sentence} (said once, counted from here on)")

    @property
    def counts(self) -> dict[str, int]:
        """Flaws so far, by kind."""
        return dict(self._counts)


def checked_step(step: object, flaws: Flaws) -> int | None:
    """step as an integer; None, and a noted flaw, where it can be none."""
    if step is None:
        return None
    try:
        number = operator.index(step)  # type: ignore[arg-type]
    except Exception:
        if not (isinstance(step, float) and step.is_integer()):
            flaws.note("step", f"step={shortened(step)} is no integer: counted up instead")
            return None
        number = int(step)
    if not STEP_MIN <= number <= STEP_MAX:
        flaws.note("step", "a step is beyond 2**62: counted up instead")
        return None
    return number


def separated(data: object, flaws: Flaws) -> tuple[list[Row], dict[str, Any]]:
    """The rows of what is numbers in data, and the values of an event for the rest.

    Nested dicts are flattened, their keys joined with "/".
    """
    numbers: dict[str, float] = {}
    others: dict[str, Any] = {}
    if isinstance(data, Mapping):
        try:
            _separate(data, "", numbers, others, flaws, 0)
        except Exception as error:
            flaws.note("data", f"a dict given to log() cannot be read through: {error!r}")
    else:
        flaws.note("data", f"log() wants a dict, and got {shortened(data)}: it is not recorded")
    return split_rows(tuple(numbers), list(numbers.values())), others


def _separate(
    data: Mapping[Any, Any],
    prefix: str,
    numbers: dict[str, float],
    others: dict[str, Any],
    flaws: Flaws,
    depth: int,
) -> None:
    for name, value in list(data.items()):
        key = checked_key(name, prefix, flaws)
        if key is None:
            continue
        if isinstance(value, Mapping) and depth < DEPTH_MAX:
            _separate(value, f"{key}/", numbers, others, flaws, depth + 1)
            continue
        number = as_number(value)
        if number is None:
            numbers.pop(key, None)
            others[key] = json_safe(value)
        else:
            others.pop(key, None)
            numbers[key] = number


def checked_key(name: object, prefix: str, flaws: Flaws) -> str | None:
    """The key that name and prefix make; None, and a noted flaw, where they can make none."""
    if not isinstance(name, str):
        try:
            text = str(name)
        except Exception:
            text = ""
        flaws.note("key", f"a key is {shortened(name)}, which is no text: recorded as {text!r}")
    else:
        text = str.__str__(name)  # A plain one: comparing it runs nobody's code.
    key = prefix + text
    flaw = key_flaw(key)
    if flaw is not None:
        flaws.note("key", f"{flaw}: its value is not recorded")
        return None
    return key


def as_number(value: object) -> float | None:
    """value as a float64: of a number, or what converts itself. None for anything else."""
    if type(value) is float:
        return value
    kind = type(value)
    if isinstance(value, (str, bytes, bytearray)):  # NumPy's texts would convert themselves.
        return None
    if not (hasattr(kind, "__float__") or hasattr(kind, "__index__")):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except Exception:  # An array of several values, a tensor on no device, an int of 400 digits.
        return None


def json_safe(value: Any, depth: int = 0) -> Any:
    """value as what strict JSON can hold. What has no such form becomes its text.

    Args:
        value: anything.
        depth: how deep it stands; beyond DEPTH_MAX it becomes text.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    try:
        if isinstance(value, str):
            return str.__str__(value).encode("utf-8", "replace").decode()
        if isinstance(value, int):
            return _safe_int(int(value))
        if isinstance(value, float):
            return _safe_float(float(value))
        if depth >= DEPTH_MAX:
            return _text(value)
        if isinstance(value, Mapping):
            return {_text(key): json_safe(item, depth + 1) for key, item in list(value.items())}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [json_safe(item, depth + 1) for item in list(value)]
        return _safe_object(value, depth)
    except Exception:
        return _text(value)


def _safe_object(value: Any, depth: int) -> Any:
    if isinstance(value, os.PathLike):
        return json_safe(os.fsdecode(value), depth + 1)
    if hasattr(value, "tolist") and not isinstance(value, type):
        size = getattr(value, "nbytes", 0)
        if isinstance(size, int) and size <= ARRAY_BYTES_MAX:
            return json_safe(value.tolist(), depth + 1)
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        names = value.__dataclass_fields__
        return {name: json_safe(getattr(value, name), depth + 1) for name in names}
    elif (number := as_number(value)) is not None:
        return _safe_float(number)
    return _text(value)


def _safe_int(value: int) -> int | str:
    if value.bit_length() <= 63:
        return value
    try:
        return str(value)
    except ValueError:  # More digits than this interpreter writes.
        return f"an integer of {value.bit_length()} bits"


def _safe_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _text(value: object) -> str:
    try:
        return str(value).encode("utf-8", "replace").decode()
    except Exception:
        return f"<{type(value).__name__}>"


def shortened(value: object) -> str:
    """A few words that name value in a sentence to people."""
    try:
        text = repr(value)
    except Exception:
        text = ""
    text = text if len(text) <= 60 else f"{text[:60]}…"
    return f"{text} ({type(value).__name__})"


def json_body(value: Any) -> bytes:
    """The bytes of a JSON body. value must have come through json_safe."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def split_rows(keys: tuple[str, ...], values: Sequence[float]) -> list[Row]:
    """keys and values as rows that each, and whose schemas each, fit into one record."""
    if not keys:
        return []
    if len(keys) <= 512 and sum(map(len, keys)) * 6 + len(keys) * 3 < SCHEMA_BODY_BYTES_MAX:
        return [(keys, values)]
    rows: list[Row] = []
    start, used = 0, 2
    for at, key in enumerate(keys):
        cost = len(json_body(key)) + 1
        if at - start == ROW_KEYS_MAX or used + cost > SCHEMA_BODY_BYTES_MAX:
            rows.append((keys[start:at], values[start:at]))
            start, used = at, 2
        used += cost
    rows.append((keys[start:], values[start:]))
    return rows
