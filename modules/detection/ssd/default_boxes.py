"""SSD's 8,732 default boxes, matching and the coding of boxes relative to them.

Letters: B batch, M ground-truth boxes (padded), A default boxes, 4 coordinates. All boxes are in
fractions of the image: default boxes as centre x, centre y, width, height, others as corners.

Source:
    mlcommons/training (v1.0), single_stage_detector/ssd/utils.py. Differs: decoded sizes stop at
    ``exp(10)`` times the default box, where the reference makes infinite boxes.
"""

import math

import torch
from torch import Tensor

from modules.detection.boxes import box_iou, centre_to_corners, corners_to_centre

IMAGE_SIZE = 300
FEATURE_SIZES = (38, 19, 10, 5, 3, 1)
STEPS = (8, 16, 32, 64, 100, 300)  # pixels; not 300 / feature size for the first four levels
SCALES = (21, 45, 99, 153, 207, 261, 315)  # pixels
RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
BOXES_PER_CELL = tuple(2 + 2 * len(ratios) for ratios in RATIOS)
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
MATCH_IOU = 0.5
MAX_LOG_SIZE = 10.0  # 22,000 times the default box: unrealistic, but finite


def default_boxes() -> Tensor:
    """Return box_A4 clamped to ``[0, 1]``, in the outputs' order: level, shape, row, column."""
    levels = []
    for k, size in enumerate(FEATURE_SIZES):
        shape = torch.tensor(_shapes(k), dtype=torch.float64) / IMAGE_SIZE
        centre = (torch.arange(size, dtype=torch.float64) + 0.5) * STEPS[k] / IMAGE_SIZE
        count = len(shape)
        level = torch.stack(
            [
                centre.view(1, 1, size).expand(count, size, size),
                centre.view(1, size, 1).expand(count, size, size),
                shape[:, 0].view(count, 1, 1).expand(count, size, size),
                shape[:, 1].view(count, 1, 1).expand(count, size, size),
            ],
            -1,
        )
        levels.append(level.reshape(-1, 4))
    return torch.cat(levels).clamp(0, 1).float()


def _shapes(level: int) -> list[tuple[float, float]]:
    """Return the widths and heights of one level, in pixels."""
    scale, following = SCALES[level], SCALES[level + 1]
    between = math.sqrt(scale * following)
    shapes: list[tuple[float, float]] = [(scale, scale), (between, between)]
    for ratio in RATIOS[level]:
        wide = (scale * math.sqrt(ratio), scale / math.sqrt(ratio))
        shapes += [wide, wide[::-1]]
    return shapes


def match(default_A4: Tensor, box_BM4: Tensor, label_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Assign label_BA (0 for negatives) and the corners box_BA4 to the default boxes of a batch.

    A default box is positive if it overlaps a ground-truth box by more than 0.5, or if it is the
    best one of a ground-truth box; where it is the best of several, the last of them gets it.
    """
    real_BM = label_BM > 0
    iou_BMA = box_iou(box_BM4, centre_to_corners(default_A4).expand(len(box_BM4), -1, -1))
    iou_BMA = iou_BMA.masked_fill(~real_BM[..., None], -1)
    best_iou_BA, best_BA = iou_BMA.max(1)
    number_BM = torch.arange(1, label_BM.shape[1] + 1, device=label_BM.device) * real_BM
    # The highest number wins: the reference's "last one overwrites", but independent of the order
    # in which a device writes.
    owner_BA = torch.zeros_like(best_BA).scatter_reduce_(1, iou_BMA.argmax(2), number_BM, "amax")
    chosen_BA = torch.where(owner_BA > 0, owner_BA - 1, best_BA)
    positive_BA = (owner_BA > 0) | (best_iou_BA > MATCH_IOU)
    box_BA4 = box_BM4.gather(1, chosen_BA[..., None].expand(-1, -1, 4))
    return label_BM.gather(1, chosen_BA) * positive_BA, box_BA4


def encode(default_A4: Tensor, box_BA4: Tensor) -> Tensor:
    """Return code_BA4: centre offsets and log sizes relative to default boxes, over variances."""
    box = corners_to_centre(box_BA4)
    centre = (box[..., :2] - default_A4[:, :2]) / (CENTRE_VARIANCE * default_A4[:, 2:])
    size = (box[..., 2:] / default_A4[:, 2:]).log() / SIZE_VARIANCE
    return torch.cat([centre, size], -1)


def decode(default_A4: Tensor, code_BA4: Tensor) -> Tensor:
    """Return the corners box_BA4 that codes represent, not clipped to the image."""
    # An untrained network may predict sizes that overflow.
    centre = CENTRE_VARIANCE * code_BA4[..., :2] * default_A4[:, 2:] + default_A4[:, :2]
    size = (SIZE_VARIANCE * code_BA4[..., 2:]).clamp(max=MAX_LOG_SIZE).exp() * default_A4[:, 2:]
    return centre_to_corners(torch.cat([centre, size], -1))
