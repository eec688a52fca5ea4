"""``check``: the official compliance checker's verdict in plain words, plus our own checks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scoring.drawing.tables import print_json
from scoring.official.accepted import round_of
from scoring.official.checkers import Compliance, compliance
from scoring.official.known_faults import without_known_faults
from scoring.official.plain_words import explain
from scoring.official.rounds_of_sets import find_rounds
from scoring.rules.findings import (
    INITIALISATION,
    OFFICIAL,
    Finding,
    own_findings,
    own_notes,
    repeated_seeds,
)
from scoring.rules.rounds import Round, load_round
from scoring.rules.rounds.names import all_benchmarks
from scoring.rules.structure import fold
from scoring.runs.found_round import summary
from scoring.runs.log_reader import has_events
from scoring.runs.plain_text import say
from scoring.runs.result_sets import ResultSet, find_result_sets
from scoring.runs.run import Run

REMARK = "the installed checker, which rejects published results of this round too"


@dataclass(frozen=True)
class CheckedRun:
    """One run's verdict."""

    name: str
    path: str
    benchmark: str
    division: str | None
    passed: bool
    """The official checker accepts the log, and none of our own rules is broken."""
    official: bool
    converged: bool
    """The log says that the target was reached; a run that missed it may still keep every rule."""
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """Remarks that break no rule."""
    round: str
    round_reason: str
    asked: bool = True
    """The official checker saw the log; a file that cannot be read is not given to it."""
    not_judged: int = 0
    """Rules not judged because of the one finding that keeps the log from being judged."""


def check_sets(sets: Sequence[ResultSet]) -> list[CheckedRun]:
    """Check every run of some result sets by their rounds; verdicts come set by set."""
    jobs = [
        (run.log.path, load_round(round_of(result).name).checker_ruleset)
        for result in sets
        for run in result.runs
        if run.log.path.is_file()
    ]
    verdicts = dict(zip((path for path, _ in jobs), compliance(jobs), strict=True))
    checked = []
    for result in sets:
        rules = load_round(round_of(result).name)
        unique = rules.unique_seeds and result.division == "closed"
        repeated = repeated_seeds(result.runs) if unique else {}
        for run in result.runs:
            verdict = verdicts.get(run.log.path)
            own = [*own_findings(run, result, rules), *repeated.get(id(run), [])]
            checked.append(_checked(run, result, verdict, own, rules))
    return checked


def _checked(
    run: Run,
    result: ResultSet,
    verdict: Compliance | None,
    own: Sequence[Finding],
    rules: Round,
) -> CheckedRun:
    findings = list(own)
    notes = [*run.log.warnings, *result.remarks, *own_notes(run, result, rules)]
    accepted = verdict is not None and verdict.valid
    counts = rules.checker_is_verdict or (verdict is not None and verdict.crash is not None)
    if verdict is not None:
        lines = run.log.event_lines
        errors = [explain(message, lines) for message in verdict.errors]
        if any(error.rule == "init_stop" for error in errors):  # the same limit in its words
            findings = [finding for finding in findings if finding.rule != INITIALISATION]
        bench = rules.benchmarks.get(result.benchmark)
        errors, faults = without_known_faults(errors, bench, result.division)
        notes += faults
        counts = counts and (bool(errors) or verdict.crash is not None)
        notes += [explain(message, lines).sentence() for message in verdict.warnings]
        if counts:
            findings = errors + findings
        else:
            notes += [f"{REMARK}: {error.sentence()}" for error in errors]
        if verdict.crash:
            text = f"the checker crashed on this log ({verdict.crash})"
            findings.insert(0, Finding("the log", None, text, "well-formed mllog lines", OFFICIAL))
    findings, not_judged = fold(run.log, findings, rules)
    return CheckedRun(
        name=run.name,
        path=str(run.log.path),
        benchmark=result.benchmark,
        division=result.division,
        passed=(accepted or (verdict is not None and not counts)) and not findings,
        official=accepted,
        converged=run.log.status == "success",
        findings=tuple(findings),
        notes=tuple(notes),
        round=rules.name,
        round_reason=round_of(result).reason,
        asked=verdict is not None,
        not_judged=not_judged,
    )


def run(args: argparse.Namespace) -> int:
    """Check ``args.run`` and print the verdicts.

    Args:
        args: ``run`` (paths), ``round`` and ``json``.

    Returns:
        0 if every run passes, else 1.
    """
    sets = find_result_sets(_without_other_files(args.run), all_benchmarks())
    find_rounds(sets, args.round)
    checked = check_sets(sets)
    found = [round_of(result) for result in sets]
    if args.json:
        print_json({**summary(found), "runs": [asdict(item) for item in checked]})
    else:
        for item in checked:
            _print(item)
        for name in dict.fromkeys(each.name for each in found):
            here = [run for run in checked if run.round == name]
            good = sum(run.passed for run in here)
            reasons = "; ".join(dict.fromkeys(each.reason for each in found if each.name == name))
            print(f"{good} of {len(here)} runs pass the rules of {name} ({reasons})")
    return 0 if all(item.passed for item in checked) else 1


def _without_other_files(paths: Sequence[Path]) -> list[Path]:
    """Drop files that are not logs, as ``runs/*`` includes them; a single path is kept.

    An empty result_*.txt is kept too: it is a broken log.
    """
    others = [
        path
        for path in paths
        if path.is_file()
        and path.name != "run.json"
        and not (path.name.startswith("result") and path.suffix == ".txt")
        and not has_events(path)
    ]
    if not others or len(others) == len(paths):
        return list(paths)
    names = ", ".join(path.name for path in others)
    say(f"check: skipped, as they have no ':::MLLOG' line: {names}", file=sys.stderr)
    return [path for path in paths if path not in others]


def _relative(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _print(item: CheckedRun) -> None:
    verdict = "passes" if item.passed else "FAILS"
    if item.passed and not item.converged:
        verdict += " (did not converge)"
    official = "accepted" if item.official else "rejected" if item.asked else "not seen"
    say(
        f"{_relative(item.path)} ({item.benchmark}, {item.division or 'no division'}): {verdict}; "
        f"{official} by the official checker"
    )
    for finding in item.findings:
        mark = "" if finding.source == OFFICIAL else " [our own check]"
        rest = f"; and {item.not_judged} rules could not be judged" if item.not_judged else ""
        say(f"  - {finding.sentence()}{rest}{mark}")
    for note in item.notes:
        say(f"    note: {note}")
