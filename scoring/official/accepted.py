"""Finds result sets and runs the official compliance checker on every log that would count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from scoring.official.checkers import Compliance, compliance
from scoring.official.known_faults import without_known_faults
from scoring.official.plain_words import explain
from scoring.official.rounds_of_sets import find_rounds
from scoring.rules.judged_runs import CONVERGED, judge_run
from scoring.rules.rounds import BenchmarkRules, Round, load_round
from scoring.rules.rounds.names import all_benchmarks
from scoring.runs.found_round import FoundRound
from scoring.runs.result_sets import ResultSet, find_result_sets
from scoring.runs.run import Run

# The checker holds several copies of a log in memory; most published logs are below 1 MB.
LARGEST_BYTES = 32 << 20


def find_judged_sets(paths: Iterable[Path], wanted: str | None = None) -> list[ResultSet]:
    """Read everything under some paths, find its rounds, and mark what the checker rejects.

    The official summarizer counts a rejected log as a run that did not converge, so our score must
    as well. Demo runs are never submitted, and the checker has no rules for a benchmark that is not
    in the round: neither is checked.

    Args:
        paths: Directories, run directories or log files.
        wanted: The user's ``--round``; None to find each result's.

    Returns:
        Result sets as ``find_result_sets`` gives them, with ``round`` and ``Run.rejected`` filled.
    """
    sets = find_result_sets(paths, all_benchmarks())
    find_rounds(sets, wanted)
    _ask([pair for result in sets for pair in _converged_runs(result)])
    for result in sets:
        _keep_published(result)
    return sets


def _keep_published(result: ResultSet) -> None:
    """Let published minutes stand where the checker rejects more of the runs than may fail."""
    bench = load_round(round_of(result).name).benchmarks.get(result.benchmark)
    rejected = [run for run in result.runs if run.rejected]
    if result.published and bench is not None and len(rejected) > bench.drop:
        result.rejected = len(rejected)
        for run in rejected:
            run.log.warnings.append(f"{run.rejected}; it counts as published")
            run.rejected = None


def round_of(result: ResultSet) -> FoundRound:
    """Return the round that was found for a result."""
    assert result.round is not None, "find_rounds comes first"
    return result.round


def _converged_runs(result: ResultSet) -> list[tuple[Run, Round]]:
    rules = load_round(round_of(result).name)
    bench = rules.benchmarks.get(result.benchmark)
    return [
        (run, rules)
        for run in result.runs
        if bench is not None and not run.demo and judge_run(run, result, bench).outcome == CONVERGED
    ]


def _ask(runs: Sequence[tuple[Run, Round]]) -> None:
    small = [(run, rules) for run, rules in runs if _size(run) <= LARGEST_BYTES]
    verdicts = compliance([(run.log.path, rules.checker_ruleset) for run, rules in small])
    for (run, rules), verdict in zip(small, verdicts, strict=True):
        reason = _why(run, verdict, rules.benchmarks.get(run.log.benchmark or ""))
        if rules.checker_is_verdict:
            run.rejected = reason
        elif reason:
            run.log.warnings.append(f"{reason}; no verdict, as it rejects published results too")
    for run, _ in runs:
        if _size(run) > LARGEST_BYTES:
            limit = f"over {LARGEST_BYTES >> 20} MiB"
            run.log.warnings.append(f"the official checker was not asked: the log is {limit}")


def _size(run: Run) -> int:
    return run.log.path.stat().st_size


def _why(run: Run, verdict: Compliance, bench: BenchmarkRules | None) -> str | None:
    """Say in one line why the official checker rejects a log; None if it accepts it."""
    if verdict.valid:
        return None
    errors = [explain(message, run.log.event_lines) for message in verdict.errors]
    errors, faults = without_known_faults(errors, bench, run.division)
    run.log.warnings += faults
    reasons = [error.sentence() for error in errors]
    if verdict.crash:
        reasons.insert(0, f"the checker crashed on this log ({verdict.crash})")
    if not reasons:
        return None
    more = f" (and {len(reasons) - 1} more, see check)" if len(reasons) > 1 else ""
    return f"rejected by the official compliance checker: {reasons[0]}{more}"
