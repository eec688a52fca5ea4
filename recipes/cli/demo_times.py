"""How long the demos take: the measured rows of ``recipes/presets/demo_times.csv``."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).parents[1] / "presets" / "demo_times.csv"


class DemoTime(NamedTuple):
    """Times of one benchmark's demo over seeds, on two cores."""

    seeds: int
    reached: int
    median: float
    """Minutes on the clock; a run that missed the target counts as it ended."""
    worst: float
    processor: float
    """Median of processor minutes of the whole command, imports and demo data included."""

    def __str__(self) -> str:
        return f"{self.median:.1f} min (worst {self.worst:.1f})"


def rows(table: Path = TABLE) -> list[dict[str, str]]:
    """Return the rows as text by column; none if nothing was measured yet."""
    if not table.is_file():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def demo_time(stem: str, table: Path = TABLE) -> DemoTime:
    """Summarise the measured runs of one demo.

    Args:
        stem: Benchmark, such as ``unet3d``.
        table: CSV file as ``python -m tests.demo_times`` writes it.

    Returns:
        Times in minutes.

    Raises:
        ValueError: If the table has no run of this benchmark.
    """
    runs = [row for row in rows(table) if row["stem"] == stem]
    if not runs:
        raise ValueError(f"{table} has no run of {stem}; run python -m tests.demo_times {stem}")
    minutes = [float(row["seconds"]) / 60 for row in runs]
    return DemoTime(
        seeds=len(runs),
        reached=sum(row["reached"] == "yes" for row in runs),
        median=statistics.median(minutes),
        worst=max(minutes),
        processor=statistics.median(float(row["processor_seconds"]) / 60 for row in runs),
    )
