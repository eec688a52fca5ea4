"""Measure what the preparation of a data set costs at a share of its real numbers.

    python -m tests.real_counts DATASET --share 0.01 [--folder DIR]

Writes the data set with tiny items (hard links, so 100 % of ImageNet takes 1.3 million names and a
few MB) into a temporary directory, then runs ``prepare`` and the start of ``fit`` in a process of
their own each, and prints per stage the processor time of the main process and of its workers, the
largest memory of either, and the time per 1,000 items. Times of real items are larger, as their
bytes are read, but not what grows with the number of items.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.real_counts.measure import MEASURES, Cost
from tests.real_counts.worlds import WORLDS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.real_counts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=WORLDS)
    parser.add_argument("--share", type=float, default=0.01, help="of the real numbers")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="real_counts-", dir=given.folder) as name:
        what, write = WORLDS[given.dataset]
        items = write(Path(name), given.share)
        print(f"{given.dataset}, {given.share:.2%}: {items:,} {what}")
        for stage in MEASURES:
            print(line(stage, measured(given.dataset, stage, Path(name)), items), flush=True)
    return 0


def measured(dataset: str, stage: str, folder: Path) -> Cost:
    """Run a stage in a process of its own; raise if it fails."""
    command = [sys.executable, "-m", "tests.real_counts.measure", dataset, stage, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def line(stage: str, cost: Cost, items: int) -> str:
    """Describe a cost in one line."""
    each = 1e6 * (cost.main_seconds + cost.worker_seconds) / items
    return (
        f"  {stage:14}{cost.main_seconds:8.1f} s in the main process,{cost.worker_seconds:8.1f} s "
        f"in workers,{each:8.1f} ms per 1,000; peak {cost.main_mb:,.0f} MB ({cost.before_mb:,.0f} "
        f"before), of a worker {cost.worker_mb:,.0f} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
