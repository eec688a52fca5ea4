"""Finds the round of logs from where they are, what they train and when."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from scoring.rules.clock import EARLIEST_MS, LATEST_MS
from scoring.rules.rounds import load_round, round_names
from scoring.runs.found_round import FoundRound
from scoring.runs.result_sets import ResultSet

# The round whose figures this repository's recipes have, where it has the benchmark.
RECIPES_ROUND = "v1.0"
# training_results_v5.1, mlperf-training-v1.0, training_5.1.0; of other names only v5.1 itself, as
# systems and frameworks have versions too.
FOLDER_NAME = re.compile(r"(?:.*(?:training|results|round)[-_ ]?v?|v)(\d+\.\d+)(?:\.0)?", re.I)
README_TITLE = re.compile(r"(?:MLPerf\W*Training\W*|training_results_)v(\d+\.\d+)", re.I)
# Above results/SYSTEM/BENCHMARK/result_0.txt: the submitter's directory, and the round's.
README_DEPTH = (2, 3)


def round_of_place(path: Path) -> FoundRound | None:
    """Find a round from the name of a directory above a result, or the README of a round.

    Args:
        path: A benchmark's directory, such as ``training_results_v5.1/ORG/results/SYSTEM/bert``.

    Returns:
        The round; None if no directory or README names one that has rules here.
    """
    for folder in (path, *path.parents):
        match = FOLDER_NAME.fullmatch(folder.name)
        if match and f"v{match[1]}" in round_names():
            return FoundRound(f"v{match[1]}", f"directory {folder.name}")
    if path.parent.parent.name != "results":
        return None
    for depth in README_DEPTH:
        if depth < len(path.parents) and (name := _round_of_readme(path.parents[depth])):
            return FoundRound(name, f"README.md of {path.parents[depth].name}")
    return None


def _round_of_readme(folder: Path) -> str | None:
    try:
        with open(folder / "README.md", encoding="utf-8", errors="replace") as file:
            match = README_TITLE.search(file.read(2000))
    except OSError:
        return None
    return f"v{match[1]}" if match and f"v{match[1]}" in round_names() else None


def round_of_recipe(result: ResultSet) -> FoundRound | None:
    """Return the round whose figures our recipe of a benchmark has; None for others' logs."""
    if not result.is_own:
        return None
    if result.benchmark in load_round(RECIPES_ROUND).benchmarks:
        return FoundRound(RECIPES_ROUND, "the round of this repository's recipe")
    names = candidates(result.benchmark)
    newest = names[-1] if names else RECIPES_ROUND
    return FoundRound(newest, f"the newest round with {result.benchmark}")


def candidates(benchmark: str) -> list[str]:
    """List the rounds that have a benchmark of this name, oldest first."""
    return [name for name in round_names() if benchmark in load_round(name).benchmarks]


def by_date(names: Sequence[str], time_ms: float | None) -> tuple[str, str, bool]:
    """Choose the first of some rounds that was published after a log was written.

    Args:
        names: Rounds, oldest first; at least one.
        time_ms: When the log was written, in ms since the Unix epoch; None if not known. A
            clock that counts something else tells no date.

    Returns:
        The round, why in words, and whether the date is before its publication.
    """
    default = RECIPES_ROUND if RECIPES_ROUND in names else names[-1]
    if time_ms is None or not EARLIEST_MS <= time_ms < LATEST_MS:
        return default, "the default, as nothing tells the rounds apart", False
    day = datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
    for name in names:
        released = load_round(name).released
        if released is None or day <= released:
            return name, f"dated {day}", released is not None
    return default, f"the default, as the log of {day} is later than each round with it", False
