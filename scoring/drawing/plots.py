"""Draws the bar charts of a comparison as PNG or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from scoring.drawing.tables import number

BAR_INCHES = 0.24
PLAIN, MARKED = "#2a78d6", "#d9822b"


class Bar(NamedTuple):
    """One bar of a plot."""

    label: str
    value: float
    marked: bool = False


# Panel title and bars.
Bars = list[tuple[str, list[Bar]]]


def bar_chart(groups: Bars, path: Path) -> None:
    """Draw one panel of horizontal bars per group.

    Args:
        groups: Panel title and bars, in order from the top.
        path: Where to write; the suffix chooses the format (``.png`` or ``.svg``).

    Raises:
        ValueError: If the suffix is a different one, or there is nothing to draw.
    """
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot writes .png or .svg, got {path.name!r}")
    groups = [(title, bars) for title, bars in groups if bars]
    if not groups:
        raise ValueError("there is nothing to draw")
    # Not pyplot: it keeps global state and may require a display.
    from matplotlib.figure import Figure

    heights = [max(3, len(bars)) for _, bars in groups]
    figure = Figure(
        figsize=(9, 1.2 * len(groups) + BAR_INCHES * sum(heights)), layout="constrained"
    )
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (title, bars) in zip(panels, groups, strict=True):
        positions = range(len(bars))
        colours = [MARKED if bar.marked else PLAIN for bar in bars]
        drawn = panel.barh(positions, [bar.value for bar in bars], color=colours)
        panel.bar_label(drawn, [number(bar.value) for bar in bars], padding=3, fontsize=7)
        panel.set_yticks(positions, [bar.label for bar in bars], fontsize=7)
        panel.margins(y=0.01)
        panel.invert_yaxis()
        panel.set_title(title, loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
