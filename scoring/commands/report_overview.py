"""The top of the report: every result in one table, and its minutes by part."""

from __future__ import annotations

import html
from collections.abc import Sequence

from scoring.commands.side_figures import BATCH, Side, count, equation, shown_rate, why_figures
from scoring.drawing.report_charts import minutes_by_part
from scoring.drawing.tables import number, text
from scoring.rules.expenses import COST, WATT_HOURS, expense_columns

NAME = "result"
# The first four fit into a phone's width.
FIRST, LAST = ("benchmark", "minutes"), ("batch", "to target", "per accel.", "evaluation")
TEXT = frozenset({"benchmark", "verdict", NAME})


def overview(sides: Sequence[Side]) -> str:
    """Return the table of all results and their stacked bars.

    Args:
        sides: The results, in the order of the page's sections.

    Returns:
        HTML; empty for a page with one result.
    """
    if len(sides) < 2:
        return ""
    used = expense_columns([side.used for side in sides])
    columns = [*FIRST, *used, "verdict", "accel.", NAME, *LAST]
    head = "".join(f"<th{_kind(name)}>{html.escape(name)}</th>" for name in columns)
    rows = "".join(_row(side, columns) for side in sides)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<section><h2>Overview</h2><div class="wide">{table}</div>{_bars(sides)}</section>'


def _kind(column: str) -> str:
    if column == NAME:
        return ' class="name"'
    return "" if column in TEXT else ' class="number"'


def _row(side: Side, columns: Sequence[str]) -> str:
    item, parts, used = side.score, side.parts, side.used
    share = parts.evaluation_share if parts else None
    cells = {
        "benchmark": item.benchmark,
        "minutes": f"{number(side.shown_minutes)}{' (demo)' if item.demo else ''}",
        WATT_HOURS: number(used.watt_hours),
        COST: number(used.cost),
        "verdict": item.verdict,
        "accel.": text(item.accelerators),
        NAME: side.name,
        "batch": text(item.global_batch_size),
        "to target": f"{count(parts.amount)} {parts.unit}" if parts and parts.amount else "",
        "per accel.": shown_rate(parts),
        "evaluation": "" if share is None else f"{share:.1%}",
    }
    row = "".join(f"<td{_kind(name)}>{html.escape(cells[name] or '-')}</td>" for name in columns)
    return f"<tr>{row}</tr>"


def _bars(sides: Sequence[Side]) -> str:
    """Return one chart per benchmark, as minutes of two benchmarks have nothing in common."""
    charts = []
    for name in dict.fromkeys(side.score.benchmark for side in sides):
        chosen = [side for side in sides if side.score.benchmark == name and side.parts]
        if len(chosen) < 2:
            continue
        chart = minutes_by_part([(side.name, side.parts) for side in chosen if side.parts])
        charts.append(f"<h3>{html.escape(name)}: minutes</h3>{chart}" if chart else "")
    return "".join(charts)


def why(side: Side) -> str:
    """Return what a result's minutes are made of: the equation, its figures and a stacked bar.

    Args:
        side: The result.

    Returns:
        HTML; empty without a converged run.
    """
    if side.parts is None:
        return ""
    sentence = equation(side)
    shown = f"<p>{html.escape(sentence)}</p>" if sentence else ""
    cells = "".join(
        f"<div><dt>{html.escape(label)}</dt><dd>{html.escape(text(value))}</dd></div>"
        for label, value in why_figures(side.parts)
        if value is not None and label != BATCH  # it is among the figures above
    )
    bar = minutes_by_part([(side.name, side.parts)])
    return f'<h3>Why these minutes</h3>{shown}<dl class="figures">{cells}</dl>{bar}'
