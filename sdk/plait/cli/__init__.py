"""The `plait` command.

    plait agent|collector ...    the programs, with all arguments passed on
    plait status                 this node's agent and its streams
    plait ls | show | history    runs, read from a collector

Rule: this module imports the standard library alone, so that a plait without extras can still say
      what to install.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from plait.cli.programs import PROGRAMS, is_installed, replace_by_program

UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: without the program's name; None: those this process was started with.

    Returns:
        The exit code: 0 done, 1 not found or failed, 2 used wrongly, unreachable or not installed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in PROGRAMS:
        return replace_by_program(given[0], given[1:])
    needed = ("typer", "rich")
    if missing := [name for name in needed if not is_installed(name)]:
        sys.stderr.write(f"plait: {missing[0]} is not installed: pip install 'plait[query]'\n")
        return UNUSABLE
    from plait.cli.app import run_app

    return run_app(given)
