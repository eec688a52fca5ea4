"""Scores everything below a directory."""

from __future__ import annotations

from pathlib import Path

from scoring.official.accepted import find_judged_sets
from scoring.rules.scores import Score, score
from scoring.runs.result_sets import ResultSet


def score_all(path: Path) -> list[tuple[ResultSet, Score]]:
    """Return every result below a path with its score, each by the rules of its own round."""
    return [(item, score(item)) for item in find_judged_sets([path])]
