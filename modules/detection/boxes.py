"""Boxes: overlap, format and greedy suppression.

Letters: N M boxes, G independent groups, 4 = x1, y1, x2, y2 unless said otherwise. ``pixel`` is 0
where a box is a stretch of the plane and 1 where its corners are pixels that belong to it, as in
the reference of Mask R-CNN: width = x2 - x1 + pixel.
"""

import torch
from torch import Tensor

GROUPS_AT_ONCE = 1280  # of 200 boxes each: about 1 GB


def box_area(box_N4: Tensor, *, pixel: int = 0) -> Tensor:
    """Area of boxes.

    Args:
        box_N4: (..., 4) corners.
        pixel: 1 if corners are inclusive pixels.

    Returns:
        (...,) areas; 0 or less for boxes turned inside out.
    """
    return (box_N4[..., 2] - box_N4[..., 0] + pixel) * (box_N4[..., 3] - box_N4[..., 1] + pixel)


def box_iou(box_N4: Tensor, other_M4: Tensor, *, pixel: int = 0) -> Tensor:
    """Overlap (intersection over union) of every box with every other.

    Args:
        box_N4: (..., N, 4) corners.
        other_M4: (..., M, 4) corners, same leading dimensions.
        pixel: 1 if corners are inclusive pixels.

    Returns:
        (..., N, M) in ``[0, 1]``; NaN between two boxes without area.
    """
    low = torch.maximum(box_N4[..., :, None, :2], other_M4[..., None, :, :2])
    high = torch.minimum(box_N4[..., :, None, 2:], other_M4[..., None, :, 2:])
    side = (high - low + pixel).clamp(min=0)
    shared = side[..., 0] * side[..., 1]
    area, other = box_area(box_N4, pixel=pixel), box_area(other_M4, pixel=pixel)
    return shared / (area[..., :, None] + other[..., None, :] - shared)


def corners_to_centre(box_N4: Tensor) -> Tensor:
    """Turn corners into centre and size.

    Args:
        box_N4: (..., 4) x1, y1, x2, y2.

    Returns:
        (..., 4) centre x, centre y, width, height.
    """
    low, high = box_N4[..., :2], box_N4[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def centre_to_corners(box_N4: Tensor) -> Tensor:
    """Turn centre and size into corners.

    Args:
        box_N4: (..., 4) centre x, centre y, width, height.

    Returns:
        (..., 4) x1, y1, x2, y2.
    """
    centre, half = box_N4[..., :2], box_N4[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def grouped_nms(box_GN4: Tensor, valid_GN: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression in many groups at once, without leaving the device.

    Args:
        box_GN4: Corners, best score first in every group.
        valid_GN: bool, which entries are boxes at all; invalid ones suppress nothing.
        iou_threshold: A box goes when it overlaps a kept, better one by this much or more.

    Returns:
        keep_GN: bool.
    """
    parts = zip(box_GN4.split(GROUPS_AT_ONCE), valid_GN.split(GROUPS_AT_ONCE), strict=True)
    return torch.cat([_suppress(boxes, valid, iou_threshold) for boxes, valid in parts])


def _suppress(box_GN4: Tensor, valid_GN: Tensor, iou_threshold: float) -> Tensor:
    """Suppression in as many groups as memory holds."""
    keep = valid_GN.clone()
    close = box_iou(box_GN4, box_GN4) >= iou_threshold
    for i in range(box_GN4.shape[1] - 1):
        keep[:, i + 1 :] &= ~(keep[:, i, None] & close[:, i, i + 1 :])
    return keep
