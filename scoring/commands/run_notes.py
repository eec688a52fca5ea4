"""Notes on the runs of a result, each one once and with its runs named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from scoring.rules.judged_runs import CONVERGED, JudgedRun

MOST_NAMES = 6
# What differs between runs that get the same note.
NUMBERS = re.compile(r"\d+")


def run_lines(runs: Iterable[JudgedRun]) -> list[str]:
    """Return one line for each outcome and note, with the runs that it is about.

    Args:
        runs: The runs of one result.

    Returns:
        Such as ``result_3.txt, result_7.txt: not converged; ended with status aborted``. Where
        runs differ only in numbers, those of the first are shown.
    """
    groups: dict[tuple[str, str], list[JudgedRun]] = {}
    runs = list(runs)
    for run in runs:
        if run.outcome != CONVERGED or run.notes:
            groups.setdefault((run.outcome, NUMBERS.sub("#", _words(run))), []).append(run)
    return [_line(group, len(runs)) for group in groups.values()]


def _words(run: JudgedRun) -> str:
    # The reason of a rejected run begins with that word.
    told = any(note.startswith(run.outcome) for note in run.notes[:1])
    return "; ".join([*([] if told else [run.outcome]), *run.notes])


def _line(runs: Sequence[JudgedRun], total: int) -> str:
    words = [_words(run) for run in runs]
    same = all(each == words[0] for each in words)
    names = _names([run.name for run in runs], total)
    return f"{names}: {words[0]}" + ("" if same else " (figures of the first)")


def _names(names: Sequence[str], total: int) -> str:
    if 1 < len(names) == total:
        return f"all {total} runs"
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: MOST_NAMES - 1])} and {len(names) - MOST_NAMES + 1} more runs"
