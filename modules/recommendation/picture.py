"""ROC curve and calibration of predicted click probabilities, to judge by eye.

Letters: N rows, Q bins.
"""

from pathlib import Path

import numpy as np

COLOUR, GUIDE = "#0072b2", "#777777"
NUM_BINS, NUM_POINTS = 20, 500


def roc_curve(score_N: np.ndarray, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of non-clicks and of clicks above each score, from 0 to 1.

    Args:
        score_N: Predicted probabilities.
        label_N: 0 or 1, each at least once.

    Returns:
        Both shares, a value per distinct score and one for none.
    """
    order = np.argsort(-score_N, kind="stable")
    label, score = label_N[order].astype(np.int64), score_N[order]
    ends = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of equal scores
    clicks = np.append(0, np.cumsum(label)[ends])
    others = np.append(0, np.cumsum(1 - label)[ends])
    return others / others[-1], clicks / clicks[-1]


def calibration(score_N: np.ndarray, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean prediction and share of clicks of bins with about equally many rows.

    Args:
        score_N: Predicted probabilities.
        label_N: 0 or 1.

    Returns:
        predicted_Q and observed_Q, by rising prediction.
    """
    order = np.argsort(score_N, kind="stable")
    bins = [rows for rows in np.array_split(order, NUM_BINS) if len(rows)]
    predicted = np.array([score_N[rows].mean() for rows in bins])
    return predicted, np.array([label_N[rows].mean() for rows in bins])


def save_plots(path: Path, score_N: np.ndarray, label_N: np.ndarray, area: float) -> None:
    """Draw ROC curve and calibration next to each other.

    Args:
        path: PNG file to write.
        score_N: Predicted probabilities, float.
        label_N: 0 or 1, each at least once.
        area: Under the ROC curve of all rows, for the title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    figure.suptitle(f"Predicted clicks on {len(score_N):,} held-out rows", fontsize=12)
    roc, bins = figure.subplots(1, 2)
    others, clicks = roc_curve(score_N, label_N)
    few = np.unique(np.linspace(0, len(others) - 1, NUM_POINTS).astype(int))
    roc.plot(others[few], clicks[few], color=COLOUR, linewidth=2, label="network")
    roc.plot([0, 1], [0, 1], color=GUIDE, linestyle="--", linewidth=1, label="chance (0.5)")
    roc.set(xlabel="share of non-clicks above the threshold",
            ylabel="share of clicks above the threshold")  # fmt: skip
    roc.set_title(f"ROC curve: area {area:.4f}", fontsize=11)
    predicted, observed = calibration(score_N, label_N)
    top = 1.05 * max(predicted.max(), observed.max())
    bins.plot([0, top], [0, top], color=GUIDE, linestyle="--", linewidth=1, label="perfect")
    bins.plot(predicted, observed, "o-", color=COLOUR, markersize=5, label="network")
    bins.set(xlabel="predicted probability of a click", ylabel="share of clicks that happened")
    bins.set_title(f"calibration: {len(predicted)} groups of equal size", fontsize=11)
    for axes in (roc, bins):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
        axes.legend(loc="lower right", fontsize=9)
    figure.savefig(path, dpi=100)
