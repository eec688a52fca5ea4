"""``report``: write one self-contained HTML page on every result below a directory."""

from __future__ import annotations

import argparse
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from scoring.commands.report_overview import overview, why
from scoring.commands.report_parts import (
    convergence_test,
    neighbours,
    other_settings,
    runs_table,
    system_table,
)
from scoring.commands.side_figures import Side
from scoring.drawing.report_charts import curves, kept_and_dropped, where_time_went
from scoring.drawing.tables import interval, number, print_json
from scoring.official.accepted import find_judged_sets
from scoring.rules.expenses import Expense
from scoring.rules.rounds import load_round
from scoring.rules.scores import Score, score
from scoring.runs.result_sets import ResultSet

TEMPLATE = Path(__file__).with_name("report.html")


def run(args: argparse.Namespace) -> int:
    """Write the page.

    Args:
        args: ``folder`` (one or more), ``out``, ``round``, ``cost_per_hour``, ``json``.

    Returns:
        0 if the page was written, regardless of the verdicts.
    """
    sets = find_judged_sets(args.folder, args.round)
    out = args.out or _default_path(args.folder[0])
    scored = [(result, score(result)) for result in sets]
    page = _render(scored, args.cost_per_hour)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    if args.json:
        print_json({"report": str(out), "results": len(sets)})
    else:
        print(f"{out}: {len(sets)} result{'s' if len(sets) != 1 else ''}")
    return 0


def _default_path(folder: Path) -> Path:
    return (folder if folder.is_dir() else folder.parent) / "report.html"


def _render(scored: Sequence[tuple[ResultSet, Score]], cost_per_hour: float | None = None) -> str:
    """Return the page as HTML that needs nothing else: no script, font, image or request."""
    title = "MLPerf Training results"
    if len(scored) == 1:
        title = f"{scored[0][1].benchmark}: {scored[0][1].name}"
    subtitle = (
        f"Scored under the rules of MLPerf Training {_rounds(scored)}. Times are minutes to target."
    )
    sides = [Side.of(result, item, cost_per_hour) for result, item in scored]
    sections = [_section(side, side.used) for side in sides]
    body = "\n".join(part for part in (overview(sides), *sections) if part)
    page = Template(TEMPLATE.read_text(encoding="utf-8"))
    return page.substitute(title=html.escape(title), subtitle=html.escape(subtitle), body=body)


def _rounds(scored: Sequence[tuple[ResultSet, Score]]) -> str:
    return ", ".join(dict.fromkeys(f"{item.round} ({item.round_reason})" for _, item in scored))


def _section(side: Side, used: Expense) -> str:
    result, item = side.result, side.score
    rules = load_round(item.round)
    bench = rules.benchmarks.get(item.benchmark)
    heading = f"{item.benchmark}: {item.name}" + (f" ({bench.title})" if bench else "")
    parts = [
        f"<section><h2>{html.escape(heading)}</h2>",
        _verdict(item),
        _figures(item, used),
        why(side),
        curves(result, item, rules),
        kept_and_dropped(item),
        where_time_went(result),
        convergence_test(item),
        runs_table(item),
        system_table(result),
        other_settings(result, item, rules),
        neighbours(item),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _verdict(item: Score) -> str:
    kind = "good" if item.verdict.startswith("valid") else "bad"
    where = f"{item.division or 'unknown'} division"
    if item.demo:
        where += ", demo data: generated, not comparable with published results"
    text = f'<p><strong class="verdict {kind}" data-figure="verdict">{item.verdict}</strong>'
    text += f" <span>({html.escape(where)})</span></p>"
    if item.configuration:
        text += f'<p class="soft">{html.escape(item.configuration)}</p>'
    if item.reasons:
        lines = "".join(f"<li>{html.escape(reason)}</li>" for reason in item.reasons)
        text += f"<ul>{lines}</ul>"
    if item.settings:
        lines = "; ".join(item.settings)
        text += f'<p class="soft">The runs differ in {html.escape(lines)}</p>'
    return text


def _figures(item: Score, used: Expense) -> str:
    """Return the figures of ``score --json``; each element has its exact value as an attribute."""
    low, high = item.interval
    unit = item.progress_unit.replace("epochs_from_one", "epochs + 1")
    shown = item.provisional_minutes if item.minutes is None else item.minutes
    minutes = f"{number(shown)} {item.provisional}".rstrip()
    figures: list[tuple[str, str, str, Any]] = [
        ("Score, minutes", "minutes", minutes, item.minutes),
        *_expense_figures(used),
        ("95 % interval", "interval", interval(low, high), f"{low} {high}"),
        ("Standard deviation", "spread", number(item.spread), item.spread),
        ("Fastest run", "fastest", number(item.fastest), item.fastest),
        ("Slowest run", "slowest", number(item.slowest), item.slowest),
        ("Runs", "runs_found", f"{item.runs_found} of {item.runs_required}", item.runs_found),
        (
            "Not converged",
            "not_converged",
            f"{item.not_converged} ({item.not_converged_allowed} allowed)",
            item.not_converged,
        ),
        (
            "Global batch size",
            "global_batch_size",
            str(item.global_batch_size or "-"),
            item.global_batch_size,
        ),
        (
            "Mean progress",
            "mean_progress",
            "-" if item.mean_progress is None else f"{number(item.mean_progress)} {unit}",
            item.mean_progress,
        ),
    ]
    if item.division == "open":
        figures += [
            (f"Final {name}, geometric mean", f"quality-{name}", f"{value:.4g}", value)
            for name, value in item.quality_mean.items()
        ]
    cells = "".join(
        f'<div><dt>{html.escape(label)}</dt><dd data-figure="{html.escape(key)}" '
        f'data-value="{html.escape(str(exact))}">{html.escape(shown)}</dd></div>'
        for label, key, shown, exact in figures
    )
    return f'<dl class="figures">{cells}</dl>'


def _expense_figures(used: Expense) -> list[tuple[str, str, str, Any]]:
    """Return the figures that are known."""
    energy, cost = used.watt_hours, used.cost
    figures: list[tuple[str, str, str, Any]] = []
    if energy is not None:
        label = f"Energy to target, Wh ({used.covers})"
        figures.append((label, "watt_hours", number(energy), energy))
    if cost is not None:
        figures.append(("Cost to target", "cost", number(cost), cost))
    return figures
