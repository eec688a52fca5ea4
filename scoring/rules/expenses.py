"""Expenses of a result: watt-hours and cost to target, next to its minutes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scoring.rules.judged_runs import CONVERGED
from scoring.rules.scores import Score
from scoring.runs.power import Energy, run_energy
from scoring.runs.result_sets import ResultSet
from scoring.runs.run import Run

WATT_HOURS, COST = "Wh", "cost"


@dataclass(frozen=True)
class Expense:
    """Energy and cost of one result; None where there is no figure, with the reason."""

    watt_hours: float | None
    """Mean over the runs that the minutes are the mean of, times the same factor."""
    covers: str | None
    """Measured parts, such as ``GPUs and processors``."""
    energy_note: str | None
    cost: float | None
    """In the currency of the price."""
    cost_note: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    def sentence(self) -> str | None:
        """Say what the watt-hours cover, or why some are missing; None if nothing is known."""
        if self.watt_hours is not None:
            return f"energy: that of {self.covers}, mean of the runs that the minutes are made of"
        return None if self.energy_note is None else f"energy: {self.energy_note}"


def expense(result: ResultSet, item: Score, cost_per_hour: float | None = None) -> Expense:
    """Return what a result used.

    Args:
        result: The runs.
        item: Their score.
        cost_per_hour: Price of an hour of the whole system; by default the costs that the runs
            recorded count.

    Returns:
        The mean energy and the cost.
    """
    runs = _kept(result, item)
    energies = [run_energy(run) for run in runs]
    reasons = [f"{r.name}: {e}" for r, e in zip(runs, energies, strict=True) if isinstance(e, str)]
    known = [energy for energy in energies if isinstance(energy, Energy)]
    parts = sorted({energy.covers for energy in known})
    if len(parts) > 1:
        reasons.append(f"the runs measured different things: {', '.join(parts)}")
    whole = bool(known) and not reasons
    # Without any power log there is nothing to explain.
    note = reasons[0] if reasons and (known or result.is_own) else None
    cost, cost_note = _cost(runs, item, cost_per_hour)
    mean = math.fsum(e.watt_hours for e in known) / len(known) if whole else None
    return Expense(
        watt_hours=None if mean is None else mean * item.scaling,
        covers=parts[0] if whole else None,
        energy_note=None if whole else note,
        cost=cost,
        cost_note=cost_note,
    )


def expenses(
    scored: Sequence[tuple[ResultSet, Score]], cost_per_hour: float | None = None
) -> list[Expense]:
    """Return what each of several results used; see ``expense``."""
    return [expense(result, item, cost_per_hour) for result, item in scored]


def expense_columns(items: Sequence[Expense]) -> list[str]:
    """Return the columns for which any of some results has a figure: ``Wh``, ``cost``."""
    columns = [WATT_HOURS] if any(item.watt_hours is not None for item in items) else []
    return columns + ([COST] if any(item.cost is not None for item in items) else [])


def expense_cells(item: Expense, columns: Sequence[str]) -> list[float | None]:
    """Return the cells of one result under ``expense_columns``."""
    cells = {WATT_HOURS: item.watt_hours, COST: item.cost}
    return [cells[name] for name in columns]


def not_comparable(first: Expense, second: Expense) -> str | None:
    """Say that the energy of two results is of different things; None if it is not."""
    if first.covers is None or second.covers is None or first.covers == second.covers:
        return None
    return f"the energy cannot be compared: {first.covers} against {second.covers}"


def _kept(result: ResultSet, item: Score) -> list[Run]:
    """Return the runs that the minutes are the mean of: the middle ones, all if too few."""
    judged = {run.path: run for run in item.runs if run.counts}
    runs = [run for run in result.runs if str(run.path) in judged]
    runs.sort(key=lambda run: judged[str(run.path)].minutes)
    if item.minutes is None:
        return [run for run in runs if judged[str(run.path)].outcome == CONVERGED]
    drop = item.not_converged_allowed
    return runs[drop : len(runs) - drop]


def _cost(runs: Sequence[Run], item: Score, price: float | None) -> tuple[float | None, str | None]:
    minutes = item.provisional_minutes if item.minutes is None else item.minutes
    if price is not None and minutes is None:
        return None, "the result has no minutes"
    if price is not None and minutes is not None:
        return minutes * price / 60, None
    costs = [run.fact("cost") for run in runs]
    good = [cost for cost in costs if isinstance(cost, int | float)]
    if costs and len(good) == len(costs):
        return math.fsum(good) / len(good), None
    if good:
        return None, "not every run was made with --cost_per_hour"
    return None, "no --cost_per_hour was given"
