"""Old path of ``scoring.runs.run``, which older notebooks import; it works until 0.4."""

import sys

from scoring.runs.run import find_runs as find_runs

print("scoring.result_sets is now scoring.runs.run; the old name works until 0.4", file=sys.stderr)
