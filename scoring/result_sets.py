"""Old path of ``scoring.runs.result_sets``, which older notebooks import; it works until 0.4."""

import sys

from scoring.runs.result_sets import find_runs as find_runs

print(
    "scoring.result_sets is now scoring.runs.result_sets; the old name works until 0.4",
    file=sys.stderr,
)
