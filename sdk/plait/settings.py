"""Arguments and environment, to one frozen value, checked once.

An argument wins over the environment, the environment over the launcher, the launcher over a
default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plait import identity
from plaitwire.names import identifier_flaw

DEFAULT_PROJECT: Final = "default"
DEFAULT_COLLECTOR: Final = "127.0.0.1:7431"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What init() was told, and what it found."""

    project: str
    """The project the run is in."""
    run: str
    """The run's id, unique in its project."""
    label: str
    """This writer's name within the run."""
    primary: bool
    """Whether this label was said to speak for the run."""
    group: str
    """A name that several runs share; empty without one."""
    directory: Path | None
    """Where the run is put when it ends and no agent is there; None: the cold folder."""
    collector: str | None
    """Where the agent should deliver to, HOST:PORT; None where nobody said."""
    notices: tuple[str, ...]
    """What people should be told."""

    @classmethod
    def gather(
        cls,
        environ: Mapping[str, str],
        *,
        project: str | None = None,
        run: str | None = None,
        label: str | int | None = None,
        primary: bool | None = None,
        group: str | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> Settings:
        """What arguments and environment say together.

        Raises:
            ValueError: a name is not allowed; the sentence says which, and why.
            TypeError: an argument is of the wrong type.
        """
        if isinstance(label, int) and not isinstance(label, bool):
            label = str(label)
        generated = ""
        named = run or environ.get("PLAIT_RUN_ID") or identity.run_from_launcher(environ)
        if run is None and not named:
            named = generated = identity.generated_run()
        if project is None:
            project = environ.get("PLAIT_PROJECT") or DEFAULT_PROJECT
        found = {
            "project": project,
            "id": named if run is None else run,
            "label": identity.default_label(environ) if label is None else label,
        }
        if group is not None:
            found["group"] = group
        for name, value in found.items():
            check_name(name, value)
        if primary is not None and not isinstance(primary, bool):
            raise TypeError(f"primary must be True or False, not {primary!r}")
        return cls(
            project=str(found["project"]),
            run=str(found["id"]),
            label=str(found["label"]),
            primary=bool(primary),
            group=group or "",
            directory=_directory(directory),
            collector=collector_address(environ),
            notices=_notices(environ, generated, str(found["label"])),
        )


def check_name(name: str, value: object) -> None:
    """See that value can be what the argument name is for.

    Raises:
        TypeError: it is no text.
        ValueError: it is empty, too long, or holds a character that is not allowed.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, not {value!r} ({type(value).__name__})")
    if (flaw := identifier_flaw(name, value)) is not None:
        raise ValueError(flaw)


def collector_address(environ: Mapping[str, str]) -> str | None:
    """PLAIT_COLLECTOR, or None where it is not set.

    Raises:
        ValueError: it is no HOST:PORT.
    """
    address = environ.get("PLAIT_COLLECTOR")
    if not address:
        return None
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(
            f"PLAIT_COLLECTOR is {address!r}, and must be HOST:PORT, as {DEFAULT_COLLECTOR}"
        )
    return address


def _directory(directory: str | os.PathLike[str] | None) -> Path | None:
    if directory is None:
        return None
    try:
        path = os.fsdecode(directory)
    except TypeError:
        raise TypeError(f"dir must be a path, not {directory!r}") from None
    if not path or "\0" in path:
        raise ValueError(f"dir is {path!r}, which names no folder")
    return Path(os.path.abspath(path))


def _notices(environ: Mapping[str, str], generated: str, label: str) -> tuple[str, ...]:
    together = identity.launched_together(environ)
    if not generated or together < 2 or label != "0":
        return ()
    notice = (
        f"{together} processes were launched together without an id of their run, so each writes "
        "one of its own: give them the same with init(id=…) or PLAIT_RUN_ID"
    )
    return (notice,)
