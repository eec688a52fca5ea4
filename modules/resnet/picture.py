"""A picture of classified images, to judge by eye.

Letters: H W pixels.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

COLUMNS, WIDTH_INCHES = 6, 8.0
RIGHT, WRONG = "#00694f", "#c23b00"
LINE = 18  # characters of a caption's line


class ClassifiedImage(NamedTuple):
    """An image with its class and the predicted one."""

    image: np.ndarray  # (H, W, 3) uint8
    label: int
    predicted: int
    probability: float  # of the predicted class


def save_images(path: Path, examples: Sequence[ClassifiedImage], names: Sequence[str]) -> None:
    """Write a grid of images, each with the predicted class, and the true one where that differs.

    Args:
        path: PNG file to write.
        examples: At least one.
        names: Names of the classes by number; may be empty.
    """
    from matplotlib.figure import Figure

    rows = -(-len(examples) // COLUMNS)
    side = WIDTH_INCHES / COLUMNS
    figure = Figure(figsize=(WIDTH_INCHES, 0.7 + rows * (side + 0.4)), layout="constrained")
    right = sum(one.label == one.predicted for one in examples)
    figure.suptitle(
        f"{len(examples)} held-out images: {right} classified right (green), "
        f"{len(examples) - right} wrong (red)",
        fontsize=12,
    )
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, one in zip(axes, examples, strict=False):
        axis.imshow(one.image)
        axis.set_title(
            _caption(one, names),
            color=RIGHT if one.label == one.predicted else WRONG,
            fontsize=9,
            parse_math=False,
        )
    figure.savefig(path, dpi=100)


def _caption(one: ClassifiedImage, names: Sequence[str]) -> str:
    predicted = f"{_name(one.predicted, names)} {one.probability:.0%}"
    if one.label == one.predicted:
        return textwrap.fill(predicted, LINE)
    true = f"true: {_name(one.label, names)}"
    return f"{textwrap.fill(predicted, LINE)}\n{textwrap.fill(true, LINE)}"


def _name(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else f"class {number}"
