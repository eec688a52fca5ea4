"""``compare``: results side by side, beside a published round, and two rounds side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

from scoring.commands.scoreboard import scoreboard
from scoring.drawing.tables import Ratio, Table, as_csv, interval, number
from scoring.official.accepted import find_judged_sets
from scoring.published import PublishedResult, published
from scoring.rules.olympic import faster_p_value
from scoring.rules.rounds import load_round, round_names
from scoring.rules.scores import Score, score
from scoring.runs.result_sets import ResultSet

SIGNIFICANT = 0.05
LEAST_SHOWN_P = 0.001
# Two-round comparison: the definition's name -> which results it looks at.
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
    """One DGX A100; v0.7's table has no accelerator columns, so its name must do."""
    if result.accelerators is None:
        return result.system.startswith(("dgxa100_ngc", "dgxa100_n1_"))
    return result.accelerators == 8 and "A100" in result.accelerator


def run(args: argparse.Namespace) -> int:
    """Compare what ``args.result`` names.

    Args:
        args: ``result`` (one or two), ``round``, ``json``, ``markdown``, ``csv``, ``plot``.

    Returns:
        0 if there was something to compare, else 1.

    Raises:
        ValueError: If the arguments do not say what to compare.
    """
    names = [str(item) for item in args.result]
    if len(names) > 2:
        raise ValueError(f"compare takes one or two results, got {len(names)}")
    rounds = [name for name in names if _is_round(name)]
    if rounds == names and (len(names) == 2 or args.round):
        data, tables, bars = _rounds(names[0], names[-1] if len(names) == 2 else args.round)
    elif rounds:
        raise ValueError(
            f"{rounds[0]} is a round: give two rounds (there are {', '.join(round_names())}), or "
            f"--round {rounds[0]} beside your own results"
        )
    elif args.round:
        data, tables, bars = _with_round([Path(name) for name in names], args.round)
    else:
        data, tables, bars = _own(args.result)
    if args.plot:
        from scoring.drawing.plots import bar_chart

        bar_chart(bars, args.plot)
    _print(args, data, tables)
    if args.plot and not (args.json or args.csv):
        print(f"drawn in {args.plot}")
    return 0 if any(table.rows for table in tables) else 1


def _is_round(name: str) -> bool:
    return name in round_names() and not Path(name).exists()


def _print(args: argparse.Namespace, data: dict[str, Any], tables: Sequence[Table]) -> None:
    from scoring.cli import print_json

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


class Bar(NamedTuple):
    """One bar of a plot."""

    label: str
    value: float
    marked: bool = False


Bars = list[tuple[str, list[Bar]]]
Comparison = tuple[dict[str, Any], list[Table], Bars]


def _rounds(old: str, new: str) -> Comparison:
    """Best of each benchmark in two rounds, under each definition of "best"."""
    definitions: list[dict[str, Any]] = []
    tables = []
    columns = [
        "benchmark",
        f"{old} minutes",
        f"{old} best",
        f"{new} minutes",
        f"{new} best",
        "ratio",
    ]
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
    text = (
        f"Up to {largest:.1f}x is the first table's largest ratio: the best closed result of each "
    )
    return (
        text
        + "benchmark at any scale and availability. Only results whose logs could be read count."
    )


def _absent_notes(name: str, definitions: Sequence[dict[str, Any]]) -> list[str]:
    """Which closed results of a round no table could count: a ratio beside them may be too low."""
    compared = {row["benchmark"] for row in definitions[0]["benchmarks"]}
    absent = [
        f"{r.benchmark} {r.name}"
        + ("" if r.recalled_minutes is None else f" ({r.recalled_minutes:g} recalled, unverified)")
        for r in published(name)
        if r.minutes is None and r.division == "closed" and r.benchmark in compared
    ]
    return [f"Not counted, as their logs could not be read, in {name}: {'; '.join(absent)}."] * (
        len(absent) > 0
    )


def _score_all(path: Path, round_name: str) -> list[tuple[ResultSet, Score]]:
    rules = load_round(round_name)
    return [(found, score(found, rules)) for found in find_judged_sets([path], rules)]


def _with_round(paths: Sequence[Path], round_name: str) -> Comparison:
    """Our results among a round's published systems, per benchmark and division."""
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
    """Bars of a ranking, its own one marked; a demo is another task and has none."""
    bars = []
    for row in ranking["rows"]:
        minutes, name = row["minutes"], row["name"]
        if row["own"]:
            minutes = row["provisional_minutes"] if minutes is None else minutes
            name = f"{name} (yours) {row['provisional']}".rstrip()
        if minutes is not None and not (row["own"] and own.demo):
            bars.append(Bar(name, minutes, row["own"]))
    return bars


def rank(own: Score, round_name: str) -> dict[str, Any]:
    """Place one score among the published results of its benchmark.

    Args:
        own: The score.
        round_name: Which round's table.

    Returns:
        ``rank`` (None if it has no minutes or is not comparable), ``of``, ``shown_division``
        (closed where nothing was published in its own), and ``rows`` in order of minutes, each with
        ``name``, ``minutes``, ``accelerators``, ``accelerator_minutes`` and ``ratio`` (its minutes
        over ours).
    """
    division = own.division or "closed"
    others = [
        r for r in published(round_name) if r.benchmark == own.benchmark and r.minutes is not None
    ]
    shown = division if any(r.division == division for r in others) else "closed"
    rows = [
        _row(r.name, r.minutes, r.accelerators, own, availability=r.availability)
        for r in others
        if r.division == shown
    ]
    of = len(rows) if shown == division else 0
    comparable = not own.demo and of > 0
    place = None
    if comparable and own.minutes is not None:
        place = 1 + sum(
            row["minutes"] < own.minutes - 5e-4 for row in rows if row["name"] != own.name
        )
    figure = own.provisional_minutes if own.minutes is None else own.minutes
    rows.sort(key=lambda row: row["minutes"])
    if figure is not None:
        mine = _row(own.name, own.minutes, own.accelerators, own, availability="")
        above = sum(row["minutes"] <= figure for row in rows)
        early = {"provisional": own.provisional, "provisional_minutes": own.provisional_minutes}
        rows.insert(above, {**mine, **early, "own": True})
    return {
        "benchmark": own.benchmark,
        "division": division,
        "shown_division": shown,
        "name": own.name,
        "minutes": own.minutes,
        "provisional_minutes": own.provisional_minutes,
        "demo": own.demo,
        "rank": place,
        "of": of,
        "rows": rows,
    }


