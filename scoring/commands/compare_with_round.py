"""A result among a round's published ones, and a round's results as a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from scoring.commands.comparison import Comparison, with_bars
from scoring.commands.filters import Filters
from scoring.commands.judged import score_all
from scoring.commands.side_figures import Side, equation
from scoring.drawing.plots import Bar, Bars
from scoring.drawing.tables import Ratio, Table
from scoring.published import published
from scoring.published.ranking import rank
from scoring.rules.expenses import expense_cells, expense_columns
from scoring.rules.rounds.names import NETWORKS, name_in, task_of
from scoring.rules.scores import VALID, Score

ROW_FIELDS = ("name", "minutes", "accelerators", "accelerator", "status", "framework")


def compare_with_round(
    paths: Sequence[Path],
    round_name: str,
    filters: Filters,
    cost_per_hour: float | None = None,
) -> Comparison:
    """Compare our results with a round's published systems, per benchmark and division."""
    published(round_name)
    data: dict[str, Any] = {"round": round_name, "results": [], "context": [], "notes": []}
    tables: list[Table] = []
    bars: Bars = []
    # A ranking is of one benchmark, whatever its name in the round.
    others = replace(filters, benchmark=None)
    for path in paths:
        for result, own in score_all(path):
            if filters.benchmark not in (None, *_names(own, round_name)):
                continue
            side = Side.of(result, own, cost_per_hour)
            ranking = _ranking(side, round_name, others)
            data["results"].append(ranking)
            lines = _context_lines(ranking, round_name, others)
            data["context"] += [line for line in lines if line not in data["context"]]
            data["notes"] += _rank_notes(own, ranking, others)
            data["notes"] += _judged_note(own, round_name)
            data["notes"] += _why_notes(side)
            tables.append(_ranking_table(side, ranking, round_name))
            bars.append((f"{own.benchmark}: minutes", _ranking_bars(own, ranking)))
    if not tables:
        where = ", ".join(str(path) for path in paths)
        raise ValueError(f"no result of {filters.benchmark} in {where}")
    return with_bars(data, tables, bars)


def _ranking(side: Side, round_name: str, others: Filters) -> dict[str, Any]:
    more = {
        "why": side.parts.as_json() if side.parts else None,
        "energy_and_cost": side.used.as_json(),
    }
    return rank(side.score, round_name, others) | more


def _names(own: Score, round_name: str) -> tuple[str, str | None]:
    """Return the names of a result's benchmark: its own, and that of another round."""
    return own.benchmark, name_in(task_of(own.benchmark, own.round), round_name)


def _ranking_bars(own: Score, ranking: dict[str, Any]) -> list[Bar]:
    """Return a ranking's bars, its own one marked; a demo is another task and has none."""
    bars = []
    for row in ranking["rows"]:
        minutes, name = row["minutes"], row["name"]
        if row["own"]:
            minutes = row["provisional_minutes"] if minutes is None else minutes
            name = f"{name} {_whose(row)} {row['provisional']}".rstrip()
        if minutes is not None and not (row["own"] and own.demo):
            bars.append(Bar(name, minutes, row["own"]))
    return bars


def _whose(row: dict[str, Any]) -> str:
    """Say whose a row is; a published result given by its logs is in the table once."""
    return "(yours) (as published)" if row["published"] else "(yours)"


def _context_lines(ranking: dict[str, Any], round_name: str, others: Filters) -> list[str]:
    """Return one line where nothing was published that the result could be ranked among."""
    if ranking["of"]:
        return []
    text = f"{ranking['benchmark']}: {round_name} has no result in the {ranking['division']} "
    task = task_of(ranking["benchmark"], ranking["judged_by"])
    if name_in(task, round_name) is None:
        network = f" ({NETWORKS[task]})" if task in NETWORKS else ""
        return [f"{ranking['benchmark']}: {round_name} does not have this benchmark{network}"]
    shown = any(not row["own"] for row in ranking["rows"])
    text += "division" + _passing(others)
    return [text + ("; its closed results are shown for context" if shown else "")]


