"""Ranks a score among the published results of its benchmark."""

from __future__ import annotations

from typing import Any

from scoring.published import published
from scoring.rules.scores import Score


def rank(own: Score, round_name: str) -> dict[str, Any]:
    """Rank one score among the published results of its benchmark.

    Args:
        own: The score.
        round_name: Which round's table.

    Returns:
        ``rank`` (None if it has no minutes, too few runs or is a demo), ``of``, ``shown_division``
        (closed where nothing was published in its own), and ``rows`` in order of minutes, each with
        ``name``, ``minutes``, ``accelerators``, ``accelerator_minutes`` and ``ratio`` (its minutes
        divided by ours). Our own row is the last one where it cannot be ranked: a demo, or with too
        few runs.
    """
    division = own.division or "closed"
    others = [
        r for r in published(round_name) if r.benchmark == own.benchmark and r.minutes is not None
    ]
    shown = division if any(r.division == division for r in others) else "closed"
    rows = [
        _row(r.name, r.minutes, r.accelerators, own, availability=r.availability)
        for r in others
        if r.division == shown
    ]
    of = len(rows) if shown == division else 0
    comparable = not own.demo and not own.runs_missing
    position = None
    if comparable and of > 0 and own.minutes is not None:
        position = 1 + sum(
            row["minutes"] < own.minutes - 5e-4 for row in rows if row["name"] != own.name
        )
    figure = own.provisional_minutes if own.minutes is None else own.minutes
    rows.sort(key=lambda row: row["minutes"])
    if figure is not None:
        own_row = _row(own.name, own.minutes, own.accelerators, own, availability="")
        above = sum(row["minutes"] <= figure for row in rows) if comparable else len(rows)
        own_row |= {
            "provisional": own.provisional,
            "provisional_minutes": own.provisional_minutes,
            "own": True,
            "comparable": comparable,
        }
        rows.insert(above, own_row)
    return {
        "benchmark": own.benchmark,
        "division": division,
        "shown_division": shown,
        "name": own.name,
        "minutes": own.minutes,
        "provisional_minutes": own.provisional_minutes,
        "demo": own.demo,
        "rank": position,
        "of": of,
        "rows": rows,
    }


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
