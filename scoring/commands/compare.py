"""``compare``: results side by side, among a published round, round by round, or over sizes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scoring.commands.compare_history import compare_history
from scoring.commands.compare_pairs import compare_results
from scoring.commands.compare_rounds import compare_rounds
from scoring.commands.compare_scaling import compare_scaling
from scoring.commands.compare_with_round import compare_with_round, list_round
from scoring.commands.comparison import Comparison
from scoring.commands.filters import Filters, filters_of
from scoring.drawing.tables import as_csv, print_json
from scoring.published import published_rounds, round_word
from scoring.published.tasks import task_names
from scoring.rules.find_round import candidates
from scoring.rules.rounds import round_names


def run(args: argparse.Namespace) -> int:
    """Compare what ``args.result`` names.

    Args:
        args: ``result`` (one or more), ``round``, ``scaling``, the filters, ``json``,
            ``markdown``, ``csv``, ``plot``.

    Returns:
        0 if there was something to compare, else 1.

    Raises:
        ValueError: If the arguments name nothing that can be compared.
    """
    names = [str(item) for item in args.result]
    found = _chosen(args, names, filters_of(args))
    if args.plot:
        found.plot(args.plot)
    _print(args, found)
    if args.plot and not (args.json or args.csv):
        print(f"drawn in {args.plot}")
    return 0 if any(table.rows for table in found.tables) else 1


def _chosen(args: argparse.Namespace, names: list[str], filters: Filters) -> Comparison:
    """Make the comparison that the names ask for: rounds, benchmarks or directories."""
    rounds = [round_word(name) for name in names if _is_round(name)]
    if rounds:
        return _of_rounds(args, names, rounds, filters)
    if all(not Path(name).exists() and name in task_names() for name in names):
        return compare_history(names, filters)
    paths = [Path(name) for name in names]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(_unknown(str(path)))
    if args.scaling:
        return compare_scaling(paths, filters)
    if len(names) > 2:
        raise ValueError(f"compare takes one or two results, got {len(names)}")
    if args.round:
        return compare_with_round(paths, round_word(args.round), filters, args.cost_per_hour)
    return compare_results(paths, filters, args.cost_per_hour)


def _unknown(name: str) -> str:
    if rounds := candidates(name):
        return f"no published results of {name} are included; it is in {rounds[0]} to {rounds[-1]}"
    return (
        f"{name} does not exist, and is neither a round (v0.7 to {round_names()[-1]}) nor a "
        f"benchmark ({', '.join(sorted(task_names()))})"
    )


def _of_rounds(
    args: argparse.Namespace, names: list[str], rounds: list[str], filters: Filters
) -> Comparison:
    if args.round:
        rounds.append(round_word(args.round))
    if len(rounds) == 2 and len(names) <= 2 and len(rounds) >= len(names):
        return compare_rounds(rounds[0], rounds[1], filters)
    if len(names) == 1 and args.scaling:
        return compare_scaling(rounds[0], filters)
    if len(names) == 1 and filters:
        return list_round(rounds[0], filters)
    known = published_rounds()
    at = known.index(rounds[0]) if rounds[0] in known else len(known)
    pair = ", ".join(known[max(0, at - 1) :][:2])
    raise ValueError(
        f"{rounds[0]} is a round: pass two rounds ({pair}), one with --scaling or "
        f"a filter such as --accelerator H100, or --round {rounds[0]} with your own results"
    )


def _is_round(name: str) -> bool:
    """Return whether a name is a round's, with published results or only with rules."""
    known = {*published_rounds(), *round_names()}
    return not Path(name).exists() and round_word(name) in known


def _print(args: argparse.Namespace, found: Comparison) -> None:
    context, notes = found.data.get("context", []), found.data.get("notes", [])
    if args.json:
        print_json(found.data)
    elif args.csv:
        for line in [*context, *notes]:
            print(f"compare: {line}", file=sys.stderr)
        print(as_csv(found.tables), end="")
    elif args.markdown:
        for line in context:
            print(f"{line}\n")
        print("\n".join(table.markdown() for table in found.tables), end="")
        for note in notes:
            print(f"\n{note}")
    else:
        for line in context:
            print(line)
        for table in found.tables:
            table.show()
        for note in notes:
            print(note)
