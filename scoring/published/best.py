"""Finds the best published result, and whether one whose logs are missing may be better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scoring.published import PublishedResult


@dataclass(frozen=True)
class Best:
    """The fastest of some results."""

    result: PublishedResult | None
    """The fastest whose logs could be read; None if there is none."""
    doubts: tuple[PublishedResult, ...] = ()
    """Results without logs that are, or may be, faster."""

    @property
    def certain(self) -> bool:
        return self.result is not None and not self.doubts

    @property
    def minutes(self) -> float | None:
        return self.result.minutes if self.result else None

    @property
    def name(self) -> str:
        """The result's name, or that of the likeliest to be faster."""
        if self.result is not None and not self.doubts:
            return self.result.name
        return f"{min(self.doubts, key=_likely_order).name} (logs missing)"


def _likely_order(row: PublishedResult) -> tuple[float, int]:
    return row.recalled_minutes or math.inf, -(row.accelerators or 0)


def best_of(rows: Sequence[PublishedResult]) -> Best:
    """Return the fastest of some results of one benchmark."""
    timed = [row for row in rows if row.minutes is not None]
    first = min(timed, key=lambda row: row.minutes or 0, default=None)
    absent = [row for row in rows if row.minutes is None]
    return Best(first, tuple(row for row in absent if first is None or _may_be_faster(row, first)))


def _may_be_faster(absent: PublishedResult, best: PublishedResult) -> bool:
    """Judge by the remembered minutes, otherwise by the number of accelerators."""
    if absent.recalled_minutes is not None and best.minutes is not None:
        return absent.recalled_minutes < best.minutes
    return (absent.accelerators or 0) > (best.accelerators or 0)
