"""The plot of quality over minutes that each run leaves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.live_line import human_time
from callbacks.quality_target import Evaluation

# Distinct also with red-green blindness and in print (Okabe and Ito's blue, orange, green).
COLORS = ("#0072b2", "#d55e00", "#009e73")
TITLE_COLUMNS = 75  # what fits the figure's width; a resumed run's title is longer


def run_title(record: Mapping[str, Any]) -> str:
    """Say what ran and how it ended: ``unet3d demo, UNet3D, seed 7: target reached after 9 s``."""
    kind = "demo" if record["demo"] else f"{record['division']} division"
    net = record["net"]
    net = str(net["class"] if isinstance(net, dict) else net).rpartition(".")[2]
    ended = str(record["stop_reason"]).replace("_", " ").lower()
    after = human_time(record["seconds"]["total"])
    resumed = " (resumed, no timed result)" if record["resumed"] else ""
    what = f"{record['benchmark']} {kind}, {net}, seed {record['seed']}"
    return f"{what}: {ended} after {after}{resumed}"


def save_curve(
    path: Path,
    evaluations: Sequence[Evaluation],
    target: Mapping[str, float],
    title: str = "",
    words: Mapping[str, str] | None = None,
) -> None:
    """Draw every target metric over timed minutes into a PNG, with a dashed line at its target.

    Args:
        path: PNG file to write.
        evaluations: What was measured when; the last value is printed at its point.
        target: Metric name -> value to reach.
        title: Above the plot.
        words: Metric name -> name in words; others lose their underscores.
    """
    # matplotlib takes half a second to import and is not needed before the clock has stopped.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    minutes = [evaluation.seconds / 60 for evaluation in evaluations]
    names = {name: (words or {}).get(name, name.replace("_", " ")) for name in target}
    for number, (name, goal) in enumerate(target.items()):
        color = COLORS[number % len(COLORS)]
        values = [evaluation.quality[name] for evaluation in evaluations]
        axes.plot(minutes, values, marker="o", markersize=4, color=color)
        axes.axhline(goal, color=color, linestyle="--", linewidth=1)
        if values and math.isfinite(values[-1]):
            after = human_time(evaluations[-1].seconds)
            _label_end(axes, minutes[-1], values[-2:], f"{values[-1]:.4g} after {after}", color)
        # Labels at the lines themselves: a legend would cover some of them.
        text = f"target {goal:g}" if len(target) == 1 else f"{names[name]}, target {goal:g}"
        across = axes.get_yaxis_transform()  # x counts from axis to axis, y in data
        axes.text(0.01, goal, text, transform=across, va="bottom", color=color, fontsize=9)
    if not evaluations:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center")
    label = " and ".join(names.values()) if len(target) < 3 else "quality"
    axes.set(xlabel="minutes on the clock", ylabel=label, xlim=(0, None))
    axes.set_title(textwrap.fill(title, TITLE_COLUMNS), loc="left", fontsize=10, pad=12)
    axes.margins(y=0.12)  # room for the labels of the last points
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _label_end(axes: Any, minute: float, values: Sequence[float], text: str, color: str) -> None:
    """Print the last value at its point, on the side that the curve does not come from."""
    above = values[-1] >= values[0]
    label = axes.annotate(
        text,
        (minute, values[-1]),
        xytext=(0, 6 if above else -6),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        color=color,
        fontsize=10,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
    )
    label.set_in_layout(False)  # it is inside the axes
