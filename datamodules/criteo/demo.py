"""Click logs in Criteo's text format, drawn from a planted model with noise.

Integers are log-normal with missing and negative values, categories are skewed and written as
hashes, as in the real logs. The click's log-odds are linear in the logarithms of the integers, with
an effect per category and products of category vectors; the label is drawn from them, so that no
model can rank perfectly. Every day is a function of its number alone.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

VERSION = "1"  # increase it whenever the written bytes change
ROWS_PER_DAY = 40_960
TABLE_SIZES = (
    1000, 600, 400, 300, 200, 3, 150, 100, 63, 1000, 800, 400, 10,
    200, 150, 60, 4, 90, 14, 1000, 900, 800, 300, 120, 60, 36,
)  # fmt: skip
NUM_DENSE = 13
INTERACTING = ((0, 4), (1, 9), (2, 12), (5, 15), (7, 18), (10, 25))
SKEW = 1.8  # index = size * u^skew: small indices are frequent
MISSING_DENSE, NEGATIVE_DENSE, MISSING_CATEGORY = 0.15, 0.02, 0.05
DENSE_SCALE, CATEGORY_SCALE, PRODUCT_SCALE, INTERCEPT = 0.18, 0.3, 0.35, -3.1
STREAM = 20141  # separates these random numbers from other uses of a day's number


class Day(NamedTuple):
    """One generated day; N rows."""

    label: np.ndarray
    """(N,) bool, clicked."""
    dense: np.ndarray
    """(N, 13) int64; -2 is a missing value, -1 a negative one."""
    category: np.ndarray
    """(N, 26) int64 category of each column; -1 is a missing one."""
    log_odds: np.ndarray
    """(N,) float64 of a click: the best score that any model could give."""


class _Planted(NamedTuple):
    """The model that clicks are drawn from; the last row of each effect is for a missing value."""

    dense: np.ndarray
    effects: list[np.ndarray]
    factors: list[np.ndarray]


def write_logs(
    folder: Path, num_days: int = 24, rows_per_day: int = ROWS_PER_DAY, **scales: float
) -> None:
    """Write ``day_0``, ``day_1`` ... as text into an existing directory; see ``generate_day``."""
    words = [category_words(column) for column in range(len(TABLE_SIZES))]
    for number in range(num_days):
        write_day(folder / f"day_{number}", generate_day(number, rows_per_day, **scales), words)


def generate_day(
    number: int,
    num_rows: int = ROWS_PER_DAY,
    *,
    category_scale: float = CATEGORY_SCALE,
    product_scale: float = PRODUCT_SCALE,
) -> Day:
    """Draw one day, with the log-odds that its labels are drawn from.

    Args:
        number: Of the day.
        num_rows: Its rows.
        category_scale: Standard deviation of a category's effect.
        product_scale: Factor of the products of two categories' vectors.

    Returns:
        The day.
    """
    rng, planted = np.random.default_rng([STREAM, 1, number]), _planted(category_scale)
    shape = (num_rows, NUM_DENSE)
    dense = np.floor(np.exp(rng.normal(1.0, 1.2, shape))).astype(np.int64)
    draw = rng.random(shape)
    dense[draw < MISSING_DENSE] = -2
    dense[draw > 1 - NEGATIVE_DENSE] = -1
    sizes = np.array(TABLE_SIZES)
    index = (sizes * rng.random((num_rows, len(sizes))) ** SKEW).astype(np.int64)
    index[rng.random(index.shape) < MISSING_CATEGORY] = -1
    log_odds = INTERCEPT + (np.log1p(np.maximum(dense, 0)) - 1.2) @ planted.dense
    for column, effect in enumerate(planted.effects):
        log_odds += effect[index[:, column]]
    for a, b in INTERACTING:
        products = planted.factors[a][index[:, a]] * planted.factors[b][index[:, b]]
        log_odds += product_scale * products.sum(1)
    label = rng.random(num_rows) < 1 / (1 + np.exp(-log_odds))
    return Day(label, dense, index, log_odds)


def write_day(path: Path, day: Day, words: list[list[bytes]]) -> None:
    """Write a day in the real format; ``words`` is text by column and category, see below."""
    integers = [b"%d" % value for value in range(int(day.dense.max()) + 1)] + [b"", b"-1"]
    columns = [[b"1" if clicked else b"0" for clicked in day.label.tolist()]]
    columns += [[integers[value] for value in column] for column in day.dense.T.tolist()]
    columns += [
        [texts[value] for value in column]
        for texts, column in zip(words, day.category.T.tolist(), strict=True)
    ]
    path.write_bytes(b"\n".join(map(b"\t".join, zip(*columns, strict=True))) + b"\n")


def category_words(column: int) -> list[bytes]:
    """Return a column's texts, 32-bit hashes in hexadecimal; the last is a missing value's."""
    rng = np.random.default_rng([STREAM, 2, column])
    hashes = rng.choice(2**32, TABLE_SIZES[column], replace=False)
    return [b"%08x" % value for value in hashes.tolist()] + [b""]


def _planted(category_scale: float) -> _Planted:
    """Draw the planted model, the same for every day."""
    rng = np.random.default_rng([STREAM, 3])
    dense = rng.normal(0, DENSE_SCALE, NUM_DENSE)
    effects = [rng.normal(0, category_scale, size + 1) for size in TABLE_SIZES]
    factors = [rng.normal(0, 1, (size + 1, 2)) for size in TABLE_SIZES]
    return _Planted(dense, effects, factors)
