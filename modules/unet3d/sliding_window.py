"""Sliding-window inference as the MLPerf v1.0 reference does it, which MONAI's does not.

The reference crops a little off an axis or pads it until windows fit without shifting, blends
logits (not probabilities), and weighs them with the cube root of a Gaussian.

Shapes: C channels or classes, D H W voxels, N windows in one forward pass.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

# Below the smallest kidney and above air, but not the minimum of normalised data, -2.341.
PAD_VALUE = -2.2
SIGMA_PER_WINDOW = 0.125


@dataclass(frozen=True)
class AxisPlan:
    """Where the windows of one axis lie: first crop, then pad, then windows from each start.

    Args:
        size: Voxels of the axis as it comes.
        crop_low: Voxels taken off at the low end; they are never scored.
        crop_high: Voxels taken off at the high end.
        pad_low: Voxels added at the low end after cropping.
        pad_high: Voxels added at the high end after cropping.
        starts: First voxel of each window, counted in the cropped and padded axis.
    """

    size: int
    crop_low: int
    crop_high: int
    pad_low: int
    pad_high: int
    starts: tuple[int, ...]

    @property
    def scored(self) -> int:
        """Voxels left after the crop: those that get logits and count in the score."""
        return self.size - self.crop_low - self.crop_high

    @property
    def padded(self) -> int:
        """Voxels that the windows cover."""
        return self.pad_low + self.scored + self.pad_high


def plan_axis(size: int, *, window: int, overlap: float) -> AxisPlan:
    """Fit windows on one axis without shifting any.

    An axis that exceeds a multiple of the stride by less than half a stride is cropped to it
    (a trap of the reference: these voxels are never scored), any other is padded to the next.

    Args:
        size: Voxels of the axis.
        window: Voxels of a window.
        overlap: Share of a window that the next one covers too, in ``[0, 1)``.

    Returns:
        The plan; at 128 and 0.5, size 200 scores 192 voxels in 2 windows, 250 all in 3.

    Raises:
        ValueError: If the stride ``window * (1 - overlap)`` does not divide the window, or
            cropping would leave nothing of the axis.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/runtime/inference.py. Differs:
        an overlap whose windows would leave voxels uncovered is refused.
    """
    stride = round(window * (1.0 - overlap))
    if not 0 < stride <= window or window % stride:
        raise ValueError(
            f"overlap {overlap} of a window of {window} voxels is not possible: "
            f"its stride must be a whole divisor of the window (0.5 and 0.75 are common)"
        )
    excess = size % stride
    crop = excess if excess < stride // 2 else 0
    scored = size - crop
    if scored <= 0:
        raise ValueError(f"an axis of {size} voxels is too short for a window of {window}")
    padded = max(window, -(-scored // stride) * stride)
    pad = padded - scored
    return AxisPlan(
        size=size,
        crop_low=crop // 2,
        crop_high=crop - crop // 2,
        pad_low=pad // 2,
        pad_high=pad - pad // 2,
        starts=tuple(range(0, padded - window + 1, stride)),
    )


def plan_windows(
    shape: Sequence[int], *, window: Sequence[int], overlap: float
) -> tuple[AxisPlan, ...]:
    """Plan every axis of a volume.

    Args:
        shape: D, H, W of the volume.
        window: D, H, W of a window.
        overlap: Share of a window that the next one covers too.

    Returns:
        One plan per axis.
    """
    return tuple(
        plan_axis(size, window=side, overlap=overlap)
        for size, side in zip(shape, window, strict=True)
    )


def crop_to_scored(volume_BCDHW: Tensor, plan: Sequence[AxisPlan]) -> Tensor:
    """Cut off the voxels that are never scored; image and label alike.

    Args:
        volume_BCDHW: Any type, D H W as planned.
        plan: From ``plan_windows``.

    Returns:
        A view of the scored voxels.
    """
    return volume_BCDHW[_spatial((p.crop_low, p.scored) for p in plan)]


def axis_weights(window: int) -> Tensor:
    """Blending weights along one axis: the cube root of a Gaussian centred on the window.

    The reference takes the cube root of the 3-D map. A Gaussian is separable, so the root of each
    axis is the same: a Gaussian sqrt(3) wider, at most 1 after division by the maximum.

    Args:
        window: Voxels of a window; sigma is an eighth of it before the root.

    Returns:
        weights_W: float64 on the CPU in ``(0, 1]``.
    """
    offset = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    weights_W = torch.exp(-0.5 * (offset / (SIGMA_PER_WINDOW * window)) ** 2 / 3.0)
    return weights_W / weights_W.max()


def importance_map(window: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Weight of every voxel of a window when overlapping logits are blended.

    Args:
        window: D, H, W of a window.
        device: Where to put it.

    Returns:
        weights_DHW: float32; for 128^3 0.0724 amid a face and 3.80e-4 in a corner, never 0.
    """
    return _outer([axis_weights(side) for side in window], device)


