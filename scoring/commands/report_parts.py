"""The parts of a result's section of the report: convergence test, runs, system, neighbours."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from scoring.commands.score import rcp_sentence, rcp_word
from scoring.drawing.tables import number
from scoring.published.ranking import rank
from scoring.rules.convergence import Flavour, Verdict, flavours, reference_points
from scoring.rules.judged_runs import CONVERGED
from scoring.rules.rounds import Round
from scoring.rules.rounds.official_tables import rcp_file
from scoring.rules.scores import Score
from scoring.runs.result_sets import ResultSet

NEIGHBOURS = 4
SYSTEM_ROWS = ("cpu", "cpu_cores", "memory_gib", "accelerator", "accelerator_memory_gib", "os")


def convergence_test(item: Score) -> str:
    """Return the outcome of the test, then and now."""
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


def runs_table(item: Score) -> str:
    """Return a row for each run, with its notes where there are any."""
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


def system_table(result: ResultSet) -> str:
    """Return machine, network and versions, as far as known."""
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


def other_settings(result: ResultSet, item: Score, rules: Round) -> str:
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


def neighbours(item: Score) -> str:
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
