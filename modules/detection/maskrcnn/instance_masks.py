"""Instance masks: polygons to small training targets, small predictions to whole-image masks.

Letters: R regions, N detections, S = 28 side of a mask.

Source:
    mlcommons/training (v1.0), maskrcnn_benchmark/structures/segmentation_mask.py and
    modeling/roi_heads/mask_head/inference.py.
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
    """Rasterise each region's polygons, stretched to a square, as zeros and ones target_RSS."""
    # As in the reference, polygons are moved, scaled and rasterised by COCO's own code without
    # clipping them to the region first, and sides are x2 - x1, not one more.
    boxes = box_R4.detach().cpu().numpy().astype(np.float64)
    targets = np.zeros((len(boxes), size, size), dtype=np.float32)
    for target, rings, box in zip(targets, polygons, boxes, strict=True):
        scale = size / np.maximum(box[2:] - box[:2], 1)
        target[:] = rasterise([(ring - box[:2]) * scale for ring in rings], size, size)
    return torch.from_numpy(targets).to(box_R4.device)


def rasterise(polygons: Polygons, height: int, width: int) -> np.ndarray:
    """Draw the union of polygons with COCO's mask code, (height, width) uint8."""
    from faster_coco_eval.core import mask as coco_mask

    flat = [np.asarray(ring, dtype=np.float64).reshape(-1).tolist() for ring in polygons]
    runs = coco_mask.frPyObjects(flat, height, width)
    return coco_mask.decode(coco_mask.merge(runs))


class Patch(NamedTuple):
    """The part of an image that contains a mask."""

    inside: np.ndarray  # (h, w) bool; no rows or columns where the mask is outside the image
    top: int
    left: int


def place_mask(mask_SS: Tensor, box: Sequence[float], height: int, width: int) -> Patch:
    """Stretch one mask of probabilities over its box in an image of height x width pixels."""
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
    """Return COCO's compressed counts of the whole image, reading only the patch's pixels."""
    from faster_coco_eval.core import mask as coco_mask

    rows, columns = patch.inside.shape
    # Column by column, each closed by an empty pixel: a run starts and ends within its column.
    padded = np.zeros(columns * (rows + 1) + 1, dtype=np.int8)
    padded[1:].reshape(columns, rows + 1)[:, :rows] = patch.inside.T
    column, row = np.divmod(np.flatnonzero(np.diff(padded)), rows + 1)
    change = (patch.left + column) * height + patch.top + row
    # A run that reaches the bottom continues at the top of the next column.
    joined = np.flatnonzero(change[1:-1:2] == change[2::2]) * 2 + 1
    change = np.delete(change, np.concatenate([joined, joined + 1]))
    counts = np.diff(change, prepend=0, append=height * width).tolist()
    if counts[-1] == 0 and len(counts) > 1:
        counts.pop()  # nothing follows the last run
    record = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    encoded: str | bytes = record["counts"]  # type: ignore[call-overload]
    return encoded.encode() if isinstance(encoded, str) else bytes(encoded)


def whole_mask(counts: bytes, height: int, width: int) -> np.ndarray:
    """Decode ``run_lengths`` to (height, width) bool."""
    from faster_coco_eval.core import mask as coco_mask

    return coco_mask.decode({"size": [height, width], "counts": counts}).astype(bool)
