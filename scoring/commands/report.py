"""``report``: write one self-contained HTML page on every result below a directory."""

from __future__ import annotations

import argparse
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from scoring.commands.report_overview import overview, why
from scoring.commands.score import rcp_sentence, rcp_word
from scoring.commands.side_figures import Side
from scoring.drawing.report_charts import curves, kept_and_dropped, where_time_went
from scoring.drawing.tables import interval, number, print_json
from scoring.official.accepted import find_judged_sets
from scoring.published.ranking import rank
from scoring.rules.convergence import Flavour, Verdict, flavours, reference_points
from scoring.rules.expenses import Expense
from scoring.rules.judged_runs import CONVERGED
from scoring.rules.rounds import Round, load_round
from scoring.rules.rounds.official_tables import rcp_file
from scoring.rules.scores import Score, score
from scoring.runs.result_sets import ResultSet

TEMPLATE = Path(__file__).with_name("report.html")
NEIGHBOURS = 4
SYSTEM_ROWS = ("cpu", "cpu_cores", "memory_gib", "accelerator", "accelerator_memory_gib", "os")


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
        _rcp(item),
        _runs(item),
        _system(result),
        _differences(result, item, rules),
        _neighbours(item),
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


def _rcp(item: Score) -> str:
    if not item.rcp:
        reason = "open division" if item.division == "open" else "no reference points or batch size"
        reason = "demo data" if item.demo else reason
        return f"<h3>Convergence test</h3><p>Does not apply ({html.escape(reason)}).</p>"
    lines = "".join(
        _rcp_line(item.rcp[f.name], f, item) for f in flavours(item.round) if f.name in item.rcp
    )
    return f"<h3>Convergence test</h3><ul>{lines}</ul>"


def _rcp_line(verdict: Verdict, flavour: Flavour, item: Score) -> str:
    kind = {True: "good", False: "bad", None: "soft"}[verdict.passed]
    sentence = html.escape(rcp_sentence(verdict, flavour.text, item))
    word = rcp_word(verdict)
    return (
        f'<li data-figure="rcp-{flavour.name}" data-value="{word}" class="{kind}">{sentence}</li>'
    )


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: set[int], own: int | None = None
) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        kind = ' class="number"' if column in numeric else ""
        return f"<{tag}{kind}>{html.escape(text)}</{tag}>"

    head = "".join(cell("th", i, text) for i, text in enumerate(columns))
    lines = []
    for position, row in enumerate(rows):
        kind = ' class="own"' if position == own else ""
        lines.append(f"<tr{kind}>" + "".join(cell("td", i, t) for i, t in enumerate(row)) + "</tr>")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table>{body}</table></div>'


def _runs(item: Score) -> str:
    rows = []
    for run in item.runs:
        quality = ", ".join(f"{name} {value:.4g}" for name, value in run.quality.items())
        minutes = number(run.minutes) if run.outcome == CONVERGED else "-"
        rows.append(
            [
                run.name,
                run.outcome,
                minutes,
                number(run.progress),
                quality,
                "; ".join(run.notes),
            ]
        )
    columns = ["run", "outcome", "minutes", "progress", "last quality", "notes"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return f"<h3>Runs</h3>{_table(columns, rows, {2, 3})}"


def _system(result: ResultSet) -> str:
    facts: Mapping[str, Any] = result.common("system") or {}
    rows = [[key.replace("_", " "), str(facts[key])] for key in SYSTEM_ROWS if facts.get(key)]
    if result.description:
        names = (
            "system_name",
            "number_of_nodes",
            "host_processor_model_name",
            "accelerators_per_node",
            "accelerator_model_name",
            "framework",
        )
        rows += [[n.replace("_", " "), str(result.description.get(n, ""))] for n in names]
    for key in ("dataset", "net", "parameters", "devices", "strategy", "precision", "git_revision"):
        value = result.common(key)
        if value is not None:
            value = value.get("class") if key == "net" and isinstance(value, dict) else value
            rows.append([key.replace("_", " "), str(value)])
    rows += [[name, str(version)] for name, version in (result.common("versions") or {}).items()]
    return f"<h3>System</h3>{_table(['what', 'value'], rows, set())}" if rows else ""


def _differences(result: ResultSet, item: Score, rules: Round) -> str:
    """Return logged hyperparameters that differ from the reference's at the nearest batch size."""
    bench = rules.benchmarks.get(item.benchmark)
    batch = item.global_batch_size
    if bench is None or batch is None or item.demo or not rules.rcp_ruleset:
        return ""
    if rcp_file(rules.rcp_ruleset, item.benchmark) is None:
        return ""
    points = reference_points(bench, rules.rcp_ruleset, flavours(rules.name)[0])
    nearest = min(points, key=lambda point: abs(point.batch - batch))
    facts = next((run.log.facts for run in result.runs if run.log.facts), {})
    rows = []
    for name, reference in nearest.hyperparameters.items():
        logged = next((facts[key] for key in _aliases(name) if key in facts), None)
        if logged is not None and logged != reference:
            rows.append([name, str(logged), str(reference)])
    head = f"<h3>Settings that differ from the reference at batch {nearest.batch:g}</h3>"
    if not rows:
        return head + "<p>None, among the settings in both the reference point and the logs.</p>"
    return head + _table(["setting", "here", "reference"], rows, {1, 2})


def _aliases(name: str) -> list[str]:
    """Return the log keys that a reference point's setting may have."""
    bare = name.removeprefix("opt_")
    keys = [name, f"sgd_{name}", f"lars_{name}", f"opt_lamb_{bare}", f"opt_{name}", f"lars_{bare}"]
    return [*keys, "opt_name"] if name == "optimizer" else keys


def _neighbours(item: Score) -> str:
    """Return the published results just faster and just slower."""
    try:
        ranking = rank(item, item.round)
    except ValueError:
        return ""
    rows = ranking["rows"]
    own = next((i for i, row in enumerate(rows) if row["own"]), None)
    if own is None or ranking["rank"] is None or len(rows) < 2:
        return ""
    first = max(0, own - NEIGHBOURS)
    near = rows[first : own + NEIGHBOURS + 1]
    cells = [
        [
            row["name"],
            number(row["minutes"]),
            str(row["accelerators"] or "-"),
            "-" if row["ratio"] is None else f"{row['ratio']:.2f}x",
        ]
        for row in near
    ]
    head = f"<h3>Published neighbours ({item.round}, {ranking['division']} division)</h3>"
    head += f"<p>Rank {ranking['rank']} against {ranking['of']} published results.</p>"
    return head + _table(
        ["system", "minutes", "accelerators", "ratio"], cells, {1, 2, 3}, own - first
    )
