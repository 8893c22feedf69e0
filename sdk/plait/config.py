"""What a user holds of a run besides its rows: config and summary, as mappings that write records.

Reading gives back what was given here; what a record holds of it is JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from plait.values import json_safe
from plaitwire.names import key_flaw

Write = Callable[[dict[str, Any]], object]


class Changes(MutableMapping[str, Any]):
    """Keys and values; each change is written as a record. Nothing can be taken back."""

    _values: dict[str, Any]
    _written: dict[str, Any]
    _write: Write

    def __init__(self, write: Write) -> None:
        """
        Args:
            write: makes a record of changed keys and their values.
        """
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_written", {})
        self.write_with(write)

    def write_with(self, write: Write) -> None:
        """From now on make records so."""
        object.__setattr__(self, "_write", write)

    def update(self, *given: Any, **named: Any) -> None:
        """Set several keys with one record.

        Args:
            given: at most one mapping, or what has its values as attributes, as argparse's
                Namespace and dataclasses.
            named: keys that are Python names.

        Raises:
            TypeError: given is neither.
            ValueError: a key is empty or too long.
        """
        if len(given) > 1:
            raise TypeError(f"update() takes one mapping, and got {len(given)}")
        values = {**(_as_mapping(given[0]) if given else {}), **named}
        changed: dict[str, Any] = {}
        for key, value in values.items():
            if (flaw := key_flaw(key)) is not None:
                raise ValueError(flaw)
            safe = json_safe(value)
            if key not in self._written or self._written[key] != safe:
                changed[key] = safe
        self._values.update(values)
        self._written.update(changed)
        if changed:
            self._write(changed)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __delitem__(self, key: str) -> None:
        raise TypeError("what is recorded cannot be taken back; set it to None")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"


class Config(Changes):
    """A run's config: `run.config["lr"]`, `run.config.lr`, `run.config.update({...})`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise AttributeError(f"set {name!r} as an item: run.config[{name!r}] = …")
        self.update({name: value})


class Summary(Changes):
    """A run's summary as its label sees it: `run.summary["best"] = 0.93`."""


def _as_mapping(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return {key if isinstance(key, str) else str(key): value for key, value in given.items()}
    if given is not None and not isinstance(given, type) and hasattr(given, "__dataclass_fields__"):
        return {name: getattr(given, name) for name in given.__dataclass_fields__}
    argparse = sys.modules.get("argparse")  # Who has a Namespace has imported it.
    if argparse is not None and isinstance(given, argparse.Namespace):
        return dict(vars(given))
    raise TypeError(
        f"config and summary take a dict, a Namespace or a dataclass, not {given!r:.60} "
        f"({type(given).__name__})"
    )