@torch.no_grad()
def sliding_window_logits(
    net: Callable[[Tensor], Tensor],
    image_1CDHW: Tensor,
    *,
    window: Sequence[int],
    overlap: float,
    batch_size: int,
) -> Tensor:
    """Blend the logits of overlapping windows over one volume.

    Args:
        net: Maps windows (N, C, *window) to logits of the same D, H, W.
        image_1CDHW: One volume, normalised intensities.
        window: D, H, W of a window.
        overlap: Share of a window that the next one covers too; 0.5 in the closed division.
        batch_size: Windows in one forward pass; changes time and memory, not the result.

    Returns:
        logits_1CDHW: float32 (also if the net gives bfloat16) of the scored voxels, see
            ``crop_to_scored``.

    Raises:
        ValueError: If there is more than one volume or the net changes the window's shape.
    """
    if image_1CDHW.shape[0] != 1:
        raise ValueError(f"one volume at a time, got a batch of shape {tuple(image_1CDHW.shape)}")
    plan = plan_windows(image_1CDHW.shape[2:], window=window, overlap=overlap)
    padded_1CDHW = crop_to_scored(image_1CDHW, plan)
    pads = [pad for p in reversed(plan) for pad in (p.pad_low, p.pad_high)]
    if any(pads):  # torch would copy the volume to pad it by nothing
        padded_1CDHW = F.pad(padded_1CDHW, pads, value=PAD_VALUE)
    places = [
        _spatial(zip(starts, window, strict=True)) for starts in product(*(p.starts for p in plan))
    ]
    weights_DHW = importance_map(window, image_1CDHW.device)
    sum_1CDHW: Tensor | None = None
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        logits_NCDHW = net(torch.cat([padded_1CDHW[place] for place in batch]))
        _require_window(logits_NCDHW, len(batch), window)
        if sum_1CDHW is None:
            shape = (1, logits_NCDHW.shape[1], *(p.padded for p in plan))
            sum_1CDHW = torch.zeros(shape, dtype=torch.float32, device=logits_NCDHW.device)
        for place, logits_1CDHW in zip(batch, logits_NCDHW.float().split(1), strict=True):
            sum_1CDHW[place].addcmul_(logits_1CDHW, weights_DHW)
    assert sum_1CDHW is not None
    inside = _spatial((p.pad_low, p.scored) for p in plan)
    return sum_1CDHW[inside].div_(_summed_weights(plan, window, sum_1CDHW.device)[inside])


def _spatial(spans: Iterable[tuple[int, int]]) -> tuple[slice, ...]:
    """Index of a box in a B C D H W tensor, from first voxel and length per axis."""
    box = (slice(first, first + length) for first, length in spans)
    return (slice(None), slice(None), *box)


def _summed_weights(
    plan: Sequence[AxisPlan], window: Sequence[int], device: torch.device
) -> Tensor:
    """Weights of all windows per voxel, (1, 1, D, H, W): the grid is complete: axes sum apart."""
    sums = []
    for axis, side in zip(plan, window, strict=True):
        total = torch.zeros(axis.padded, dtype=torch.float64)
        for start in axis.starts:
            total[start : start + side] += axis_weights(side)
        sums.append(total)
    return _outer(sums, device)[None, None]


def _outer(axes: Sequence[Tensor], device: torch.device | None) -> Tensor:
    """Outer product of three vectors, in float32 on the device (not every one has float64)."""
    d, h, w = (axis.float().to(device) for axis in axes)
    return d[:, None, None] * h[:, None] * w


def _require_window(logits: Tensor, num_windows: int, window: Sequence[int]) -> None:
    if logits.shape[0] != num_windows or logits.shape[2:] != tuple(window):
        raise ValueError(
            f"the net must keep the window: expected logits of shape "
            f"({num_windows}, classes, {', '.join(map(str, window))}), got {tuple(logits.shape)}"
        )
