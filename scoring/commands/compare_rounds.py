"""Two published rounds side by side: the best result of each benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scoring.drawing.plots import Bar, Bars
from scoring.drawing.tables import Ratio, Table
from scoring.published import PublishedResult, published
from scoring.rules.rounds import load_round

# What a comparison prints: JSON, tables and bars.
Comparison = tuple[dict[str, Any], list[Table], Bars]
# Definition of "best" -> the results it considers.
DEFINITIONS = {
    "best closed result, any scale, any availability": lambda r: r.division == "closed",
    "best closed result, available systems only": lambda r: (
        r.division == "closed" and r.availability == "available"
    ),
    "NVIDIA's own results on 8 x A100": lambda r: (
        r.division == "closed" and r.submitter == "NVIDIA" and _is_eight_a100(r)
    ),
}


def _is_eight_a100(result: PublishedResult) -> bool:
    """Return whether it is one DGX A100; v0.7 has no accelerator columns, only system names."""
    if result.accelerators is None:
        return result.system.startswith(("dgxa100_ngc", "dgxa100_n1_"))
    return result.accelerators == 8 and "A100" in result.accelerator


def compare_rounds(old: str, new: str) -> Comparison:
    """Compare the best of each benchmark in two rounds, under each definition of "best"."""
    definitions: list[dict[str, Any]] = []
    tables = []
    columns = ["benchmark", f"{old} minutes", f"{old} best"]
    columns += [f"{new} minutes", f"{new} best", "ratio"]
    for name, chosen in DEFINITIONS.items():
        rows = _best_rows(old, new, chosen)
        numeric = frozenset({columns[1], columns[3], columns[5]})
        table = Table(name, columns, [_best_cells(row) for row in rows], numeric)
        table.marked = {0} if rows else set()
        tables.append(table)
        best = rows[0]["ratio"] if rows else None
        definitions.append({"definition": name, "largest_ratio": best, "benchmarks": rows})
    notes = [_claim_note(definitions, old, new)]
    notes += [note for name in (old, new) for note in _absent_notes(name, definitions)]
    bars: Bars = [
        (
            "ratio of the best closed results",
            [Bar(row["benchmark"], row["ratio"]) for row in definitions[0]["benchmarks"]],
        )
    ]
    return {"rounds": [old, new], "definitions": definitions, "notes": notes}, tables, bars


def _best_rows(old: str, new: str, chosen: Any) -> list[dict[str, Any]]:
    rows = []
    for benchmark in load_round(old).benchmarks:
        before, after = (_best(name, benchmark, chosen) for name in (old, new))
        if before is None or after is None:
            continue
        assert before.minutes is not None
        assert after.minutes is not None
        rows.append(
            {
                "benchmark": benchmark,
                "old_minutes": before.minutes,
                "old": before.name,
                "new_minutes": after.minutes,
                "new": after.name,
                "ratio": before.minutes / after.minutes,
            }
        )
    return sorted(rows, key=lambda row: -row["ratio"])


def _best(round_name: str, benchmark: str, chosen: Any) -> PublishedResult | None:
    rows = [
        r
        for r in published(round_name)
        if r.benchmark == benchmark and r.minutes is not None and chosen(r)
    ]
    return min(rows, key=lambda r: r.minutes or 0, default=None)


def _best_cells(row: dict[str, Any]) -> list[object]:
    cells = [row["benchmark"], row["old_minutes"], row["old"], row["new_minutes"]]
    return [*cells, row["new"], Ratio(row["ratio"])]


def _claim_note(definitions: Sequence[dict[str, Any]], old: str, new: str) -> str:
    largest = definitions[0]["largest_ratio"]
    if largest is None:
        return f"{old} and {new} have no benchmark in common"
    return (
        f"Up to {largest:.1f}x is the first table's largest ratio: the best closed result of each "
        "benchmark at any scale and availability. Only results whose logs could be read count."
    )


def _absent_notes(name: str, definitions: Sequence[dict[str, Any]]) -> list[str]:
    """Name closed results whose logs could not be read: the ratio of their benchmark may be off."""
    compared = {row["benchmark"] for row in definitions[0]["benchmarks"]}
    absent = [
        f"{r.benchmark} {r.name}"
        + ("" if r.recalled_minutes is None else f" ({r.recalled_minutes:g} recalled, unverified)")
        for r in published(name)
        if r.minutes is None and r.division == "closed" and r.benchmark in compared
    ]
    note = f"Not counted, as their logs could not be read, in {name}: {'; '.join(absent)}."
    return [note] if absent else []
