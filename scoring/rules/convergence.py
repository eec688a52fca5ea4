"""The convergence test: a closed result may not beat the reference's epochs by more than chance.

Reference convergence points (RCPs) are read from the installed ``mlperf_logging`` package. The rule
is computed here in closed form, in two variants: as it was when the round was judged and as the
official tool applies it now.

Source:
    mlcommons/logging rcp_checker, one-sided pooled t-test at 0.05. Differs: closed form instead of
    a bisection to 1e-4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from scoring.rules.olympic import olympic, standard_deviation
from scoring.rules.rounds import BenchmarkRules, round_names
from scoring.rules.rounds.official_tables import rcp_file

ALPHA = 0.05


@dataclass(frozen=True)
class Flavour:
    """One variant of the rule."""

    name: str
    """``then`` or ``now``."""
    text: str
    spread_of_all: bool
    """Standard deviation over all reference values instead of those left after dropping."""
    pruned: bool
    """Drop reference points that converge more slowly than their neighbours suggest."""
    scales: bool
    """A pass that is faster than the reference mean multiplies the score by mean / own mean."""


THEN = Flavour("then", "at the time of the round", False, False, False)
NOW = Flavour("now", "as the official tool does today", True, True, True)

FLAVOURS = (THEN, NOW)
# First round that was judged with each change of the rule.
PRUNED_SINCE, SCALED_SINCE, SPREAD_OF_ALL_SINCE = "v2.0", "v2.1", "v3.1"
# A result is never further from the reference's mean: it counts another unit, such as steps for
# epochs. (The minimum may be far below the mean where the reference has few runs, as gpt3's.)
LARGEST_RATIO = 2.0
LARGEST_BELOW = 20.0
# A larger share says nothing: the batch, and with it the steps, are far from the reference's.
LARGEST_MARGIN = 1.0


def flavours(round_name: str) -> tuple[Flavour, Flavour]:
    """Return the rule as it was when a round was judged, and as it is today.

    Args:
        round_name: Such as ``v2.0``.

    Returns:
        ``then`` and ``now``, equal but for the name from v3.1 on.
    """
    order = round_names()
    at = order.index(round_name)
    since = (SPREAD_OF_ALL_SINCE, PRUNED_SINCE, SCALED_SINCE)
    return Flavour(THEN.name, THEN.text, *(at >= order.index(each) for each in since)), NOW


@dataclass(frozen=True)
class ReferencePoint:
    """Epochs that the reference needed at one global batch size."""

    batch: float
    mean: float
    std: float
    count: int
    """Values in the mean, without the dropped ones."""
    hyperparameters: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one test, progress in the benchmark's own unit."""

    flavour: str
    passed: bool | None
    """None where the test does not apply."""
    text: str
    mean: float | None = None
    """Olympic mean of the submission."""
    reference_mean: float | None = None
    minimum: float | None = None
    """Smallest olympic mean that passes."""
    margin: float | None = None
    """mean / minimum - 1: by how much it passes (positive) or fails; None beyond 1."""
    scaling: float = 1.0
    """Factor by which the rule multiplies the minutes."""
    other_unit: bool = False
    """The progress is so far from the reference's that it is in another unit."""


def minimum_mean(mean: float, std: float, num_reference: int, runs: int) -> float:
    """Return the smallest olympic mean that is not significantly below the reference's.

    The submission is assumed to have the reference's ``std``; of its ``runs`` two fewer count, for
    unet3d as well, as in the official tool.
    """
    from scipy.special import stdtrit

    if std == 0:
        return mean
    num_own = runs - 2
    quantile = float(stdtrit(num_reference + num_own - 2, 1 - ALPHA))
    return mean - quantile * std * math.sqrt(1 / num_reference + 1 / num_own)


@cache
def _records(ruleset: str, benchmark: str) -> tuple[dict[str, Any], ...]:
    path = rcp_file(ruleset, benchmark)
    return tuple(json.loads(path.read_text()).values()) if path else ()


def reference_points(
    rules: BenchmarkRules, ruleset: str | None, flavour: Flavour
) -> list[ReferencePoint]:
    """Return a benchmark's reference points in one variant of the rule, smallest batch first.

    Args:
        rules: The benchmark's rules.
        ruleset: mlperf_logging's name for the round's reference points; None if there are none.
        flavour: ``THEN`` or ``NOW``.

    Returns:
        The points, pruned where the variant does so; empty if there are none.
    """
    points = []
    for record in _records(ruleset, rules.name) if ruleset and rules.rcp else ():
        values = record.get("Epochs to converge") or record["samples to converge"]
        left = olympic(values, rules.drop)
        assert left is not None, f"reference point with too few values: {record['BS']}"
        std = standard_deviation(values if flavour.spread_of_all else left.kept)
        points.append(
            ReferencePoint(record["BS"], left.mean, std, len(left.kept), record["Hyperparams"])
        )
    points.sort(key=lambda point: point.batch)
    return _prune(points) if flavour.pruned and points else points


