"""The plot of quality against minutes that each run leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from callbacks.quality_target import Evaluation


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
        color = f"C{number}"
        values = [evaluation.quality[name] for evaluation in evaluations]
        axes.plot(minutes, values, marker="o", markersize=4, color=color, label=name)
        axes.axhline(goal, color=color, linestyle="--", linewidth=1, label=f"target {goal:g}")
    if not evaluations:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center")
    axes.set(xlabel="minutes on the clock", ylabel="quality", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
