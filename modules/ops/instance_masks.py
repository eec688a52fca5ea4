"""Instance masks: polygons to small training targets, small predictions to whole-image masks.

Letters: R regions, N detections, S = 28 side of a mask.
"""

from collections.abc import Sequence
from typing import Any

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


def paste_mask(mask_SS: Tensor, box: Sequence[float], height: int, width: int) -> np.ndarray:
    """Put one predicted mask where its box lies in the image.

    Args:
        mask_SS: Probabilities, float32 on the CPU.
        box: x1, y1, x2, y2 in pixels of the image.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        (height, width) uint8, Fortran order as COCO's encoder wants it.

    Source:
        mlcommons/training (v1.0), maskrcnn_benchmark/modeling/roi_heads/mask_head/inference.py.
    """
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
    inside = (scaled > THRESHOLD).numpy()
    image = np.zeros((height, width), dtype=np.uint8, order="F")
    x0, y0 = max(left, 0), max(top, 0)
    x3, y3 = min(right + 1, width), min(bottom + 1, height)
    if x0 < x3 and y0 < y3:
        image[y0:y3, x0:x3] = inside[y0 - top : y3 - top, x0 - left : x3 - left]
    return image


def run_lengths(masks: Sequence[np.ndarray]) -> list[bytes]:
    """Compress masks as COCO does.

    Args:
        masks: (H, W) uint8 in Fortran order.

    Returns:
        The counts of each.
    """
    from faster_coco_eval.core import mask as coco_mask

    encoded: list[dict[str, Any]] = [coco_mask.encode(mask[..., None])[0] for mask in masks]
    counts = (record["counts"] for record in encoded)
    return [c.encode() if isinstance(c, str) else bytes(c) for c in counts]