def _passing(others: Filters) -> str:
    return f" that passes the filters ({others.words()})" if others else ""


def _rank_notes(own: Score, ranking: dict[str, Any], others: Filters) -> list[str]:
    head = f"{own.benchmark}, {own.name}: "
    if own.demo:
        return [head + "demo data, so it has no rank among published results"]
    if not ranking["of"]:
        return [head + f"no rank, as nothing was published in its division{_passing(others)}"]
    if ranking["rank"] is None:
        why = "provisional" if own.provisional else "no minutes"
        return [head + f"{why}, so no rank: " + "; ".join(own.reasons)]
    text = f"rank {ranking['rank']} against {ranking['of']} published {ranking['division']} results"
    return [head + text + ("" if own.verdict == VALID else f" ({own.verdict})")]


def _judged_note(own: Score, round_name: str) -> list[str]:
    """Say by which rules a result was judged, where that is another round."""
    if own.round == round_name:
        return []
    return [f"{own.benchmark}, {own.name}: judged by the rules of {own.found_round.words()}"]


def _why_notes(side: Side) -> list[str]:
    head = f"{side.score.benchmark}, {side.name}: "
    return [head + line for line in (equation(side), side.used.sentence()) if line]


def _ranking_table(side: Side, ranking: dict[str, Any], round_name: str) -> Table:
    """Return the ranking; energy and cost, which the published table lacks, of our own row."""
    own, more = side.score, expense_columns([side.used])
    columns = ["system", "minutes", *more, "accel.", "accel. minutes", "ratio"]
    title = f"{own.benchmark}, {ranking['shown_division']} division: published in {round_name}"
    table = Table(title, columns, numeric=frozenset(columns[1:]))
    for position, row in enumerate(ranking["rows"]):
        used = expense_cells(side.used, more) if row["own"] else [None] * len(more)
        ratio = None if row["ratio"] is None else Ratio(row["ratio"])
        cells = [row["accelerators"], row["accelerator_minutes"], ratio]
        table.rows.append([*_name_and_minutes(row, own), *used, *cells])
        if row["own"]:
            table.marked.add(position)
            if position and not row["comparable"]:
                table.ruled.add(position)
    return table


def _name_and_minutes(row: dict[str, Any], own: Score) -> list[object]:
    name, minutes = row["name"], row["minutes"]
    if row["own"]:
        # The mark is part of the name, so that the minutes stay a number in CSV.
        name = f"> {name} {_whose(row)} {row['provisional']}".rstrip()
        minutes = row["provisional_minutes"] if minutes is None else minutes
        minutes = "demo" if own.demo else minutes
    elif row["availability"] != "available":
        name = f"{name} ({row['availability']})"
    return [name, minutes]


def list_round(round_name: str, filters: Filters) -> Comparison:
    """List a round's results that pass the filters, one table per benchmark, fastest first."""
    rows = [row for row in published(round_name) if filters(row)]
    if not rows:
        raise ValueError(
            f"{round_name} has no published result that passes the filters ({filters.words()})"
        )
    columns = ["system", "minutes", "accel.", "accelerator", "status", "framework"]
    tables, bars, entries = [], [], []
    for name in sorted({row.benchmark for row in rows}):
        chosen = [row for row in rows if row.benchmark == name]
        chosen.sort(key=lambda row: (row.minutes is None, row.minutes))
        title = f"{name}: published in {round_name}"
        cells: list[Sequence[Any]] = [[getattr(r, name) for name in ROW_FIELDS] for r in chosen]
        tables.append(Table(title, columns, cells, numeric=frozenset({"minutes", "accel."})))
        bars.append((f"{name}: minutes", [Bar(r.name, r.minutes) for r in chosen if r.minutes]))
        entries += [asdict(row) for row in chosen]
    absent = sum(row.minutes is None for row in rows)
    notes = [f"Without minutes, as the logs could not be read: {absent}."] if absent else []
    return with_bars({"round": round_name, "results": entries, "notes": notes}, tables, bars)
