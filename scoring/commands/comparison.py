"""Contents of a comparison, whichever kind: JSON, tables and a plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.drawing.plots import Bars, bar_chart
from scoring.drawing.tables import Table


@dataclass(frozen=True)
class Comparison:
    """One comparison, before it is printed."""

    data: dict[str, Any]
    """Plain JSON values; ``context`` is printed above the tables and ``notes`` below them."""
    tables: list[Table]
    plot: Callable[[Path], None]
    """Draws it into a ``.png`` or ``.svg`` file."""


def with_bars(data: dict[str, Any], tables: list[Table], bars: Bars) -> Comparison:
    """Return a comparison whose plot is panels of bars."""
    return Comparison(data, tables, lambda path: bar_chart(bars, path))
