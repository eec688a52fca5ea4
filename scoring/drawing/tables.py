"""Format what the commands print: tables for the terminal, as Markdown or CSV, and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scoring.runs.plain_text import plain

BETWEEN_COLUMNS = 2
FIRST_COLUMN = 24
FILE_WIDTH = 160
# A table with this few columns is readable even where its cells wrap.
FEW_COLUMNS = 4
# Numbers and a lone dash are none.
FORMULA = re.compile(r"[=+@\t\r]|-(?![\d.]|$)")


class Ratio(float):
    """A ratio, shown as ``2.06x``; CSV gets the number."""


class AtLeast(Ratio):
    """A lower bound of a ratio, shown as ``>= 1.74x``."""


@dataclass
class Table:
    """Rows of cells under headings."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    numeric: frozenset[str] = frozenset()
    """Columns to right-align."""
    marked: set[int] = field(default_factory=set)
    """Rows to highlight, counted from 0."""
    ruled: set[int] = field(default_factory=set)
    """Rows to set apart from those above by a rule; an empty row in Markdown."""

    def markdown(self) -> str:
        """Return the table as Markdown, with the title in bold above.

        Returns:
            Markdown text.
        """
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.columns) + " |"]
        lines.append(
            "|" + "|".join("--:" if c in self.numeric else "---" for c in self.columns) + "|"
        )
        for number, row in enumerate(self.rows):
            if number in self.ruled:
                lines.append("|" + " |" * len(self.columns))
            cells = [text(cell).replace("|", "\\|") for cell in row]
            if number in self.marked:
                cells = [f"**{cell}**" if cell else "" for cell in cells]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def rich(self, width: int = 160) -> Any:
        """Return the table as a rich renderable.

        Args:
            width: Characters per line to fit into: headings wrap at words if necessary, then the
                first column.

        Returns:
            The renderable.
        """
        from rich.box import SIMPLE_HEAD
        from rich.rule import Rule
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=self.title,
            title_justify="left",
            title_style="bold",
            pad_edge=False,
            padding=(0, 1, 0, 0),
            box=SIMPLE_HEAD,
        )
        broken = sum(self._widths(str.splitlines)) > width
        first = width - sum(self._widths(str.split)[1:])
        for position, column in enumerate(self.columns):
            table.add_column(
                "\n".join(column.split()) if broken else column,
                justify="right" if column in self.numeric else "left",
                max_width=max(FIRST_COLUMN, first) if position == 0 else None,
                overflow="fold",
                no_wrap=position > 0 and len(self.columns) > FEW_COLUMNS,
                vertical="bottom" if len(self.columns) > FEW_COLUMNS else "top",
            )
        for number, row in enumerate(self.rows):
            if number in self.ruled:
                table.add_row(*(Rule(style="") for _ in self.columns))
            style = "bold" if number in self.marked else ""
            table.add_row(*(Text(text(cell)) for cell in row), style=style)
        return table

    def show(self) -> None:
        """Print the table, or each row as a list where it is too wide for the terminal."""
        from rich.console import Console

        first, *others = self._widths(str.split)
        least = min(first, FIRST_COLUMN) + sum(others)
        console = Console()
        if not console.is_terminal:  # a file is as wide as it needs to be
            whole = max(FILE_WIDTH, first + sum(others))
            console = Console(width=int(os.environ.get("COLUMNS", whole)))
        if least <= console.width or len(self.columns) <= FEW_COLUMNS:
            console.print(self.rich(console.width))
        else:
            console.print(self.title, style="bold", highlight=False, soft_wrap=True)
            for number, row in enumerate(self.rows):
                if number in self.ruled:
                    console.rule(style="")
                console.print(self._as_list(row), highlight=False, markup=False, soft_wrap=True)
            console.print()

    def _widths(self, parts: Callable[[str], list[str]]) -> list[int]:
        """Return the characters that each column needs, with the space after it."""
        cells = [[text(row[i]) for row in self.rows] for i in range(len(self.columns))]
        return [
            max(map(len, [*parts(heading), *column]), default=0) + BETWEEN_COLUMNS
            for heading, column in zip(self.columns, cells, strict=True)
        ]

    def _as_list(self, row: Sequence[Any]) -> str:
        cells = [(name, text(cell)) for name, cell in zip(self.columns, row, strict=True)]
        width = max(map(len, self.columns))
        return "\n" + "\n".join(f"  {name:{width}}  {cell}" for name, cell in cells if cell)


def as_csv(tables: Sequence[Table]) -> str:
    """Write tables as one CSV, numbers unrounded; the first column names the table.

    Args:
        tables: Tables in order; consecutive ones with the same columns share a heading row.

    Returns:
        CSV text.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heading: Sequence[str] = ()
    for table in tables:
        if list(table.columns) != list(heading):
            heading = table.columns
            writer.writerow(["table", *map(_csv_cell, heading)])
        for row in table.rows:
            writer.writerow(map(_csv_cell, [table.title, *row]))
    return out.getvalue()


def _csv_cell(cell: Any) -> Any:
    """Keep a spreadsheet from taking a text for a formula: it shows one behind an apostrophe."""
    if isinstance(cell, str) and FORMULA.match(cell):
        return f"'{cell}"
    return "" if cell is None else cell


def text(cell: Any) -> str:
    """Return a cell's text: numbers shortened, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, AtLeast):
        return f">= {cell:.2f}x"
    if isinstance(cell, Ratio):
        return f"{cell:.2f}x"
    if isinstance(cell, float):
        return number(cell)
    return str(plain(str(cell)))


def interval(low: float | None, high: float | None) -> str:
    """Describe an interval.

    Args:
        low: Lower end; None if there is none.
        high: Upper end; None if it is unbounded.

    Returns:
        Short text.
    """
    if low is None:
        return "-"
    return f"{number(low)} or more" if high is None else f"{number(low)} to {number(high)}"


def number(value: float | None) -> str:
    """Format a figure with four significant digits, at most four decimals, thousands separated.

    Args:
        value: The figure; None gives a dash.

    Returns:
        Short text.
    """
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    decimals = max(0, min(4, 3 - math.floor(math.log10(abs(value)))))
    return f"{value:.{decimals}f}"


def print_json(value: Any) -> None:
    """Print one JSON document.

    Args:
        value: Plain JSON values.
    """
    print(json.dumps(value, indent=2, allow_nan=False))
