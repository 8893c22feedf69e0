"""`plait agent` and `plait collector`: this process becomes the program.

The programs are never imported: they are their own distributions of work, with extras of their own.
Standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

PROGRAMS: Final = {"agent": "plait_agent", "collector": "plait_collector"}
NEEDS: Final = {
    "agent": ("grpc", "google.protobuf", "google_crc32c", "zstandard"),
    "collector": (
        "grpc",
        "google.protobuf",
        "google_crc32c",
        "zstandard",
        "numpy",
        "aiosqlite",
        "starlette",
        "uvicorn",
    ),
}
"""What each of them imports first: the rest comes with the same extra."""


def replace_by_program(name: str, arguments: Sequence[str]) -> int:
    """Become `python -m plait_agent` or `python -m plait_collector`, with these arguments.

    Returns:
        2, where its extra is not installed; otherwise this does not return.
    """
    missing = [module for module in NEEDS[name] if not is_installed(module)]
    if missing:
        sys.stderr.write(
            f"plait {name}: {missing[0]} is not installed: pip install 'plait[{name}]'\n"
        )
        return 2
    command = [sys.executable, "-m", PROGRAMS[name], *arguments]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def is_installed(module: str) -> bool:
    """Whether a module could be imported; it is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # Its parent is not there either.
        return False
