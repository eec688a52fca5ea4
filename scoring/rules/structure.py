"""What keeps a log from being judged at all: one finding stands for all that would follow."""

from __future__ import annotations

from collections.abc import Sequence

from scoring.official.plain_words import Finding
from scoring.rules.rounds import Round
from scoring.runs.logs import RunLog

OURS = "finishline"


def fold(log: RunLog, findings: Sequence[Finding], rules: Round) -> tuple[list[Finding], int]:
    """Put the one reason that a log cannot be judged in the place of all that follows from it.

    Args:
        log: The log.
        findings: Everything found in it.
        rules: The round.

    Returns:
        The findings to tell, and how many others could not be judged (0 for a whole log).
    """
    reason = (
        _unknown_benchmark(log, findings, rules)
        or _structural(log)
        or _unknown_division(log, findings, rules)
    )
    if reason is None:
        return list(findings), 0
    # What is said of the log as a whole is the same reason in other words.
    others = [finding for finding in findings if finding.rule not in ("the log", reason.rule)]
    return [reason], len(others)


def _structural(log: RunLog) -> Finding | None:
    """Why a log is no whole run, or None."""
    if log.events and log.wide:
        allowed = "a text file in UTF-8"
        return Finding("the log", None, log.encoding_problem or "", allowed, OURS)
    if log.events and log.starts and log.stops:
        return None
    return Finding("the log", None, "; ".join(log.problems), "one complete run", OURS)


def _unknown_benchmark(log: RunLog, findings: Sequence[Finding], rules: Round) -> Finding | None:
    """The benchmark's name if the round has none of that name, else None."""
    name = log.facts.get("submission_benchmark")
    if log.wide or name is None or log.benchmark in rules.benchmarks:
        return None
    key = "submission_benchmark"
    line = next((f.line for f in findings if f.rule == key and f.line), None)
    allowed = f"one of {', '.join(sorted(rules.benchmarks))} (round {rules.name})"
    return Finding(key, line, repr(name), allowed, OURS)


def _unknown_division(log: RunLog, findings: Sequence[Finding], rules: Round) -> Finding | None:
    """A division that no rules exist for, which the official checker dies of; else None."""
    key = "submission_division"
    if key not in log.facts or log.facts[key] in rules.divisions:
        return None
    line = next((f.line for f in findings if f.rule == key and f.line), None)
    return Finding(key, line, repr(log.facts[key]), f"one of {', '.join(rules.divisions)}", OURS)
