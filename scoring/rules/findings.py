"""Broken rules: what one is, and those that the official tools leave unchecked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scoring.rules.clock import clock_fault
from scoring.rules.rounds import BenchmarkRules, Round
from scoring.rules.schedule import amount, schedule_fault
from scoring.runs.logs import RunLog
from scoring.runs.result_sets import ResultSet
from scoring.runs.run import Run

OFFICIAL, OURS = "official", "finishline"
INITIALISATION = "initialisation"
SEEDS_SINCE = "v4.1"


@dataclass(frozen=True)
class Finding:
    """One broken rule."""

    rule: str
    """The log key that the rule is about, or what it is about in words."""
    line: int | None
    """Line in the file, from 1; None where the rule is about the whole file."""
    found: str
    allowed: str
    source: str
    """``OFFICIAL`` for the compliance checker, ``OURS`` for what it leaves unchecked."""

    def sentence(self) -> str:
        """Return the finding as one line of text.

        Returns:
            Such as ``seed: found 3, as in result_0.txt; allowed: its own seed``.
        """
        where = f" (line {self.line})" if self.line else ""
        return f"{self.rule}{where}: found {self.found}; allowed: {self.allowed}"


def _finding(rule: str, found: str, allowed: str, line: int | None = None) -> Finding:
    return Finding(rule, line, found, allowed, OURS)


def own_findings(run: Run, result: ResultSet, rules: Round) -> list[Finding]:
    """Check one run against the rules that the official tools leave out.

    Args:
        run: The run.
        result: The set it belongs to.
        rules: The round.

    Returns:
        Broken rules: damaged logs, resumed runs, demo data, status words, time of initialization,
        and in the closed division the evaluation schedule and the target.
    """
    log = run.log
    bench = rules.benchmarks.get(result.benchmark)
    findings = [_finding("the log", problem, "one complete run") for problem in log.problems]
    findings += [_finding(key, value, "a number", at) for key, at, value in log.no_numbers]
    findings += [_finding("the result", text, "one that is whole") for text in result.problems]
    if run.copy_of:
        findings.append(_finding("the run", f"a copy of {run.copy_of}", "a run of its own"))
    if run.fact("resumed"):
        findings.append(_finding("one clock", "a resumed run", "a run timed from start to end"))
    if run.demo and run.division == "closed":
        findings.append(_finding("division", "closed on demo data", "the benchmark's own data"))
    if log.stops and log.status not in ("success", "aborted"):
        line = log.stops[0].line
        findings.append(_finding("run_stop", str(log.status), "status success or aborted", line))
    findings += _init_time(log, _init_limit(rules, bench, result.division))
    if fault := clock_fault(log, bench):
        findings.append(_finding("clock", fault, "all of training and evaluation timed"))
    if rules.logged_seeds and result.division == "closed" and log.events and not logged_seeds(run):
        findings.append(_finding("seed", "none", f"a seed in every log, from {SEEDS_SINCE} on"))
    if bench is not None and result.division == "closed":
        findings += _closed_findings(log, bench)
    return findings


def _init_limit(rules: Round, bench: BenchmarkRules | None, division: str | None) -> float:
    if division != "open" and bench is not None and bench.init_limit_minutes is not None:
        return bench.init_limit_minutes
    return rules.init_limit_minutes.get(division or "closed", rules.init_limit_minutes["closed"])


def _init_time(log: RunLog, limit: float) -> list[Finding]:
    if log.init_start_ms is None or log.init_stop_ms is None:
        return []
    minutes = (log.init_stop_ms - log.init_start_ms) / 60_000
    if minutes < limit:
        return []
    return [_finding(INITIALISATION, f"{minutes:.1f} minutes", f"less than {limit:g} minutes")]


def _closed_findings(log: RunLog, bench: BenchmarkRules) -> list[Finding]:
    findings = []
    if fault := schedule_fault(log, bench):
        findings.append(_finding("evaluation schedule", fault, "the round's schedule"))
    passing = [e for e in log.evaluations if bench.reached(e.quality, log.global_batch_size)]
    if log.status == "success" and not passing:
        findings.append(_finding("target", "success without it", f"{_target(log, bench)} reached"))
    if log.status == "aborted" and passing:
        line = passing[0].line
        findings.append(_finding("run_stop", "aborted", "success, as the target was reached", line))
    return findings


def _target(log: RunLog, bench: BenchmarkRules) -> str:
    targets = bench.targets(log.global_batch_size)
    return " and ".join(f"{name} {value:g}" for name, value in targets.items())


def own_notes(run: Run, result: ResultSet, rules: Round) -> list[str]:
    """Remark on what breaks no rule.

    Args:
        run: The run.
        result: The set it belongs to.
        rules: The round.

    Returns:
        One line each.
    """
    log, bench = run.log, rules.benchmarks.get(result.benchmark)
    if result.division != "closed" or not log.events:
        return []
    went_on = _went_on(log, bench) if bench is not None else None
    notes = [went_on] if went_on else []
    if not logged_seeds(run) and not rules.logged_seeds:
        notes.append("no seed logged: today's package checker rejects such a closed result")
    return notes


def _went_on(log: RunLog, bench: BenchmarkRules) -> str | None:
    """Describe training past an evaluation that reached the target, which only costs time."""
    before = log.evaluations[: log.evaluations_before_stop]
    batch = log.global_batch_size
    amounts = [(amount(e, bench), bench.reached(e.quality, batch)) for e in before]
    known = [(value, good) for value, good in amounts if value is not None]
    reached = min((value for value, good in known if good), default=None)
    last = max((value for value, _ in known), default=None)
    if bench.asynchronous or reached is None or last is None or last <= reached:
        return None
    return f"training continued to {last:g} after the target was reached at {reached:g}"


def logged_seeds(run: Run) -> list[tuple[str, int, Any]]:
    """Return file, line and value of each seed that a run logged, but for null."""
    return [seed for seed in run.log.seeds if seed[2] is not None]


def repeated_seeds(runs: Iterable[Run]) -> dict[int, list[Finding]]:
    """Find seeds that two runs of a result share.

    Args:
        runs: The runs of one result.

    Returns:
        Identity (``id``) of the later run -> its findings.
    """
    seen: dict[tuple[str, int, Any], str] = {}
    findings: dict[int, list[Finding]] = {}
    for run in runs:
        for file, line, value in logged_seeds(run):
            seed = (file, line, str(value))
            # Several processes of one run may share a seed.
            if seen.get(seed, run.name) != run.name:
                finding = _finding("seed", f"{value}, as in {seen[seed]}", "its own seed")
                findings.setdefault(id(run), []).append(finding)
            seen.setdefault(seed, run.name)
    return findings
