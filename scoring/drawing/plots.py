"""PNG and SVG bar charts of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scoring.drawing.tables import number

BAR_INCHES = 0.24
PLAIN, STRESSED = "#2a78d6", "#d9822b"


def bar_chart(groups: Sequence[tuple[str, Sequence[tuple[str, float, bool]]]], path: Path) -> None:
    """Draw one panel of horizontal bars per group.

    Args:
        groups: Panel title -> label, value and whether to stress it, in order from the top.
        path: Where to write; the suffix chooses the format (``.png`` or ``.svg``).

    Raises:
        ValueError: If the suffix is another, or there is nothing to draw.
    """
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot writes .png or .svg, got {path.name!r}")
    groups = [(title, bars) for title, bars in groups if bars]
    if not groups:
        raise ValueError("there is nothing to draw")
    # Not pyplot: it keeps global state and may want a display.
    from matplotlib.figure import Figure

    heights = [max(3, len(bars)) for _, bars in groups]
    figure = Figure(
        figsize=(9, 1.2 * len(groups) + BAR_INCHES * sum(heights)), layout="constrained"
    )
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (title, bars) in zip(panels, groups, strict=True):
        places = range(len(bars))
        colours = [STRESSED if stressed else PLAIN for _, _, stressed in bars]
        drawn = panel.barh(places, [value for _, value, _ in bars], color=colours)
        panel.bar_label(drawn, [number(value) for _, value, _ in bars], padding=3, fontsize=7)
        panel.set_yticks(places, [label for label, _, _ in bars], fontsize=7)
        panel.margins(y=0.01)
        panel.invert_yaxis()
        panel.set_title(title, loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
