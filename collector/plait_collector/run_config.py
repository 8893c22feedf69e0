"""The config of a run, from what its labels say.

Within a label what was said later wins, key by key, in the label's order. For the run the primary's
value wins, then that of the smallest label in natural order; where labels differ, all they say is
told beside it.

Rule: pure. Values are canonical JSON texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plait_collector.bodies import Said
from plait_collector.natural import natural_key


@dataclass(frozen=True, slots=True)
class Config:
    """What a run was configured with."""

    values: Mapping[str, str]
    conflicts: Mapping[str, Mapping[str, str]]
    """Key to what each label says that has it, where they differ."""


def label_config(said: Iterable[Said]) -> dict[str, str]:
    """A label's config, from its config records in its order."""
    config: dict[str, str] = {}
    for record in said:
        config.update(record.values)
    return config


def run_config(labels: Mapping[str, Mapping[str, str]], primary: str | None) -> Config:
    """A run's config, from its labels'."""
    ranked = sorted(labels, key=lambda label: (label != primary, natural_key(label)))
    by_key: dict[str, dict[str, str]] = {}
    for label in ranked:
        for key, text in labels[label].items():
            by_key.setdefault(key, {})[label] = text
    return Config(
        {key: next(iter(texts.values())) for key, texts in by_key.items()},
        {key: texts for key, texts in by_key.items() if len(set(texts.values())) > 1},
    )
