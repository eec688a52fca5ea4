"""The plot of quality against minutes that each run leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from callbacks.quality_target import Evaluation

# Told apart by people who see no red or green, and on paper (Okabe and Ito's blue, orange, green).
COLORS = ("#0072b2", "#d55e00", "#009e73")


def save_curve(path: Path, evaluations: Sequence[Evaluation], target: Mapping[str, float]) -> None:
    """Draw every target metric over timed minutes, with its target as a dashed line.

    Args:
        path: PNG file to write.
        evaluations: In the order they happened; none gives a plot that says so.
        target: Metric name -> value to reach.
    """
    # matplotlib takes half a second to import and is not needed before the clock has stopped.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    minutes = [evaluation.seconds / 60 for evaluation in evaluations]
    for number, (name, goal) in enumerate(target.items()):
        color = COLORS[number % len(COLORS)]
        values = [evaluation.quality[name] for evaluation in evaluations]
        axes.plot(minutes, values, marker="o", markersize=4, color=color)
        axes.axhline(goal, color=color, linestyle="--", linewidth=1)
        # Names stand at the lines themselves: a legend would cover some of them.
        text = f"target {goal:g}" if len(target) == 1 else f"{name}, target {goal:g}"
        across = axes.get_yaxis_transform()  # x counts from axis to axis, y in data
        axes.text(0.01, goal, text, transform=across, va="bottom", color=color, fontsize=9)
    if not evaluations:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center")
    label = next(iter(target)) if len(target) == 1 else "quality"
    axes.set(xlabel="minutes on the clock", ylabel=label, xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
