"""Results of directories side by side: two of them with the reason for their gap, or a summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

from scoring.commands.comparison import Comparison, with_bars
from scoring.commands.filters import Filters
from scoring.commands.gap_words import gap_sentence
from scoring.commands.judged import score_all
from scoring.commands.scoreboard import scoreboard
from scoring.commands.side_figures import Side, figures, summary_cells, summary_columns
from scoring.drawing.plots import Bar, Bars
from scoring.drawing.tables import Ratio, Table
from scoring.rules.expenses import not_comparable
from scoring.rules.gap import SIGNIFICANT, explain_gap
from scoring.rules.olympic import faster_p_value
from scoring.rules.rounds.names import task_of
from scoring.rules.scores import Score
from scoring.rules.verdicts import INVALID

LEAST_SHOWN_P = 0.001


def compare_results(
    paths: Sequence[Path], filters: Filters, cost_per_hour: float | None = None
) -> Comparison:
    """Compare one or two directories, benchmark by benchmark; networks get a scoreboard."""
    scored = [[pair for pair in score_all(path) if filters(pair[0])] for path in paths]
    sides = [[Side.of(result, item, cost_per_hour) for result, item in found] for found in scored]
    boards = scoreboard([pair for found in scored for pair in found])
    left_out = _left_out_notes(side.score for found in sides for side in found)
    on_boards = {board.benchmark for board in boards} if len(paths) == 1 else set()
    pairs, summaries = _pairs_and_summaries(sides, on_boards)
    if not pairs and not boards and not summaries:
        text = (
            "nothing to compare: pass two directories with results of one benchmark, one with "
            "several networks, or --round v1.0"
        )
        text += "".join(
            f"; {path} has {_benchmarks(found)}" for path, found in zip(paths, sides, strict=True)
        )
        if filters:
            text += f"; only results that pass the filters ({filters.words()}) count"
        raise ValueError("; ".join([text, *left_out]))
    entries = [_pair(a, b) for a, b in pairs]
    tables = [_summary_table(*summary) for summary in summaries]
    tables += [_pair_table(a, b, entry) for (a, b), entry in zip(pairs, entries, strict=True)]
    tables += [board.table() for board in boards]
    notes = [line for entry in entries for line in _pair_notes(entry)]
    notes += [note for board in boards for note in board.notes()] + left_out
    found_rounds = [side.score.found_round for found in sides for side in found]
    data = {
        "pairs": entries,
        "summaries": [_summary_json(*summary) for summary in summaries],
        "scoreboards": [board.as_json() for board in boards],
        "context": [f"Judged by the rules of {r.words()}" for r in dict.fromkeys(found_rounds)],
        "notes": notes,
    }
    return with_bars(data, tables, _bars(entries, summaries))


def _benchmarks(sides: Sequence[Side]) -> str:
    return ", ".join(_by_task(sides)) or "none that pass the filters"


# Benchmark, and its results of every side with the side's letter.
Summary = tuple[str, list[tuple[str, Side]]]


def _pairs_and_summaries(
    sides: Sequence[Sequence[Side]], on_boards: set[str]
) -> tuple[list[tuple[Side, Side]], list[Summary]]:
    """Pair the only results of a benchmark; of several, the best two and a summary of all."""
    pairs, summaries = [], []
    groups = [_by_task(found) for found in sides]
    for name in sorted({name for group in groups for name in group}):
        found = [group.get(name, []) for group in groups]
        lettered = [
            (letter if len(groups) > 1 else "", side)
            for letter, results in zip("AB", found, strict=False)
            for side in results
        ]
        if not all(found) or len(lettered) < 2 or name in on_boards:
            continue
        if len(lettered) > len(found) or len(found) == 1:
            summaries.append((name, sorted(lettered, key=lambda pair: _order(pair[1]))))
        if len(found) == 2:
            first, second = (min(results, key=_order) for results in found)
            pairs.append((first, second))
    return pairs, summaries


def _order(side: Side) -> tuple[bool, float]:
    """Sort by minutes, results without any last."""
    return side.shown_minutes is None, side.shown_minutes or 0.0


def _by_task(sides: Sequence[Side]) -> dict[str, list[Side]]:
    groups: dict[str, list[Side]] = {}
    for side in sides:
        groups.setdefault(task_of(side.score.benchmark, side.score.round), []).append(side)
    return groups


def _left_out_notes(items: Iterable[Score]) -> list[str]:
    """Return one line per run that is in no figure."""
    return [
        f"{item.benchmark}: left out {run.name}: {'; '.join(run.notes)}"
        for item in items
        for run in item.runs
        if not run.counts
    ]


def _pair(first: Side, second: Side) -> dict[str, Any]:
    a, b = first.score, second.score
    both = bool(a.times and b.times)
    ratio = b.minutes / a.minutes if a.minutes and b.minutes else None
    comparable = a.demo == b.demo
    explained = first.parts and second.parts and comparable
    return {
        "benchmark": a.benchmark,
        "a": first.as_json(),
        "b": second.as_json(),
        "ratio": ratio,
        "p_value_a_faster": faster_p_value(a.times, b.times) if both else None,
        "p_value_b_faster": faster_p_value(b.times, a.times) if both else None,
        # The smallest value possible: every run of one side faster than all of the other.
        "least_p_value": 1 / comb(len(a.times) + len(b.times), len(a.times)) if both else None,
        "comparable": comparable,
        "gap": explain_gap(first.parts, second.parts).as_json()  # type: ignore[arg-type]
        if explained
        else None,
        "energy": not_comparable(first.used, second.used),
        "why": gap_sentence(first, second) if explained else None,
    }


def _pair_table(first: Side, second: Side, pair: Mapping[str, Any]) -> Table:
    """Return one benchmark's two results, one figure per row to fit any window."""
    columns = [dict(figures(side)) for side in (first, second)]
    table = Table(f"{pair['benchmark']}: side by side", ["", "A", "B"])
    for label in dict.fromkeys(label for column in columns for label in column):
        cells = [column.get(label) for column in columns]
        if any(cell is not None for cell in cells):
            table.rows.append([label, *cells])
    if pair["ratio"]:
        table.rows.append(["B / A", None, Ratio(pair["ratio"])])
    return table


