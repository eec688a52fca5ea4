"""``check``: the official compliance verdict in plain words, and what the tools leave unchecked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scoring.official.checkers import Compliance, compliance
from scoring.official.plain_words import Finding, explain
from scoring.rules.rounds import BenchmarkRules, Round, load_round
from scoring.rules.schedule import schedule_fault
from scoring.rules.structure import fold
from scoring.runs.logs import RunLog, has_events
from scoring.runs.result_sets import ResultSet, Run, find_result_sets


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
    """The run says that it reached its target; one that did not may still keep every rule."""
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """Worth knowing, no rule broken."""
    not_judged: int = 0
    """Rules left open because the one finding keeps the log from being judged."""


def check_sets(sets: Sequence[ResultSet], rules: Round) -> list[CheckedRun]:
    """Check every run of some result sets.

    Args:
        sets: Result sets.
        rules: The round.

    Returns:
        Verdicts, set by set.
    """
    runs = [(found, run) for found in sets for run in found.runs]
    files = [run.log.path for _, run in runs if run.log.path.is_file()]
    verdicts = dict(zip(files, compliance(files, rules.checker_ruleset), strict=True))
    checked = []
    for found in sets:
        repeated = _repeated_seeds(found.runs) if found.division == "closed" else {}
        for run in found.runs:
            verdict = verdicts.get(run.log.path)
            own = [*_own_findings(run, found, rules), *repeated.get(id(run), [])]
            checked.append(_checked(run, found, verdict, own, rules))
    return checked


def _checked(
    run: Run,
    found: ResultSet,
    verdict: Compliance | None,
    own: Sequence[Finding],
    rules: Round,
) -> CheckedRun:
    findings = list(own)
    notes = list(run.log.warnings)
    if verdict is not None:
        told = [explain(message, run.log.event_lines) for message in verdict.errors]
        findings = told + findings
        notes += [explain(message, run.log.event_lines).sentence() for message in verdict.warnings]
        if verdict.crash:
            findings.insert(
                0,
                Finding(
                    "the log",
                    None,
                    f"a log that the official checker dies of ({verdict.crash})",
                    "well-formed mllog lines",
                    "official",
                ),
            )
    official = verdict is not None and verdict.valid
    findings, not_judged = fold(run.log, findings, rules)
    if found.division == "closed" and run.log.events and not run.log.seeds:
        notes.append("no seed logged: today's package checker refuses such a closed result")
    return CheckedRun(
        name=run.name,
        path=str(run.log.path),
        benchmark=found.benchmark,
        division=found.division,
        passed=official and not findings,
        official=official,
        converged=run.log.status == "success",
        findings=tuple(findings),
        notes=tuple(notes),
        not_judged=not_judged,
    )


def _finding(rule: str, found: str, allowed: str, line: int | None = None) -> Finding:
    return Finding(rule, line, found, allowed, "finishline")


def _own_findings(run: Run, found: ResultSet, rules: Round) -> list[Finding]:
    """What the official tools do not look at, for one run."""
    log = run.log
    bench = rules.benchmarks.get(found.benchmark)
    findings = [_finding("the log", problem, "one complete run") for problem in log.problems]
    if run.fact("resumed"):
        findings.append(_finding("one clock", "a resumed run", "a run timed from start to end"))
    if run.demo and run.division == "closed":
        findings.append(_finding("division", "closed on demo data", "the benchmark's own data"))
    if log.stops and log.status not in ("success", "aborted"):
        line = log.stops[0].line
        findings.append(_finding("run_stop", str(log.status), "status success or aborted", line))
    findings += _init_time(log, rules.init_limit_minutes)
    if bench is not None and found.division == "closed":
        findings += _closed_findings(log, bench)
    return findings


def _init_time(log: RunLog, limit: float) -> list[Finding]:
    if log.init_start_ms is None or log.init_stop_ms is None:
        return []
    minutes = (log.init_stop_ms - log.init_start_ms) / 60_000
    if minutes < limit:
        return []
    return [_finding("initialisation", f"{minutes:.1f} minutes", f"less than {limit:g} minutes")]


def _closed_findings(log: RunLog, bench: BenchmarkRules) -> list[Finding]:
    findings = []
    if fault := schedule_fault(log, bench):
        findings.append(_finding("evaluation schedule", fault, "the round's schedule"))
    passing = [e for e in log.evaluations if bench.reached(e.quality, log.global_batch_size)]
    if log.status == "success" and not passing:
        findings.append(_finding("target", "success without it", f"{dict(bench.target)} reached"))
    if log.status == "aborted" and passing:
        line = passing[0].line
        findings.append(_finding("run_stop", "aborted", "success, as the target was reached", line))
    before = log.evaluations[: log.evaluations_before_stop]
    if passing and passing[0] in before and passing[0] is not before[-1]:
        went_on = f"training went on after the target was reached at {passing[0].progress:g}"
        findings.append(
            _finding(
                "halting", went_on, "the first passing evaluation ends the run", passing[0].line
            )
        )
    return findings


def _repeated_seeds(runs: Iterable[Run]) -> dict[int, list[Finding]]:
    """Seeds that two runs of a closed result share, by the identity of the later run."""
    seen: dict[tuple[str, int, Any], str] = {}
    findings: dict[int, list[Finding]] = {}
    for run in runs:
        for file, line, value in run.log.seeds:
            place = (file, line, str(value))
            if place in seen:
                found = f"{value}, as in {seen[place]}"
                findings.setdefault(id(run), []).append(
                    _finding("seed", found, "a seed of its own")
                )
            seen.setdefault(place, run.name)
    return findings


def run(args: argparse.Namespace) -> int:
    """Check ``args.run`` and print the verdicts.

    Args:
        args: ``run`` (paths), ``round`` and ``json``.

    Returns:
        0 if every run passes, else 1.
    """
    from scoring.cli import print_json

    rules = load_round(args.round)
    checked = check_sets(find_result_sets(_without_other_files(args.run), rules), rules)
    if args.json:
        print_json({"round": rules.name, "runs": [asdict(item) for item in checked]})
    else:
        for item in checked:
            _print(item)
        good = sum(item.passed for item in checked)
        print(f"{good} of {len(checked)} runs pass the rules of {rules.name}")
    return 0 if all(item.passed for item in checked) else 1


def _without_other_files(paths: Sequence[Path]) -> list[Path]:
    """Paths less the files that are no logs, as ``runs/*`` names them; a lone path is kept.

    A result_*.txt without a line is a broken log and not another file, so it is kept too.
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
    print(f"check: skipped, as they hold no ':::MLLOG' line: {names}", file=sys.stderr)
    return [path for path in paths if path not in others]


def _shown(path: str) -> str:
    """A path as it would be typed from here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _print(item: CheckedRun) -> None:
    verdict = "passes" if item.passed else "FAILS"
    if item.passed and not item.converged:
        verdict += " (did not converge)"
    official = "accepted" if item.official else "rejected"
    print(
        f"{_shown(item.path)} ({item.benchmark}, {item.division or 'no division'}): {verdict}; "
        f"{official} by the official checker"
    )
    for finding in item.findings:
        mark = "" if finding.source == "official" else " [our own check]"
        rest = f"; and {item.not_judged} rules could not be judged" if item.not_judged else ""
        print(f"  - {finding.sentence()}{rest}{mark}")
    for note in item.notes:
        print(f"    note: {note}")
