"""One submitter's results over the sizes of a system, with the efficiency of each size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.commands.comparison import Comparison
from scoring.commands.filters import Facts, Filters, facts_of_logs, facts_of_row
from scoring.commands.judged import score_all
from scoring.commands.side_figures import Side, count
from scoring.drawing.plots import Curve, line_charts
from scoring.drawing.tables import Table
from scoring.published import published


@dataclass(frozen=True)
class Size:
    """One result at one number of accelerators."""

    system: str
    accelerators: int
    minutes: float
    batch: str
    amount: float | None = None
    """Samples to the target; None for a published row, which has no logs here."""
    rate: float | None = None
    """Samples per second and accelerator."""


def compare_scaling(source: Sequence[Path] | str, filters: Filters) -> Comparison:
    """Compare the sizes of each submitter's system: of a round's name, or of the logs in paths."""
    found = _of_round(source, filters) if isinstance(source, str) else _of_logs(source, filters)
    groups = {key: _best_of_each_size(sizes) for key, sizes in found.items()}
    groups = {key: sizes for key, sizes in sorted(groups.items()) if len(sizes) > 1}
    if not groups:
        where = source if isinstance(source, str) else "these directories"
        raise ValueError(
            f"nothing to scale: no benchmark in {where} has results of one submitter and "
            "accelerator model at two sizes" + (f" ({filters.words()})" if filters.words() else "")
        )
    data: dict[str, Any] = {"scaling": [], "notes": [EFFICIENCY]}
    tables = []
    panels: dict[str, list[Curve]] = {}
    for (benchmark, submitter, division, model), sizes in groups.items():
        rows = [_row(size, sizes[0]) for size in sizes]
        key = {"benchmark": benchmark, "submitter": submitter, "division": division}
        data["scaling"].append({**key, "accelerator": model, "sizes": rows})
        tables.append(_table(f"{benchmark}: {submitter}, {model or 'CPU'} ({division})", rows))
        points = [(str(size.accelerators), size.minutes) for size in sizes]
        panels.setdefault(f"{benchmark}: minutes by accelerators", []).append(
            Curve(f"{submitter}, {model}", points)
        )
    positions = sorted({s.accelerators for sizes in groups.values() for s in sizes})
    names = [str(position) for position in positions]
    return Comparison(data, tables, lambda path: line_charts(list(panels.items()), names, path))


EFFICIENCY = (
    "Efficiency: speedup over the smallest size, divided by the ratio of accelerators. It is the "
    "product of convergence (samples to target of the smallest size / of this size) and throughput "
    "(samples per second and accelerator), and of evaluation and start, which do not scale."
)
Key = tuple[str, str, str, str]


def _key(facts: Facts) -> Key:
    return facts.benchmark, facts.submitter, facts.division, facts.accelerator


def _of_round(round_name: str, filters: Filters) -> dict[Key, list[Size]]:
    if filters.submitter is None and filters.benchmark is None:
        raise ValueError(f"--scaling of {round_name} needs --submitter or --benchmark")
    groups: dict[Key, list[Size]] = {}
    for row in published(round_name):
        if filters(row) and row.minutes is not None and row.accelerators:
            size = Size(row.system, row.accelerators, row.minutes, row.batch)
            groups.setdefault(_key(facts_of_row(row)), []).append(size)
    return groups


def _of_logs(paths: Sequence[Path], filters: Filters) -> dict[Key, list[Size]]:
    groups: dict[Key, list[Size]] = {}
    for result, item in (pair for path in paths for pair in score_all(path)):
        side = Side.of(result, item)
        minutes, parts = side.shown_minutes, side.parts
        if not (filters(result) and minutes and item.accelerators):
            continue
        amount, rate = (parts.amount, parts.rate_per_accelerator) if parts else (None, None)
        batch = str(item.global_batch_size or "")
        size = Size(item.system, item.accelerators, minutes, batch, amount, rate)
        groups.setdefault(_key(facts_of_logs(result)), []).append(size)
    return groups


def _best_of_each_size(sizes: Sequence[Size]) -> list[Size]:
    """Return the fastest result of each number of accelerators, smallest first."""
    best: dict[int, Size] = {}
    for size in sorted(sizes, key=lambda size: (size.accelerators, -size.minutes)):
        best[size.accelerators] = size
    return list(best.values())


def _row(size: Size, base: Size) -> dict[str, Any]:
    speedup = base.minutes / size.minutes
    return {
        "accelerators": size.accelerators,
        "system": size.system,
        "batch": size.batch,
        "minutes": size.minutes,
        "speedup": speedup,
        "efficiency": speedup / (size.accelerators / base.accelerators),
        "amount": size.amount,
        "convergence": base.amount / size.amount if base.amount and size.amount else None,
        "throughput": size.rate / base.rate if base.rate and size.rate else None,
    }


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    columns = ["system", "accel.", "batch", "minutes", "speedup", "efficiency"]
    explained = any(row["convergence"] is not None for row in rows)
    columns += ["to target", "convergence", "throughput"] if explained else []
    table = Table(title, columns, numeric=frozenset(columns[1:]))
    for row in rows:
        cells = [row["system"], row["accelerators"], row["batch"], row["minutes"]]
        cells += [row["speedup"], row["efficiency"]]
        if explained:
            amount = None if row["amount"] is None else count(row["amount"])
            cells += [amount, row["convergence"], row["throughput"]]
        table.rows.append(cells)
    return table
