"""The summary of a label and of a run: one value for each key.

    label  the last value of the key's effective series, or what define_metric says of it; what was
           set explicitly wins over rows before it, and, where define_metric says anything but
           last, over all rows
    run    what define_metric says, over the labels that follow it (the least of the least, the
           largest of the largest, the mean of the means); else the primary's value; where no label
           is primary, that of the smallest label in natural order that has one

Rule: pure. Values are canonical JSON texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from plait_collector.bodies import Said, number, write
from plait_collector.history import Written, effective
from plait_collector.natural import natural_key

Spot = tuple[int, int]
"""Where a record stands in its label: its session's place, its offset."""

RULES: Final = frozenset({"min", "max", "mean", "first", "last", "none"})


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a summary can need of a key's effective series."""

    spot: Spot
    """Of the last point."""
    first: float
    last: float
    least: float
    """NaN only where there is nothing else; so is largest."""
    largest: float
    mean: float

    def by(self, rule: str) -> float:
        """The value by a rule other than none."""
        named = {"min": self.least, "max": self.largest, "mean": self.mean, "first": self.first}
        return named.get(rule, self.last)


@dataclass(frozen=True, slots=True)
class Summary:
    """A label's summary."""

    values: Mapping[str, str]
    rules: Mapping[str, str]
    """By key, what define_metric says: the label's own, else the primary's."""


def key_facts(label: Written) -> dict[str, KeyFacts]:
    """The facts of every key of a label."""
    facts = {}
    for key in label.cells:
        cells = effective(label, key)
        row = cells.rows[-1]
        values = cells.values
        with np.errstate(all="ignore"):  # Infinity less infinity is NaN, and no fault.
            facts[key] = KeyFacts(
                (int(label.places[row]), int(label.offsets[row])),
                float(values[0]),
                float(values[-1]),
                float(np.fmin.reduce(values)),
                float(np.fmax.reduce(values)),
                float(np.mean(values)),
            )
    return facts


def defined_rules(said: Iterable[Said]) -> dict[str, str]:
    """Key to rule, from a label's define_metric records in its order."""
    rules: dict[str, str] = {}
    for record in said:
        key, rule = (_text(record.values.get(name)) for name in ("key", "summary"))
        if key and rule in RULES:
            rules[key] = rule
    return rules


def _text(text: str | None) -> str:
    value = json.loads(text) if text is not None else None
    return value if isinstance(value, str) else ""


def label_summary(
    facts: Mapping[str, KeyFacts],
    explicit: Iterable[tuple[Spot, Mapping[str, str]]],
    rules: Mapping[str, str],
) -> Summary:
    """A label's summary.

    Args:
        facts: of each key's effective series.
        explicit: what summary records set and where they stand, in the label's order.
        rules: what define_metric says, the label's own or else the primary's.
    """
    values: dict[str, str] = {}
    spots: dict[str, Spot] = {}
    for spot, record in explicit:
        values.update(record)
        spots.update(dict.fromkeys(record, spot))
    for key, fact in facts.items():
        rule = rules.get(key, "last")
        stays = key in spots and (rule != "last" or spots[key] > fact.spot)
        if rule != "none" and not stays:
            values[key] = write(fact.by(rule))
    return Summary(values, rules)


def run_summary(labels: Mapping[str, Summary], primary: str | None) -> dict[str, str]:
    """A run's summary, from its labels'."""
    ranked = sorted(labels, key=lambda label: (label != primary, natural_key(label)))
    speaking = ranked if primary is None else [primary]
    values: dict[str, str] = {}
    for label in reversed(speaking):
        values.update(labels[label].values)
    rules: dict[str, str] = {}
    for label in reversed(ranked):
        rules.update(labels[label].rules)
    for key, rule in rules.items():
        following = [s for s in labels.values() if s.rules.get(key) == rule and key in s.values]
        combined = _combine(rule, [number(summary.values[key]) for summary in following])
        if combined is not None:
            values[key] = write(combined)
    return values


def _combine(rule: str, values: Iterable[float | None]) -> float | None:
    """The labels' values as one; None where the rule combines nothing."""
    numbers = [value for value in values if value is not None]
    if rule not in ("min", "max", "mean") or not numbers:
        return None
    if rule == "mean":
        return float(sum(numbers)) / len(numbers)
    known = [value for value in numbers if not math.isnan(value)] or numbers
    return min(known) if rule == "min" else max(known)
