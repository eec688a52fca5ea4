"""Published results by task, whatever each round calls it."""

from __future__ import annotations

from scoring.published import PublishedResult, published, published_rounds
from scoring.rules.rounds.names import task_of


def rows_of_task(round_name: str, task: str) -> list[PublishedResult]:
    """Return a round's rows of one task, as ``task_of`` names it."""
    return [row for row in published(round_name) if task_of(row.benchmark, round_name) == task]


def task_names() -> list[str]:
    """List every name that a benchmark with published results has or had."""
    rows = [row for name in published_rounds() for row in published(name)]
    return sorted({row.benchmark for row in rows} | {task_of(r.benchmark, r.round) for r in rows})
