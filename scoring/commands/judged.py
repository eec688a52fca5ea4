"""Scores everything below a directory."""

from __future__ import annotations

from pathlib import Path

from scoring.official.accepted import find_judged_sets
from scoring.rules.rounds import load_round
from scoring.rules.scores import Score, score
from scoring.runs.result_sets import ResultSet


def score_all(path: Path, round_name: str = "v1.0") -> list[tuple[ResultSet, Score]]:
    """Return every result below a path with its score under a round's rules."""
    rules = load_round(round_name)
    return [(item, score(item, rules)) for item in find_judged_sets([path], rules)]
