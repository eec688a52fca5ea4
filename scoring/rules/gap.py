"""Explains the gap between two results: convergence, and whether it is luck, or speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

from scoring.rules.olympic import faster_p_value
from scoring.rules.time_parts import TimeParts

SIGNIFICANT = 0.05
# A smaller share of the minutes is no gap that is worth a reason.
SMALLEST_GAP = 0.002


@dataclass(frozen=True)
class Gap:
    """By how many minutes B is slower than A (negative: faster), and through what."""

    minutes: float
    """The sum of the parts below."""
    convergence: float | None
    """Through more samples to the target; None where a log does not have them."""
    speed: float | None
    """Through fewer samples per second of training."""
    training: float
    """Both together."""
    evaluation: float
    start: float
    p_convergence: float | None
    """Two-sided rank test of the runs' samples to target; None where too few can decide."""
    p_speed: float | None
    """Two-sided rank test of the runs' samples per second."""
    cause: str
    """``convergence`` (significant), ``convergence luck`` (not significant), ``convergence,
    undecided`` (too few runs), ``speed``, ``evaluation``, ``start``, ``training`` (its two parts
    are not known) or ``none``."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


def explain_gap(a: TimeParts, b: TimeParts) -> Gap:
    """Split the difference of two results of one benchmark.

    The two parts of training are each taken at the mean of the other, so that they add up to it.

    Args:
        a: Parts of the first result.
        b: Parts of the second one.

    Returns:
        The gap, in minutes of B more than of A.
    """
    training, start = b.training - a.training, b.start - a.start
    evaluation = (b.evaluation or 0.0) - (a.evaluation or 0.0)
    convergence = speed = None
    if a.unit == b.unit and a.rate and b.rate and a.amount and b.amount:
        convergence = (b.amount - a.amount) * (1 / a.rate + 1 / b.rate) / 120
        speed = (1 / b.rate - 1 / a.rate) * (a.amount + b.amount) / 120
    p_convergence = _p_value(*([run.amount for run in side.converged] for side in (a, b)))
    p_speed = _p_value(*([run.rate for run in side.converged] for side in (a, b)))
    parts = {"evaluation": evaluation, "start": start}
    if convergence is None or speed is None:
        parts["training"] = training
    else:
        parts |= {"convergence": convergence, "speed": speed}
    gap = b.minutes - a.minutes
    return Gap(
        minutes=gap,
        convergence=convergence,
        speed=speed,
        training=training,
        evaluation=evaluation,
        start=start,
        p_convergence=p_convergence,
        p_speed=p_speed,
        cause=_cause(gap / a.minutes, parts, p_convergence),
    )


def _cause(share: float, parts: dict[str, float], p_convergence: float | None) -> str:
    """Name the largest part that goes in the direction of the gap."""
    if abs(share) < SMALLEST_GAP:
        return "none"
    largest = max(parts, key=lambda name: parts[name] * (1 if share > 0 else -1))
    if largest != "convergence":
        return largest
    if p_convergence is None:
        return "convergence, undecided"
    return "convergence luck" if p_convergence >= SIGNIFICANT else "convergence"


def _p_value(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    """Return the two-sided p-value of a rank test; None with a missing value or too few runs."""
    a, b = ([v for v in values if v is not None] for values in (ours, theirs))
    too_few = not (a and b) or 2 / comb(len(a) + len(b), len(a)) >= SIGNIFICANT
    if too_few or (len(a), len(b)) != (len(ours), len(theirs)):
        return None
    return min(1.0, 2 * min(faster_p_value(a, b), faster_p_value(b, a)))
