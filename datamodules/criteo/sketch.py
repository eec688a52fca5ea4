"""Days that hold the same rows: a sketch of each day, small and the same for equal rows.

A sketch is the smallest 1024 hashes of a day's rows, in ascending order. Of two sketches, the
hashes below the smaller of their largest ones are a random sample of both days, so the share of
them that both have estimates the share of equal rows, whatever their order and place.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from datamodules.criteo.text import Rows

SIZE = 1024
MOST_SHARED = 0.1  # rows of a day that another may have: clicks by chance alike are far fewer
_PRIME, _START = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xCBF29CE484222325)


def extend(sketch: np.ndarray, rows: Rows) -> np.ndarray:
    """Take more rows of the day into its sketch: uint64 (at most ``SIZE``,)."""
    hashes = row_hashes(rows)
    if len(sketch) == SIZE:
        hashes = hashes[hashes < sketch[-1]]
    return np.unique(np.concatenate([sketch, hashes]))[:SIZE]


def row_hashes(rows: Rows) -> np.ndarray:
    """Hash each row's 40 fields: (N,) uint64."""
    hashes_N = np.full(len(rows.label), _START)
    for values_N in (rows.label, *rows.dense.T, *rows.sparse):
        hashes_N ^= values_N.astype(np.uint64)
        hashes_N *= _PRIME
        hashes_N ^= hashes_N >> np.uint64(29)
    return hashes_N


def shared(one: np.ndarray, other: np.ndarray) -> float:
    """Estimate the share of the smaller day's distinct rows that the other has too."""
    if not (len(one) and len(other)):
        return 0.0
    # A sketch that is not full is all of its day.
    limits = [sketch[-1] for sketch in (one, other) if len(sketch) == SIZE]
    if limits:
        one, other = (sketch[sketch <= min(limits)] for sketch in (one, other))
    return len(np.intersect1d(one, other)) / max(1, min(len(one), len(other)))


def equal_days(sketches: Mapping[int, np.ndarray]) -> list[str]:
    """Return a line per pair of days that share too many rows, the evaluation day's first."""
    lines = []
    for first, second in itertools.combinations(sorted(sketches), 2):
        share = shared(sketches[first], sketches[second])
        if share > MOST_SHARED:
            lines.append(f"day_{second}: {share:.0%} of the rows are also in day_{first}")
    return lines[::-1]
