"""Compares the evaluations in a log with the closed division's schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scoring.rules.rounds import BenchmarkRules
from scoring.runs.logs import RunLog


def schedule_fault(log: RunLog, rules: BenchmarkRules) -> str | None:
    """Describe a log's first deviation from the closed division's evaluation schedule.

    None if there is none, or if the log counts its progress in a unit that cannot be compared.
    """
    times = [e.progress for e in log.evaluations if e.progress is not None]
    if not rules.evaluation or not times:
        return None
    if any(later < earlier for earlier, later in zip(times, times[1:], strict=False)):
        return "evaluations are not in the order of their epochs"
    kind = str(rules.evaluation["kind"])
    return _KINDS[kind](times, rules.evaluation, log.global_batch_size)


def _every_epochs(times: Sequence[float], plan: Mapping[str, Any], batch: int | None) -> str | None:
    """Check for an evaluation every n epochs, from any offset below n."""
    every = plan["epochs"]
    if times[0] > every:
        return f"first evaluation at epoch {times[0]:g}; due by epoch {every}"
    return _steps(times, every, "epochs")


def _steps(times: Sequence[float], every: float, unit: str, slack: float = 0) -> str | None:
    for earlier, later in zip(times, times[1:], strict=False):
        if later - earlier > every + slack:
            return f"no evaluation between {earlier:g} and {later:g} {unit}; due every {every:g}"
    return None


def _at_epochs(times: Sequence[float], plan: Mapping[str, Any], batch: int | None) -> str | None:
    missed = [epoch for epoch in plan["epochs"] if epoch <= times[-1] and epoch not in times]
    return f"no evaluation at epoch {missed[0]}" if missed else None


def _padded_epochs(
    times: Sequence[float], plan: Mapping[str, Any], batch: int | None
) -> str | None:
    """Check intervals in reference epochs, which padding to whole batches makes longer."""
    if not batch:
        return None
    padded = math.ceil(plan["samples"] / batch) * batch
    first = math.ceil(plan["first_epochs"] * plan["samples"] / padded)
    every = math.ceil(plan["then_epochs"] * plan["samples"] / padded)
    if times[0] > first:
        return f"first evaluation at epoch {times[0]:g}; due at epoch {first}"
    return _steps(times, every, "epochs")


def _bert_samples(times: Sequence[float], plan: Mapping[str, Any], batch: int | None) -> str | None:
    """Check for intervals in samples that grow with the batch, rounded up to a whole batch."""
    if not batch or times[-1] <= 1:
        return None
    exact = plan["share"] * (plan["per_batch"] * batch + plan["base"])
    every = math.floor(exact / plan["floor_to"]) * plan["floor_to"]
    if times[0] > every + batch:
        return f"first evaluation at {times[0]:g} samples; due at {every}"
    return _steps(times, every, "samples", slack=batch)


def _epoch_share(times: Sequence[float], plan: Mapping[str, Any], batch: int | None) -> str | None:
    share = plan["share"]
    # In a log that counts from zero instead of one, a late first evaluation goes undetected.
    if times[0] > 1 + share * 1.01:
        return f"first evaluation at epoch {times[0]:g}; due at {1 + share:g} (counted from 1)"
    return _steps(times, share, "epochs", slack=share / 100)


_KINDS: dict[str, Callable[[Sequence[float], Mapping[str, Any], int | None], str | None]] = {
    "every_epochs": _every_epochs,
    "at_epochs": _at_epochs,
    "padded_epochs": _padded_epochs,
    "bert_samples": _bert_samples,
    "epoch_share": _epoch_share,
}
