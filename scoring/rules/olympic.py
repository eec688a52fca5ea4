"""Statistics of run times: olympic mean, its confidence interval, a rank test.

The olympic mean drops the extremes and averages the rest.

Source:
    mlcommons/training_policies, training_rules.adoc v1.0, section on benchmark results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 4000


@dataclass(frozen=True)
class Olympic:
    """A drop-and-mean over run times, all in the unit of the values given."""

    mean: float
    kept: tuple[float, ...]
    """Values that count, ascending."""
    dropped_low: tuple[float, ...]
    dropped_high: tuple[float, ...]
    """Dropped at the slow end; a run that did not converge is infinity."""


def olympic(values: Sequence[float], drop: int) -> Olympic | None:
    """Average the values (infinity: not converged) without ``drop`` of them at each end.

    None with too few values, or more infinite ones than may be dropped.
    """
    ordered = sorted(values)
    if len(ordered) <= 2 * drop:
        return None
    high = len(ordered) - drop
    kept = tuple(ordered[drop:high])
    mean = math.fsum(kept) / len(kept)
    if not math.isfinite(mean):
        return None
    return Olympic(mean, kept, tuple(ordered[:drop]), tuple(ordered[high:]))


def standard_deviation(values: Sequence[float]) -> float:
    """Return the population standard deviation (divides by n)."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


def bootstrap_interval(
    values: Sequence[float], drop: int, *, level: float = 0.95
) -> tuple[float | None, float | None]:
    """Return a percentile bootstrap interval of the olympic mean; the seed is fixed.

    An end is None where too many resamples hold too many infinite values to bound it.
    """
    import numpy as np

    if len(values) <= 2 * drop:
        return None, None
    draws = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, len(values)))
    draws.sort(axis=1)
    means = np.sort(draws[:, drop : len(values) - drop].mean(axis=1))
    ends = [float(means[round(q * (RESAMPLES - 1))]) for q in ((1 - level) / 2, (1 + level) / 2)]
    low, high = (end if math.isfinite(end) else None for end in ends)
    return low, high


def faster_p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the one-sided p-value of "ours is faster", by permuting rank sums (Mann-Whitney).

    Ranks make no assumption about the shape of run times and take runs that did not converge
    (infinity) as the slowest; ties share a rank. Exact up to 200,000 arrangements, else sampled.

    Args:
        ours: Run times; at least one.
        theirs: Run times in the same unit; at least one.

    Returns:
        Probability of a rank sum at least this small if both came from one distribution.
    """
    import numpy as np

    values = np.asarray([*ours, *theirs], dtype=float)
    ordered = np.sort(values)
    first = np.searchsorted(ordered, values, "left")
    ranks = (first + np.searchsorted(ordered, values, "right") - 1) / 2
    observed = ranks[: len(ours)].sum()
    if math.comb(len(values), len(ours)) <= 200_000:
        from itertools import combinations

        sums = np.asarray([sum(c) for c in combinations(ranks.tolist(), len(ours))])
        return float((sums <= observed + 1e-9).mean())
    rng = np.random.default_rng(0)
    count = 20_000
    hits = sum(rng.permutation(ranks)[: len(ours)].sum() <= observed + 1e-9 for _ in range(count))
    return (int(hits) + 1) / (count + 1)
