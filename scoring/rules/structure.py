"""Faults that keep a log from being judged at all: one finding replaces all that follow."""

from __future__ import annotations

from collections.abc import Sequence

from scoring.rules.findings import OURS, Finding
from scoring.rules.rounds import Round
from scoring.runs.logs import RunLog
from scoring.runs.plain_text import short


def fold(log: RunLog, findings: Sequence[Finding], rules: Round) -> tuple[list[Finding], int]:
    """Replace all findings in a log that cannot be judged by the one reason for that.

    Args:
        log: The log.
        findings: Everything found in it.
        rules: The round.

    Returns:
        The findings to print, and how many others could not be judged (0 for an intact log).
    """
    reason = (
        _unknown_benchmark(log, findings, rules)
        or _structural(log)
        or _unknown_division(log, findings, rules)
    )
    if reason is None:
        return list(findings), 0
    # Findings about the log as a whole are the same reason in other words.
    others = [finding for finding in findings if finding.rule not in ("the log", reason.rule)]
    return [reason], len(others)


def _structural(log: RunLog) -> Finding | None:
    if log.events and log.wide:
        allowed = "a text file in UTF-8"
        return Finding("the log", None, log.encoding_problem or "", allowed, OURS)
    if log.events and log.starts and log.stops:
        return None
    return Finding("the log", None, "; ".join(log.problems), "one complete run", OURS)


def _unknown_benchmark(log: RunLog, findings: Sequence[Finding], rules: Round) -> Finding | None:
    key = "submission_benchmark"
    if log.wide or key not in log.facts or log.benchmark in rules.benchmarks:
        return None
    line = next((f.line for f in findings if f.rule == key and f.line), None)
    allowed = f"one of {', '.join(sorted(rules.benchmarks))} (round {rules.name})"
    return Finding(key, line, short(log.facts[key]), allowed, OURS)


def _unknown_division(log: RunLog, findings: Sequence[Finding], rules: Round) -> Finding | None:
    """A division without rules, on which the official checker crashes; else None."""
    key = "submission_division"
    if key not in log.facts or log.facts[key] in rules.divisions:
        return None
    line = next((f.line for f in findings if f.rule == key and f.line), None)
    return Finding(key, line, short(log.facts[key]), f"one of {', '.join(rules.divisions)}", OURS)
