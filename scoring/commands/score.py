"""``score``: print the scores of every result set in some directories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scoring.commands.run_notes import run_lines
from scoring.drawing.tables import Table, as_csv, interval, number, print_json
from scoring.official.accepted import find_judged_sets
from scoring.official.checkers import second_opinion
from scoring.rules.convergence import FLAVOURS, Verdict
from scoring.rules.expenses import Expense, expense_cells, expense_columns, expenses
from scoring.rules.scores import CONSENT, VALID, Score, score
from scoring.runs.found_round import summary
from scoring.runs.plain_text import say


def run(args: argparse.Namespace) -> int:
    """Score ``args.folder`` and print it.

    Args:
        args: ``folder``, ``round``, ``json``, ``csv``, ``markdown``, ``official`` and
            ``cost_per_hour``.

    Returns:
        0 if every result is valid, else 1.
    """
    sets = find_judged_sets(args.folder, args.round)
    scores = [score(item) for item in sets]
    used = expenses(list(zip(sets, scores, strict=True)), args.cost_per_hour)
    second = [second_opinion(item) for item in scores] if args.official else []
    if args.json:
        print_json(_as_json(scores, used, second))
    elif args.csv:
        print(as_csv([_table(scores, used)]), end="")
        for line in _below(scores, used):
            say(f"score: {line.strip()}", file=sys.stderr)
    elif args.markdown:
        print(_table(scores, used).markdown())
        for line in _below(scores, used):
            say(f"- {line.strip()}")
    else:
        print_scores(scores, used)
    if not args.json:
        for item, opinion in zip(scores, second, strict=False):
            words = f"official tools on {item.benchmark}, {item.name}: {_words(opinion)}"
            print(words, file=sys.stderr if args.csv else None)
    return 0 if all(item.verdict in (VALID, CONSENT) for item in scores) else 1


def _as_json(
    scores: Sequence[Score], used: Sequence[Expense], second: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    results = [
        {**item.as_json(), "energy_and_cost": each.as_json()}
        for item, each in zip(scores, used, strict=True)
    ]
    for result, opinion in zip(results, second, strict=False):
        result["official"] = opinion
    return {**summary(item.found_round for item in scores), "results": results}


def _words(opinion: dict[str, object]) -> str:
    minutes = opinion["minutes"]
    text = f"{minutes:.4f} minutes" if isinstance(minutes, float) else "no score"
    return f"{text}; convergence test: {opinion['rcp']}"


def print_scores(scores: Sequence[Score], used: Sequence[Expense] = ()) -> None:
    """Print a table of the scores, with what they used, and below it the remarks on each."""
    _table(scores, used).show()
    for line in _below(scores, used):
        say(line)


def _table(scores: Sequence[Score], used: Sequence[Expense]) -> Table:
    more = expense_columns(used)
    columns = ["benchmark", "result", "division", "minutes", *more, "95 % interval", "std", "runs"]
    columns += ["failed", "RCP then/now", "verdict"]
    table = Table("Scores", columns, numeric=frozenset({"minutes", "std", "runs", *more}))
    for position, item in enumerate(scores):
        row = _row(item)
        if used:
            row[4:4] = expense_cells(used[position], more)
        table.rows.append(row)
    return table


def _below(scores: Sequence[Score], used: Sequence[Expense]) -> list[str]:
    """List the rounds, and the remarks on each score."""
    found = dict.fromkeys(item.found_round for item in scores)
    lines = [f"judged by the rules of {each.words()}" for each in found]
    for position, item in enumerate(scores):
        energy = used[position].sentence() if used else None
        remarks = [*_remarks(item), *filter(None, [energy])]
        lines += [f"  {item.benchmark}, {item.name}: {line}" for line in remarks]
    return lines


def _row(item: Score) -> list[object]:
    division = (item.division or "?") + (" (demo)" if item.demo else "")
    rcp = "/".join(rcp_word(item.rcp.get(f.name)) for f in FLAVOURS) if item.rcp else "-"
    runs = f"{item.runs_found}/{item.runs_required}"
    failed = f"{item.not_converged} of {item.not_converged_allowed} allowed"
    shown = item.provisional_minutes if item.minutes is None else item.minutes
    minutes: object = "-" if shown is None else shown
    if item.provisional:
        minutes = f"{number(shown)} {item.provisional}"
    row: list[object] = [item.benchmark, item.name, division, minutes, interval(*item.interval)]
    row += ["-" if item.spread is None else item.spread, runs]
    return [*row, failed, rcp, item.verdict]


def rcp_word(verdict: Verdict | None) -> str:
    """Return ``pass``, ``FAIL`` or ``-`` for a convergence verdict."""
    if verdict is None or verdict.passed is None:
        return "-"
    return "pass" if verdict.passed else "FAIL"


def _remarks(item: Score) -> list[str]:
    """List what the table leaves out: reasons, convergence test, remarkable runs."""
    lines = [item.configuration] if item.configuration else []
    lines += [*item.reasons, *item.remarks]
    lines += [f"the runs differ in {setting}" for setting in item.settings]
    # Without minutes, only a factor that no round applies is worth a word.
    if item.scaling_reason and (item.raw_minutes is not None or item.scaling == 1):
        lines.append(_scaling_words(item))
    lines += _rcp_sentences(item)
    if item.division == "open" and item.quality_mean:
        quality = ", ".join(f"{name} {value:.4g}" for name, value in item.quality_mean.items())
        lines.append(f"open division, geometric mean of the final quality: {quality}")
    if item.demo:
        lines.append("demo data: generated on this machine, not comparable with published results")
    return lines + run_lines(item.runs)


def _rcp_sentences(item: Score) -> list[str]:
    """Say the outcome of the test then and now, in one sentence where they are equal."""
    both = {f.text: item.rcp[f.name] for f in FLAVOURS if f.name in item.rcp}
    if len({replace(verdict, flavour="") for verdict in both.values()}) == 1:
        both = {"then and now": next(iter(both.values()))}
    return [rcp_sentence(verdict, when, item) for when, verdict in both.items()]


def _scaling_words(item: Score) -> str:
    if item.scaling == 1:
        return item.scaling_reason
    timed = f"{item.raw_minutes:.4f} minutes as timed"
    return f"{timed}, times {item.scaling:.6g} ({item.scaling_reason})"


def rcp_sentence(verdict: Verdict, when: str, item: Score) -> str:
    """Return the convergence test's outcome as one sentence."""
    sentence = f"convergence test {when}: {rcp_word(verdict)}"
    if verdict.minimum is None or verdict.mean is None:
        return f"{sentence}; {verdict.text}"
    sentence += "" if verdict.margin is None else f" by {abs(verdict.margin):.2%}"
    unit = item.progress_unit.replace("epochs_from_one", "epochs counted from 1")
    sentence += f": mean {number(verdict.mean)} {unit}, at least {number(verdict.minimum)} needed "
    sentence += f"({verdict.text})"
    if verdict.scaling > 1 and item.minutes is not None and item.scaling == 1:
        scaled = item.minutes * verdict.scaling
        sentence += (
            f"; today's rule would scale the score by {verdict.scaling:.4f}, to {scaled:.4f}"
        )
    return sentence