def _prune(points: Sequence[ReferencePoint]) -> list[ReferencePoint]:
    """Drop the points that the tool ignores: those below the fastest, or above the line.

    As in the tool, the result is not a true lower convex hull.
    """
    fastest = min(points, key=lambda point: point.mean)
    kept = [point for point in points if point.batch >= fastest.batch]
    i = 1
    while i < len(kept) - 1:
        if kept[i].mean > _between(kept[i].batch, kept[i - 1], kept[i + 1])[0]:
            del kept[i]
        else:
            i += 1
    return kept


def _between(batch: float, low: ReferencePoint, high: ReferencePoint) -> tuple[float, float]:
    """Interpolate mean and standard deviation at ``batch`` linearly between two points."""
    share = (batch - low.batch) / (high.batch - low.batch)
    return low.mean + share * (high.mean - low.mean), low.std + share * (high.std - low.std)


def rcp_test(
    values: Sequence[float],
    batch: int,
    rules: BenchmarkRules,
    ruleset: str | None,
    flavour: Flavour,
) -> Verdict:
    """Test the progress of a result's runs (infinity if not converged) against the reference's."""
    points = reference_points(rules, ruleset, flavour)
    if not points:
        return Verdict(flavour.name, None, "no reference convergence points for this benchmark")
    if len(values) <= 2 * rules.drop:
        return Verdict(flavour.name, None, "too few runs for the test")
    own = olympic(values, rules.drop)
    if own is None:
        return Verdict(flavour.name, False, "too few converging runs for the test")
    match = _match(batch, points, rules)
    if match is None:
        text = f"batch {batch} is above every reference point (largest: {points[-1].batch:g}); "
        text += "the reference has to be run at this batch"
        return Verdict(flavour.name, False, text, mean=own.mean)
    return _against(own.mean, match, rules, flavour)


def _against(mean: float, match: Match, rules: BenchmarkRules, flavour: Flavour) -> Verdict:
    """Test a mean progress against the reference's; without a margin where none makes sense."""
    minimum, how = match.minimum - rules.rcp_allowance, match.how
    # A batch far below the smallest reference point may take many times its epochs or steps.
    largest = LARGEST_RATIO if match.exact else LARGEST_BELOW
    if not 1 / LARGEST_RATIO <= mean / match.mean <= largest:
        text = (
            f"the logs count in another unit than the reference points: {mean:g} where about "
            f"{match.mean:g} {rules.progress} were expected"
        )
        if mean < LARGEST_BELOW * match.mean and mean > match.mean:
            text += ", unless the runs trained that much longer"
        return Verdict(flavour.name, None, text, mean, match.mean, other_unit=True)
    passed = mean >= minimum
    if not passed and not match.exact:
        how += "; the reference has to be run at this batch"
    scaling = match.mean / mean if passed and flavour.scales and mean < match.mean else 1.0
    if minimum <= 0:  # gpt3 in v4.1: one value of a point is ten times the others
        how += "; the values there lie too far apart to give a minimum"
        return Verdict(flavour.name, passed, how, mean, match.mean, scaling=scaling)
    margin = mean / minimum - 1
    return Verdict(
        flavour=flavour.name,
        passed=passed,
        text=how,
        mean=mean,
        reference_mean=match.mean,
        minimum=minimum,
        margin=margin if margin <= LARGEST_MARGIN else None,
        scaling=scaling,
    )


class Match(NamedTuple):
    """Epochs that the reference needs at a batch size."""

    mean: float
    minimum: float
    how: str
    """How the two were found."""
    exact: bool
    """Whether to miss the minimum is a failure."""


def _match(batch: int, points: Sequence[ReferencePoint], rules: BenchmarkRules) -> Match | None:
    for point in points:
        if point.batch == batch:
            minimum = minimum_mean(point.mean, point.std, point.count, rules.runs)
            return Match(point.mean, minimum, f"reference point at batch {batch}", True)
    below = [point for point in points if point.batch < batch]
    above = [point for point in points if point.batch > batch]
    if below and above:
        mean, std = _between(batch, below[-1], above[0])
        minimum = minimum_mean(mean, std, 2 * rules.runs, rules.runs)
        ends = f"{below[-1].batch:g} and {above[0].batch:g}"
        return Match(mean, minimum, f"interpolated between batches {ends}", True)
    if above:
        point = above[0]
        minimum = minimum_mean(point.mean, point.std, point.count, rules.runs)
        how = f"compared with the smallest reference batch, {point.batch:g}"
        return Match(point.mean, minimum, how, False)
    return None
