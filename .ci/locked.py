"""Print the part of requirements.lock that the named packages and what they need make up.

    python .ci/locked.py pytest hypothesis

What a package needs is asked of this interpreter, in which they are installed.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"


def normal(name: str) -> str:
    """A package's name as the lock writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: list[str]) -> set[str]:
    """The packages and all they need, extras left out; what is not installed is not needed here."""
    found: set[str] = set()
    waiting = [normal(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += [
            normal(re.split(r"[^\w.-]", need)[0]) for need in needed if "extra ==" not in need
        ]
    return found


def main() -> None:
    """Print the blocks of the lock, hashes included."""
    wanted = closure(sys.argv[1:])
    for block in re.split(r"\n(?=[a-z0-9])", LOCK.read_text()):
        if block.partition("==")[0] in wanted:
            sys.stdout.write(block.rstrip() + "\n")


if __name__ == "__main__":
    main()
