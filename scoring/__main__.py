"""``python -m scoring``: what happens after runs."""

import sys

from scoring.cli import main

sys.exit(main())
