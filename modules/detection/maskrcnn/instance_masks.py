"""Instance masks: polygons to small training targets, small predictions to whole-image masks.

Letters: R regions, N detections, S = 28 side of a mask.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Polygons = Sequence[np.ndarray]
MASK_SIZE = 28
THRESHOLD = 0.5


def polygon_targets(polygons: Sequence[Polygons], box_R4: Tensor, size: int = MASK_SIZE) -> Tensor:
    """Rasterise each object's polygons inside its region, stretched to a square.

    Args:
        polygons: Per region the matched object's polygons, (corners, 2) in pixels.
        box_R4: Regions, corners in pixels; sides are x2 - x1 here and at least 1.
        size: Side of a target.

    Returns:
        target_RSS: float32 zeros and ones on the regions' device.

    Source:
        mlcommons/training (v1.0), maskrcnn_benchmark/structures/segmentation_mask.py: polygons are
        moved, scaled and rasterised by COCO's own code, not clipped to the region first.
    """
    boxes = box_R4.detach().cpu().numpy().astype(np.float64)
    targets = np.zeros((len(boxes), size, size), dtype=np.float32)
    for target, rings, box in zip(targets, polygons, boxes, strict=True):
        scale = size / np.maximum(box[2:] - box[:2], 1)
        target[:] = rasterise([(ring - box[:2]) * scale for ring in rings], size, size)
    return torch.from_numpy(targets).to(box_R4.device)


def rasterise(polygons: Polygons, height: int, width: int) -> np.ndarray:
    """Union of polygons as COCO's mask code draws them.

    Args:
        polygons: (corners, 2) x and y in pixels.
        height: Rows.
        width: Columns.

    Returns:
        (height, width) uint8.
    """
    from faster_coco_eval.core import mask as coco_mask

    flat = [np.asarray(ring, dtype=np.float64).reshape(-1).tolist() for ring in polygons]
    runs = coco_mask.frPyObjects(flat, height, width)
    return coco_mask.decode(coco_mask.merge(runs))


class Patch(NamedTuple):
    """The part of an image that holds a mask."""

    inside: np.ndarray
    """(h, w) bool; no rows or columns where the mask lies outside of the image."""
    top: int
    left: int


def place_mask(mask_SS: Tensor, box: Sequence[float], height: int, width: int) -> Patch:
    """Stretch one predicted mask over its box in the image.

    Args:
        mask_SS: Probabilities, float32 on the CPU.
        box: x1, y1, x2, y2 in pixels of the image.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        The mask's pixels and where they lie.

    Raises:
        ValueError: If the box is not finite.

    Source:
        mlcommons/training (v1.0), maskrcnn_benchmark/modeling/roi_heads/mask_head/inference.py.
    """
    if not all(map(math.isfinite, box)):
        raise ValueError(f"a detection is not finite: box {list(box)}; the network has diverged")
    size = len(mask_SS)
    padded = F.pad(mask_SS, (1, 1, 1, 1))  # so that the border of the mask can fade out
    x1, y1, x2, y2 = box
    grow = (size + 2) / size / 2
    half_x, half_y = (x2 - x1) * grow, (y2 - y1) * grow
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, right = int(centre_x - half_x), int(centre_x + half_x)
    top, bottom = int(centre_y - half_y), int(centre_y + half_y)
    shape = (max(bottom - top + 1, 1), max(right - left + 1, 1))
    scaled = F.interpolate(padded[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
    x0, y0 = max(left, 0), max(top, 0)
    x3, y3 = max(min(right + 1, width), x0), max(min(bottom + 1, height), y0)
    inside = scaled[y0 - top : y3 - top, x0 - left : x3 - left] > THRESHOLD
    return Patch(inside.numpy(), y0, x0)


def run_lengths(patch: Patch, height: int, width: int) -> bytes:
    """Compress a mask as COCO does, looking at no pixel outside of the patch.

    Args:
        patch: The mask.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        COCO's counts of the whole image.
    """
    from faster_coco_eval.core import mask as coco_mask

    rows, columns = patch.inside.shape
    # Column by column, each closed by an empty pixel: a run starts and ends within its column.
    padded = np.zeros(columns * (rows + 1) + 1, dtype=np.int8)
    padded[1:].reshape(columns, rows + 1)[:, :rows] = patch.inside.T
    column, row = np.divmod(np.flatnonzero(np.diff(padded)), rows + 1)
    change = (patch.left + column) * height + patch.top + row
    # A run to the bottom goes on at the top of the next column.
    joined = np.flatnonzero(change[1:-1:2] == change[2::2]) * 2 + 1
    change = np.delete(change, np.concatenate([joined, joined + 1]))
    counts = np.diff(change, prepend=0, append=height * width).tolist()
    if counts[-1] == 0 and len(counts) > 1:
        counts.pop()  # nothing follows the last run
    record = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    encoded: str | bytes = record["counts"]  # type: ignore[call-overload]
    return encoded.encode() if isinstance(encoded, str) else bytes(encoded)


def whole_mask(counts: bytes, height: int, width: int) -> np.ndarray:
    """Undo ``run_lengths``.

    Args:
        counts: COCO's counts.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        (height, width) bool.
    """
    from faster_coco_eval.core import mask as coco_mask

    return coco_mask.decode({"size": [height, width], "counts": counts}).astype(bool)