def _row(
    name: str, minutes: float | None, accelerators: int | None, own: Score, *, availability: str
) -> dict[str, Any]:
    total = minutes * accelerators if minutes is not None and accelerators else None
    # A demo is another task: its time says nothing about a published one.
    base = None if own.demo else own.minutes
    ratio = minutes / base if minutes is not None and base else None
    return {
        "name": name,
        "minutes": minutes,
        "accelerators": accelerators,
        "accelerator_minutes": total,
        "ratio": ratio,
        "availability": availability,
        "own": False,
    }


def _context_lines(ranking: dict[str, Any], round_name: str) -> list[str]:
    """One line where nothing was published that the result could be ranked among."""
    if ranking["of"]:
        return []
    text = f"{ranking['benchmark']}: {round_name} has no result in the {ranking['division']} "
    shown = any(not row["own"] for row in ranking["rows"])
    return [text + "division" + ("; its closed results stand here for context" if shown else "")]


def _rank_notes(own: Score, ranking: dict[str, Any]) -> list[str]:
    head = f"{own.benchmark}, {own.name}: "
    if own.demo:
        return [head + "demo data, so it has no rank among published results"]
    if not ranking["of"]:
        return [head + "no rank, as there is nothing of its division to rank it among"]
    if ranking["rank"] is None:
        return [head + "no minutes, so no rank: " + "; ".join(own.reasons)]
    text = f"rank {ranking['rank']} beside {ranking['of']} published {ranking['division']} results"
    return [head + text + ("" if own.verdict == "valid" else f" ({own.verdict})")]


def _ranking_table(own: Score, ranking: dict[str, Any], round_name: str) -> Table:
    columns = ["system", "minutes", "accel.", "accel. minutes", "ratio"]
    title = f"{own.benchmark}, {ranking['shown_division']} division: published in {round_name}"
    table = Table(title, columns, numeric=frozenset(columns[1:]))
    for position, row in enumerate(ranking["rows"]):
        ratio = None if row["ratio"] is None else Ratio(row["ratio"])
        name, minutes = row["name"], row["minutes"]
        if row["own"]:
            # The mark stands with the name, so that the minutes stay a number in CSV.
            name = f"> {name} (yours) {row['provisional']}".rstrip()
            minutes = row["provisional_minutes"] if minutes is None else minutes
        elif row["availability"] != "available":
            name = f"{name} ({row['availability']})"
        cells = [name, minutes, row["accelerators"]]
        table.rows.append([*cells, row["accelerator_minutes"], ratio])
        if row["own"]:
            table.marked.add(position)
    return table


def _own(paths: Sequence[Path]) -> Comparison:
    """Results of one or two folders, benchmark by benchmark; networks get a scoreboard."""
    sides = [_score_all(path, "v1.0") for path in paths]
    every = [pair for side in sides for pair in side]
    pairs = _pairs(sides) if len(sides) == 2 else []
    boards = scoreboard(every)
    left_out = _left_out_notes(item for _, item in every)
    if not pairs and not boards:
        raise ValueError(
            "; ".join(
                [
                    "nothing to compare: give two folders with results of one benchmark, one with "
                    "several networks, or --round v1.0",
                    *left_out,
                ]
            )
        )
    tables = [_pair_table(pair) for pair in pairs]
    tables += [board.table() for board in boards]
    data: dict[str, Any] = {
        "pairs": pairs,
        "scoreboards": [board.as_json() for board in boards],
        "notes": [],
    }
    data["notes"] = [_pair_note(pair) for pair in pairs]
    data["notes"] += [note for board in boards for note in board.notes()] + left_out
    bars: Bars = [
        (
            f"{p['benchmark']}: minutes",
            [Bar(f"{s.upper()}: {p[s]['name']}", p[s]["minutes"]) for s in "ab" if p[s]["minutes"]],
        )
        for p in pairs
    ]
    return data, tables, [panel for panel in bars if panel[1]]


def _left_out_notes(items: Iterable[Score]) -> list[str]:
    """One line per run that no figure rests on, so that a missing one is no surprise."""
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
        # What the test could say at most, with every run of one side before the other's.
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
    """One benchmark's two results, a figure per row: narrow enough for any window."""
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
        return text + "one side is demo data, the other is not; the times mean different things"
    faster = {"A": pair["p_value_a_faster"], "B": pair["p_value_b_faster"]}
    if pair["least_p_value"] is None or pair["least_p_value"] >= SIGNIFICANT:
        return text + f"too few runs to tell which is faster ({runs})"
    for side, p in faster.items():
        if p < SIGNIFICANT:
            chance = f"p = {p:.3f}" if p >= LEAST_SHOWN_P else f"p < {LEAST_SHOWN_P}"
            return text + f"{side} is faster ({chance} for that by chance; rank test, {runs})"
    return text + f"no clear difference (p = {min(faster.values()):.3f}; rank test, {runs})"