def _pair_notes(pair: dict[str, Any]) -> list[str]:
    names = f"{pair['benchmark']}, A {pair['a']['name']}, B {pair['b']['name']}: "
    more = [pair[key] for key in ("why", "energy") if pair[key]]
    more += [
        f"{side.upper()} is invalid: {'; '.join(pair[side]['reasons'])}"
        for side in "ab"
        if pair[side]["verdict"] == INVALID
    ]
    return [names + _faster(pair), *(f"{pair['benchmark']}: {line}" for line in more)]


def _faster(pair: dict[str, Any]) -> str:
    runs = f"{pair['a']['runs']} run(s) against {pair['b']['runs']}"
    if not pair["comparable"]:
        return "one side is demo data, the other is not; the times cannot be compared"
    if all(pair[side]["runs"] == pair[side]["not_converged"] for side in "ab"):
        return f"no run of either side converged ({runs})"
    faster = {"A": pair["p_value_a_faster"], "B": pair["p_value_b_faster"]}
    if pair["least_p_value"] is None or pair["least_p_value"] >= SIGNIFICANT:
        return f"too few runs to decide which is faster ({runs})"
    for side, p in faster.items():
        if p < SIGNIFICANT:
            chance = f"p = {p:.3f}" if p >= LEAST_SHOWN_P else f"p < {LEAST_SHOWN_P}"
            return f"{side} is faster ({chance}; rank test, {runs})"
    return f"no clear difference (p = {min(faster.values()):.3f}; rank test, {runs})"


def _summary_table(name: str, results: Sequence[tuple[str, Side]]) -> Table:
    columns = summary_columns([side for _, side in results])
    if not any(letter for letter, _ in results):
        columns = columns[1:]
    fastest = results[0][1].shown_minutes
    rows = [summary_cells(letter, side, fastest, columns) for letter, side in results]
    numeric = frozenset(columns) - {"", "result"}
    return Table(f"{name}: {len(rows)} results", columns, rows, numeric=numeric)


def _summary_json(name: str, results: Sequence[tuple[str, Side]]) -> dict[str, Any]:
    rows = [{"side": letter.lower() or None, **side.as_json()} for letter, side in results]
    return {"benchmark": name, "results": rows}


def _bars(entries: Sequence[dict[str, Any]], summaries: Sequence[Summary]) -> Bars:
    bars: Bars = [
        (
            f"{name}: minutes",
            [
                Bar(f"{letter}: {side.name}".removeprefix(": "), side.score.minutes, letter == "B")
                for letter, side in results
                if side.score.minutes
            ],
        )
        for name, results in summaries
    ]
    bars += [
        (
            f"{p['benchmark']}: minutes",
            [Bar(f"{s.upper()}: {p[s]['name']}", p[s]["minutes"]) for s in "ab" if p[s]["minutes"]],
        )
        for p in entries
        if p["benchmark"] not in {name for name, _ in summaries}
    ]
    return [panel for panel in bars if panel[1]]
