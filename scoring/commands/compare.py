"""``compare``: results side by side, among a published round, or two rounds side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

from scoring.commands.compare_rounds import Comparison, compare_rounds
from scoring.commands.scoreboard import scoreboard
from scoring.drawing.plots import Bar, Bars, bar_chart
from scoring.drawing.tables import Ratio, Table, as_csv, interval, number, print_json
from scoring.official.accepted import find_judged_sets
from scoring.published.ranking import rank
from scoring.rules.olympic import faster_p_value
from scoring.rules.rounds import round_names
from scoring.rules.scores import Score, score
from scoring.runs.result_sets import ResultSet

SIGNIFICANT = 0.05
LEAST_SHOWN_P = 0.001


def run(args: argparse.Namespace) -> int:
    """Compare what ``args.result`` names.

    Args:
        args: ``result`` (one or two), ``round``, ``json``, ``markdown``, ``csv``, ``plot``.

    Returns:
        0 if there was something to compare, else 1.

    Raises:
        ValueError: If the arguments name nothing that can be compared.
    """
    names = [str(item) for item in args.result]
    if len(names) > 2:
        raise ValueError(f"compare takes one or two results, got {len(names)}")
    rounds = [name for name in names if _is_round(name)]
    if rounds == names and (len(names) == 2 or args.round):
        data, tables, bars = compare_rounds(names[0], names[-1] if len(names) == 2 else args.round)
    elif rounds:
        raise ValueError(
            f"{rounds[0]} is a round: pass two rounds "
            f"({round_names()[0]} to {round_names()[-1]}), or "
            f"--round {rounds[0]} with your own results"
        )
    elif args.round:
        data, tables, bars = _with_round([Path(name) for name in names], args.round)
    else:
        data, tables, bars = _own(args.result)
    if args.plot:
        bar_chart(bars, args.plot)
    _print(args, data, tables)
    if args.plot and not (args.json or args.csv):
        print(f"drawn in {args.plot}")
    return 0 if any(table.rows for table in tables) else 1


def _is_round(name: str) -> bool:
    return name in round_names() and not Path(name).exists()


def _print(args: argparse.Namespace, data: dict[str, Any], tables: Sequence[Table]) -> None:
    if args.json:
        print_json(data)
    elif args.csv:
        for line in [*data.get("context", []), *data.get("notes", [])]:
            print(f"compare: {line}", file=sys.stderr)
        print(as_csv(tables), end="")
    elif args.markdown:
        for line in data.get("context", []):
            print(f"{line}\n")
        print("\n".join(table.markdown() for table in tables), end="")
        for note in data.get("notes", []):
            print(f"\n{note}")
    else:
        for line in data.get("context", []):
            print(line)
        for table in tables:
            table.show()
        for note in data.get("notes", []):
            print(note)


def _score_all(path: Path, round_name: str) -> list[tuple[ResultSet, Score]]:
    return [(item, score(item)) for item in find_judged_sets([path], round_name)]


def _with_round(paths: Sequence[Path], round_name: str) -> Comparison:
    """Compare our results with a round's published systems, per benchmark and division."""
    data: dict[str, Any] = {"round": round_name, "results": [], "context": [], "notes": []}
    tables: list[Table] = []
    bars: Bars = []
    for path in paths:
        for _, own in _score_all(path, round_name):
            ranking = rank(own, round_name)
            data["results"].append(ranking)
            lines = _context_lines(ranking, round_name)
            data["context"] += [line for line in lines if line not in data["context"]]
            data["notes"] += _rank_notes(own, ranking)
            tables.append(_ranking_table(own, ranking, round_name))
            bars.append((f"{own.benchmark}: minutes", _ranking_bars(own, ranking)))
    return data, tables, bars


def _ranking_bars(own: Score, ranking: dict[str, Any]) -> list[Bar]:
    """Return a ranking's bars, its own one marked; a demo is another task and has none."""
    bars = []
    for row in ranking["rows"]:
        minutes, name = row["minutes"], row["name"]
        if row["own"]:
            minutes = row["provisional_minutes"] if minutes is None else minutes
            name = f"{name} (yours) {row['provisional']}".rstrip()
        if minutes is not None and not (row["own"] and own.demo):
            bars.append(Bar(name, minutes, row["own"]))
    return bars


def _context_lines(ranking: dict[str, Any], round_name: str) -> list[str]:
    """Return one line where nothing was published that the result could be ranked among."""
    if ranking["of"]:
        return []
    text = f"{ranking['benchmark']}: {round_name} has no result in the {ranking['division']} "
    shown = any(not row["own"] for row in ranking["rows"])
    return [text + "division" + ("; its closed results are shown for context" if shown else "")]


def _rank_notes(own: Score, ranking: dict[str, Any]) -> list[str]:
    head = f"{own.benchmark}, {own.name}: "
    if own.demo:
        return [head + "demo data, so it has no rank among published results"]
    if not ranking["of"]:
        return [head + "no rank, as nothing was published in its division"]
    if ranking["rank"] is None:
        why = "provisional" if own.provisional else "no minutes"
        return [head + f"{why}, so no rank: " + "; ".join(own.reasons)]
    text = f"rank {ranking['rank']} against {ranking['of']} published {ranking['division']} results"
    return [head + text + ("" if own.verdict == "valid" else f" ({own.verdict})")]


