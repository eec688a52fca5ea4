"""Tells which names of two rounds mean one task: a name was reused, and tasks were renamed."""

from __future__ import annotations

from scoring.published import PublishedResult, published, published_rounds

# (name, first round in which it means this task) -> task; the latest that applies counts.
RENAMED = {("ssd", "v2.0"): "retinanet", ("gnn", "v4.0"): "rgat"}


def task(benchmark: str, round_name: str) -> str:
    """Return the task that a benchmark's name means in a round.

    Args:
        benchmark: mllog name, such as ``ssd``.
        round_name: Such as ``v2.0``.

    Returns:
        The name under which the task appeared or, for ``ssd`` from v2.0 on, was renamed to.
    """
    rounds = published_rounds()
    for (name, first), renamed in RENAMED.items():
        since = rounds[rounds.index(first) :] if first in rounds else []
        if name == benchmark and (round_name in since or round_name not in rounds):
            return renamed
    return benchmark


def rows_of_task(round_name: str, name: str) -> list[PublishedResult]:
    """Return a round's rows of one task, whatever the round calls it."""
    return [row for row in published(round_name) if task(row.benchmark, round_name) == name]


def task_names() -> list[str]:
    """List every name that a benchmark with published results has or had."""
    rows = (row for name in published_rounds() for row in published(name))
    return sorted(
        {name for row in rows for name in (row.benchmark, task(row.benchmark, row.round))}
    )
