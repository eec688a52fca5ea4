"""The reference's fixed order of training rows: one shuffle of all days but the last.

Letters: N training rows of all days.
"""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.criteo.text import compiled

SEED = 0


def write_positions(paths: dict[int, Path], day_rows: dict[int, int]) -> None:
    """Draw the order and write the place of each day's rows in it.

    numpy's legacy generator shuffles an index as it would shuffle the rows themselves, which takes
    4 bytes a row and not 160: 16.8 GB for the 24 days.

    Args:
        paths: Day -> file to write, uint32 (rows,) without a header.
        day_rows: Day -> rows, in the order in which the days were joined.
    """
    source_N = np.arange(sum(day_rows.values()), dtype=np.uint32)
    np.random.RandomState(SEED).shuffle(source_N)
    first = 0
    for day, rows in day_rows.items():
        places = np.empty(rows, np.uint32)
        compiled(_places)(source_N, first, places)
        places.tofile(paths[day])
        first += rows


def _places(source: Any, first: int, places: Any) -> None:
    """Find where each of a day's rows went: place i holds row ``source[i]``."""
    last = first + len(places)
    for place in range(len(source)):
        if first <= source[place] < last:
            places[source[place] - first] = place
