"""`python -m plait_collector`, which is `plait collector`."""

from __future__ import annotations

import logging
import sys
from importlib import metadata

from plait_collector.config import BadConfig, parse
from plait_collector.daemon import CannotListen, serve
from plait_collector.store import StoreUnusable
from plaitwire.logs import set_up

log = logging.getLogger("plait_collector")


def main() -> int:
    """Run a collector.

    Returns:
        0 when it was told to stop, 2 when it cannot start as it was told to.
    """
    set_up("info", sys.stderr)
    try:
        config = parse(sys.argv[1:])
        set_up(config.log_level, sys.stderr)
        serve(config, version=metadata.version("plait"))
    except (BadConfig, CannotListen, StoreUnusable) as error:
        log.error("cannot start: error=%r", str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
