"""Anchors of the region proposal network, by the rounding rule of the first Faster R-CNN.

Letters: A anchors; boxes are x1, y1, x2, y2 with inclusive corners, in pixels of the input.
"""

import functools

import numpy as np
import torch
from torch import Tensor

RATIOS = (0.5, 1.0, 2.0)  # height over width


def base_anchors(stride: int, size: float) -> np.ndarray:
    """Return the top left cell's anchors (3, 4) in float64, one row per ratio.

    Source:
        mlcommons/training (v1.0), maskrcnn_benchmark/modeling/rpn/anchor_generator.py.
    """
    # Sides are rounded at the scale of the stride and scaled up afterwards, unlike torchvision's.
    centre = (stride - 1) / 2
    rows = []
    for ratio in RATIOS:
        width = np.round(np.sqrt(stride * stride / ratio))
        height = np.round(width * ratio)
        half = np.array([width, height]) * (size / stride) / 2 - 0.5
        rows.append([centre - half[0], centre - half[1], centre + half[0], centre + half[1]])
    return np.array(rows)


@functools.lru_cache(maxsize=256)
def anchor_grid(height: int, width: int, stride: int, size: float, device: torch.device) -> Tensor:
    """Return anchor_A4 of a feature map of height x width cells: row, then column, then ratio."""
    base = torch.from_numpy(base_anchors(stride, size)).float().to(device)
    x = torch.arange(width, device=device) * stride
    y = torch.arange(height, device=device) * stride
    shift = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width)] * 2, -1
    ).reshape(-1, 1, 4)
    return (shift + base).reshape(-1, 4)
