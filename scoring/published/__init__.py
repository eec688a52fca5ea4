"""The published tables of two rounds (README.md in this directory names their sources)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PublishedResult:
    """One published result."""

    round: str
    benchmark: str
    submitter: str
    system: str
    division: str
    availability: str
    accelerator: str
    accelerators: int | None
    """Over all nodes; 0 for CPU only, None where the table does not say."""
    minutes: float | None
    """None where the logs were not available."""
    recalled_minutes: float | None
    """A remembered headline figure, not computed."""
    batch: str

    @property
    def name(self) -> str:
        return f"{self.submitter} {self.system}"


@cache
def published(round_name: str) -> tuple[PublishedResult, ...]:
    """Read the published table of a round.

    Args:
        round_name: Such as ``v1.0``; the leading ``v`` is optional.

    Returns:
        Every row, including those without minutes.

    Raises:
        ValueError: If there is no table of that round; the message lists those there are.
    """
    name = round_name if round_name.startswith("v") else f"v{round_name}"
    path = FOLDER / f"published_{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem.removeprefix("published_") for p in FOLDER.glob("*.csv")))
        raise ValueError(f"no published results of {round_name!r}; choose one of {known}")
    with path.open(newline="") as file:
        return tuple(_result(name, row) for row in csv.DictReader(file))


def _result(round_name: str, row: dict[str, str]) -> PublishedResult:
    count = row["total_accelerators"]
    return PublishedResult(
        round=round_name,
        benchmark=row["benchmark"],
        submitter=row["submitter"],
        system=row["system_name"],
        division=row["division"],
        availability=row["availability"],
        accelerator=row["accelerator"],
        accelerators=int(count) if count else None,
        minutes=float(row["minutes"]) if row["minutes"] else None,
        recalled_minutes=_number(row["minutes_recalled_unverified"]),
        batch=row["global_batch_size"],
    )


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
