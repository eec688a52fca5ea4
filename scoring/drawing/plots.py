"""Draws the charts of a comparison as PNG or SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scoring.drawing.tables import number

BAR_INCHES = 0.24
PLAIN, MARKED = "#2a78d6", "#d9822b"
OTHERS = ("#7b58b8", "#2f9e77", "#b3261e", "#5c636b")


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
    groups = [(title, bars) for title, bars in groups if bars]
    heights = [max(3, len(bars)) for _, bars in groups]
    size = (9, 1.2 * len(groups) + BAR_INCHES * sum(heights))
    figure, panels = _figure(path, len(groups), size, height_ratios=heights)
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
    _save(figure, path)


def _figure(path: Path, count: int, size: tuple[float, float], **grid: Any) -> tuple[Any, Any]:
    """Return a figure and its panels, one below the other."""
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot writes .png or .svg, got {path.name!r}")
    if not count:
        raise ValueError("there is nothing to draw")
    # Not pyplot: it keeps global state and may require a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(count, 1, squeeze=False, **grid)[:, 0]


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


class Curve(NamedTuple):
    """One line of a plot: a value at some of the positions of the axis."""

    label: str
    points: list[tuple[str, float]]


def line_charts(
    panels: list[tuple[str, list[Curve]]], positions: Sequence[str], path: Path
) -> None:
    """Draw one panel per group of curves, over named positions and a logarithmic axis.

    Args:
        panels: Title and curves, in order from the top.
        positions: The names along the horizontal axis, in order.
        path: Where to write; the suffix chooses the format (``.png`` or ``.svg``).

    Raises:
        ValueError: If the suffix is a different one, or there is nothing to draw.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    panels = [(title, [c for c in curves if c.points]) for title, curves in panels]
    panels = [panel for panel in panels if panel[1]]
    figure, axes = _figure(path, len(panels), (9, 3.6 * max(1, len(panels))))
    for axis, (title, curves) in zip(axes, panels, strict=True):
        for curve, colour in zip(curves, (PLAIN, MARKED, *OTHERS) * len(curves), strict=False):
            xs = [positions.index(name) for name, _ in curve.points]
            axis.plot(
                xs, [value for _, value in curve.points], "o-", label=curve.label, color=colour
            )
            for x, (_, value) in zip(xs, curve.points, strict=True):
                offset = {"xytext": (0, 6), "textcoords": "offset points"}
                axis.annotate(number(value), (x, value), ha="center", fontsize=7, **offset)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlim(-0.5, len(positions) - 0.5)
        axis.margins(y=0.15)
        axis.set_xticks(range(len(positions)), positions)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylabel("minutes")
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
