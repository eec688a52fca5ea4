"""The figures of one result in a comparison: minutes, runs, machine, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scoring.drawing.tables import Ratio, interval, number
from scoring.rules.expenses import COST, WATT_HOURS, Expense, expense, expense_columns
from scoring.rules.scores import Score
from scoring.rules.time_parts import TimeParts, time_parts
from scoring.runs.result_sets import ResultSet


@dataclass(frozen=True)
class Side:
    """One result of a comparison."""

    result: ResultSet
    score: Score
    parts: TimeParts | None
    used: Expense

    @classmethod
    def of(cls, result: ResultSet, score: Score, cost_per_hour: float | None = None) -> Side:
        used = expense(result, score, cost_per_hour)
        return cls(result, score, time_parts(result, score), used)

    @property
    def name(self) -> str:
        return self.score.name or self.score.path

    @property
    def shown_minutes(self) -> float | None:
        """The score, or the provisional mean where runs are missing."""
        item = self.score
        return item.provisional_minutes if item.minutes is None else item.minutes

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        item = self.score
        total = item.minutes * item.accelerators if item.minutes and item.accelerators else None
        return {
            "name": item.name,
            "path": item.path,
            "round": item.round,
            "division": item.division,
            "demo": item.demo,
            "verdict": item.verdict,
            "reasons": list(item.reasons),
            "minutes": item.minutes,
            "provisional_minutes": item.provisional_minutes,
            "provisional": item.provisional,
            "interval": list(item.interval),
            "runs": item.runs_found,
            "not_converged": item.not_converged,
            "accelerators": item.accelerators,
            "accelerator_minutes": total,
            "scaling": item.scaling,
            "energy_and_cost": self.used.as_json(),
            "why": self.parts.as_json() if self.parts else None,
        }


# Label and text of one figure.
Figure = tuple[str, object]
BATCH = "global batch size"
SMALLEST_MINUTES = 5e-4


def figures(side: Side) -> list[Figure]:
    """Return the figures of one side, in the order of the rows; None where there is none."""
    facts = side.as_json()
    scaled = facts["minutes"] is not None and side.score.scaling != 1
    return [
        ("result", side.name),
        ("minutes", facts["minutes"] if facts["minutes"] is not None else _provisional(side)),
        ("scaled by", f"{side.score.scaling:.4f}" if scaled else None),
        ("watt-hours", side.used.watt_hours),
        ("energy of", side.used.covers),
        ("cost", side.used.cost),
        ("95 % interval", interval(*facts["interval"])),
        ("runs", facts["runs"]),
        ("not converged", facts["not_converged"]),
        ("accelerators", facts["accelerators"]),
        ("accelerator minutes", facts["accelerator_minutes"]),
        *why_figures(side.parts),
    ]


def why_figures(parts: TimeParts | None) -> list[Figure]:
    """Return the figures that the minutes are made of."""
    if parts is None:
        return []
    spread = "" if parts.spread is None else f" (spread {parts.spread:.1%})"
    amount = None if parts.amount is None else f"{count(parts.amount)}{spread}"
    reference, own = parts.against_reference, parts.rate_per_accelerator
    per, times = _per(parts)
    return [
        (BATCH, parts.batch),
        (f"{parts.unit} to target", amount),
        ("relative to the reference", None if reference is None else f"{reference:.3f}"),
        (f"{parts.unit} per {per}", None if parts.rate is None else parts.rate * times),
        ("per accelerator", None if own is None else own * times),
        ("training, minutes", parts.training),
        ("evaluation", _share(parts.evaluation, parts.evaluation_share)),
        ("start", _share(parts.start, parts.start / parts.minutes)),
        ("initialization, not timed", _share(parts.init, None)),
    ]


def _per(parts: TimeParts) -> tuple[str, int]:
    """Return the unit of time for a rate, and its seconds; some units take minutes each."""
    return ("hour", 3600) if parts.unit in ("generations", "epochs") else ("second", 1)


def shown_rate(parts: TimeParts | None) -> str | None:
    """Return the rate per accelerator for a table's cell."""
    if parts is None or parts.rate_per_accelerator is None:
        return None
    per, times = _per(parts)
    return f"{number(parts.rate_per_accelerator * times)}/{per[0]}"


def visible(minutes: float) -> float:
    """Return minutes, or 0 for what no log could time."""
    return 0.0 if abs(minutes) < SMALLEST_MINUTES else minutes


def _share(minutes: float | None, share: float | None) -> str | None:
    if minutes is None:
        return None
    return number(visible(minutes)) + ("" if share is None else f" ({share:.1%})")


def _provisional(side: Side) -> str:
    return f"{number(side.score.provisional_minutes)} {side.score.provisional}".rstrip()


def count(value: float) -> str:
    """Format a large count with a unit letter."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def equation(side: Side) -> str | None:
    """Return the minutes as samples / speed + evaluation + start, in one line."""
    parts = side.parts
    if parts is None or parts.amount is None or parts.rate is None:
        return None
    per, times = _per(parts)
    text = f"{number(parts.minutes)} minutes = {count(parts.amount)} {parts.unit} / "
    text += f"{count(parts.rate * times)} per {per} ({number(parts.training)})"
    text += "" if parts.evaluation is None else f" + evaluation {number(parts.evaluation)}"
    text += f" + start {number(visible(parts.start))}"
    item = side.score
    scaled = item.scaling != 1 and item.minutes is not None
    return f"{text}; scaled by {item.scaling:.4f}: {number(item.minutes)}" if scaled else text


def summary_columns(sides: Sequence[Side]) -> list[str]:
    """Return the columns of a table with one row per result; energy and cost where known."""
    columns = ["", "result", "accel.", "minutes", *expense_columns([s.used for s in sides])]
    return [*columns, "batch", "to target", "per accel.", "evaluation", "x fastest"]


def summary_cells(
    label: str, side: Side, fastest: float | None, columns: Sequence[str]
) -> Sequence[object]:
    """Return the row of one result under ``columns``."""
    parts, shown = side.parts, side.shown_minutes
    amount = None if parts is None else parts.amount
    share = None if parts is None else parts.evaluation_share
    cells: dict[str, object] = {
        "": label,
        "result": f"{side.name} {side.score.provisional}".rstrip(),
        "accel.": side.score.accelerators,
        "minutes": shown,
        WATT_HOURS: side.used.watt_hours,
        COST: side.used.cost,
        "batch": side.score.global_batch_size,
        "to target": f"{count(amount)} {parts.unit}" if parts and amount else None,
        "per accel.": shown_rate(parts),
        "evaluation": None if share is None else f"{share:.1%}",
        "x fastest": Ratio(shown / fastest) if shown and fastest else None,
    }
    return [cells[name] for name in columns]
