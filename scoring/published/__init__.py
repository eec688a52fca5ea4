"""The published results of every round as one table; README.md here names its sources."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parent / "results.csv"
# Words of a submission's system description -> the four of the rules, or "available".
STATUS_WORDS = {
    **dict.fromkeys(("available on-premise", "available on premise", "on-premise"), "onprem"),
    **dict.fromkeys(("available cloud", "available in cloud"), "cloud"),
}
AVAILABLE = frozenset({"onprem", "cloud", "available"})


@dataclass(frozen=True)
class PublishedResult:
    """One published result."""

    round: str
    benchmark: str
    submitter: str
    system: str
    division: str
    status: str
    """``onprem``, ``cloud``, ``preview`` or ``research``; ``available`` where no more is known."""
    accelerator: str
    """Model name; empty for CPU only."""
    accelerators: int | None
    """Over all nodes; 0 for CPU only, None where the table does not say."""
    framework: str
    minutes: float | None
    """The score, times its scaling factor; None where the logs were not available."""
    scaling: float
    """Factor of the convergence test on the minutes; 1 for most, and for all before v2.1."""
    recalled_minutes: float | None
    """A remembered headline figure, not computed."""
    batch: str
    """Global batch size; empty where the logs do not have it."""

    @property
    def name(self) -> str:
        """Submitter and system."""
        return f"{self.submitter} {self.system}"

    @property
    def availability(self) -> str:
        """``available`` (on premise or in a cloud), ``preview`` or ``research``."""
        return availability(self.status)


def status_word(text: str) -> str:
    """Return the rules' word for a system description's status.

    Args:
        text: Such as ``Available on-premise``.

    Returns:
        ``onprem``, ``cloud``, ``available``, ``preview`` or ``research``; any other text in
        small letters.
    """
    word = text.strip().lower()
    return STATUS_WORDS.get(word, word)


def availability(status: str) -> str:
    """Return ``available`` for what can be bought or rented, otherwise the status itself."""
    return "available" if status in AVAILABLE else status


def published_rounds() -> list[str]:
    """List the rounds whose results ship here, oldest first.

    Returns:
        Names such as ``v1.0``.
    """
    return list(_tables())


def round_word(name: str) -> str:
    """Return a round's name in the form ``v1.0``.

    Args:
        name: Such as ``v1.0``, ``1.0`` or ``1.0.0``.

    Returns:
        The name; any other text is returned as it is.
    """
    return re.sub(r"^v?(\d+\.\d+)(\.0)?$", r"v\1", name)


def published(round_name: str) -> tuple[PublishedResult, ...]:
    """Return the published results of a round.

    Args:
        round_name: Such as ``v1.0``; the leading ``v`` is optional.

    Returns:
        Every row, including those without minutes.

    Raises:
        ValueError: If the table has no results of that round; the message lists those there are.
    """
    name = round_word(round_name)
    if name not in _tables():
        known = ", ".join(published_rounds())
        raise ValueError(f"no published results of {name} are included; choose one of {known}")
    return _tables()[name]


@cache
def _tables() -> Mapping[str, tuple[PublishedResult, ...]]:
    tables: dict[str, list[PublishedResult]] = {}
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            tables.setdefault(row["round"], []).append(_result(row))
    return {name: tuple(rows) for name, rows in tables.items()}


def _result(row: dict[str, str]) -> PublishedResult:
    count = row["accelerators"]
    return PublishedResult(
        round=row["round"],
        benchmark=row["benchmark"],
        submitter=row["submitter"],
        system=row["system"],
        division=row["division"],
        status=status_word(row["status"]),
        accelerator=row["accelerator"],
        accelerators=int(count) if count else None,
        framework=row["framework"],
        minutes=_number(row["minutes"]),
        scaling=_number(row["scaling"]) or 1.0,
        recalled_minutes=_number(row["minutes_recalled_unverified"]),
        batch=row["gbs"],
    )


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
