"""Compares the evaluations in a log with the closed division's schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scoring.rules.rounds import BenchmarkRules
from scoring.runs.logs import Evaluation, RunLog, is_number

# Where samples are packed into batches an evaluation comes a few batches late: up to 2.7 % of the
# interval in published logs of bert and llama2_70b_lora.
LOOSE = 0.05
# While the loss scale of half precision is found, batches are read whose step is skipped: up to 11
# in published logs of bert, before the first evaluation.
SKIPPED_STEPS = 11


def schedule_fault(log: RunLog, rules: BenchmarkRules) -> str | None:
    """Describe a log's first deviation from the closed division's evaluation schedule.

    None if there is none, or if the log counts its progress in a unit that cannot be compared.
    """
    # Ranks may each log an evaluation, and asynchronous ones are logged out of order.
    amounts = {amount(evaluation, rules) for evaluation in log.evaluations}
    times = sorted(each for each in amounts if each is not None)
    if not rules.evaluation or not times:
        return None
    kind = str(rules.evaluation["kind"])
    plan = {**rules.evaluation, "logged_epoch": log.facts.get("samples_per_epoch")}
    return _KINDS[kind](times, plan, log.global_batch_size)


def amount(evaluation: Evaluation, rules: BenchmarkRules) -> float | None:
    """Return how far an evaluation is into training, in the benchmark's unit; None if not logged.

    Newer benchmarks count in ``samples_count``, and some logs have another ``epoch_num`` with it.
    """
    counts = {"samples": evaluation.samples, "steps": evaluation.steps}
    count = counts.get(rules.progress)
    return evaluation.progress if count is None else count


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
    epoch = _samples_per_epoch(plan, batch)
    unit = plan.get("counted", "epochs")
    size = epoch if unit == "samples" else 1
    first = math.ceil(plan["first_epochs"] * plan["samples"] / epoch) * size
    every = math.ceil(plan["then_epochs"] * plan["samples"] / epoch) * size
    if times[0] > first:
        why = f"an epoch of batches of {batch} has {epoch} samples"
        return f"first evaluation at {times[0]:g} {unit}; due at {first} ({why})"
    return _steps(times, every, unit)


def _samples_per_epoch(plan: Mapping[str, Any], batch: int) -> int:
    """Return the samples in the epochs of a run: the reference drops the last batch, others pad."""
    whole, rest = divmod(plan["samples"], batch)
    padded = (whole + bool(rest)) * batch
    logged = plan["logged_epoch"]
    return (
        int(logged) if is_number(logged) and max(1, whole * batch) <= logged <= padded else padded
    )


def _bert_samples(times: Sequence[float], plan: Mapping[str, Any], batch: int | None) -> str | None:
    """Check for intervals in samples that grow with the batch, rounded up to a whole batch."""
    if not batch or times[-1] <= 1:
        return None
    exact = plan["share"] * (plan["per_batch"] * batch + plan["base"])
    every = math.floor(exact / plan["floor_to"]) * plan["floor_to"]
    slack = batch + LOOSE * every
    if times[0] > every + max(slack, SKIPPED_STEPS * batch):
        return f"first evaluation at {times[0]:g} samples; due at {every} (batch {batch})"
    return _steps(times, every, "samples", slack=slack)


def _epoch_share(times: Sequence[float], plan: Mapping[str, Any], batch: int | None) -> str | None:
    share, start = plan["share"], plan.get("counted_from", 1)
    # In a log that counts from zero instead of one, a late first evaluation goes undetected.
    if times[0] > start + share * 1.01:
        due = f"due at {start + share:g} (counted from {start})"
        return f"first evaluation at epoch {times[0]:g}; {due}"
    return _steps(times, share, "epochs", slack=share / 100)


def _every_samples(
    times: Sequence[float], plan: Mapping[str, Any], batch: int | None
) -> str | None:
    """Check for intervals in whole batches, of which the first few may be skipped."""
    if not batch:
        return None
    unit = plan.get("unit", 1)
    every = math.ceil(plan["samples"] / batch) * batch * unit
    skip = plan.get("skip", {"per_batch": 0, "base": 0})
    first = (math.floor(skip["per_batch"] * batch + skip["base"]) + 1) * every
    # Some programs count the batch in progress and some do not.
    slack = batch * unit + LOOSE * every
    if times[0] > first + slack:
        return f"first evaluation at {times[0]:g}; due at {first:g}"
    return _steps(times, every, "tokens" if unit > 1 else "samples", slack=slack)


_KINDS: dict[str, Callable[[Sequence[float], Mapping[str, Any], int | None], str | None]] = {
    "every_epochs": _every_epochs,
    "at_epochs": _at_epochs,
    "padded_epochs": _padded_epochs,
    "bert_samples": _bert_samples,
    "epoch_share": _epoch_share,
    "every_samples": _every_samples,
}
