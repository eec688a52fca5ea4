"""Two published rounds side by side: the best result of each benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scoring.commands.comparison import Comparison, with_bars
from scoring.commands.filters import Filters, names_model
from scoring.drawing.plots import Bar, Bars
from scoring.drawing.tables import AtLeast, Ratio, Table
from scoring.published import PublishedResult, published
from scoring.published.best import Best, best_of
from scoring.published.tasks import rows_of_task
from scoring.rules.rounds.names import task_of

Choice = Callable[[PublishedResult], bool]
# NVIDIA's accelerators of the rounds, oldest first.
MODELS = ("V100", "A100", "H100", "H200", "B200", "GB200", "B300", "GB300")


def compare_rounds(old: str, new: str, filters: Filters) -> Comparison:
    """Compare the best of each benchmark in two rounds, under each definition of "best"."""
    definitions: list[dict[str, Any]] = []
    tables = []
    columns = ["benchmark", f"{old} minutes", f"{old} best"]
    columns += [f"{new} minutes", f"{new} best", "ratio"]
    numeric = frozenset({columns[1], columns[3], columns[5]})
    for name, chosen in _definitions(old, new, filters).items():
        rows = _best_rows(old, new, chosen)
        if not rows:
            continue
        table = Table(name, columns, [_best_cells(row) for row in rows], numeric)
        table.marked = {0}
        tables.append(table)
        ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
        largest = max(ratios, default=None)
        definitions.append({"definition": name, "largest_ratio": largest, "benchmarks": rows})
    data = {"rounds": [old, new], "definitions": definitions, "notes": []}
    if definitions:
        data["notes"] = [_claim_note(definitions[0]), *_other_notes(old, new, definitions)]
    else:
        data["notes"] = [f"{old} and {new} have no benchmark in common" + _under(filters)]
    bars: Bars = [
        (
            f"ratio {old} / {new}, {definition['definition']}",
            [
                Bar(row["benchmark"], row["ratio"])
                for row in definition["benchmarks"]
                if row["ratio"]
            ],
        )
        for definition in definitions[:1]
    ]
    return with_bars(data, tables, bars)


def _under(filters: Filters) -> str:
    return f" under the filters ({filters.words()})" if filters else ""


def _definitions(old: str, new: str, filters: Filters) -> dict[str, Choice]:
    """Return each definition of "best" with the results that it considers."""
    division = filters.division or "closed"
    if filters:
        text = f"best {division} result, {filters.words()}"
        return {text: lambda row: row.division == division and filters(row)}
    definitions: dict[str, Choice] = {
        "best closed result, any scale, any availability": lambda row: row.division == "closed",
        "best closed result, available systems only": lambda row: (
            row.division == "closed" and row.availability == "available"
        ),
    }
    if model := _common_model(old, new):
        text = f"NVIDIA's own results on 8 x {model}"
        definitions[text] = lambda row: _is_nvidias_eight(row, model)
    return definitions


def _is_nvidias_eight(row: PublishedResult, model: str) -> bool:
    own = row.division == "closed" and row.submitter == "NVIDIA"
    return own and row.accelerators == 8 and names_model(row.accelerator, model)


def _common_model(old: str, new: str) -> str | None:
    """Return the accelerator of NVIDIA's single nodes with most benchmarks in both rounds."""
    counts = {
        model: len(
            set.intersection(
                *(
                    {task_of(r.benchmark, n) for r in published(n) if _is_nvidias_eight(r, model)}
                    for n in (old, new)
                )
            )
        )
        for model in MODELS
    }
    best = max(reversed(MODELS), key=lambda model: counts[model])
    return best if counts[best] else None


def _best_rows(old: str, new: str, chosen: Choice) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(task_of(row.benchmark, old) for row in published(old)):
        before, after = (
            best_of([row for row in rows_of_task(round_name, name) if chosen(row)])
            for round_name in (old, new)
        )
        if any(best.result is None and not best.doubts for best in (before, after)):
            continue
        rows.append(_row(name, before, after))
    return sorted(rows, key=lambda row: -(row["ratio"] or 0))


def _row(name: str, before: Best, after: Best) -> dict[str, Any]:
    """Return the ratio of two bests, a lower bound, or none where logs are missing."""
    ratio = before.minutes / after.minutes if before.minutes and after.minutes else None
    # Of a new best without logs it is known only that the ratio is larger than without it.
    bound = bool(after.doubts) and before.certain and ratio is not None and ratio >= 1
    if not (bound or (before.certain and after.certain)):
        ratio = None
    shown = after.minutes if after.certain or bound else None
    return {
        "benchmark": name,
        "old_minutes": before.minutes if before.certain else None,
        "old": before.name,
        "new_minutes": shown,
        "new": after.result.name if bound and after.result else after.name,
        "ratio": ratio,
        "at_least": bound,
        "logs_missing": [row.name for row in (*before.doubts, *after.doubts)],
    }


def _best_cells(row: dict[str, Any]) -> list[object]:
    cells = [row["benchmark"], row["old_minutes"], row["old"], row["new_minutes"], row["new"]]
    if row["ratio"] is None:
        return [*cells, None]
    return [*cells, AtLeast(row["ratio"]) if row["at_least"] else Ratio(row["ratio"])]


def _claim_note(first: dict[str, Any]) -> str:
    if first["largest_ratio"] is None:
        return f"No ratio: {first['definition']} is missing its logs in one of the rounds."
    return (
        f"Up to {first['largest_ratio']:.1f}x is the first table's largest ratio: the "
        f"{first['definition'].replace(' result,', ' result of each benchmark,')}. "
        "Only results whose logs could be read count."
    )


def _other_notes(old: str, new: str, definitions: Sequence[dict[str, Any]]) -> list[str]:
    notes = []
    bounds = [row for row in definitions[0]["benchmarks"] if row["at_least"]]
    notes += [
        f"{row['benchmark']}: at least {row['ratio']:.2f}x, as {', '.join(row['logs_missing'])} of "
        f"{new} is faster, but without logs."
        for row in bounds
    ]
    names = {row.benchmark for row in published(old)} & {row.benchmark for row in published(new)}
    notes += [
        f"{name} is another benchmark in {new} than in {old}, so it is not compared."
        for name in sorted(names)
        if task_of(name, old) != task_of(name, new)
    ]
    return notes + [note for name in (old, new) for note in _absent_notes(name, definitions)]


def _absent_notes(name: str, definitions: Sequence[dict[str, Any]]) -> list[str]:
    """Name closed results whose logs could not be read: the ratio of their benchmark may be off."""
    compared = {row["benchmark"] for row in definitions[0]["benchmarks"]}
    absent = [
        f"{r.benchmark} {r.name}"
        + ("" if r.recalled_minutes is None else f" ({r.recalled_minutes:g} recalled, unverified)")
        for r in published(name)
        if r.minutes is None and r.division == "closed" and task_of(r.benchmark, name) in compared
    ]
    note = f"Not counted, as their logs could not be read, in {name}: {'; '.join(absent)}."
    return [note] if absent else []
