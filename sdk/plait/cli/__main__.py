"""`python -m plait.cli`: the same as `plait`."""

import sys

from plait.cli import main

sys.exit(main())
