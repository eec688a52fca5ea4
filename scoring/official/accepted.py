"""Finds result sets and asks the official compliance checker about every log that would count."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scoring.official.checkers import Compliance, compliance
from scoring.official.plain_words import explain
from scoring.rules.rounds import Round
from scoring.rules.scores import CONVERGED, judge_run
from scoring.runs.result_sets import ResultSet, Run, find_result_sets

# The checker holds a whole log in memory, several times over; most published logs are below 1 MB.
LARGEST_BYTES = 32 << 20


def find_judged_sets(paths: Iterable[Path], rules: Round) -> list[ResultSet]:
    """Read everything under some paths, and mark the runs that the official checker rejects.

    The official summarizer counts a rejected log as a run that did not converge, so a score that
    leaves this out is another score. Generated data is nobody's submission, and of a benchmark that
    the round does not know the checker knows no rule: neither is asked about.

    Args:
        paths: Folders, run folders or log files.
        rules: The round.

    Returns:
        Result sets as ``find_result_sets`` gives them, with ``Run.rejected`` filled.
    """
    sets = find_result_sets(paths, rules)
    asked = [
        run
        for found in sets
        for run in found.runs
        if not run.demo
        and found.benchmark in rules.benchmarks
        and judge_run(run, found, rules.benchmarks[found.benchmark]).outcome == CONVERGED
    ]
    small = [run for run in asked if run.log.path.stat().st_size <= LARGEST_BYTES]
    verdicts = compliance([run.log.path for run in small], rules.checker_ruleset)
    for run, verdict in zip(small, verdicts, strict=True):
        run.rejected = _why(run, verdict)
    for run in asked:
        if run.log.path.stat().st_size > LARGEST_BYTES:
            limit = f"over {LARGEST_BYTES >> 20} MiB"
            run.log.warnings.append(f"the official checker was not asked: the log is {limit}")
    return sets


def _why(run: Run, verdict: Compliance) -> str | None:
    """Why the official checker rejects a log, as one line; None if it accepts it."""
    if verdict.valid:
        return None
    told = [explain(message, run.log.event_lines).sentence() for message in verdict.errors]
    if verdict.crash:
        told.insert(0, f"it dies of the log ({verdict.crash})")
    more = f" (and {len(told) - 1} more, see check)" if len(told) > 1 else ""
    return f"rejected by the official compliance checker: {told[0]}{more}"
