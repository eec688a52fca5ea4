"""One benchmark through the rounds: the best result of each, on 8 accelerators and at any scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from scoring.commands.comparison import Comparison
from scoring.commands.filters import Filters
from scoring.drawing.plots import Curve, line_charts
from scoring.drawing.tables import Ratio, Table, number
from scoring.published import PublishedResult, published, published_rounds
from scoring.published.best import Best, best_of
from scoring.published.tasks import rows_of_task
from scoring.rules.rounds import load_round, round_names
from scoring.rules.rounds.names import task_of

NODE = 8  # accelerators of the usual node
# The best of a round, with the round's name.
Step = tuple[str, Best]


def compare_history(names: Sequence[str], filters: Filters) -> Comparison:
    """Follow benchmarks through all rounds, under the name that each round gives them."""
    data: dict[str, Any] = {"histories": [], "context": [], "notes": []}
    tables, panels = [], []
    for name in dict.fromkeys(meaning for given in names for meaning in _tasks(given)):
        curves = []
        for definition, chosen in _definitions(filters).items():
            steps = _steps(name, chosen)
            if not steps:
                continue
            rows = _rows(steps)
            entry = {"benchmark": name, "definition": definition, "rounds": rows}
            data["histories"].append(entry)
            tables.append(_table(f"{name}: {definition}", rows))
            data["notes"] += _notes(name, definition, steps)
            points = [(row["round"], row["minutes"]) for row in rows if row["minutes"] is not None]
            curves.append(Curve(definition, points))
        data["notes"] += _target_notes(name)
        panels.append((f"{name}: best minutes by round", curves))
    if not tables:
        words = filters.words()
        raise ValueError(f"no published result of {', '.join(names)} passes the filters ({words})")
    rounds = published_rounds()
    return Comparison(data, tables, lambda path: line_charts(panels, rounds, path))


def _tasks(name: str) -> list[str]:
    """Return the tasks that a name has meant, in the order of the rounds."""
    named = [n for n in published_rounds() if any(r.benchmark == name for r in published(n))]
    meant = [task_of(name, round_name) for round_name in named]
    return list(dict.fromkeys(meant)) or [name]


def _definitions(filters: Filters) -> dict[str, Callable[[PublishedResult], bool]]:
    division = filters.division or "closed"
    chosen = replace(filters, division=division)
    if filters.count is not None:
        return {f"best {division} result, {filters.words()}": chosen}
    node = replace(chosen, count=NODE)
    suffix = f", {filters.words()}" if filters.words() else ""
    return {
        f"best {division} result on {NODE} accelerators{suffix}": node,
        f"best {division} result at any scale{suffix}": chosen,
    }


def _steps(name: str, chosen: Callable[[PublishedResult], bool]) -> list[Step]:
    steps = []
    for round_name in published_rounds():
        best = best_of([row for row in rows_of_task(round_name, name) if chosen(row)])
        if best.result is not None or best.doubts:
            steps.append((round_name, best))
    return steps


def _rows(steps: Sequence[Step]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for position, (round_name, best) in enumerate(steps):
        before = steps[position - 1][1] if position else None
        certain = best.result if best.certain else None
        rows.append(
            {
                "round": round_name,
                "minutes": certain.minutes if certain else None,
                "system": best.name,
                "accelerators": certain.accelerators if certain else None,
                "accelerator": certain.accelerator if certain else None,
                "status": certain.status if certain else None,
                "since_last": _ratio(before, best),
            }
        )
    return rows


def _ratio(before: Best | None, after: Best) -> float | None:
    """Return by how much a best beats another; None where the logs of one are missing."""
    if before is None or not (before.certain and after.certain):
        return None
    return before.minutes / after.minutes if before.minutes and after.minutes else None


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    columns = ["round", "minutes", "since last", "accel.", "system", "accelerator", "status"]
    table = Table(title, columns, numeric=frozenset(columns[1:4]))
    for row in rows:
        ratio = None if row["since_last"] is None else Ratio(row["since_last"])
        cells = [row["round"], row["minutes"], ratio, row["accelerators"]]
        table.rows.append([*cells, row["system"], row["accelerator"], row["status"]])
    return table


def _notes(name: str, definition: str, steps: Sequence[Step]) -> list[str]:
    known = [step for step in steps if step[1].certain]
    if len(known) < 2:
        return []
    (first, old), (last, new) = known[0], known[-1]
    text = f"{name}, {definition}: {number(old.minutes)} minutes in {first}, "
    return [f"{text}{number(new.minutes)} in {last}: {_ratio(old, new):.2f}x"]


def _target_notes(name: str) -> list[str]:
    """Name the rounds in which the target changed: times before and after are of two tasks."""
    notes, before = [], None
    for round_name in published_rounds():
        known = load_round(round_name).benchmarks if round_name in round_names() else {}
        targets = [dict(b.target) for key, b in known.items() if task_of(key, round_name) == name]
        if targets and before and targets[0] != before[1]:
            text = f"{name}: the target was {_words(before[1])} up to {before[0]}"
            notes.append(f"{text}, and is {_words(targets[0])} from {round_name} on")
        before = (round_name, targets[0]) if targets else before
    return notes


def _words(target: dict[str, float]) -> str:
    return " and ".join(f"{metric} {value:g}" for metric, value in target.items())
