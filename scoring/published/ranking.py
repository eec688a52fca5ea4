"""Ranks a score among the published results of its benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scoring.published import PublishedResult
from scoring.published.tasks import rows_of_task
from scoring.rules.rounds.names import task_of
from scoring.rules.scores import Score

# Below the last digit of the table's minutes, but above the rounding of a log's times.
SAME_MINUTES = 5e-4


def rank(
    own: Score, round_name: str, chosen: Callable[[PublishedResult], bool] | None = None
) -> dict[str, Any]:
    """Rank one score among the published results of its benchmark.

    Args:
        own: The score.
        round_name: Which round's table.
        chosen: Which published results to rank among; all by default.

    Returns:
        ``rank`` (None if it has no minutes, too few runs or is a demo), ``of``, ``shown_division``
        (closed where nothing was published in its own), and ``rows`` in order of minutes, each with
        ``name``, ``minutes``, ``accelerators``, ``accelerator_minutes`` and ``ratio`` (its minutes
        divided by ours). Our own row is the last one where it cannot be ranked: a demo, or with too
        few runs. A published result that is the own one has the own row only, with ``published``.
    """
    division = own.division or "closed"
    others = [
        r
        for r in rows_of_task(round_name, task_of(own.benchmark, own.round))
        if r.minutes is not None and (chosen is None or chosen(r))
    ]
    shown = division if any(r.division == division for r in others) else "closed"
    others = [r for r in others if r.division == shown]
    of = len(others) if shown == division else 0
    itself = next((r for r in others if _is_same(r, own)), None)
    rows = [
        _row(r.name, r.minutes, r.accelerators, own, availability=r.availability)
        for r in others
        if r is not itself
    ]
    rows.sort(key=lambda row: row["minutes"])
    position = None
    if _comparable(own) and of > 0 and own.minutes is not None:
        position = 1 + sum(row["minutes"] < own.minutes - SAME_MINUTES for row in rows)
    return {
        "benchmark": own.benchmark,
        "judged_by": own.round,
        "division": division,
        "shown_division": shown,
        "name": own.name,
        "minutes": own.minutes,
        "provisional_minutes": own.provisional_minutes,
        "demo": own.demo,
        "rank": position,
        "of": of,
        "rows": _with_own(rows, own, published=itself is not None),
    }


def _comparable(own: Score) -> bool:
    return not own.demo and not own.runs_missing


def _with_own(rows: list[dict[str, Any]], own: Score, *, published: bool) -> list[dict[str, Any]]:
    """Put our own row in its place among those of others; last where it cannot be ranked."""
    figure = own.provisional_minutes if own.minutes is None else own.minutes
    if figure is None:
        return rows
    place = sum(row["minutes"] <= figure for row in rows) if _comparable(own) else len(rows)
    row = _row(own.name, own.minutes, own.accelerators, own, availability="") | {
        "provisional": own.provisional,
        "provisional_minutes": own.provisional_minutes,
        "own": True,
        "published": published,
        "comparable": _comparable(own),
    }
    return [*rows[:place], row, *rows[place:]]


def _is_same(row: PublishedResult, own: Score) -> bool:
    """Return whether a published row is the result itself: same name and unscaled minutes."""
    if own.demo or own.minutes is None or row.minutes is None or row.name != own.name:
        return False
    figures = (row.minutes, row.minutes / row.scaling)
    return any(abs(figure - own.minutes) <= SAME_MINUTES for figure in figures)


def _row(
    name: str, minutes: float | None, accelerators: int | None, own: Score, *, availability: str
) -> dict[str, Any]:
    total = minutes * accelerators if minutes is not None and accelerators else None
    # A demo is another task: its time says nothing about a published one.
    base = None if own.demo else own.minutes
    ratio = minutes / base if minutes is not None and base else None
    return {
        "name": name,
        "minutes": minutes,
        "accelerators": accelerators,
        "accelerator_minutes": total,
        "ratio": ratio,
        "availability": availability,
        "own": False,
    }
