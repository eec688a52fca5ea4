"""Slices of a CT volume with label and prediction, to judge by eye.

Letters: S slices, H W pixels of a slice, K foreground classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

COLOURS = ((0, 158, 115), (213, 94, 0), (0, 114, 178), (204, 121, 167), (230, 159, 0))
# Normalised intensities that become black and white; what preprocessing clips to.
DARKEST, BRIGHTEST = -2.34, 2.64
WIDTH_INCHES = 8.0


class Slices(NamedTuple):
    """Slices of one volume; ``label`` is None where there is none."""

    image: np.ndarray  # (S, H, W) float, normalised
    label: np.ndarray | None  # (S, H, W) class ids
    predicted: np.ndarray  # (S, H, W) class ids
    numbers: Sequence[int]  # of the slices in their volume
    title: str  # of the volume, below the slice's number


def save_slices(path: Path, rows: Sequence[Slices], names: Sequence[str], title: str) -> None:
    """Write a row of panels per slice: CT, CT with label (if there is one), CT with prediction.

    Args:
        path: PNG file to write.
        rows: Volumes, at least one slice in all.
        names: Names of the foreground classes, from class 1 on.
        title: Of the whole picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = [(volume, k) for volume in rows for k in range(len(volume.predicted))]
    columns = 2 if all(volume.label is None for volume in rows) else 3
    heights = [volume.image.shape[1] / volume.image.shape[2] for volume, _ in panels]
    height = 0.9 + sum(WIDTH_INCHES / columns * ratio + 0.35 for ratio in heights)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(len(panels), columns, squeeze=False)
    for axes, (volume, k) in zip(grid, panels, strict=True):
        _draw_row(axes, volume, k)
    classes = range(1, 1 + max(len(names), 1))
    handles = [
        Patch(
            color=tuple(np.array(_colour(c)) / 255), label=names[c - 1] if names else f"class {c}"
        )
        for c in classes
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=10)
    figure.savefig(path, dpi=100)


def _draw_row(axes: np.ndarray, volume: Slices, k: int) -> None:
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    image = volume.image[k]
    shown = [("CT", None)]
    if len(axes) == 3:
        shown.append(("label", None if volume.label is None else volume.label[k]))
    shown.append(("prediction", volume.predicted[k]))
    for axis, (title, mask) in zip(axes, shown, strict=True):
        axis.imshow(overlay(image, mask))  # voxels are square within a slice
        axis.set_title(title, fontsize=11)
    axes[0].set_ylabel(f"slice {volume.numbers[k]}{volume.title}", fontsize=9)


def overlay(image_HW: np.ndarray, mask_HW: np.ndarray | None) -> np.ndarray:
    """Return a grey slice, (H, W, 3) uint8, with half-transparent classes of a mask over it."""
    grey = np.clip((image_HW - DARKEST) / (BRIGHTEST - DARKEST), 0, 1) * 255
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if mask_HW is not None:
        for c in np.unique(mask_HW[mask_HW > 0]):
            rgb[mask_HW == c] = 0.45 * rgb[mask_HW == c] + 0.55 * np.array(_colour(int(c)))
    return rgb.astype(np.uint8)


def _colour(c: int) -> tuple[int, int, int]:
    return COLOURS[(c - 1) % len(COLOURS)]


def fullest_slices(mask_DHW: np.ndarray, count: int) -> list[int]:
    """Return the numbers of slices with much foreground, spread over the parts that have any."""
    per_slice = (mask_DHW > 0).sum((1, 2))
    if not per_slice.any():
        return [len(per_slice) // 2][:count]
    filled = np.flatnonzero(per_slice)
    parts = np.array_split(filled, min(count, len(filled)))
    return [int(part[per_slice[part].argmax()]) for part in parts]
