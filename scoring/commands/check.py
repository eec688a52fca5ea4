"""``check``: the official compliance checker's verdict in plain words, plus our own checks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scoring.drawing.tables import print_json
from scoring.official.checkers import Compliance, compliance
from scoring.official.plain_words import explain
from scoring.rules.findings import OFFICIAL, Finding, own_findings, repeated_seeds
from scoring.rules.rounds import Round, load_round
from scoring.rules.structure import fold
from scoring.runs.log_reader import has_events
from scoring.runs.plain_text import say
from scoring.runs.result_sets import ResultSet, find_result_sets
from scoring.runs.run import Run


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
    not_judged: int = 0
    """Rules not judged because of the one finding that keeps the log from being judged."""


def check_sets(sets: Sequence[ResultSet], rules: Round) -> list[CheckedRun]:
    """Check every run of some result sets; verdicts come set by set."""
    logs = [run.log.path for result in sets for run in result.runs]
    files = [path for path in logs if path.is_file()]
    verdicts = dict(zip(files, compliance(files, rules.checker_ruleset), strict=True))
    checked = []
    for result in sets:
        repeated = repeated_seeds(result.runs) if result.division == "closed" else {}
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
    notes = [*run.log.warnings, *result.remarks]
    if verdict is not None:
        lines = run.log.event_lines
        findings = [explain(message, lines) for message in verdict.errors] + findings
        notes += [explain(message, lines).sentence() for message in verdict.warnings]
        if verdict.crash:
            text = f"the checker crashed on this log ({verdict.crash})"
            findings.insert(0, Finding("the log", None, text, "well-formed mllog lines", OFFICIAL))
    accepted = verdict is not None and verdict.valid
    findings, not_judged = fold(run.log, findings, rules)
    if result.division == "closed" and run.log.events and not run.log.seeds:
        notes.append("no seed logged: today's package checker rejects such a closed result")
    return CheckedRun(
        name=run.name,
        path=str(run.log.path),
        benchmark=result.benchmark,
        division=result.division,
        passed=accepted and not findings,
        official=accepted,
        converged=run.log.status == "success",
        findings=tuple(findings),
        notes=tuple(notes),
        not_judged=not_judged,
    )


def run(args: argparse.Namespace) -> int:
    """Check ``args.run`` and print the verdicts.

    Args:
        args: ``run`` (paths), ``round`` and ``json``.

    Returns:
        0 if every run passes, else 1.
    """
    rules = load_round(args.round)
    checked = check_sets(find_result_sets(_without_other_files(args.run), rules.benchmarks), rules)
    if args.json:
        print_json({"round": rules.name, "runs": [asdict(item) for item in checked]})
    else:
        for item in checked:
            _print(item)
        good = sum(item.passed for item in checked)
        print(f"{good} of {len(checked)} runs pass the rules of {rules.name}")
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
    official = "accepted" if item.official else "rejected"
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