def _ranking_table(own: Score, ranking: dict[str, Any], round_name: str) -> Table:
    columns = ["system", "minutes", "accel.", "accel. minutes", "ratio"]
    title = f"{own.benchmark}, {ranking['shown_division']} division: published in {round_name}"
    table = Table(title, columns, numeric=frozenset(columns[1:]))
    for position, row in enumerate(ranking["rows"]):
        ratio = None if row["ratio"] is None else Ratio(row["ratio"])
        name, minutes = row["name"], row["minutes"]
        if row["own"]:
            # The mark is part of the name, so that the minutes stay a number in CSV.
            name = f"> {name} (yours) {row['provisional']}".rstrip()
            minutes = row["provisional_minutes"] if minutes is None else minutes
            minutes = "demo" if own.demo else minutes
        elif row["availability"] != "available":
            name = f"{name} ({row['availability']})"
        cells = [name, minutes, row["accelerators"]]
        table.rows.append([*cells, row["accelerator_minutes"], ratio])
        if row["own"]:
            table.marked.add(position)
            if position and not row["comparable"]:
                table.ruled.add(position)
    return table


def _own(paths: Sequence[Path]) -> Comparison:
    """Compare one or two directories, benchmark by benchmark; networks get a scoreboard."""
    sides = [_score_all(path, "v1.0") for path in paths]
    every = [pair for side in sides for pair in side]
    pairs = _pairs(sides) if len(sides) == 2 else []
    boards = scoreboard(every)
    left_out = _left_out_notes(item for _, item in every)
    if not pairs and not boards:
        text = (
            "nothing to compare: pass two directories with results of one benchmark, one with "
            "several networks, or --round v1.0"
        )
        raise ValueError("; ".join([text, *left_out]))
    tables = [_pair_table(pair) for pair in pairs]
    tables += [board.table() for board in boards]
    notes = [_pair_note(pair) for pair in pairs]
    notes += [note for board in boards for note in board.notes()] + left_out
    data = {
        "pairs": pairs,
        "scoreboards": [board.as_json() for board in boards],
        "notes": notes,
    }
    bars: Bars = [
        (
            f"{p['benchmark']}: minutes",
            [Bar(f"{s.upper()}: {p[s]['name']}", p[s]["minutes"]) for s in "ab" if p[s]["minutes"]],
        )
        for p in pairs
    ]
    return data, tables, [panel for panel in bars if panel[1]]


def _left_out_notes(items: Iterable[Score]) -> list[str]:
    """Return one line per run that is in no figure."""
    return [
        f"{item.benchmark}: left out {run.name}: {'; '.join(run.notes)}"
        for item in items
        for run in item.runs
        if not run.counts
    ]


def _pairs(sides: Sequence[Sequence[tuple[ResultSet, Score]]]) -> list[dict[str, Any]]:
    return [_pair(a, b) for _, a in sides[0] for _, b in sides[1] if a.benchmark == b.benchmark]


def _pair(a: Score, b: Score) -> dict[str, Any]:
    both = bool(a.times and b.times)
    ratio = b.minutes / a.minutes if a.minutes and b.minutes else None
    return {
        "benchmark": a.benchmark,
        "a": _side(a),
        "b": _side(b),
        "ratio": ratio,
        "p_value_a_faster": faster_p_value(a.times, b.times) if both else None,
        "p_value_b_faster": faster_p_value(b.times, a.times) if both else None,
        # The smallest value possible: every run of one side faster than all of the other.
        "least_p_value": 1 / comb(len(a.times) + len(b.times), len(a.times)) if both else None,
        "comparable": a.demo == b.demo,
    }


def _side(item: Score) -> dict[str, Any]:
    total = item.minutes * item.accelerators if item.minutes and item.accelerators else None
    return {
        "name": item.name,
        "path": item.path,
        "division": item.division,
        "demo": item.demo,
        "minutes": item.minutes,
        "provisional_minutes": item.provisional_minutes,
        "provisional": item.provisional,
        "interval": list(item.interval),
        "runs": item.runs_found,
        "not_converged": item.not_converged,
        "accelerators": item.accelerators,
        "accelerator_minutes": total,
    }


def _pair_table(pair: Mapping[str, Any]) -> Table:
    """Return one benchmark's two results, one figure per row to fit any window."""
    sides = [pair["a"], pair["b"]]
    rows: list[tuple[str, list[object]]] = [
        ("result", [it["name"] for it in sides]),
        ("minutes", [_minutes(it) for it in sides]),
        ("95 % interval", [interval(*it["interval"]) for it in sides]),
        ("runs", [it["runs"] for it in sides]),
        ("not converged", [it["not_converged"] for it in sides]),
        ("accelerators", [it["accelerators"] for it in sides]),
        ("accelerator minutes", [it["accelerator_minutes"] for it in sides]),
    ]
    table = Table(f"{pair['benchmark']}: side by side", ["", "A", "B"])
    table.rows = [[name, *cells] for name, cells in rows if any(c is not None for c in cells)]
    if pair["ratio"]:
        table.rows.append(["B / A", None, Ratio(pair["ratio"])])
    return table


def _minutes(side: Mapping[str, Any]) -> object:
    if side["minutes"] is not None:
        return side["minutes"]
    return f"{number(side['provisional_minutes'])} {side['provisional']}".rstrip()


def _pair_note(pair: dict[str, Any]) -> str:
    runs = f"{pair['a']['runs']} run(s) against {pair['b']['runs']}"
    text = f"{pair['benchmark']}: "
    if not pair["comparable"]:
        return text + "one side is demo data, the other is not; the times cannot be compared"
    faster = {"A": pair["p_value_a_faster"], "B": pair["p_value_b_faster"]}
    if pair["least_p_value"] is None or pair["least_p_value"] >= SIGNIFICANT:
        return text + f"too few runs to decide which is faster ({runs})"
    for side, p in faster.items():
        if p < SIGNIFICANT:
            chance = f"p = {p:.3f}" if p >= LEAST_SHOWN_P else f"p < {LEAST_SHOWN_P}"
            return text + f"{side} is faster ({chance}; rank test, {runs})"
    return text + f"no clear difference (p = {min(faster.values()):.3f}; rank test, {runs})"
