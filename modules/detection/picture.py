"""A picture of a detector's results on held-out images, to judge by eye."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

COLUMNS = 4
MIN_SCORE = 0.3  # of a detection that is drawn
COLOURS = ("#e6194b", "#0b8f3a", "#3457d5", "#f58231", "#911eb4", "#008b8b", "#b8860b", "#d02090")


class DetectionExample(NamedTuple):
    """One image with its detections."""

    image: np.ndarray  # (H, W, 3) uint8
    box: np.ndarray  # (N, 4) corners in pixels of the image
    score: np.ndarray  # (N,)
    label: np.ndarray  # (N,) from 1
    mask: np.ndarray | None  # (N, H, W) bool


def save_detections(
    path: Path, examples: Sequence[DetectionExample], names: Sequence[str], title: str
) -> None:
    """Write a grid of images with boxes, masks, scores and class names (by label - 1)."""
    if not examples:
        return
    from matplotlib.figure import Figure

    rows = -(-len(examples) // COLUMNS)
    figure = Figure(figsize=(3 * COLUMNS, 3 * rows + 0.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, one in zip(axes, examples, strict=False):
        axis.imshow(_with_masks(one))
        for box, score, label in zip(one.box, one.score, one.label, strict=True):
            if score >= MIN_SCORE:
                caption = f"{names[label - 1]} {score:.2f}"
                _draw(axis, box, one.image.shape[:2], caption, COLOURS[label % len(COLOURS)])
    figure.savefig(path, dpi=100)


def _draw(axis: object, box: np.ndarray, size: tuple[int, ...], text: str, colour: str) -> None:
    """Draw the part of one box inside the image, with its caption inside as well."""
    from matplotlib.patches import Rectangle

    height, width = size
    x1, y1, x2, y2 = np.clip(box, 0, [width - 1, height - 1] * 2).tolist()
    if x1 == x2 or y1 == y2:
        return
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5)
    axis.add_patch(patch)  # type: ignore[attr-defined]
    frame = {"facecolor": colour, "edgecolor": "none", "pad": 1, "alpha": 0.8}
    left, below = x1 < 0.7 * width, y1 < 0.06 * height
    axis.text(  # type: ignore[attr-defined]
        x1 if left else x2,
        y1,
        text,
        horizontalalignment="left" if left else "right",
        verticalalignment="top" if below else "bottom",
        color="white",
        fontsize=7,
        bbox=frame,
        parse_math=False,
        clip_on=True,
    )


def _with_masks(one: DetectionExample) -> np.ndarray:
    """Blend every drawn detection's mask into the image."""
    image = one.image.astype(np.float32)
    if one.mask is not None:
        for mask, score, label in zip(one.mask, one.score, one.label, strict=True):
            if score >= MIN_SCORE:
                colour = COLOURS[label % len(COLOURS)]
                rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
                image[mask] = 0.5 * image[mask] + 0.5 * rgb
    return image.astype(np.uint8)
