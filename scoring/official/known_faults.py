"""Demands of the official open files that no honest run can meet: no fault of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable

from scoring.rules.findings import Finding
from scoring.rules.rounds import BenchmarkRules


def without_known_faults(
    findings: Iterable[Finding], rules: BenchmarkRules | None, division: str | None
) -> tuple[list[Finding], list[str]]:
    """Separate what the official checker wrongly demands of an open run.

    Args:
        findings: Of the official checker, on one log.
        rules: The benchmark's rules in the round; None if the round does not have it.
        division: The run's.

    Returns:
        The findings that count, and one line per other one that says what is wrong upstream.
    """
    known = rules.open_faults if rules is not None and division == "open" else {}
    counted, notes = [], []
    for finding in findings:
        why = next((why for keys, why in known.items() if re.fullmatch(keys, finding.rule)), None)
        if why is None:
            counted.append(finding)
        else:
            notes.append(f"{why}. The checker: {finding.sentence()}")
    return counted, notes
