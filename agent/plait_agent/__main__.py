"""`python -m plait_agent`, which is `plait agent`."""

from __future__ import annotations

import logging
import os
import sys

from plait._version import __version__
from plait_agent.config import BadConfig, parse
from plait_agent.daemon import AnotherAgent, serve
from plaitwire.logs import set_up

log = logging.getLogger("plait_agent")


def main() -> int:
    """Run an agent.

    Returns:
        0 when it was told to stop, 1 when it could not run, 2 for wrong usage.
    """
    set_up("info", sys.stderr)
    try:
        config = parse(sys.argv[1:], os.environ)
    except BadConfig as error:
        log.error("cannot start: error=%r", str(error))
        return 2
    set_up(config.log_level, sys.stderr)
    try:
        serve(config, version=__version__)
    except (AnotherAgent, OSError) as error:
        log.error("cannot start: error=%r", str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
